// The tiles of causal_attention.hpp, for one (sequence, head) at a time.  Everything between the two pragmas is compiled
// for AVX-512 with bfloat16, and must not run before has_bfloat16_kernels() said yes; the standard library's
// templates, which other files share, are not.

#include "causal_attention_heads.hpp"
#include "cpu_features.hpp"

#if VINTIX_FAST_BFLOAT16_KERNELS

#include <immintrin.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <memory>
#include <vector>

#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,fma")
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wuninitialized"  // GCC 11 and 12: false alarms in immintrin.h itself
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"

namespace vintix_fast {
namespace {

#include "bfloat16_products.hpp"
#include "bfloat16_tiles.hpp"
#include "attention_head.hpp"

constexpr std::size_t kGroup = 4;  // tiles of keys that the backward pass goes through with one reading of the queries

class Forward {
 public:
  explicit Forward(const ForwardHeads& work)
      : work_(work), head_(work.task), dim_(head_.dim), keys_(head_.padded * dim_ / 2),
        values_(head_.padded * dim_ / 2), copied_(head_.padded * dim_ / 2), rows_(kTile * kPairs),
        totals_((head_.count + 1) * kTile * 16), summed_(kTile * dim_) {}

  void run(std::size_t item) {
    head_.load(item);
    head_.transpose_tiles(head_.keys, keys_);
    head_.copy_values(copied_);
    pair_rows(bf16(copied_), values_, head_.padded, dim_);
    sums_ = work_.sums + item * head_.task.length;
    weights_ = work_.weights == nullptr ? nullptr : words(work_.weights + item * attention_weights(head_.task.length));
    for (std::size_t query = 0; query < head_.count; ++query) {
      std::memset(totals(query + 1), 0, kTile * 16 * sizeof(float));
      std::memset(summed_, 0, kTile * dim_ * sizeof(float));
      std::size_t key = query;
      for (;; --key) {
        weigh(query, key);
        accumulate(kTile, dim_, rows_, kPairs, values_ + key * kPairs * dim_, dim_, kPairs, summed_, dim_);
        if (key == 0 || enough(query, key)) break;
      }
      finish(query, key);
      work_.stops[item * head_.count + query] = static_cast<std::int32_t>(heavy(query, key));
    }
  }

