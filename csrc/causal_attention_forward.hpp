// Causal attention's forward pass, for bfloat16_kernels.cpp, which includes this within its own namespace and target.

class Forward {
 public:
  Forward(const CausalAttention& task, const AttentionResult& result)
      : result_(result), head_(task), dim_(head_.dim), keys_(head_.padded * dim_ / 2),
        values_(head_.padded * dim_ / 2), copied_(head_.padded * dim_ / 2), rows_(kTile * kPairs),
        totals_((head_.count + 1) * kTile * 16), summed_(kTile * dim_) {}

  void run(std::size_t item) {
    head_.load(item);
    head_.transpose_tiles(head_.keys, keys_);
    head_.copy_values(copied_);
    pair_rows(bf16(copied_), dim_, values_, head_.padded, dim_);
    sums_ = result_.sums + item * head_.task.length;
    weights_ = result_.weights == nullptr ? nullptr : words(result_.weights + item * attention_weights(head_.task.length));
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
      result_.stops[item * head_.count + query] = static_cast<std::int32_t>(heavy(query, key));
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
      each<4, 4>([&](int r, int v) { block[r][v] = exp2(block[r][v]); });
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
        narrow(_mm512_mul_ps(_mm512_load_ps(summed_ + row * dim_ + d), share), result_.out + head_.out_row(t) + d);
    }
  }

  // Weights of a tile of keys and all younger ones, of each query 16 sums to be added up.
  float* totals(std::size_t key) { return totals_ + key * kTile * 16; }
  float total(std::size_t row, std::size_t key) const {
    return _mm512_reduce_add_ps(_mm512_load_ps(totals_ + (key * kTile + row) * 16));
  }

  const AttentionResult result_;
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
