// vintix_fast._core: what Python sees.

#include "bindings.hpp"

#include "cpu_features.hpp"
#include "policy_decoder.hpp"

PYBIND11_MODULE(_core, module) {
  using namespace vintix_fast;
  using namespace py::literals;
  module.doc() = "Compiled parts of vintix-fast.";
  module.def("cpu_features", [] {
    py::list decoders;
    for (const Implementation& implementation : implementations()) decoders.append(implementation.name);
    return py::dict("decoders"_a = decoders, "bfloat16"_a = cpu_features().avx512_bf16,
                    "bfloat16_kernels"_a = has_bfloat16_kernels());
  });
  bind_policy_decoder(module);
  bind_task(module);
  bind_training(module);
  bind_trajectory_writer(module);
}
