// What lies between the critic's matrix products, in one pass over the rows, forward and back: ELU of a layer norm.
//
//   out = elu(gain * norm(x + bias) + shift), norm over the last dimension
//
// x, out and their gradients are bfloat16, everything between is float32.  In plain torch these are five passes forward
// and eight back, most of a critic's time.  K networks side by side have parameters of their own.  Needs
// has_bfloat16_kernels(), see cpu_features.hpp.  Knows nothing about Python and torch.

#pragma once

#include <cstddef>
#include <cstdint>

namespace vintix_fast {

struct NormElu {
  std::size_t networks, rows, width;  // K, B, H: H a multiple of kNormEluColumns
  const std::uint16_t* x;             // [K, B, H] bfloat16
  const float *bias, *gain, *shift;   // [K, H]
  float eps;
};

constexpr std::size_t kNormEluColumns = 16;

// out: [K, B, H] bfloat16.
void norm_elu(const NormElu& task, std::uint16_t* out);

// From grad_out [K, B, H] to grad_x, the same, both bfloat16, and to grad_bias, grad_gain, grad_shift [K, H].
void norm_elu_backward(const NormElu& task, const std::uint16_t* grad_out, std::uint16_t* grad_x, float* grad_bias,
                       float* grad_gain, float* grad_shift);

}  // namespace vintix_fast
