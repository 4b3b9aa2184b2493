// vintix_fast._core's causal attention: memory by address, sizes as numbers; vintix_fast/kernels/causal_attention.py checks
// both.  The GIL is released.

#include <pybind11/pybind11.h>

#include <cstdint>

#include "bindings.hpp"
#include "causal_attention.hpp"

namespace py = pybind11;

namespace vintix_fast {
namespace {

template <typename T>
T* at(std::uintptr_t address) {
  return reinterpret_cast<T*>(address);
}

CausalAttention make_task(std::size_t batch, std::size_t length, std::size_t heads, std::size_t head_dim,
                          std::uintptr_t qkv, std::uintptr_t first, std::uintptr_t slopes, std::uintptr_t q_weight,
                          std::uintptr_t q_bias, std::uintptr_t k_weight, std::uintptr_t k_bias, float norm_eps,
                          float dropped_mass, std::size_t threads) {
  return {batch, length, heads, head_dim, at<const std::uint16_t>(qkv), at<const std::int32_t>(first),
          at<const float>(slopes), at<const float>(q_weight), at<const float>(q_bias), at<const float>(k_weight),
          at<const float>(k_bias), norm_eps, dropped_mass, threads};
}

void forward(const CausalAttention& task, std::uintptr_t out, std::uintptr_t weights, std::uintptr_t sums,
             std::uintptr_t stops) {
  causal_attention_forward(task, at<std::uint16_t>(out), at<std::uint16_t>(weights), at<float>(sums),
                           at<std::int32_t>(stops));
}

void backward(const CausalAttention& task, std::uintptr_t out, std::uintptr_t weights, std::uintptr_t sums,
              std::uintptr_t stops, std::uintptr_t grad_out, std::uintptr_t grad_qkv) {
  causal_attention_backward(task, at<const std::uint16_t>(out), at<const std::uint16_t>(weights), at<const float>(sums),
                            at<const std::int32_t>(stops), at<const std::uint16_t>(grad_out),
                            at<std::uint16_t>(grad_qkv));
}

}  // namespace

void bind_causal_attention(py::module_& module) {
  using release = py::call_guard<py::gil_scoped_release>;
  py::class_<CausalAttention>(module, "CausalAttention", "See csrc/causal_attention.hpp; pointers are addresses.")
      .def(py::init(&make_task), py::kw_only(), py::arg("batch"), py::arg("length"), py::arg("heads"),
           py::arg("head_dim"), py::arg("qkv"), py::arg("first"), py::arg("slopes"), py::arg("q_weight"),
           py::arg("q_bias"), py::arg("k_weight"), py::arg("k_bias"), py::arg("norm_eps"), py::arg("dropped_mass"),
           py::arg("threads"))
      .def_static("supported", &causal_attention_supported)
      .def_static("weights_size", &causal_attention_weights, py::arg("batch"), py::arg("length"), py::arg("heads"))
      .def("forward", &forward, py::kw_only(), py::arg("out"), py::arg("weights"), py::arg("sums"), py::arg("stops"),
           release())
      .def("backward", &backward, py::kw_only(), py::arg("out"), py::arg("weights"), py::arg("sums"), py::arg("stops"),
           py::arg("grad_out"), py::arg("grad_qkv"), release());
}

}  // namespace vintix_fast
