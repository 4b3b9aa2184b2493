// Causal attention's backward pass, for bfloat16_kernels.cpp, which includes this within its own namespace and target.

constexpr std::size_t kGroup = 4;  // tiles of keys that the backward pass goes through with one reading of the queries

class Backward {
 public:
  Backward(const CausalAttention& task, const AttentionResult& result, const std::uint16_t* grad_out,
           std::uint16_t* grad_qkv)
      : result_(result), grad_out_(grad_out), grad_qkv_(grad_qkv), head_(task), dim_(head_.dim), size_(head_.padded * dim_ / 2), keys_(size_), queries_(size_),
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
    weights_ = words(result_.weights + item * attention_weights(head_.task.length));
    stops_ = result_.stops + item * head_.count;
    pair_rows(bf16(head_.keys), dim_, keys_, head_.padded, dim_);
    turn(bf16(head_.queries), queries_);
    read_gradients(result_.sums + item * head_.task.length);
    turn(bf16(grads_), turned_grads_);
    head_.copy_values(copied_);
    head_.transpose_tiles(copied_, values_);
  }

  // The output's gradients divided by each query's sum, because weights are not; and delta = gradient . output.
  void read_gradients(const float* sums) {
    for (std::size_t t = 0; t < head_.task.length; ++t) {
      fetch(result_.out + head_.out_row(t + kAhead), dim_);
      fetch(grad_out_ + head_.out_row(t + kAhead), dim_);
      const __m512 share = _mm512_set1_ps(1.0f / sums[t]);
      __m512 delta = _mm512_setzero_ps();
      for (std::size_t d = 0; d < dim_; d += 16) {
        const __m512 grad = _mm512_mul_ps(widen(grad_out_ + head_.out_row(t) + d), share);
        delta = _mm512_fmadd_ps(grad, widen(result_.out + head_.out_row(t) + d), delta);
        narrow(grad, bf16(grads_) + t * dim_ + d);
      }
      deltas_[t] = _mm512_reduce_add_ps(delta);
    }
  }

  // Rows [padded][dim] -> for each tile [dim][kPairs]: the left-hand side of "rows, transposed, times".
  void turn(const std::uint16_t* rows, std::uint32_t* to) {
    pair_rows(rows, dim_, paired_rows_, head_.padded, dim_);
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
      each<4, 4>([&](int r, int v) { block[r][v] = _mm512_set1_ps(-deltas_[t + r]); });
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
    return grad_qkv_ + (head_.row(t, part) - head_.task.qkv);
  }

  const AttentionResult result_;
  const std::uint16_t* const grad_out_;
  std::uint16_t* const grad_qkv_;
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
