// The action decoder's loss and the gradient of its parameters, in one pass over the tokens, in bfloat16.
//
// The decoder is a chain of square layers with leaky ReLUs and a last layer to the action.  The loss is what comes last,
// so what a training step needs of a token is used up as soon as its gradient is known: a tile of tokens goes forward
// through all layers and back again while it is in the core's cache, and nothing else of the batch's size is written than,
// where it is wanted, the gradient of what went in.
//
// Products take bfloat16 and add in float32; activations and their gradients are rounded to bfloat16 between layers.
// Tokens are cut into parts whose sums are added in order: results do not depend on the number of threads.  Needs
// has_bfloat16_kernels(), see cpu_features.hpp.  Knows nothing about Python and torch.

#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

namespace vintix_fast {

struct DecoderShape {
  std::size_t layers, width, actions;  // L square layers over F features, then one to A actions
  float slope;                         // of the leaky ReLUs below 0, positive
};

struct DecoderStep {
  std::size_t tokens;            // N, chosen out of more
  const std::int64_t* chosen;    // [N], each a row of `hidden`, `target` and `weight`
  const std::uint16_t* hidden;   // [.., F] bfloat16
  const float* target;           // [.., A]
  const float* weight;           // [..]
  const float *scale, *shift;    // [A]: action = scale * decoded + shift
  std::vector<const float*> matrices, biases;      // of L + 1 layers: [F, F] and [F], at last [A, F] and [A]
  std::vector<float*> grad_matrices, grad_biases;  // of the same shapes, written
  std::uint16_t* grad_hidden;                      // [N, F] bfloat16, of the chosen tokens, written; or nullptr
};

class DecoderLoss {
 public:
  // What F is a multiple of, and the most that A may be.
  static constexpr std::size_t kColumns = 64, kActions = 16;

  DecoderLoss(const DecoderShape& shape, std::size_t threads);

  // Returns the sum over tokens of weight * mean over actions of (action - target)^2, divided by the sum of the weights.
  // One call at a time: they share memory and threads.  Not to be used, nor destroyed, in a forked child.
  float run(const DecoderStep& step);

  const DecoderShape& shape() const { return shape_; }

 private:
  struct Memory;
  DecoderShape shape_;
  std::shared_ptr<Memory> memory_;
};

}  // namespace vintix_fast