 private:
  // Weights of a tile, to rows_ (for the product with the values) and weights_ (paired, for the backward pass).
  void weigh(std::size_t query, std::size_t key) {
    const std::size_t first_query = query * kTile, first_key = key * kTile;
    const bool whole = key < query && head_.first(first_query + kTile - 1) <= first_key;
    std::uint32_t* paired = weights_ == nullptr ? nullptr : weights_ + tile_index(query, key) * kWeights / 2;
    const __m512 lanes = _mm512_setr_ps(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    const __m512 slope = _mm512_set1_ps(head_.slope2);
    for (std::size_t row = 0; row < kTile; row += 4) {
      Block<4, 4> block;
      const float distance = static_cast<float>(first_key) - static_cast<float>(first_query + row);
#pragma GCC unroll 8
      for (int v = 0; v < 4; ++v) {
        const __m512 bias =
            _mm512_mul_ps(slope, _mm512_add_ps(lanes, _mm512_set1_ps(distance + static_cast<float>(16 * v))));
#pragma GCC unroll 8
        for (int r = 0; r < 4; ++r)
          block[r][v] = _mm512_sub_ps(bias, _mm512_mul_ps(slope, _mm512_set1_ps(static_cast<float>(r))));
      }
      multiply<4, 4>(head_.queries + (first_query + row) * dim_ / 2, dim_ / 2, keys_ + key * kTile * dim_ / 2, kTile,
                     dim_ / 2, block);
#pragma GCC unroll 8
      for (int r = 0; r < 4; ++r)
#pragma GCC unroll 8
        for (int v = 0; v < 4; ++v) block[r][v] = exp2(block[r][v]);
      if (!whole) hide(block, first_query + row, first_key);
#pragma GCC unroll 8
      for (int r = 0; r < 4; ++r) {
        const __m512 sum =
            _mm512_add_ps(_mm512_add_ps(block[r][0], block[r][1]), _mm512_add_ps(block[r][2], block[r][3]));
        const __m512 younger = _mm512_load_ps(totals(key + 1) + (row + r) * 16);
        _mm512_store_ps(totals(key) + (row + r) * 16, _mm512_add_ps(younger, sum));
      }
      store_both<true>(block, zipper_, rows_ + row * kPairs, paired == nullptr ? nullptr : paired + row / 2 * kTile);
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

  // Whether what older keys could add is negligible for every query of the tile.
  bool enough(std::size_t query, std::size_t key) const {
    if (head_.first(query * kTile) >= key * kTile) return true;
    const float rest = head_.log2_rest(query, key) - std::log2(head_.task.dropped_mass);
    for (std::size_t row = 0; row < kTile; ++row)
      if (rest > std::log2(total(row, key))) return false;
    return true;
  }

  // The oldest tile that the backward pass needs: what is older weighs no more than it may leave out, for every query.
  std::size_t heavy(std::size_t query, std::size_t oldest) const {
    const std::size_t rows = std::min(head_.task.length - query * kTile, kTile);
    for (std::size_t key = oldest; key < query; ++key)
      for (std::size_t row = 0; row < rows; ++row)
        if (total(row, key + 1) < (1.0f - head_.task.dropped_mass) * total(row, oldest)) return key;
    return query;
  }

  void finish(std::size_t query, std::size_t oldest) {
    const std::size_t end = std::min(head_.task.length - query * kTile, kTile);
    for (std::size_t row = 0; row < end; ++row) {
      const std::size_t t = query * kTile + row;
      sums_[t] = total(row, oldest);
      const __m512 share = _mm512_set1_ps(1.0f / sums_[t]);
      for (std::size_t d = 0; d < dim_; d += 16)
        narrow(_mm512_mul_ps(_mm512_load_ps(summed_ + row * dim_ + d), share), work_.out + head_.out_row(t) + d);
    }
  }

  // Weights of a tile of keys and all younger ones, of each query 16 sums to be added up.
  float* totals(std::size_t key) { return totals_ + key * kTile * 16; }
  float total(std::size_t row, std::size_t key) const {
    return _mm512_reduce_add_ps(_mm512_load_ps(totals_ + (key * kTile + row) * 16));
  }

  const ForwardHeads& work_;
  Head head_;
  const std::size_t dim_;
  std::uint32_t* weights_ = nullptr;  // of this head
  float* sums_ = nullptr;             // of this head
  Words keys_;                        // for each tile [dim / 2][kTile]
  Words values_;                      // paired [padded / 2][dim]
  Words copied_;                      // values, rows [padded][dim / 2]
  Words rows_;                        // [kTile][kPairs]
  Floats totals_;                     // [tiles + 1][kTile][16]
  Floats summed_;                     // [kTile][dim]
  const Zipper zipper_;
};

class Backward {
 public:
  explicit Backward(const BackwardHeads& work)
      : work_(work), head_(work.task), dim_(head_.dim), size_(head_.padded * dim_ / 2), keys_(size_), queries_(size_),
        values_(size_), grads_(size_), turned_grads_(size_), copied_(size_), paired_rows_(size_), deltas_(head_.padded),
        grad_queries_(head_.padded * dim_), grad_keys_(kGroup * kTile * dim_), grad_values_(kGroup * kTile * dim_),
        turned_(kTile * dim_), rows_(kTile * kPairs), paired_(kPairs * kTile) {}

  void run(std::size_t item) {
    load(item);
    std::memset(grad_queries_, 0, head_.padded * dim_ * sizeof(float));
    for (std::size_t group = 0; group < head_.count; group += kGroup) {
      const std::size_t end = std::min(group + kGroup, head_.count);
      std::memset(grad_keys_, 0, kGroup * kTile * dim_ * sizeof(float));
      std::memset(grad_values_, 0, kGroup * kTile * dim_ * sizeof(float));
      for (std::size_t query = group; query < head_.count; ++query) {
        const std::size_t stop = static_cast<std::size_t>(stops_[query]);
        for (std::size_t key = std::max(group, stop); key < std::min(end, query + 1); ++key)
          add(query, key, (key - group) * kTile * dim_);
      }
      for (std::size_t key = group; key < end; ++key) finish(key, (key - group) * kTile * dim_);
    }
    const float scale = 1.0f / std::sqrt(static_cast<float>(dim_));
    for (std::size_t t = 0; t < head_.task.length; ++t) {
      fetch(head_.row(t + kAhead, 0), dim_);
      fetch(grad_row(t + kAhead, 0), dim_);
      normalise_backward(head_.row(t, 0), dim_, head_.task.norm_eps, head_.task.q_weight, scale,
                         grad_queries_ + t * dim_, grad_row(t, 0));
    }
  }

 private:
  void load(std::size_t item) {
    head_.load(item);
    weights_ = words(work_.weights + item * attention_weights(head_.task.length));
    stops_ = work_.stops + item * head_.count;
    pair_rows(bf16(head_.keys), keys_, head_.padded, dim_);
    turn(bf16(head_.queries), queries_);
    read_gradients(work_.sums + item * head_.task.length);
    turn(bf16(grads_), turned_grads_);
    head_.copy_values(copied_);
    head_.transpose_tiles(copied_, values_);
  }

  // The output's gradients divided by each query's sum, because weights are not; and delta = gradient . output.
  void read_gradients(const float* sums) {
    for (std::size_t t = 0; t < head_.task.length; ++t) {
      fetch(work_.out + head_.out_row(t + kAhead), dim_);
      fetch(work_.grad_out + head_.out_row(t + kAhead), dim_);
      const __m512 share = _mm512_set1_ps(1.0f / sums[t]);
      __m512 delta = _mm512_setzero_ps();
      for (std::size_t d = 0; d < dim_; d += 16) {
        const __m512 grad = _mm512_mul_ps(widen(work_.grad_out + head_.out_row(t) + d), share);
        delta = _mm512_fmadd_ps(grad, widen(work_.out + head_.out_row(t) + d), delta);
        narrow(grad, bf16(grads_) + t * dim_ + d);
      }
      deltas_[t] = _mm512_reduce_add_ps(delta);
    }
  }

  // Rows [padded][dim] -> for each tile [dim][kPairs]: the left-hand side of "rows, transposed, times".
  void turn(const std::uint16_t* rows, std::uint32_t* to) {
    pair_rows(rows, paired_rows_, head_.padded, dim_);
    for (std::size_t i = 0; i < head_.count; ++i)
      transpose(paired_rows_ + i * kPairs * dim_, dim_, to + i * kPairs * dim_, kPairs, kPairs, dim_);
  }

  // What a tile adds to the gradients of its queries, and of its keys and values, which lie `offset` into the group's.
  void add(std::size_t query, std::size_t key, std::size_t offset) {
    const std::uint32_t* weights = weights_ + tile_index(query, key) * kWeights / 2;
    const std::size_t tile = kTile * dim_ / 2;
    differentiate(query, key, weights);
    accumulate(kTile, dim_, rows_, kPairs, keys_ + key * tile, dim_, kPairs, grad_queries_ + query * kTile * dim_, dim_);
    accumulate(dim_, kTile, queries_ + query * tile, kPairs, paired_, kTile, kPairs, grad_keys_ + offset, kTile);
    accumulate(dim_, kTile, turned_grads_ + query * tile, kPairs, weights, kTile, kPairs, grad_values_ + offset, kTile);
  }

  // Gradients of a tile's scores: weight * (gradient . value - delta), to rows_ and paired_.
  void differentiate(std::size_t query, std::size_t key, const std::uint32_t* weights) {
    const __m512i upper = _mm512_set1_epi32(static_cast<int>(0xffff0000));
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
          block[r + 1][v] = _mm512_mul_ps(block[r + 1][v], _mm512_castsi512_ps(_mm512_and_si512(both, upper)));
        }
      }
      store_both<false>(block, zipper_, rows_ + row * kPairs, paired_ + row / 2 * kTile);
    }
  }

