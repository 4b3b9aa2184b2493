// What causal_attention.cpp, which owns the threads, and causal_attention_avx512.cpp, which owns the arithmetic, share.

#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "causal_attention.hpp"

namespace vintix_fast {

constexpr std::size_t kTile = 64;                // queries, and keys
constexpr std::size_t kPairs = kTile / 2;        // of tokens in a tile
constexpr std::size_t kWeights = kTile * kTile;  // in a tile

inline std::size_t attention_tiles(std::size_t length) { return (length + kTile - 1) / kTile; }

// Weights of one (sequence, head): of every pair of tiles of which the keys' is not younger.
inline std::size_t attention_weights(std::size_t length) {
  return attention_tiles(length) * (attention_tiles(length) + 1) / 2 * kWeights;
}

// (sequence, head) numbers b * heads + h, each handed out once, to any thread.
class HeadQueue {
 public:
  explicit HeadQueue(std::vector<std::size_t> order) : order_(std::move(order)) {}

  bool take(std::size_t& item) {
    const std::size_t i = next_++;
    if (i < order_.size()) item = order_[i];
    return i < order_.size();
  }

 private:
  const std::vector<std::size_t> order_;
  std::atomic<std::size_t> next_{0};
};

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

// One thread's share: until the queue is empty.
void forward_heads(const ForwardHeads& work, HeadQueue& queue);
void backward_heads(const BackwardHeads& work, HeadQueue& queue);

}  // namespace vintix_fast
