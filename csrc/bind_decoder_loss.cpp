// vintix_fast._core's decoder loss: memory by address, sizes as numbers; vintix_fast/kernels/decoder_loss.py checks both.
// The GIL is released.

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cstdint>
#include <vector>

#include "bindings.hpp"
#include "decoder_loss.hpp"

namespace py = pybind11;

namespace vintix_fast {
namespace {

using Addresses = std::vector<std::uintptr_t>;

template <typename T>
std::vector<T*> pointers(const Addresses& addresses) {
  std::vector<T*> all;
  for (const std::uintptr_t address : addresses) all.push_back(reinterpret_cast<T*>(address));
  return all;
}

float run(DecoderLoss& loss, std::size_t tokens, std::uintptr_t chosen, std::uintptr_t hidden, std::uintptr_t target,
          std::uintptr_t weight, std::uintptr_t scale, std::uintptr_t shift, const Addresses& matrices,
          const Addresses& biases, const Addresses& grad_matrices, const Addresses& grad_biases,
          std::uintptr_t grad_hidden) {
  return loss.run({tokens, reinterpret_cast<const std::int64_t*>(chosen), reinterpret_cast<const std::uint16_t*>(hidden),
                   reinterpret_cast<const float*>(target), reinterpret_cast<const float*>(weight),
                   reinterpret_cast<const float*>(scale), reinterpret_cast<const float*>(shift),
                   pointers<const float>(matrices), pointers<const float>(biases), pointers<float>(grad_matrices),
                   pointers<float>(grad_biases), reinterpret_cast<std::uint16_t*>(grad_hidden)});
}

}  // namespace

void bind_decoder_loss(py::module_& module) {
  py::class_<DecoderLoss>(module, "DecoderLoss", "See csrc/decoder_loss.hpp; pointers are addresses.")
      .def(py::init([](std::size_t layers, std::size_t width, std::size_t actions, float slope, std::size_t threads) {
             return DecoderLoss({layers, width, actions, slope}, threads);
           }),
           py::kw_only(), py::arg("layers"), py::arg("width"), py::arg("actions"), py::arg("slope"), py::arg("threads"))
      .def_static("supported", &DecoderLoss::supported)
      .def_property_readonly_static("COLUMNS", [](const py::object&) { return DecoderLoss::kColumns; })
      .def_property_readonly_static("ACTIONS", [](const py::object&) { return DecoderLoss::kActions; })
      .def("run", &run, py::kw_only(), py::arg("tokens"), py::arg("chosen"), py::arg("hidden"), py::arg("target"),
           py::arg("weight"), py::arg("scale"), py::arg("shift"), py::arg("matrices"), py::arg("biases"),
           py::arg("grad_matrices"), py::arg("grad_biases"), py::arg("grad_hidden"),
           py::call_guard<py::gil_scoped_release>());
}

}  // namespace vintix_fast
