// Linear layers, norms and activations for a few rows at a time.  Included by decode_rows.cpp alone, inside the namespace
// of an instruction set, after vector.hpp.

// One input's weights of the outputs of a panel: as many words, of Linear::weight or of Linear::pairs.
VF_INLINE constexpr int words_of(const float*) { return kPanel; }
VF_INLINE constexpr int words_of(const std::uint32_t*) { return kLanes; }

VF_INLINE void load_weights(const float* words, Vec& low, Vec& high) {
  low = load(words), high = load(words + kLanes);
}

VF_INLINE void load_weights(const std::uint32_t* words, Vec& low, Vec& high) {
  const Int both = load_ints(words);
  low = as_float(both << 16), high = as_float(upper_half(both));
}

template <int Rows, typename Word>
VF_INLINE void linear_rows(const Word* weight, const float* bias, int inputs, const float* x, int x_stride, float* y,
                           int y_stride) {
  Vec low[Rows], high[Rows];
  for (int r = 0; r < Rows; ++r) low[r] = load(bias), high[r] = load(bias + kLanes);
  for (int i = 0; i < inputs; ++i) {
    Vec w_low, w_high;
    load_weights(weight + i * words_of(weight), w_low, w_high);
    for (int r = 0; r < Rows; ++r) {
      const float input = x[r * x_stride + i];
      low[r] += w_low * input;
      high[r] += w_high * input;
    }
  }
  for (int r = 0; r < Rows; ++r) store(y + r * y_stride, low[r]), store(y + r * y_stride + kLanes, high[r]);
}

template <typename Word>
VF_INLINE void linear_panels(const Word* weight, const Linear& layer, const float* x, int x_stride, float* y,
                             int y_stride, int rows) {
  for (int o = 0; o < layer.outputs; o += kPanel, weight += layer.inputs * words_of(weight)) {
    const float* bias = layer.bias + o;
    int r = 0;
    for (; r + VF_ROWS <= rows; r += VF_ROWS) {
      linear_rows<VF_ROWS>(weight, bias, layer.inputs, x + r * x_stride, x_stride, y + r * y_stride + o, y_stride);
    }
    for (; r < rows; ++r) {
      linear_rows<1>(weight, bias, layer.inputs, x + r * x_stride, x_stride, y + r * y_stride + o, y_stride);
    }
  }
}

// x [rows][x_stride] -> y [rows][y_stride], layer.outputs of each row.
static void linear(const Linear& layer, const float* x, int x_stride, float* y, int y_stride, int rows) {
  if (layer.pairs == nullptr) {
    linear_panels(layer.weight, layer, x, x_stride, y, y_stride, rows);
  } else {
    linear_panels(layer.pairs, layer, x, x_stride, y, y_stride, rows);
  }
}

constexpr float kEpsilon = 1e-5f;    // of both norms
constexpr float kStdEpsilon = 1e-6f; // of the statistics

VF_INLINE Vec inside(Vec v, int first, int size) { return select(lane_numbers() + first < size, v, Vec{}); }

// One row of norm.size numbers; x and y may be the same; y is 0 from there to its padding.
static void normalise(const Norm& norm, const float* x, float* y) {
  const int size = norm.size;
  float mean = 0.0f;
  if (norm.bias != nullptr) {
    Vec total = {};
    for (int i = 0; i < size; i += kLanes) total += inside(load(x + i), i, size);
    mean = sum(total) / size;
  }
  Vec squares = {};
  for (int i = 0; i < size; i += kLanes) {
    const Vec centred = inside(load(x + i) - mean, i, size);
    squares += centred * centred;
  }
  const float scale = 1.0f / __builtin_sqrtf(sum(squares) / size + kEpsilon);
  for (int i = 0; i < size; i += kLanes) {
    const Vec scaled = (load(x + i) - mean) * scale * load(norm.weight + i);
    store(y + i, inside(norm.bias == nullptr ? scaled : scaled + load(norm.bias + i), i, size));
  }
}

static void normalise_rows(const Norm& norm, const float* x, float* y, int stride, int rows) {
  for (int r = 0; r < rows; ++r) normalise(norm, x + r * stride, y + r * stride);
}

static void leaky_relu(float* x, std::size_t size) {
  for (std::size_t i = 0; i < size; i += kLanes) {
    const Vec v = load(x + i);
    store(x + i, select(v > 0.0f, v, 0.01f * v));
  }
}

static void gelu(float* x, std::size_t size) {
  for (std::size_t i = 0; i < size; i += kLanes) {
    const Vec v = load(x + i);
    store(x + i, 0.5f * v * (1.0f + error_function(v * 0.70710678f)));
  }
}

static void gated_silu(float* x, const float* gate, std::size_t size) {
  for (std::size_t i = 0; i < size; i += kLanes) {
    const Vec v = load(x + i);
    store(x + i, v / (1.0f + exponential(-v)) * load(gate + i));
  }
}

static void add(float* x, const float* y, std::size_t size) {
  for (std::size_t i = 0; i < size; i += kLanes) store(x + i, load(x + i) + load(y + i));
}

static void copy(float* to, const float* from, int size) { __builtin_memcpy(to, from, sizeof(float) * size); }
