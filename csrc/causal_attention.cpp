// See causal_attention.hpp.  Everything between the two pragmas is compiled for AVX-512 with bfloat16, and must not run
// before causal_attention_supported() said yes; the standard library's templates, which other files share, are not.
//
// Multiplication: vdpbf16ps adds, in each of 16 lanes, the products of two pairs.  So the right-hand matrix [K, N] lies as
// words of two bfloat16, [K / 2][N]: word (k, n) = (B[2k][n], B[2k + 1][n]), called "paired" below; the left-hand one
// [M, K] lies row by row, and a pair of neighbours is broadcast.

#include "causal_attention.hpp"

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__) && __GNUC__ >= 11
#define VINTIX_FAST_AVX512
#include <immintrin.h>
#endif

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>
#include <memory>
#include <numeric>
#include <stdexcept>
#include <thread>
#include <vector>

namespace vintix_fast {

constexpr std::size_t kTile = 64;  // queries, and keys

#ifdef VINTIX_FAST_AVX512

#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,fma")
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wuninitialized"  // GCC 11 and 12: false alarms in immintrin.h itself
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"

namespace {

constexpr std::size_t kPairs = kTile / 2;       // of tokens in a tile
constexpr std::size_t kWeights = kTile * kTile; // in a tile
constexpr float kLog2E = 1.44269504f;
constexpr float kLn2 = 0.69314718f;

std::size_t tiles(std::size_t length) { return (length + kTile - 1) / kTile; }
std::size_t tile_index(std::size_t query, std::size_t key) { return query * (query + 1) / 2 + key; }

std::uint16_t* bf16(std::uint32_t* words) { return reinterpret_cast<std::uint16_t*>(words); }

// Memory that vectors may be loaded from aligned; zeroed.
template <typename T>
class Buffer {
 public:
  explicit Buffer(std::size_t size) : memory_(size * sizeof(T) + 64) {
    void* at = memory_.data();
    std::size_t space = memory_.size();
    data_ = static_cast<T*>(std::align(64, size * sizeof(T), at, space));
  }
  operator T*() const { return data_; }

 private:
  std::vector<std::byte> memory_;
  T* data_;
};

using Words = Buffer<std::uint32_t>;
using Floats = Buffer<float>;

// ------------------------------------------------------------------------------------------------------ multiplication

template <int Rows, int Vectors>
using Block = __m512[Rows][Vectors];  // Rows by 16 * Vectors sums

// block += A B: a rows of pairs (`a_stride` words apart), b paired (`b_stride` words from one pair of rows to the next).
template <int Rows, int Vectors>
inline void multiply(const std::uint32_t* a, std::size_t a_stride, const std::uint32_t* b, std::size_t b_stride,
                     std::size_t pairs, Block<Rows, Vectors>& block) {
  for (std::size_t k = 0; k < pairs; ++k) {
    __m512bh right[Vectors];
#pragma GCC unroll 8
    for (int v = 0; v < Vectors; ++v) right[v] = (__m512bh)_mm512_loadu_si512(b + k * b_stride + 16 * v);
#pragma GCC unroll 8
    for (int r = 0; r < Rows; ++r) {
      const __m512bh left = (__m512bh)_mm512_set1_epi32(static_cast<int>(a[r * a_stride + k]));
#pragma GCC unroll 8
      for (int v = 0; v < Vectors; ++v) block[r][v] = _mm512_dpbf16_ps(block[r][v], left, right[v]);
    }
  }
}

template <int Vectors>
inline void accumulate_columns(std::size_t rows, const std::uint32_t* a, std::size_t a_stride, const std::uint32_t* b,
                               std::size_t b_stride, std::size_t pairs, float* c, std::size_t c_stride) {
  for (std::size_t row = 0; row < rows; row += 4) {
    Block<4, Vectors> block;
    float* at = c + row * c_stride;
#pragma GCC unroll 8
    for (int r = 0; r < 4; ++r)
#pragma GCC unroll 8
      for (int v = 0; v < Vectors; ++v) block[r][v] = _mm512_loadu_ps(at + r * c_stride + 16 * v);
    multiply<4, Vectors>(a + row * a_stride, a_stride, b, b_stride, pairs, block);
#pragma GCC unroll 8
    for (int r = 0; r < 4; ++r)
#pragma GCC unroll 8
      for (int v = 0; v < Vectors; ++v) _mm512_storeu_ps(at + r * c_stride + 16 * v, block[r][v]);
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

// ------------------------------------------------------------------------------------------------------------- layouts

inline __m512 widen(const std::uint16_t* from) {
  return _mm512_castsi512_ps(
      _mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from))), 16));
}

