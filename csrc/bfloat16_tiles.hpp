// Sums, layouts and norms of bfloat16 matrices in AVX-512, in tiles of 64 tokens.
//
// For causal attention alone, in bfloat16_kernels.cpp, which includes bfloat16_products.hpp before it.

constexpr std::size_t kPairs = kTile / 2;        // of tokens in a tile
constexpr std::size_t kWeights = kTile * kTile;  // in a tile

template <int Vectors>
inline void accumulate_columns(std::size_t rows, const std::uint32_t* a, std::size_t a_stride, const std::uint32_t* b,
                               std::size_t b_stride, std::size_t pairs, float* c, std::size_t c_stride) {
  for (std::size_t row = 0; row < rows; row += 4) {
    Block<4, Vectors> block;
    float* at = c + row * c_stride;
    each<4, Vectors>([&](int r, int v) { block[r][v] = _mm512_loadu_ps(at + r * c_stride + 16 * v); });
    multiply<4, Vectors>(a + row * a_stride, a_stride, b, b_stride, pairs, block);
    each<4, Vectors>([&](int r, int v) { _mm512_storeu_ps(at + r * c_stride + 16 * v, block[r][v]); });
  }
}

// c [rows, columns] += A B; rows a multiple of 4, columns of 16.
void accumulate(std::size_t rows, std::size_t columns, const std::uint32_t* a, std::size_t a_stride,
                const std::uint32_t* b, std::size_t b_stride, std::size_t pairs, float* c, std::size_t c_stride) {
  std::size_t column = 0;
  for (; column + 64 <= columns; column += 64)
    accumulate_columns<4>(rows, a, a_stride, b + column, b_stride, pairs, c + column, c_stride);
  for (; column < columns; column += 16)
    accumulate_columns<1>(rows, a, a_stride, b + column, b_stride, pairs, c + column, c_stride);
}

// The indices that turn 32 bfloat16 of one row and 32 of the next into 32 words; first half, second half.
struct Zipper {
  __m512i low, high;
  Zipper() {
    alignas(64) std::uint16_t index[64];
    for (int i = 0; i < 32; ++i) {
      index[2 * i] = static_cast<std::uint16_t>(i);
      index[2 * i + 1] = static_cast<std::uint16_t>(32 + i);
    }
    low = _mm512_load_si512(index);
    high = _mm512_load_si512(index + 32);
  }
};

// Four rows of 64 as bfloat16: as rows (of kTile / 2 words), and paired (kTile words for each two rows) unless null.
// Stream: past the cache, where nothing will read them soon.
template <bool Stream>
inline void store_both(const Block<4, 4>& block, const Zipper& zipper, std::uint32_t* rows, std::uint32_t* paired) {
  const auto store = [](std::uint32_t* to, __m512i x) {
    if constexpr (Stream) {
      _mm512_stream_si512(reinterpret_cast<__m512i*>(to), x);
    } else {
      _mm512_store_si512(to, x);
    }
  };
#pragma GCC unroll 8
  for (int r = 0; r < 4; r += 2) {
#pragma GCC unroll 8
    for (int v = 0; v < 4; v += 2) {
      const __m512i even = (__m512i)_mm512_cvtne2ps_pbh(block[r][v + 1], block[r][v]);
      const __m512i odd = (__m512i)_mm512_cvtne2ps_pbh(block[r + 1][v + 1], block[r + 1][v]);
      _mm512_store_si512(rows + r * kPairs + 8 * v, even);
      _mm512_store_si512(rows + (r + 1) * kPairs + 8 * v, odd);
      if (paired == nullptr) continue;
      store(paired + r / 2 * kTile + 16 * v, _mm512_permutex2var_epi16(even, zipper.low, odd));
      store(paired + r / 2 * kTile + 16 * v + 16, _mm512_permutex2var_epi16(even, zipper.high, odd));
    }
  }
}

// ---------------------------------------------------------------------------------------------------------------- norms

// A head's rows lie far apart: the processor does not see by itself which will be read next.
constexpr std::size_t kAhead = 16;
inline void fetch(const std::uint16_t* row, std::size_t dim) {
  for (std::size_t d = 0; d < dim; d += 32) _mm_prefetch(reinterpret_cast<const char*>(row + d), _MM_HINT_T0);
}

struct Moments {
  float mean, rstd;
};

Moments moments(const std::uint16_t* row, std::size_t dim, float eps) {
  __m512 sum = _mm512_setzero_ps(), squares = _mm512_setzero_ps();
  for (std::size_t d = 0; d < dim; d += 16) sum = _mm512_add_ps(sum, widen(row + d));
  const float mean = _mm512_reduce_add_ps(sum) / static_cast<float>(dim);
  for (std::size_t d = 0; d < dim; d += 16) {
    const __m512 x = _mm512_sub_ps(widen(row + d), _mm512_set1_ps(mean));
    squares = _mm512_fmadd_ps(x, x, squares);
  }
  return {mean, 1.0f / std::sqrt(_mm512_reduce_add_ps(squares) / static_cast<float>(dim) + eps)};
}

inline __m512 standardised(const std::uint16_t* row, const Moments& m) {
  return _mm512_mul_ps(_mm512_sub_ps(widen(row), _mm512_set1_ps(m.mean)), _mm512_set1_ps(m.rstd));
}

// One normalised row, times scale; returns its norm.
float normalise(const std::uint16_t* row, std::size_t dim, float eps, const float* weight, const float* bias, float scale,
                std::uint16_t* to) {
  const Moments m = moments(row, dim, eps);
  __m512 squares = _mm512_setzero_ps();
  for (std::size_t d = 0; d < dim; d += 16) {
    const __m512 x = _mm512_mul_ps(
        _mm512_fmadd_ps(standardised(row + d, m), _mm512_loadu_ps(weight + d), _mm512_loadu_ps(bias + d)),
        _mm512_set1_ps(scale));
    narrow(x, to + d);
    squares = _mm512_fmadd_ps(x, x, squares);
  }
  return std::sqrt(_mm512_reduce_add_ps(squares));
}

// The gradient before a norm, from that after it (times scale).
void normalise_backward(const std::uint16_t* row, std::size_t dim, float eps, const float* weight, float scale,
                        const float* grad, std::uint16_t* to) {
  const Moments m = moments(row, dim, eps);
  const float share = 1.0f / static_cast<float>(dim);
  __m512 sum = _mm512_setzero_ps(), product = _mm512_setzero_ps();
  for (std::size_t d = 0; d < dim; d += 16) {
    const __m512 g = _mm512_mul_ps(_mm512_loadu_ps(grad + d), _mm512_loadu_ps(weight + d));
    sum = _mm512_add_ps(sum, g);
    product = _mm512_fmadd_ps(g, standardised(row + d, m), product);
  }
  const __m512 mean = _mm512_set1_ps(_mm512_reduce_add_ps(sum) * share);
  const __m512 slope = _mm512_set1_ps(_mm512_reduce_add_ps(product) * share);
  for (std::size_t d = 0; d < dim; d += 16) {
    const __m512 g = _mm512_mul_ps(_mm512_loadu_ps(grad + d), _mm512_loadu_ps(weight + d));
    const __m512 x = _mm512_sub_ps(_mm512_sub_ps(g, mean), _mm512_mul_ps(standardised(row + d, m), slope));
    narrow(_mm512_mul_ps(x, _mm512_set1_ps(scale * m.rstd)), to + d);
  }
}
