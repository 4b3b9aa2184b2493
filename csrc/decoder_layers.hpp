// What decoder_loss_avx512.cpp multiplies and sums up, which includes this within its own namespace and target.
//
// Matrices on the right of a product lie in panels of 64 columns, one after another, each [pairs][64] words (see
// bfloat16_products.hpp), so that a panel stays in the first cache while tokens stream past it.

constexpr std::size_t kPanel = DecoderLoss::kColumns;

inline std::size_t rounded_up(std::size_t count, std::size_t multiple) {
  return (count + multiple - 1) / multiple * multiple;
}

// Rows of bfloat16 [rows][columns] -> panels; rows even.
void pair_rows_in_panels(const std::uint16_t* from, std::size_t rows, std::size_t columns, std::uint32_t* to) {
  const std::size_t panel = std::min(columns, kPanel);
  for (std::size_t column = 0; column < columns; column += panel, to += rows / 2 * panel)
    pair_rows(from + column, columns, to, rows, panel);
}

// A layer's weights, ready to be multiplied with.
struct Layer {
  std::size_t inputs, outputs, padded;  // outputs rounded up to whole vectors
  Buffer<std::uint16_t> rounded;        // [padded, inputs]
  Words forward;                        // panels of W^T, [inputs / 2] pairs
  Words backward;                       // panels of W, [padded / 2] pairs
  Floats bias;

  Layer(std::size_t inputs, std::size_t outputs)
      : inputs(inputs), outputs(outputs), padded(rounded_up(outputs, 16)), rounded(padded * inputs),
        forward(padded * inputs / 2), backward(padded * inputs / 2), bias(padded) {}

  void load(const float* matrix, const float* vector) {
    std::copy_n(vector, outputs, static_cast<float*>(bias));
    for (std::size_t i = 0; i < outputs * inputs; i += 16) narrow(_mm512_loadu_ps(matrix + i), rounded + i);
    pair_rows_in_panels(rounded, padded, inputs, backward);
    const std::size_t panel = std::min(padded, kPanel);
    for (std::size_t n = 0; n < padded; n += panel)
      transpose(words(rounded) + n * inputs / 2, inputs / 2, forward + n * inputs / 2, panel, panel, inputs / 2);
  }
};

// Sums over some tokens, of gradients and of the loss.
struct Sums {
  std::vector<Floats> matrices, biases;
  float loss = 0.0f;

  explicit Sums(const std::vector<Layer>& layers) {
    for (const Layer& layer : layers) {
      matrices.emplace_back(layer.padded * layer.inputs);
      biases.emplace_back(layer.padded);
    }
  }

  void clear(const std::vector<Layer>& layers) {
    loss = 0.0f;
    for (std::size_t l = 0; l < layers.size(); ++l) {
      std::memset(matrices[l], 0, layers[l].padded * layers[l].inputs * sizeof(float));
      std::memset(biases[l], 0, layers[l].padded * sizeof(float));
    }
  }
};
