// The layers and the pass of decoder_loss.hpp, for bfloat16_kernels.cpp, which includes this within its own namespace
// and target.
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

constexpr std::size_t kTokens = 128;   // in a tile: a multiple of kHeadRows
constexpr std::size_t kParts = 8;      // of the tokens, each with sums of its own
constexpr std::size_t kRows = 4;       // of a product, that are summed in registers at once
constexpr std::size_t kHeadRows = 16;  // the same, where there are only 16 columns

// Goes with tiles of tokens through all layers and back.
class Pass {
 public:
  Pass(const std::vector<Layer>& layers, const DecoderShape& shape)
      : layers_(layers), width_(shape.width), actions_(shape.actions), grad_(kTokens * width_),
        next_grad_(kTokens * width_), paired_(kTokens / 2 * width_), paired_grad_(kTokens / 2 * width_),
        slope_(shape.slope), lanes_(static_cast<__mmask16>((1u << actions_) - 1)) {
    for (std::size_t l = 0; l < layers.size(); ++l) activations_.emplace_back(kTokens * width_);
  }

  // Tokens from `begin` to `end`, at most kTokens.
  void run(const DecoderStep& step, std::size_t begin, std::size_t end, float total_weight, Sums& sums) {
    const std::size_t rows = rounded_up(end - begin, kHeadRows);
    for (std::size_t r = 0; r < rows; ++r) {
      std::uint16_t* to = activations_[0] + r * width_;
      if (begin + r < end) {
        std::memcpy(to, step.hidden + static_cast<std::size_t>(step.chosen[begin + r]) * width_, 2 * width_);
      } else {
        std::memset(to, 0, 2 * width_);
      }
    }
    const std::size_t last = layers_.size() - 1;
    for (std::size_t l = 0; l < last; ++l) forward(layers_[l], activations_[l], activations_[l + 1], rows);
    decode(step, begin, end, 1.0f / total_weight, sums);
    for (std::size_t l = last;; --l) {
      const std::size_t outputs = layers_[l].padded;
      pair_rows_in_panels(activations_[l], rows, width_, paired_);
      pair_rows_in_panels(grad_, rows, outputs, paired_grad_);
      add_products(outputs, rows, sums.matrices[l]);
      if (l == 0) break;
      backward<true>(layers_[l], activations_[l], rows, sums.biases[l - 1]);
    }
    if (step.grad_hidden != nullptr) {
      backward<false>(layers_[0], nullptr, rows, nullptr);
      std::memcpy(step.grad_hidden + begin * width_, grad_, 2 * (end - begin) * width_);
    }
  }

 private:
  // to = leaky_relu(from W^T + bias)
  void forward(const Layer& layer, const std::uint16_t* from, std::uint16_t* to, std::size_t rows) const {
    for (std::size_t column = 0; column < width_; column += kPanel) {
      __m512 bias[4];
      for (int v = 0; v < 4; ++v) bias[v] = _mm512_load_ps(layer.bias + column + 16 * v);
      for (std::size_t row = 0; row < rows; row += kRows) {
        Block<kRows, 4> block;
        each<kRows, 4>([&](int r, int v) { block[r][v] = bias[v]; });
        multiply<kRows, 4>(words(from) + row * width_ / 2, width_ / 2, layer.forward + column * width_ / 2, kPanel,
                           width_ / 2, block);
        each<kRows, 4>([&](int r, int v) { narrow(leaky(block[r][v]), to + (row + r) * width_ + column + 16 * v); });
      }
    }
  }

  __m512 leaky(__m512 x) const {
    return _mm512_mask_mul_ps(x, _mm512_cmp_ps_mask(x, _mm512_setzero_ps(), _CMP_LT_OQ), x, _mm512_set1_ps(slope_));
  }