inline void narrow(__m512 x, std::uint16_t* to) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), (__m256i)_mm512_cvtneps_pbh(x));
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

// Two rows of 32 bfloat16 -> 32 words, paired.
inline void zip(const Zipper& zipper, __m512i even, __m512i odd, std::uint32_t* to) {
  _mm512_storeu_si512(to, _mm512_permutex2var_epi16(even, zipper.low, odd));
  _mm512_storeu_si512(to + 16, _mm512_permutex2var_epi16(even, zipper.high, odd));
}

// Four rows of 64 as bfloat16, both as rows (of kPairs words) and paired (kTile words for each two rows).
inline void store_both(const Block<4, 4>& block, const Zipper& zipper, std::uint32_t* rows, std::uint32_t* paired) {
#pragma GCC unroll 8
  for (int r = 0; r < 4; r += 2) {
#pragma GCC unroll 8
    for (int v = 0; v < 4; v += 2) {
      const __m512i even = (__m512i)_mm512_cvtne2ps_pbh(block[r][v + 1], block[r][v]);
      const __m512i odd = (__m512i)_mm512_cvtne2ps_pbh(block[r + 1][v + 1], block[r + 1][v]);
      _mm512_storeu_si512(rows + r * kPairs + 8 * v, even);
      _mm512_storeu_si512(rows + (r + 1) * kPairs + 8 * v, odd);
      zip(zipper, even, odd, paired + r / 2 * kTile + 16 * v);
    }
  }
}

// Rows of bfloat16 [rows][columns] -> paired [rows / 2][columns]; columns a multiple of 16.
void pair_rows(const std::uint16_t* from, std::uint32_t* to, std::size_t rows, std::size_t columns) {
  for (std::size_t row = 0; row < rows; row += 2) {
    const std::uint16_t *even = from + row * columns, *odd = even + columns;
    for (std::size_t c = 0; c < columns; c += 16) {
      const __m512i low = _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(even + c)));
      const __m512i high = _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(odd + c)));
      _mm512_storeu_si512(to + row / 2 * columns + c, _mm512_or_si512(low, _mm512_slli_epi32(high, 16)));
    }
  }
}

// ---------------------------------------------------------------------------------------------------------------- norms

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

// ------------------------------------------------------------------------------------------------- one sequence and head

inline __m512 exp2(__m512 x) {
  const __m512 whole = _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  const __m512 part = _mm512_sub_ps(x, whole);  // in [-0.5, 0.5]; Taylor's series of 2^part, relative error below 4e-5
  __m512 y = _mm512_set1_ps(9.6181291e-3f);
  y = _mm512_fmadd_ps(y, part, _mm512_set1_ps(5.5504109e-2f));
  y = _mm512_fmadd_ps(y, part, _mm512_set1_ps(2.4022651e-1f));
  y = _mm512_fmadd_ps(y, part, _mm512_set1_ps(6.9314718e-1f));
  y = _mm512_fmadd_ps(y, part, _mm512_set1_ps(1.0f));
  return _mm512_scalef_ps(y, whole);
}

