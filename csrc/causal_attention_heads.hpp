// What causal_attention.cpp, which owns the order of work, and causal_attention_avx512.cpp, which owns the arithmetic,
// share.

#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "causal_attention.hpp"
#include "worker_pool.hpp"

namespace vintix_fast {

constexpr std::size_t kPairs = kTile / 2;        // of tokens in a tile
constexpr std::size_t kWeights = kTile * kTile;  // in a tile

// Weights of one (sequence, head): of every pair of tiles of which the keys' is not younger.
inline std::size_t attention_weights(std::size_t length) {
  return attention_tiles(length) * (attention_tiles(length) + 1) / 2 * kWeights;
}

struct ForwardHeads {
  const CausalAttention& task;
  std::uint16_t *out, *weights;
  float* sums;
  std::int32_t* stops;
};

struct BackwardHeads {
  const CausalAttention& task;
  const std::uint16_t *out, *weights;
  const float* sums;
  const std::int32_t* stops;
  const std::uint16_t* grad_out;
  std::uint16_t* grad_qkv;
};

// order: (sequence, head) numbers b * heads + h; the threads of the pool take one at a time, from the first on.
void forward_heads(const ForwardHeads& work, const std::vector<std::size_t>& order, WorkerPool& pool);
void backward_heads(const BackwardHeads& work, const std::vector<std::size_t>& order, WorkerPool& pool);

}  // namespace vintix_fast
