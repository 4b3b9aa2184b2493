// vintix_fast._core: what Python sees.

#include "bindings.hpp"

PYBIND11_MODULE(_core, module) {
  module.doc() = "Compiled parts of vintix-fast.";
  vintix_fast::bind_causal_attention(module);
  vintix_fast::bind_decoder_loss(module);
  vintix_fast::bind_policy_decoder(module);
  vintix_fast::bind_task(module);
  vintix_fast::bind_trajectory_writer(module);
}
