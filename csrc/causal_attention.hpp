// Causal attention with ALiBi and normalised queries and keys, in bfloat16, forward and backward, for training with the
// norms' weights frozen.
//
//   q | k | v   one row a token, as the projection left it; queries and keys are normalised here, over the head's
//               dimension, so that nothing of the size of q, k or v is copied outside the core's cache;
//   weights     exp(score + bias), not yet divided by their sum, kept for the backward pass in bfloat16. No maximum is
//               subtracted: normalised queries and keys bound every score, which the caller checks;
//   tiles       64 queries by 64 keys. A tile of queries reads keys from its own backwards, and stops where everything
//               older is provably below dropped_mass of the softmax's sum: ALiBi's steep heads stop early. The backward
//               pass knows the weights, far lighter than the proof has it, and leaves out the oldest tiles that
//               together weigh no more than dropped_mass of what was read.
//
// A sequence may hold several histories one after another: first[t] is the token at which token t's history begins.
//
// Work is one (sequence, head) at a time on each thread of a pool; results do not depend on the number of threads.  Needs
// has_bfloat16_kernels(), see cpu_features.hpp.  Knows nothing about Python and torch.

#pragma once

#include <cstddef>
#include <cstdint>

namespace vintix_fast {

struct CausalAttention {
  // Sizes: B sequences of T tokens, H heads of D dimensions; D a multiple of 32.
  std::size_t batch, length, heads, head_dim;
  const std::uint16_t* qkv;    // [B, T, 3, H, D] bfloat16
  const std::int32_t* first;   // [B, T], or null where every sequence is one history
  const float* slopes;         // [H]
  const float *q_weight, *q_bias, *k_weight, *k_bias;  // [D], of the norms
  float norm_eps;
  float dropped_mass;  // most that a query may leave out in either pass, relative to its softmax's sum
  std::size_t threads;
};

constexpr std::size_t kTile = 64;  // queries, and keys

inline std::size_t attention_tiles(std::size_t length) { return (length + kTile - 1) / kTile; }

// Elements of one (sequence, head)'s `weights`: of every pair of tiles of which the keys' is not younger.  Those of tiles
// that are never read are never touched.
inline std::size_t attention_weights(std::size_t length) {
  return attention_tiles(length) * (attention_tiles(length) + 1) / 2 * kTile * kTile;
}

// What the forward pass writes and the backward pass reads.
struct AttentionResult {
  std::uint16_t* out;      // [B, T, H, D] bfloat16
  std::uint16_t* weights;  // aligned to 64 bytes, or null where no backward pass follows
  float* sums;             // [B, H, T]
  std::int32_t* stops;     // [B, H, tiles], the oldest tile of keys that the backward pass needs
};

void causal_attention_forward(const CausalAttention& task, const AttentionResult& result);

// grad_out [B, T, H, D] -> grad_qkv [B, T, 3, H, D], both bfloat16.
void causal_attention_backward(const CausalAttention& task, const AttentionResult& result,
                               const std::uint16_t* grad_out, std::uint16_t* grad_qkv);

}  // namespace vintix_fast
