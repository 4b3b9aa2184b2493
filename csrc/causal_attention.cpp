#include "causal_attention.hpp"

#include <algorithm>
#include <numeric>
#include <thread>
#include <vector>

#include "causal_attention_heads.hpp"

namespace vintix_fast {
namespace {

// Calls work(queue) on several threads; the longest heads, those with the smallest slopes, are handed out first.
template <typename Work>
void share_heads(const CausalAttention& task, Work work) {
  std::vector<std::size_t> order(task.batch * task.heads);
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::stable_sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) {
    return task.slopes[a % task.heads] < task.slopes[b % task.heads];
  });
  const std::size_t threads = std::min(task.threads, order.size());
  HeadQueue queue(std::move(order));
  std::vector<std::thread> helpers;
  for (std::size_t i = 1; i < threads; ++i) helpers.emplace_back([&] { work(queue); });
  work(queue);
  for (std::thread& helper : helpers) helper.join();
}

}  // namespace

std::size_t causal_attention_weights(std::size_t batch, std::size_t length, std::size_t heads) {
  return batch * heads * attention_weights(length);
}

void causal_attention_forward(const CausalAttention& task, std::uint16_t* out, std::uint16_t* weights, float* sums,
                              std::int32_t* stops) {
  const ForwardHeads heads{task, out, weights, sums, stops};
  share_heads(task, [&](HeadQueue& queue) { forward_heads(heads, queue); });
}

void causal_attention_backward(const CausalAttention& task, const std::uint16_t* out, const std::uint16_t* weights,
                               const float* sums, const std::int32_t* stops, const std::uint16_t* grad_out,
                               std::uint16_t* grad_qkv) {
  const BackwardHeads heads{task, out, weights, sums, stops, grad_out, grad_qkv};
  share_heads(task, [&](HeadQueue& queue) { backward_heads(heads, queue); });
}

}  // namespace vintix_fast
