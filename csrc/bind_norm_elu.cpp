// vintix_fast._core.norm_elu and norm_elu_backward: check arrays, release the GIL; no logic of their own.

#include <cstdint>
#include <string>

#include "bindings.hpp"
#include "norm_elu.hpp"

namespace py = pybind11;

namespace vintix_fast {
namespace {

struct Checked {
  NormElu task;
  Shape shape, parameters;
};

Checked checked_task(const py::object& x, const py::object& bias, const py::object& gain, const py::object& shift,
                     float eps) {
  require_bfloat16_kernels();
  Checked found{{}, shape_of(typed<std::uint16_t>("x", x)), {}};
  if (found.shape.size() != 3 || found.shape[2] < 1 || found.shape[2] % kNormEluColumns != 0) {
    throw py::value_error("x: expected shape [K, B, H], H a multiple of " + std::to_string(kNormEluColumns) +
                          ", got " + text(py::cast(found.shape)));
  }
  found.parameters = {found.shape[0], found.shape[2]};
  found.task.networks = found.shape[0], found.task.rows = found.shape[1], found.task.width = found.shape[2];
  found.task.x = checked<std::uint16_t>("x", x, found.shape);
  found.task.bias = checked<float>("bias", bias, found.parameters);
  found.task.gain = checked<float>("gain", gain, found.parameters);
  found.task.shift = checked<float>("shift", shift, found.parameters);
  found.task.eps = eps;
  return found;
}

void forward(const py::object& x, const py::object& bias, const py::object& gain, const py::object& shift, float eps,
             const py::object& out) {
  const Checked given = checked_task(x, bias, gain, shift, eps);
  auto* const out_data = writeable<std::uint16_t>("out", out, given.shape);
  const py::gil_scoped_release release;
  norm_elu(given.task, out_data);
}

void backward(const py::object& x, const py::object& bias, const py::object& gain, const py::object& shift, float eps,
              const py::object& grad_out, const py::object& grad_x, const py::object& grad_bias,
              const py::object& grad_gain, const py::object& grad_shift) {
  const Checked given = checked_task(x, bias, gain, shift, eps);
  const auto* const grad_out_data = checked<std::uint16_t>("grad_out", grad_out, given.shape);
  auto* const grad_x_data = writeable<std::uint16_t>("grad_x", grad_x, given.shape);
  float* const grad_bias_data = writeable<float>("grad_bias", grad_bias, given.parameters);
  float* const grad_gain_data = writeable<float>("grad_gain", grad_gain, given.parameters);
  float* const grad_shift_data = writeable<float>("grad_shift", grad_shift, given.parameters);
  const py::gil_scoped_release release;
  norm_elu_backward(given.task, grad_out_data, grad_x_data, grad_bias_data, grad_gain_data, grad_shift_data);
}

}  // namespace

void bind_norm_elu(py::module_& module) {
  module.attr("NORM_ELU_COLUMNS") = kNormEluColumns;
  module.def("norm_elu", &forward, "See _core.pyi and csrc/norm_elu.hpp.", py::arg("x"), py::arg("bias"),
             py::arg("gain"), py::arg("shift"), py::arg("eps"), py::arg("out"));
  module.def("norm_elu_backward", &backward, "See _core.pyi and csrc/norm_elu.hpp.", py::arg("x"), py::arg("bias"),
             py::arg("gain"), py::arg("shift"), py::arg("eps"), py::arg("grad_out"), py::arg("grad_x"),
             py::arg("grad_bias"), py::arg("grad_gain"), py::arg("grad_shift"));
}

}  // namespace vintix_fast
