// causal_attention.hpp, in AVX-512 with bfloat16.  What lies between the two pragmas must not run before
// has_bfloat16_kernels() said yes; the standard library's templates, which other files share, are not compiled for it.

#include "causal_attention.hpp"

#include "cpu_features.hpp"
#include "worker_pool.hpp"

#if VINTIX_FAST_BFLOAT16_KERNELS

#include <immintrin.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <memory>
#include <numeric>
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
#include "causal_attention_forward.hpp"
#include "causal_attention_backward.hpp"

// One (sequence, head) after another, in a pool; a thread makes a pass's memory once, when it takes its first head.
template <typename Pass, typename... Arrays>
void run_heads(const CausalAttention& task, const std::vector<std::size_t>& order, const Arrays&... arrays) {
  WorkerPool pool(static_cast<int>(std::min(task.threads, order.size())));
  std::vector<std::unique_ptr<Pass>> passes(pool.threads());
  pool.run(static_cast<int>(order.size()), [&](int item, int thread) {
    if (passes[thread] == nullptr) passes[thread] = std::make_unique<Pass>(task, arrays...);
    passes[thread]->run(order[item]);
  });
}

}  // namespace
}  // namespace vintix_fast

#pragma GCC diagnostic pop
#pragma GCC pop_options

namespace vintix_fast {

// (sequence, head) numbers b * heads + h, the longest, those with the smallest slopes, first.
static std::vector<std::size_t> longest_first(const CausalAttention& task) {
  std::vector<std::size_t> order(task.batch * task.heads);
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::stable_sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) {
    return task.slopes[a % task.heads] < task.slopes[b % task.heads];
  });
  return order;
}

void causal_attention_forward(const CausalAttention& task, const AttentionResult& result) {
  run_heads<Forward>(task, longest_first(task), result);
}

void causal_attention_backward(const CausalAttention& task, const AttentionResult& result,
                               const std::uint16_t* grad_out, std::uint16_t* grad_qkv) {
  run_heads<Backward>(task, longest_first(task), result, grad_out, grad_qkv);
}

}  // namespace vintix_fast

#else

namespace vintix_fast {

void causal_attention_forward(const CausalAttention&, const AttentionResult&) {}
void causal_attention_backward(const CausalAttention&, const AttentionResult&, const std::uint16_t*, std::uint16_t*) {}

}  // namespace vintix_fast

#endif
