// vintix_fast._core.CausalAttention, DecoderLoss and norm_elu, with which models are trained: check arrays, release the GIL
// in the passes; no logic of their own.

#include <algorithm>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <vector>

#include "bindings.hpp"
#include "causal_attention.hpp"
#include "cpu_features.hpp"
#include "decoder_loss.hpp"
#include "norm_elu.hpp"

namespace vintix_fast {
namespace {

// Throws RuntimeError unless the kernels run on this processor.
void require_bfloat16_kernels() {
  if (!has_bfloat16_kernels()) throw std::runtime_error("this processor or build has no bfloat16 kernels");
}

// ---------------------------------------------------------------------------------------------------- causal attention

class BoundAttention {
 public:
  BoundAttention(const py::object& qkv, const py::object& slopes, const py::object& q_weight, const py::object& q_bias,
                 const py::object& k_weight, const py::object& k_bias, const py::object& first, float norm_eps,
                 float dropped_mass, std::size_t threads)
      : kept_{qkv, slopes, q_weight, q_bias, k_weight, k_bias, first} {
    require_bfloat16_kernels();
    qkv_shape_ = shape_of(typed<std::uint16_t>("qkv", qkv));
    if (qkv_shape_.size() != 5 || qkv_shape_[2] != 3 || qkv_shape_[4] % 32 != 0) {
      throw py::value_error("qkv: expected shape [B, T, 3, H, D], D a multiple of 32, got " +
                            text(py::cast(qkv_shape_)));
    }
    const py::ssize_t batch = qkv_shape_[0], length = qkv_shape_[1], heads = qkv_shape_[3], dim = qkv_shape_[4];
    out_shape_ = {batch, length, heads, dim};
    task_.batch = batch, task_.length = length, task_.heads = heads, task_.head_dim = dim;
    task_.qkv = checked<std::uint16_t>("qkv", qkv, qkv_shape_);
    task_.first = first.is_none() ? nullptr : checked<std::int32_t>("first", first, {batch, length});
    task_.slopes = checked<float>("slopes", slopes, {heads});
    task_.q_weight = checked<float>("q_weight", q_weight, {dim});
    task_.q_bias = checked<float>("q_bias", q_bias, {dim});
    task_.k_weight = checked<float>("k_weight", k_weight, {dim});
    task_.k_bias = checked<float>("k_bias", k_bias, {dim});
    task_.norm_eps = norm_eps, task_.dropped_mass = dropped_mass, task_.threads = threads;
  }

  std::size_t weights_size() const { return task_.batch * task_.heads * attention_weights(task_.length); }
  std::size_t tiles() const { return attention_tiles(task_.length); }

  void forward(const py::object& out, const py::object& sums, const py::object& stops,
               const py::object& weights) const {
    const AttentionResult result =
        checked_result(out, sums, stops, weights.is_none() ? nullptr : aligned_weights(weights));
    const py::gil_scoped_release release;
    causal_attention_forward(task_, result);
  }

  void backward(const py::object& out, const py::object& sums, const py::object& stops, const py::object& weights,
                const py::object& grad_out, const py::object& grad_qkv) const {
    const AttentionResult result = checked_result(out, sums, stops, aligned_weights(weights));
    const auto* const grad_out_data = checked<std::uint16_t>("grad_out", grad_out, out_shape_);
    auto* const grad_qkv_data = writeable<std::uint16_t>("grad_qkv", grad_qkv, qkv_shape_);
    const py::gil_scoped_release release;
    causal_attention_backward(task_, result, grad_out_data, grad_qkv_data);
  }

 private:
  AttentionResult checked_result(const py::object& out, const py::object& sums, const py::object& stops,
                                 std::uint16_t* weights) const {
    const py::ssize_t batch = out_shape_[0], length = out_shape_[1], heads = out_shape_[2];
    return {writeable<std::uint16_t>("out", out, out_shape_), weights,
            writeable<float>("sums", sums, {batch, heads, length}),
            writeable<std::int32_t>("stops", stops, {batch, heads, static_cast<py::ssize_t>(tiles())})};
  }

  std::uint16_t* aligned_weights(const py::handle& weights) const {
    const auto size = static_cast<py::ssize_t>(weights_size());
    const py::ssize_t given = length_of(typed<std::uint16_t>("weights", weights));  // more will do
    auto* const data = writeable<std::uint16_t>("weights", weights, {std::max(size, given)});
    if (reinterpret_cast<std::uintptr_t>(data) % 64 != 0) {
      throw py::value_error("weights: expected alignment to 64 bytes");
    }
    return data;
  }

  std::vector<py::object> kept_;  // what task_ points to
  Shape qkv_shape_, out_shape_;
  CausalAttention task_{};
};

// -------------------------------------------------------------------------------------------------- the decoder's loss

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

// -------------------------------------------------------------------------------------------------------- norm and ELU

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

void bind_training(py::module_& module) {
  py::class_<BoundAttention>(module, "CausalAttention", "See _core.pyi and csrc/causal_attention.hpp.")
      .def(py::init<const py::object&, const py::object&, const py::object&, const py::object&, const py::object&,
                    const py::object&, const py::object&, float, float, std::size_t>(),
           py::arg("qkv"), py::arg("slopes"), py::arg("q_weight"), py::arg("q_bias"), py::arg("k_weight"),
           py::arg("k_bias"), py::kw_only(), py::arg("first"), py::arg("norm_eps"), py::arg("dropped_mass"),
           py::arg("threads"))
      .def_property_readonly("weights_size", &BoundAttention::weights_size)
      .def_property_readonly("tiles", &BoundAttention::tiles)
      .def("forward", &BoundAttention::forward, py::arg("out"), py::arg("sums"), py::arg("stops"), py::arg("weights"))
      .def("backward", &BoundAttention::backward, py::arg("out"), py::arg("sums"), py::arg("stops"), py::arg("weights"),
           py::arg("grad_out"), py::arg("grad_qkv"));
  py::class_<DecoderLoss>(module, "DecoderLoss", "See _core.pyi and csrc/decoder_loss.hpp.")
      .def(py::init(&make_loss), py::kw_only(), py::arg("layers"), py::arg("width"), py::arg("actions"),
           py::arg("slope"), py::arg("threads"))
      .def_property_readonly_static("COLUMNS", [](const py::object&) { return DecoderLoss::kColumns; })
      .def_property_readonly_static("ACTIONS", [](const py::object&) { return DecoderLoss::kActions; })
      .def("run", &run, py::kw_only(), py::arg("rows"), py::arg("hidden"), py::arg("target"), py::arg("weight"),
           py::arg("scale"), py::arg("shift"), py::arg("parameters"), py::arg("grads"), py::arg("grad_hidden"));
  module.attr("NORM_ELU_COLUMNS") = kNormEluColumns;
  module.def("norm_elu", &forward, "See _core.pyi and csrc/norm_elu.hpp.", py::arg("x"), py::arg("bias"),
             py::arg("gain"), py::arg("shift"), py::arg("eps"), py::arg("out"));
  module.def("norm_elu_backward", &backward, "See _core.pyi and csrc/norm_elu.hpp.", py::arg("x"), py::arg("bias"),
             py::arg("gain"), py::arg("shift"), py::arg("eps"), py::arg("grad_out"), py::arg("grad_x"),
             py::arg("grad_bias"), py::arg("grad_gain"), py::arg("grad_shift"));
}

}  // namespace vintix_fast