  // Gradients of a tile's keys and values, complete now.
  void finish(std::size_t key, std::size_t offset) {
    const std::size_t end = std::min(head_.task.length - key * kTile, kTile);
    transpose(words(grad_keys_ + offset), kTile, words(turned_), dim_, dim_, kTile);
    for (std::size_t row = 0; row < end; ++row) {
      const std::size_t t = key * kTile + row;
      fetch(head_.row(t + kAhead, 1), dim_);
      fetch(grad_row(t + kAhead, 1), dim_);
      fetch(grad_row(t + kAhead, 2), dim_);
      normalise_backward(head_.row(t, 1), dim_, head_.task.norm_eps, head_.task.k_weight, kLn2, turned_ + row * dim_,
                         grad_row(t, 1));
    }
    transpose(words(grad_values_ + offset), kTile, words(turned_), dim_, dim_, kTile);
    for (std::size_t row = 0; row < end; ++row)
      for (std::size_t d = 0; d < dim_; d += 16)
        narrow(_mm512_load_ps(turned_ + row * dim_ + d), grad_row(key * kTile + row, 2) + d);
  }

  std::uint16_t* grad_row(std::size_t t, std::size_t part) const {
    return work_.grad_qkv + (head_.row(t, part) - head_.task.qkv);
  }