// Where one (sequence, head) lies, and its normalised queries and keys.
class Head {
 public:
  Head(const CausalAttention& task, std::size_t item)
      : task(task), b(item / task.heads), h(item % task.heads), dim(task.head_dim), count(tiles(task.length)),
        padded(count * kTile), slope2(task.slopes[h] * kLog2E), queries(padded * dim / 2), keys(padded * dim / 2),
        query_norm(count) {
    const float scale = kLog2E / std::sqrt(static_cast<float>(dim));  // scores are exponents of 2
    for (std::size_t t = 0; t < task.length; ++t) {
      const float norm =
          normalise(row(t, 0), dim, task.norm_eps, task.q_weight, task.q_bias, scale, bf16(queries) + t * dim);
      query_norm[t / kTile] = std::max(query_norm[t / kTile], norm);
      key_norm = std::max(
          key_norm, normalise(row(t, 1), dim, task.norm_eps, task.k_weight, task.k_bias, 1.0f, bf16(keys) + t * dim));
    }
  }

  const std::uint16_t* row(std::size_t t, std::size_t part) const {
    return task.qkv + (((b * task.length + t) * 3 + part) * task.heads + h) * dim;
  }
  std::size_t out_row(std::size_t t) const { return ((b * task.length + t) * task.heads + h) * dim; }
  std::size_t item() const { return b * task.heads + h; }
  std::size_t first(std::size_t t) const {
    return task.first == nullptr ? 0 : static_cast<std::size_t>(task.first[b * task.length + std::min(t, task.length - 1)]);
  }

  // Values [padded][dim], copied so that they are contiguous.
  void copy_values(std::uint32_t* to) const {
    for (std::size_t t = 0; t < task.length; ++t) std::memcpy(bf16(to) + t * dim, row(t, 2), 2 * dim);
  }

  // Rows [padded][dim] -> for each tile of tokens [dim / 2][kTile]: the right-hand side of "times rows, transposed".
  void transposed(const std::uint32_t* rows, std::uint32_t* to) const {
    for (std::size_t i = 0; i < count; ++i)
      transpose(rows + i * kTile * dim / 2, dim / 2, to + i * kTile * dim / 2, kTile, kTile, dim / 2);
  }

  // No key of tiles before `key` can weigh more than this (binary logarithm), all together, for queries of a tile.
  float log2_rest(std::size_t query, std::size_t key) const {
    const float distance = static_cast<float>((query - key) * kTile + 1);
    return query_norm[query] * key_norm - slope2 * distance - std::log2(-std::expm1(-task.slopes[h]));
  }

  const CausalAttention& task;
  const std::size_t b, h, dim, count, padded;
  const float slope2;
  Words queries, keys;  // rows of pairs [padded][dim / 2]
  std::vector<float> query_norm;
  float key_norm = 0.0f;
};

// ------------------------------------------------------------------------------------------------------------- forward

class Forward {
 public:
  Forward(const CausalAttention& task, std::size_t item, std::uint16_t* out, std::uint16_t* weights, float* sums,
          std::int32_t* stops)
      : head_(task, item), dim_(task.head_dim), out_(out),
        weights_(weights == nullptr ? nullptr
                                    : reinterpret_cast<std::uint32_t*>(weights) +
                                          item * causal_attention_weights(1, task.length, 1) / 2),
        sums_(sums + item * task.length), stops_(stops + item * head_.count), keys_(head_.padded * dim_ / 2),
        values_(head_.padded * dim_ / 2), rows_(kTile * kPairs), unkept_(kPairs * kTile), totals_(kTile * 16), summed_(kTile * dim_) {
    Words values(head_.padded * dim_ / 2);
    head_.copy_values(values);
    pair_rows(bf16(values), values_, head_.padded, dim_);
    head_.transposed(head_.keys, keys_);
  }

