#include "causal_attention.hpp"

#include <algorithm>
#include <numeric>
#include <vector>

#include "causal_attention_heads.hpp"

namespace vintix_fast {
namespace {

// (sequence, head) numbers b * heads + h, the longest, those with the smallest slopes, first.
std::vector<std::size_t> longest_first(const CausalAttention& task) {
  std::vector<std::size_t> order(task.batch * task.heads);
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::stable_sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) {
    return task.slopes[a % task.heads] < task.slopes[b % task.heads];
  });
  return order;
}

int threads_for(const CausalAttention& task) {
  return static_cast<int>(std::min(task.threads, task.batch * task.heads));
}

}  // namespace

std::size_t causal_attention_weights(const CausalAttention& task) {
  return task.batch * task.heads * attention_weights(task.length);
}

void causal_attention_forward(const CausalAttention& task, std::uint16_t* out, std::uint16_t* weights, float* sums,
                              std::int32_t* stops) {
  WorkerPool pool(threads_for(task));
  forward_heads({task, out, weights, sums, stops}, longest_first(task), pool);
}

void causal_attention_backward(const CausalAttention& task, const std::uint16_t* out, const std::uint16_t* weights,
                               const float* sums, const std::int32_t* stops, const std::uint16_t* grad_out,
                               std::uint16_t* grad_qkv) {
  WorkerPool pool(threads_for(task));
  backward_heads({task, out, weights, sums, stops, grad_out, grad_qkv}, longest_first(task), pool);
}

}  // namespace vintix_fast