  const BackwardHeads& work_;
  Head head_;
  const std::size_t dim_, size_;
  const std::uint32_t* weights_ = nullptr;    // of this head
  const std::int32_t* stops_ = nullptr;       // of this head
  Words keys_;                                // paired [padded / 2][dim]
  Words queries_;                             // for each tile [dim][kPairs]
  Words values_;                              // for each tile [dim / 2][kTile]
  Words grads_, turned_grads_;                // rows [padded][dim / 2]; for each tile [dim][kPairs]
  Words copied_, paired_rows_;                // on the way
  Floats deltas_;                             // [padded]
  Floats grad_queries_;                       // [padded][dim]
  Floats grad_keys_, grad_values_;            // [kGroup][dim][kTile]
  Floats turned_;                             // [kTile][dim]
  Words rows_, paired_;                       // [kTile][kPairs], [kPairs][kTile]
  const Zipper zipper_;
};

// A thread's pass makes its memory once, when the thread takes its first head.
template <typename Pass, typename Work>
void run_heads(const Work& work, const std::vector<std::size_t>& order, WorkerPool& pool) {
  std::vector<std::unique_ptr<Pass>> passes(pool.threads());
  pool.run(static_cast<int>(order.size()), [&](int item, int thread) {
    if (passes[thread] == nullptr) passes[thread] = std::make_unique<Pass>(work);
    passes[thread]->run(order[item]);
  });
}

}  // namespace
}  // namespace vintix_fast

#pragma GCC diagnostic pop
#pragma GCC pop_options

namespace vintix_fast {

void forward_heads(const ForwardHeads& work, const std::vector<std::size_t>& order, WorkerPool& pool) {
  run_heads<Forward>(work, order, pool);
}

void backward_heads(const BackwardHeads& work, const std::vector<std::size_t>& order, WorkerPool& pool) {
  run_heads<Backward>(work, order, pool);
}

}  // namespace vintix_fast

#else

namespace vintix_fast {

void forward_heads(const ForwardHeads&, const std::vector<std::size_t>&, WorkerPool&) {}
void backward_heads(const BackwardHeads&, const std::vector<std::size_t>&, WorkerPool&) {}

}  // namespace vintix_fast

#endif