  void run() {
    for (std::size_t query = 0; query < head_.count; ++query) {
      std::memset(totals_, 0, kTile * 16 * sizeof(float));
      std::memset(summed_, 0, kTile * dim_ * sizeof(float));
      std::size_t key = query;
      for (;; --key) {
        weigh(query, key);
        accumulate(kTile, dim_, rows_, kPairs, values_ + key * kPairs * dim_, dim_, kPairs, summed_, dim_);
        if (key == 0 || enough(query, key)) break;
      }
      stops_[query] = static_cast<std::int32_t>(key);
      finish(query);
    }
  }

 private:
  // Weights of a tile, to rows_ (for the product with the values) and weights_ (paired, for the backward pass).
  void weigh(std::size_t query, std::size_t key) {
    const std::size_t first_query = query * kTile, first_key = key * kTile;
    const bool whole = key < query && head_.first(first_query + kTile - 1) <= first_key;
    std::uint32_t* paired = weights_ == nullptr ? unkept_ : weights_ + tile_index(query, key) * kWeights / 2;
    const __m512 lanes = _mm512_setr_ps(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    for (std::size_t row = 0; row < kTile; row += 4) {
      Block<4, 4> block;
      const float distance = static_cast<float>(first_key) - static_cast<float>(first_query + row);
#pragma GCC unroll 8
      for (int r = 0; r < 4; ++r)
#pragma GCC unroll 8
        for (int v = 0; v < 4; ++v)
          block[r][v] = _mm512_mul_ps(_mm512_set1_ps(head_.slope2),
                                      _mm512_add_ps(lanes, _mm512_set1_ps(distance + static_cast<float>(16 * v - r))));
      multiply<4, 4>(head_.queries + (first_query + row) * dim_ / 2, dim_ / 2, keys_ + key * kTile * dim_ / 2, kTile,
                     dim_ / 2, block);
#pragma GCC unroll 8
      for (int r = 0; r < 4; ++r)
#pragma GCC unroll 8
        for (int v = 0; v < 4; ++v) block[r][v] = exp2(block[r][v]);
      if (!whole) hide(block, first_query + row, first_key);
      keep(block, row, paired + row / 2 * kTile);
    }
  }

  // Zeros where a key is younger than the query or of an earlier history.
  void hide(Block<4, 4>& block, std::size_t query, std::size_t first_key) const {
    for (std::size_t r = 0; r < 4; ++r) {
      const std::size_t newest = std::min(query + r - std::min(query + r, first_key), kTile - 1);
      const std::size_t oldest = std::max(head_.first(query + r), first_key) - first_key;
      std::uint64_t visible = ~std::uint64_t{0} >> (kTile - 1 - newest);
      visible = oldest < kTile ? visible >> oldest << oldest : 0;
      for (int v = 0; v < 4; ++v)
        block[r][v] = _mm512_maskz_mov_ps(static_cast<__mmask16>(visible >> (16 * v)), block[r][v]);
    }
  }

  void keep(const Block<4, 4>& block, std::size_t row, std::uint32_t* paired) {
#pragma GCC unroll 8
    for (int r = 0; r < 4; ++r) {
      float* total = totals_ + (row + r) * 16;
      const __m512 sum = _mm512_add_ps(_mm512_add_ps(block[r][0], block[r][1]), _mm512_add_ps(block[r][2], block[r][3]));
      _mm512_store_ps(total, _mm512_add_ps(_mm512_load_ps(total), sum));
    }
    store_both(block, zipper_, rows_ + row * kPairs, paired);
  }

  // Whether what older keys could add is negligible for every query of the tile.
  bool enough(std::size_t query, std::size_t key) const {
    if (head_.first(query * kTile) >= key * kTile) return true;
    const float rest = head_.log2_rest(query, key) - std::log2(head_.task.dropped_mass);
    for (std::size_t row = 0; row < kTile; ++row)
      if (rest > std::log2(_mm512_reduce_add_ps(_mm512_load_ps(totals_ + row * 16)))) return false;
    return true;
  }

  void finish(std::size_t query) {
    const std::size_t end = std::min(head_.task.length - query * kTile, kTile);
    for (std::size_t row = 0; row < end; ++row) {
      const std::size_t t = query * kTile + row;
      sums_[t] = _mm512_reduce_add_ps(_mm512_load_ps(totals_ + row * 16));
      const __m512 share = _mm512_set1_ps(1.0f / sums_[t]);
      for (std::size_t d = 0; d < dim_; d += 16)
        narrow(_mm512_mul_ps(_mm512_load_ps(summed_ + row * dim_ + d), share), out_ + head_.out_row(t) + d);
    }
  }

  const Head head_;
  const std::size_t dim_;
  std::uint16_t* out_;
  std::uint32_t* weights_;
  float* sums_;
  std::int32_t* stops_;
  Words keys_;      // for each tile [dim / 2][kTile]
  Words values_;    // paired [padded / 2][dim]
  Words rows_;      // [kTile][kPairs]
  Words unkept_;    // [kPairs][kTile]
  Floats totals_;   // [kTile][16], to be added up
  Floats summed_;   // [kTile][dim]
  const Zipper zipper_;
};

// ------------------------------------------------------------------------------------------------------------ backward

class Backward {
 public:
  Backward(const CausalAttention& task, std::size_t item, const std::uint16_t* out, const std::uint16_t* weights,
           const float* sums, const std::int32_t* stops, const std::uint16_t* grad_out, std::uint16_t* grad_qkv)
      : head_(task, item), dim_(task.head_dim), size_(head_.padded * dim_ / 2),
        weights_(reinterpret_cast<const std::uint32_t*>(weights) +
                 item * causal_attention_weights(1, task.length, 1) / 2),
        stops_(stops + item * head_.count), grad_qkv_(grad_qkv), keys_(size_), queries_(size_), values_(size_),
        grads_(size_), grads_turned_(size_), deltas_(head_.padded), grad_queries_(head_.padded * dim_),
        grad_keys_(kTile * dim_), grad_values_(kTile * dim_), turned_(kTile * dim_), rows_(kTile * kPairs),
        paired_(kPairs * kTile) {
    Words scratch(size_);
    pair_rows(bf16(head_.keys), keys_, head_.padded, dim_);
    pair_rows(bf16(head_.queries), scratch, head_.padded, dim_);
    turn(scratch, queries_);
    read_gradients(out, sums + item * task.length, grad_out);
    pair_rows(bf16(grads_), scratch, head_.padded, dim_);
    turn(scratch, grads_turned_);
    std::memset(scratch, 0, size_ * sizeof(std::uint32_t));
    head_.copy_values(scratch);
    head_.transposed(scratch, values_);
  }