  // The last layer: actions, the loss, and its gradient to grad_ [rows][16].
  void decode(const DecoderStep& step, std::size_t begin, std::size_t end, float share, Sums& sums) const {
    const Layer& layer = layers_.back();
    const __m512 scale = _mm512_maskz_loadu_ps(lanes_, step.scale), shift = _mm512_maskz_loadu_ps(lanes_, step.shift);
    const __m512 bias = _mm512_load_ps(layer.bias);
    __m512 loss = _mm512_setzero_ps(), grad_bias = _mm512_load_ps(sums.biases.back());
    for (std::size_t row = 0; begin + row < end; row += kHeadRows) {
      Block<kHeadRows, 1> block;
      each<kHeadRows, 1>([&](int r, int v) { block[r][v] = bias; });
      multiply<kHeadRows, 1>(words(activations_.back()) + row * width_ / 2, width_ / 2, layer.forward, 16, width_ / 2,
                             block);
#pragma GCC unroll 16
      for (std::size_t r = 0; r < kHeadRows; ++r) {
        __m512 grad = _mm512_setzero_ps();
        if (begin + row + r < end) {
          const std::size_t token = static_cast<std::size_t>(step.chosen[begin + row + r]);
          const __m512 target = _mm512_maskz_loadu_ps(lanes_, step.target + token * actions_);
          const __m512 error = _mm512_maskz_sub_ps(lanes_, _mm512_fmadd_ps(block[r][0], scale, shift), target);
          const __m512 weighted =
              _mm512_mul_ps(error, _mm512_set1_ps(step.weight[token] * share / static_cast<float>(actions_)));
          loss = _mm512_fmadd_ps(error, weighted, loss);
          grad = _mm512_mul_ps(_mm512_add_ps(weighted, weighted), scale);
        }
        grad_bias = _mm512_add_ps(grad_bias, grad);
        narrow(grad, grad_ + (row + r) * 16);
      }
    }
    _mm512_store_ps(sums.biases.back(), grad_bias);
    sums.loss += _mm512_reduce_add_ps(loss);
  }

  // sums [outputs, F] += grad^T activations, both paired.
  void add_products(std::size_t outputs, std::size_t rows, float* sums) const {
    const std::size_t panel = std::min(outputs, kPanel), pairs = rows / 2;
    for (std::size_t column = 0; column < width_; column += kPanel) {
      for (std::size_t n = 0; n < outputs; n += kRows) {
        const std::uint32_t* left = paired_grad_ + (n - n % panel) * pairs + n % panel;
        float* at = sums + n * width_ + column;
        Block<kRows, 4> block;
        each<kRows, 4>([&](int r, int v) { block[r][v] = _mm512_load_ps(at + r * width_ + 16 * v); });
        multiply<kRows, 4>(left, 1, paired_ + column * pairs, kPanel, pairs, block, panel);
        each<kRows, 4>([&](int r, int v) { _mm512_store_ps(at + r * width_ + 16 * v, block[r][v]); });
      }
    }
  }

  // The gradient of what goes into `layer`, from that of what comes out of it.  kActivated: what goes in is an `activation`,
  // and the gradient wanted is that below the activation function, and its sum, to grad_bias.  Leaky ReLUs keep the sign:
  // the activation tells which side it was on.
  template <bool kActivated>
  void backward(const Layer& layer, const std::uint16_t* activation, std::size_t rows, float* grad_bias) {
    for (std::size_t column = 0; column < width_; column += kPanel) {
      __m512 sum[4];
      if (kActivated)
        for (int v = 0; v < 4; ++v) sum[v] = _mm512_load_ps(grad_bias + column + 16 * v);
      for (std::size_t row = 0; row < rows; row += kRows) {
        Block<kRows, 4> block;
        each<kRows, 4>([&](int r, int v) { block[r][v] = _mm512_setzero_ps(); });
        multiply<kRows, 4>(words(grad_) + row * layer.padded / 2, layer.padded / 2,
                           layer.backward + column * layer.padded / 2, kPanel, layer.padded / 2, block);
        each<kRows, 4>([&](int r, int v) {
          const std::size_t at = (row + r) * width_ + column + 16 * v;
          __m512 grad = block[r][v];
          if (kActivated) {
            const __mmask16 below = _mm512_cmp_ps_mask(widen(activation + at), _mm512_setzero_ps(), _CMP_LE_OQ);
            grad = _mm512_mask_mul_ps(grad, below, grad, _mm512_set1_ps(slope_));
            sum[v] = _mm512_add_ps(sum[v], grad);
          }
          narrow(grad, next_grad_ + at);
        });
      }
      if (kActivated)
        for (int v = 0; v < 4; ++v) _mm512_store_ps(grad_bias + column + 16 * v, sum[v]);
    }
    std::swap(grad_, next_grad_);
  }

  const std::vector<Layer>& layers_;
  std::size_t width_, actions_;
  std::vector<Buffer<std::uint16_t>> activations_;  // activations_[l]: the input of layer l
  Buffer<std::uint16_t> grad_, next_grad_;
  Words paired_, paired_grad_;
  float slope_;
  __mmask16 lanes_;
};

// to [count] = the sum over parts of member(part), for one of as many slices as there are parts.
template <typename Member>
void add_slice(const std::vector<Sums>& sums, std::size_t parts, std::size_t slice, std::size_t count, float* to,
               Member member) {
  for (std::size_t i = count * slice / kParts; i < count * (slice + 1) / kParts; ++i) to[i] = 0.0f;
  for (std::size_t part = 0; part < parts; ++part) {
    const float* from = member(sums[part]);
    for (std::size_t i = count * slice / kParts; i < count * (slice + 1) / kParts; ++i) to[i] += from[i];
  }
}
