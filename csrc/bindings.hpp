// The parts of vintix_fast._core; each is bound in a file of its own.
#pragma once

#include <pybind11/pybind11.h>

namespace vintix_fast {

void bind_causal_attention(pybind11::module_& module);
void bind_observe(pybind11::module_& module);
void bind_policy_decoder(pybind11::module_& module);
void bind_trajectory_writer(pybind11::module_& module);

}  // namespace vintix_fast
