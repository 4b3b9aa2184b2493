// vintix_fast._core.DecoderLoss: checks arrays, releases the GIL; no logic of its own.

#include <algorithm>
#include <cstdint>
#include <string>
#include <vector>

#include "bindings.hpp"
#include "decoder_loss.hpp"

namespace py = pybind11;

namespace vintix_fast {
namespace {

DecoderLoss make_loss(std::size_t layers, std::size_t width, std::size_t actions, float slope, std::size_t threads) {
  require_bfloat16_kernels();
  if (layers < 1 || width < 1 || width % DecoderLoss::kColumns != 0 || actions < 1 || actions > DecoderLoss::kActions) {
    throw py::value_error("layers, width, actions: expected at least 1, a multiple of " +
                          std::to_string(DecoderLoss::kColumns) + ", 1 to " + std::to_string(DecoderLoss::kActions) +
                          ", got " + std::to_string(layers) + ", " + std::to_string(width) + ", " +
                          std::to_string(actions));
  }
  return DecoderLoss({layers, width, actions, slope}, threads);
}

// Every layer's matrix and vector in turn; the last layer has as many rows as there are actions.
template <typename T>
void take_layers(const DecoderShape& shape, const char* name, const std::vector<py::object>& arrays,
                 T* (*data)(const char*, const py::handle&, const Shape&), std::vector<T*>& matrices,
                 std::vector<T*>& biases) {
  if (arrays.size() != 2 * (shape.layers + 1)) {
    throw py::value_error(std::string(name) + ": expected " + std::to_string(2 * (shape.layers + 1)) +
                          " arrays, got " + std::to_string(arrays.size()));
  }
  const auto width = static_cast<py::ssize_t>(shape.width);
  for (std::size_t layer = 0; layer <= shape.layers; ++layer) {
    const py::ssize_t outputs = layer < shape.layers ? width : static_cast<py::ssize_t>(shape.actions);
    matrices.push_back(data(name, arrays[2 * layer], {outputs, width}));
    biases.push_back(data(name, arrays[2 * layer + 1], {outputs}));
  }
}

float run(DecoderLoss& loss, const py::object& rows, const py::object& hidden, const py::object& target,
          const py::object& weight, const py::object& scale, const py::object& shift,
          const std::vector<py::object>& parameters, const std::vector<py::object>& grads,
          const py::object& grad_hidden) {
  const DecoderShape& shape = loss.shape();
  const auto width = static_cast<py::ssize_t>(shape.width), actions = static_cast<py::ssize_t>(shape.actions);
  const py::ssize_t tokens = length_of(typed<std::uint16_t>("hidden", hidden));
  const py::ssize_t count = length_of(typed<std::int64_t>("rows", rows));
  DecoderStep step;
  step.hidden = checked<std::uint16_t>("hidden", hidden, {tokens, width});
  step.target = checked<float>("target", target, {tokens, actions});
  step.weight = checked<float>("weight", weight, {tokens});
  step.scale = checked<float>("scale", scale, {actions});
  step.shift = checked<float>("shift", shift, {actions});
  step.tokens = static_cast<std::size_t>(count);
  step.chosen = checked<std::int64_t>("rows", rows, {count});
  const auto [lowest, highest] = std::minmax_element(step.chosen, step.chosen + count);
  if (count == 0 || *lowest < 0 || *highest >= tokens) {
    throw py::value_error("rows: expected at least one, from 0 to below " + std::to_string(tokens) + ", got " +
                          (count == 0 ? "none" : std::to_string(*lowest) + " to " + std::to_string(*highest)));
  }
  take_layers(shape, "parameters", parameters, &checked<float>, step.matrices, step.biases);
  take_layers(shape, "grads", grads, &writeable<float>, step.grad_matrices, step.grad_biases);
  step.grad_hidden =
      grad_hidden.is_none() ? nullptr : writeable<std::uint16_t>("grad_hidden", grad_hidden, {count, width});
  const py::gil_scoped_release release;
  return loss.run(step);
}

}  // namespace

void bind_decoder_loss(py::module_& module) {
  py::class_<DecoderLoss>(module, "DecoderLoss", "See _core.pyi and csrc/decoder_loss.hpp.")
      .def(py::init(&make_loss), py::kw_only(), py::arg("layers"), py::arg("width"), py::arg("actions"),
           py::arg("slope"), py::arg("threads"))
      .def_property_readonly_static("COLUMNS", [](const py::object&) { return DecoderLoss::kColumns; })
      .def_property_readonly_static("ACTIONS", [](const py::object&) { return DecoderLoss::kActions; })
      .def("run", &run, py::kw_only(), py::arg("rows"), py::arg("hidden"), py::arg("target"), py::arg("weight"),
           py::arg("scale"), py::arg("shift"), py::arg("parameters"), py::arg("grads"), py::arg("grad_hidden"));
}

}  // namespace vintix_fast
