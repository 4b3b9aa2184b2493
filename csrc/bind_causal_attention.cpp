// vintix_fast._core.CausalAttention: checks arrays, keeps those that it was made of, releases the GIL in the passes.

#include <algorithm>
#include <cstdint>
#include <vector>

#include "bindings.hpp"
#include "causal_attention.hpp"

namespace py = pybind11;

namespace vintix_fast {
namespace {

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

}  // namespace

void bind_causal_attention(py::module_& module) {
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
}

}  // namespace vintix_fast