  void run() {
    for (std::size_t key = 0; key < head_.count; ++key) {
      std::memset(grad_keys_, 0, kTile * dim_ * sizeof(float));
      std::memset(grad_values_, 0, kTile * dim_ * sizeof(float));
      for (std::size_t query = key; query < head_.count; ++query)
        if (static_cast<std::size_t>(stops_[query]) <= key) add(query, key);
      finish(key);
    }
    const float scale = 1.0f / std::sqrt(static_cast<float>(dim_));
    for (std::size_t t = 0; t < head_.task.length; ++t)
      normalise_backward(head_.row(t, 0), dim_, head_.task.norm_eps, head_.task.q_weight, scale,
                         grad_queries_ + t * dim_, grad_row(t, 0));
  }

 private:
  // What a tile adds to the gradients of its queries, keys and values.
  void add(std::size_t query, std::size_t key) {
    const std::uint32_t* weights = weights_ + tile_index(query, key) * kWeights / 2;
    differentiate(query, key, weights);
    const std::size_t tile = kTile * dim_ / 2;
    accumulate(kTile, dim_, rows_, kPairs, keys_ + key * tile, dim_, kPairs, grad_queries_ + query * kTile * dim_, dim_);
    accumulate(dim_, kTile, queries_ + query * tile, kPairs, paired_, kTile, kPairs, grad_keys_, kTile);
    accumulate(dim_, kTile, grads_turned_ + query * tile, kPairs, weights, kTile, kPairs, grad_values_, kTile);
  }

