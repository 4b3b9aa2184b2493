// What causal attention's passes share, for bfloat16_kernels.cpp, which includes this within its own namespace and target.

constexpr float kLog2E = 1.44269504f;
constexpr float kLn2 = 0.69314718f;

std::size_t tile_index(std::size_t query, std::size_t key) { return query * (query + 1) / 2 + key; }

inline __m512 exp2(__m512 x) {
  const __m512 part = _mm512_reduce_ps(x, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC);  // x - floor(x)
  __m512 y = _mm512_set1_ps(7.802202e-2f);  // 2^part within 8e-5 of it, a fiftieth of bfloat16's rounding
  y = _mm512_fmadd_ps(y, part, _mm512_set1_ps(2.2606513e-1f));
  y = _mm512_fmadd_ps(y, part, _mm512_set1_ps(6.9583734e-1f));
  y = _mm512_fmadd_ps(y, part, _mm512_set1_ps(9.9992452e-1f));
  return _mm512_scalef_ps(y, x);  // times 2^floor(x)
}

// Where a (sequence, head) lies, and its normalised queries and keys.
class Head {
 public:
  explicit Head(const CausalAttention& task)
      : task(task), dim(task.head_dim), count(attention_tiles(task.length)), padded(count * kTile),
        queries(padded * dim / 2), keys(padded * dim / 2), query_norm(count) {}

  void load(std::size_t item) {
    b = item / task.heads;
    h = item % task.heads;
    slope2 = task.slopes[h] * kLog2E;
    std::fill(query_norm.begin(), query_norm.end(), 0.0f);
    key_norm = 0.0f;
    const float scale = kLog2E / std::sqrt(static_cast<float>(dim));  // scores are exponents of 2
    for (std::size_t t = 0; t < task.length; ++t) {
      fetch(row(t + kAhead, 0), dim);
      fetch(row(t + kAhead, 1), dim);
      const float q = normalise(row(t, 0), dim, task.norm_eps, task.q_weight, task.q_bias, scale, bf16(queries) + t * dim);
      const float k = normalise(row(t, 1), dim, task.norm_eps, task.k_weight, task.k_bias, 1.0f, bf16(keys) + t * dim);
      query_norm[t / kTile] = std::max(query_norm[t / kTile], q);
      key_norm = std::max(key_norm, k);
    }
  }

  // Values [padded][dim], copied so that they are contiguous.
  void copy_values(std::uint32_t* to) const {
    for (std::size_t t = 0; t < task.length; ++t) {
      fetch(row(t + kAhead, 2), dim);
      std::memcpy(bf16(to) + t * dim, row(t, 2), 2 * dim);
    }
  }

  // Rows [padded][dim] -> for each tile of tokens [dim / 2][kTile]: the right-hand side of "times rows, transposed".
  void transpose_tiles(const std::uint32_t* rows, std::uint32_t* to) const {
    for (std::size_t i = 0; i < count; ++i)
      transpose(rows + i * kTile * dim / 2, dim / 2, to + i * kTile * dim / 2, kTile, kTile, dim / 2);
  }

  const std::uint16_t* row(std::size_t t, std::size_t part) const {
    return task.qkv + (((b * task.length + t) * 3 + part) * task.heads + h) * dim;
  }
  std::size_t out_row(std::size_t t) const { return ((b * task.length + t) * task.heads + h) * dim; }

  // Where the history of token t begins.
  std::size_t first(std::size_t t) const {
    if (task.first == nullptr) return 0;
    return static_cast<std::size_t>(task.first[b * task.length + std::min(t, task.length - 1)]);
  }

  // All keys of tiles before `key` together cannot weigh more (binary logarithm) for any query of a tile.
  float log2_rest(std::size_t query, std::size_t key) const {
    const float distance = static_cast<float>((query - key) * kTile + 1);
    return query_norm[query] * key_norm - slope2 * distance - std::log2(-std::expm1(-task.slopes[h]));
  }

  const CausalAttention& task;
  const std::size_t dim, count, padded;
  std::size_t b = 0, h = 0;
  float slope2 = 0.0f;
  Words queries, keys;            // rows of pairs [padded][dim / 2]; beyond the sequence's end zeros, here and below
  std::vector<float> query_norm;  // the largest of each tile
  float key_norm = 0.0f;          // the largest
};
