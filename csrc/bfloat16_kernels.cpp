// causal_attention.hpp, decoder_loss.hpp and norm_elu.hpp, in AVX-512 with bfloat16.  What lies between the two pragmas
// must not run before has_bfloat16_kernels() said yes; the standard library's templates, which other files share, are not
// compiled for it.

#include "causal_attention.hpp"
#include "cpu_features.hpp"
#include "decoder_loss.hpp"
#include "norm_elu.hpp"
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
#include "decoder_pass.hpp"

// One (sequence, head) after another, in a pool; a thread makes a pass's memory once, when it takes its first head.
template <typename HeadPass, typename... Arrays>
void run_heads(const CausalAttention& task, const std::vector<std::size_t>& order, const Arrays&... arrays) {
  WorkerPool pool(static_cast<int>(std::min(task.threads, order.size())));
  std::vector<std::unique_ptr<HeadPass>> passes(pool.threads());
  pool.run(static_cast<int>(order.size()), [&](int item, int thread) {
    if (passes[thread] == nullptr) passes[thread] = std::make_unique<HeadPass>(task, arrays...);
    passes[thread]->run(order[item]);
  });
}

// (sequence, head) numbers b * heads + h, the longest, those with the smallest slopes, first.
std::vector<std::size_t> longest_first(const CausalAttention& task) {
  std::vector<std::size_t> order(task.batch * task.heads);
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::stable_sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) {
    return task.slopes[a % task.heads] < task.slopes[b % task.heads];
  });
  return order;
}

}  // namespace

void causal_attention_forward(const CausalAttention& task, const AttentionResult& result) {
  run_heads<Forward>(task, longest_first(task), result);
}

void causal_attention_backward(const CausalAttention& task, const AttentionResult& result,
                               const std::uint16_t* grad_out, std::uint16_t* grad_qkv) {
  run_heads<Backward>(task, longest_first(task), result, grad_out, grad_qkv);
}

struct DecoderLoss::Memory {
  std::vector<Layer> layers;
  std::vector<Sums> sums;    // of each part
  std::vector<Pass> passes;  // of each thread
  WorkerPool pool;           // last: its threads use the rest

  Memory(const DecoderShape& shape, std::size_t threads) : pool(static_cast<int>(std::min(threads, kParts))) {
    for (std::size_t l = 0; l <= shape.layers; ++l)
      layers.emplace_back(shape.width, l < shape.layers ? shape.width : shape.actions);
    for (std::size_t i = 0; i < kParts; ++i) sums.emplace_back(layers);
    for (int i = 0; i < pool.threads(); ++i) passes.emplace_back(layers, shape);
  }

  float run(const DecoderStep& step) {
    double weight = 0.0;
    for (std::size_t i = 0; i < step.tokens; ++i) weight += step.weight[step.chosen[i]];
    const float total = std::max(static_cast<float>(weight), 1e-8f);
    for (std::size_t l = 0; l < layers.size(); ++l) layers[l].load(step.matrices[l], step.biases[l]);
    const std::size_t tiles = (step.tokens + kTokens - 1) / kTokens, parts = std::min(kParts, tiles);
    pool.run(static_cast<int>(parts), [&](std::size_t part, int thread) {
      sums[part].clear(layers);
      for (std::size_t tile = tiles * part / parts; tile < tiles * (part + 1) / parts; ++tile)
        passes[thread].run(step, tile * kTokens, std::min(step.tokens, (tile + 1) * kTokens), total, sums[part]);
    });
    pool.run(kParts, [&](std::size_t slice, int) {
      for (std::size_t l = 0; l < layers.size(); ++l) {
        const std::size_t outputs = layers[l].outputs;
        add_slice(sums, parts, slice, outputs * layers[l].inputs, step.grad_matrices[l],
                  [&](const Sums& part) -> const float* { return part.matrices[l]; });
        add_slice(sums, parts, slice, outputs, step.grad_biases[l],
                  [&](const Sums& part) -> const float* { return part.biases[l]; });
      }
    });
    float loss = 0.0f;
    for (std::size_t part = 0; part < parts; ++part) loss += sums[part].loss;
    return loss;
  }
};

DecoderLoss::DecoderLoss(const DecoderShape& shape, std::size_t threads)
    : shape_(shape), memory_(std::make_shared<Memory>(shape, threads)) {}

float DecoderLoss::run(const DecoderStep& step) { return memory_->run(step); }

#include "norm_elu_avx512.hpp"

}  // namespace vintix_fast

#pragma GCC diagnostic pop
#pragma GCC pop_options

#else

namespace vintix_fast {

void causal_attention_forward(const CausalAttention&, const AttentionResult&) {}
void causal_attention_backward(const CausalAttention&, const AttentionResult&, const std::uint16_t*, std::uint16_t*) {}
struct DecoderLoss::Memory {};
DecoderLoss::DecoderLoss(const DecoderShape& shape, std::size_t) : shape_(shape) {}
float DecoderLoss::run(const DecoderStep&) { return 0.0f; }
void norm_elu(const NormElu&, std::uint16_t*) {}
void norm_elu_backward(const NormElu&, const std::uint16_t*, std::uint16_t*, float*, float*, float*) {}

}  // namespace vintix_fast

#endif