  // Gradients of a tile's scores: weight * (grad . value - delta), to rows_ and paired_.
  void differentiate(std::size_t query, std::size_t key, const std::uint32_t* weights) {
    for (std::size_t row = 0; row < kTile; row += 4) {
      Block<4, 4> block;
      const std::size_t t = query * kTile + row;
#pragma GCC unroll 8
      for (int r = 0; r < 4; ++r)
#pragma GCC unroll 8
        for (int v = 0; v < 4; ++v) block[r][v] = _mm512_set1_ps(-deltas_[t + r]);
      multiply<4, 4>(grads_ + t * dim_ / 2, dim_ / 2, values_ + key * kTile * dim_ / 2, kTile, dim_ / 2, block);
#pragma GCC unroll 8
      for (int r = 0; r < 4; r += 2) {
#pragma GCC unroll 8
        for (int v = 0; v < 4; ++v) {
          const __m512i both = _mm512_loadu_si512(weights + (row + r) / 2 * kTile + 16 * v);
          block[r][v] = _mm512_mul_ps(block[r][v], _mm512_castsi512_ps(_mm512_slli_epi32(both, 16)));
          block[r + 1][v] = _mm512_mul_ps(
              block[r + 1][v], _mm512_castsi512_ps(_mm512_and_si512(both, _mm512_set1_epi32(static_cast<int>(0xffff0000)))));
        }
      }
      store_both(block, zipper_, rows_ + row * kPairs, paired_ + row / 2 * kTile);
    }
  }

  // Gradients of a tile's keys and values, complete now.
  void finish(std::size_t key) {
    const std::size_t end = std::min(head_.task.length - key * kTile, kTile);
    transpose(words(grad_keys_), kTile, words(turned_), dim_, dim_, kTile);
    for (std::size_t row = 0; row < end; ++row)
      normalise_backward(head_.row(key * kTile + row, 1), dim_, head_.task.norm_eps, head_.task.k_weight, kLn2,
                         turned_ + row * dim_, grad_row(key * kTile + row, 1));
    transpose(words(grad_values_), kTile, words(turned_), dim_, dim_, kTile);
    for (std::size_t row = 0; row < end; ++row)
      for (std::size_t d = 0; d < dim_; d += 16)
        narrow(_mm512_load_ps(turned_ + row * dim_ + d), grad_row(key * kTile + row, 2) + d);
  }

  // The output's gradients divided by each query's sum, because `weights` are not; and delta = grad . output.
  void read_gradients(const std::uint16_t* out, const float* sums, const std::uint16_t* grad_out) {
    for (std::size_t t = 0; t < head_.task.length; ++t) {
      const __m512 share = _mm512_set1_ps(1.0f / sums[t]);
      __m512 delta = _mm512_setzero_ps();
      for (std::size_t d = 0; d < dim_; d += 16) {
        const __m512 grad = _mm512_mul_ps(widen(grad_out + head_.out_row(t) + d), share);
        delta = _mm512_fmadd_ps(grad, widen(out + head_.out_row(t) + d), delta);
        narrow(grad, bf16(grads_) + t * dim_ + d);
      }
      deltas_[t] = _mm512_reduce_add_ps(delta);
    }
  }

  // Paired [padded / 2][dim] -> for each tile [dim][kPairs].
  void turn(const std::uint32_t* paired, std::uint32_t* to) const {
    for (std::size_t i = 0; i < head_.count; ++i)
      transpose(paired + i * kPairs * dim_, dim_, to + i * kPairs * dim_, kPairs, kPairs, dim_);
  }

