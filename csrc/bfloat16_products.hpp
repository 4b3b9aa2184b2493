// Products and layouts of bfloat16 matrices in AVX-512.
//
// Multiplication: vdpbf16ps adds, in each of 16 lanes, the products of two pairs.  So the right-hand matrix [K, N] lies as
// words of two bfloat16, [K / 2][N]: word (k, n) = (B[2k][n], B[2k + 1][n]), called "paired" below; the left-hand one
// [M, K] lies row by row, and a pair of neighbours is broadcast.
//
// For bfloat16_kernels.cpp, which compiles it for these instructions.

inline std::uint16_t* bf16(std::uint32_t* pairs) { return reinterpret_cast<std::uint16_t*>(pairs); }
inline std::uint32_t* words(std::uint16_t* pairs) { return reinterpret_cast<std::uint32_t*>(pairs); }
inline std::uint32_t* words(float* floats) { return reinterpret_cast<std::uint32_t*>(floats); }
inline const std::uint32_t* words(const std::uint16_t* pairs) { return reinterpret_cast<const std::uint32_t*>(pairs); }

// Memory that vectors may be loaded from aligned; zeroed.
template <typename T>
class Buffer {
 public:
  explicit Buffer(std::size_t size) : lines_((size * sizeof(T) + 63) / 64) {}
  operator T*() const { return reinterpret_cast<T*>(const_cast<Line*>(lines_.data())); }

 private:
  struct alignas(64) Line {
    std::byte bytes[64];
  };
  std::vector<Line> lines_;
};

using Words = Buffer<std::uint32_t>;
using Floats = Buffer<float>;

// ------------------------------------------------------------------------------------------------------ multiplication

template <int Rows, int Vectors>
using Block = __m512[Rows][Vectors];  // Rows by 16 * Vectors sums

// act(row, vector) for each vector of a block, unrolled: only then do all of them stay in registers.
template <int Rows, int Vectors, typename Act>
inline __attribute__((always_inline)) void each(const Act& act) {
#pragma GCC unroll 16
  for (int r = 0; r < Rows; ++r)
#pragma GCC unroll 8
    for (int v = 0; v < Vectors; ++v) act(r, v);
}

// block += A B: a rows of pairs (`a_stride` words apart, a pair `a_next` after the one before), b paired (`b_stride` words
// from one pair of rows to the next).
template <int Rows, int Vectors>
inline void multiply(const std::uint32_t* a, std::size_t a_stride, const std::uint32_t* b, std::size_t b_stride,
                     std::size_t pairs, Block<Rows, Vectors>& block, std::size_t a_next = 1) {
  for (std::size_t k = 0; k < pairs; ++k) {
    __m512bh right[Vectors];
#pragma GCC unroll 8
    for (int v = 0; v < Vectors; ++v) right[v] = (__m512bh)_mm512_loadu_si512(b + k * b_stride + 16 * v);
#pragma GCC unroll 16
    for (int r = 0; r < Rows; ++r) {
      const __m512bh left = (__m512bh)_mm512_set1_epi32(static_cast<int>(a[r * a_stride + k * a_next]));
#pragma GCC unroll 8
      for (int v = 0; v < Vectors; ++v) block[r][v] = _mm512_dpbf16_ps(block[r][v], left, right[v]);
    }
  }
}

// ------------------------------------------------------------------------------------------------------------- layouts

inline __m512 widen(const std::uint16_t* from) {
  return _mm512_castsi512_ps(
      _mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from))), 16));
}

inline void narrow(__m512 x, std::uint16_t* to) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), (__m256i)_mm512_cvtneps_pbh(x));
}

// Rows of bfloat16 [rows][columns] -> paired [rows / 2][columns]; columns a multiple of 16.
void pair_rows(const std::uint16_t* from, std::size_t from_stride, std::uint32_t* to, std::size_t rows,
               std::size_t columns) {
  for (std::size_t row = 0; row < rows; row += 2) {
    const std::uint16_t *even = from + row * from_stride, *odd = even + from_stride;
    for (std::size_t c = 0; c < columns; c += 16, to += 16) {
      const __m512i low = _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(even + c)));
      const __m512i high = _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(odd + c)));
      _mm512_store_si512(to, _mm512_or_si512(low, _mm512_slli_epi32(high, 16)));
    }
  }
}

// [rows][columns] words -> [columns][rows]; both multiples of 16.
void transpose(const std::uint32_t* from, std::size_t from_stride, std::uint32_t* to, std::size_t to_stride,
               std::size_t rows, std::size_t columns) {
  for (std::size_t row = 0; row < rows; row += 16) {
    for (std::size_t column = 0; column < columns; column += 16) {
      __m512i x[16], y[16];
      for (int i = 0; i < 16; ++i) x[i] = _mm512_loadu_si512(from + (row + i) * from_stride + column);
      for (int i = 0; i < 16; i += 2) {
        y[i] = _mm512_unpacklo_epi32(x[i], x[i + 1]);
        y[i + 1] = _mm512_unpackhi_epi32(x[i], x[i + 1]);
      }
      for (int i = 0; i < 16; i += 4) {
        x[i] = _mm512_unpacklo_epi64(y[i], y[i + 2]);
        x[i + 1] = _mm512_unpackhi_epi64(y[i], y[i + 2]);
        x[i + 2] = _mm512_unpacklo_epi64(y[i + 1], y[i + 3]);
        x[i + 3] = _mm512_unpackhi_epi64(y[i + 1], y[i + 3]);
      }
      // x[4 g + c]: columns c, c + 4, c + 8, c + 12 (one in each 128-bit lane) of rows 4 g to 4 g + 3.
      for (int c = 0; c < 4; ++c) {
        const __m512i low02 = _mm512_shuffle_i32x4(x[c], x[4 + c], 0x88), low13 = _mm512_shuffle_i32x4(x[c], x[4 + c], 0xdd);
        const __m512i high02 = _mm512_shuffle_i32x4(x[8 + c], x[12 + c], 0x88);
        const __m512i high13 = _mm512_shuffle_i32x4(x[8 + c], x[12 + c], 0xdd);
        y[c] = _mm512_shuffle_i32x4(low02, high02, 0x88);
        y[8 + c] = _mm512_shuffle_i32x4(low02, high02, 0xdd);
        y[4 + c] = _mm512_shuffle_i32x4(low13, high13, 0x88);
        y[12 + c] = _mm512_shuffle_i32x4(low13, high13, 0xdd);
      }
      for (int i = 0; i < 16; ++i) _mm512_storeu_si512(to + (column + i) * to_stride + row, y[i]);
    }
  }
}
