// vintix_fast._core: what Python sees.

#include "bindings.hpp"

#include "policy_decoder.hpp"

namespace py = pybind11;

PYBIND11_MODULE(_core, module) {
  using namespace vintix_fast;
  module.doc() = "Compiled parts of vintix-fast.";
  module.def("cpu_features", [] {
    py::dict found;
    py::list decoders;
    for (const Implementation& implementation : implementations()) decoders.append(implementation.name);
    found["decoders"] = decoders;
    found["bfloat16"] = cpu_features().avx512_bf16;
    found["bfloat16_kernels"] = has_bfloat16_kernels();
    return found;
  });
  bind_causal_attention(module);
  bind_decoder_loss(module);
  bind_norm_elu(module);
  bind_policy_decoder(module);
  bind_task(module);
  bind_trajectory_writer(module);
}