  std::uint16_t* grad_row(std::size_t t, std::size_t part) const {
    return grad_qkv_ + (head_.row(t, part) - head_.task.qkv);
  }

  static std::uint32_t* words(float* floats) { return reinterpret_cast<std::uint32_t*>(floats); }

  const Head head_;
  const std::size_t dim_, size_;
  const std::uint32_t* weights_;
  const std::int32_t* stops_;
  std::uint16_t* grad_qkv_;
  Words keys_;                                // paired [padded / 2][dim]
  Words queries_;                             // for each tile [dim][kPairs]
  Words values_;                              // for each tile [dim / 2][kTile]
  Words grads_;                               // rows [padded][dim / 2]
  Words grads_turned_;                        // for each tile [dim][kPairs]
  Floats deltas_;                             // [padded]
  Floats grad_queries_;                       // [padded][dim]
  Floats grad_keys_, grad_values_, turned_;   // [dim][kTile], the last [kTile][dim]
  Words rows_, paired_;                       // [kTile][kPairs], [kPairs][kTile]
  const Zipper zipper_;
};

void forward(const CausalAttention& task, std::size_t item, std::uint16_t* out, std::uint16_t* weights, float* sums,
             std::int32_t* stops) {
  Forward(task, item, out, weights, sums, stops).run();
}

void backward(const CausalAttention& task, std::size_t item, const std::uint16_t* out, const std::uint16_t* weights,
              const float* sums, const std::int32_t* stops, const std::uint16_t* grad_out, std::uint16_t* grad_qkv) {
  Backward(task, item, out, weights, sums, stops, grad_out, grad_qkv).run();
}

}  // namespace

#pragma GCC diagnostic pop
#pragma GCC pop_options

bool causal_attention_supported() {
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
         __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512bf16");
}

#else

namespace {

template <typename... Arguments>
[[noreturn]] void forward(Arguments...) {
  throw std::logic_error("causal attention: not for this processor");
}
template <typename... Arguments>
[[noreturn]] void backward(Arguments...) {
  throw std::logic_error("causal attention: not for this processor");
}

}  // namespace

bool causal_attention_supported() { return false; }

#endif

namespace {

// Calls work(item) for each (sequence, head), the longest first, from several threads.
template <typename Work>
void for_each_head(const CausalAttention& task, Work work) {
  std::vector<std::size_t> order(task.batch * task.heads);
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::stable_sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) {
    return task.slopes[a % task.heads] < task.slopes[b % task.heads];
  });
  std::atomic<std::size_t> next{0};
  const auto take = [&] {
    for (std::size_t i = next++; i < order.size(); i = next++) work(order[i]);
  };
  std::vector<std::thread> helpers;
  for (std::size_t i = 1; i < std::min(task.threads, order.size()); ++i) helpers.emplace_back(take);
  take();
  for (std::thread& helper : helpers) helper.join();
}

}  // namespace

std::size_t causal_attention_weights(std::size_t batch, std::size_t length, std::size_t heads) {
  const std::size_t tiles = (length + kTile - 1) / kTile;
  return batch * heads * tiles * (tiles + 1) / 2 * kTile * kTile;
}

void causal_attention_forward(const CausalAttention& task, std::uint16_t* out, std::uint16_t* weights, float* sums,
                              std::int32_t* stops) {
  for_each_head(task, [&](std::size_t item) { forward(task, item, out, weights, sums, stops); });
}

void causal_attention_backward(const CausalAttention& task, const std::uint16_t* out, const std::uint16_t* weights,
                               const float* sums, const std::int32_t* stops, const std::uint16_t* grad_out,
                               std::uint16_t* grad_qkv) {
  for_each_head(task, [&](std::size_t item) {
    backward(task, item, out, weights, sums, stops, grad_out, grad_qkv);
  });
}

}  // namespace vintix_fast
