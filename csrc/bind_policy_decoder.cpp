// vintix_fast._core.PolicyDecoder: checks arguments, releases the GIL around calls that compute; no logic of its own.

#include <cstdint>
#include <limits>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "bindings.hpp"
#include "policy_decoder.hpp"

namespace vintix_fast {
namespace {

int positive(const char* name, std::int64_t value) {
  if (value < 1 || value > std::numeric_limits<int>::max() / 16) {
    throw py::value_error(std::string(name) + ": expected a positive integer, got " + std::to_string(value));
  }
  return static_cast<int>(value);
}

CacheType cache_type(const std::string& name) {
  if (name == "float32") return CacheType::float32;
  if (name == "int8") return CacheType::int8;
  throw py::value_error("cache_dtype: expected float32 or int8, got '" + name + "'");
}

Weights tensors(const py::dict& weights) {
  Weights found;
  for (const auto& [key, value] : weights) {
    const std::string name = text(key);
    const std::string label = "weights: '" + name + "'";
    const Shape shape = shape_of(typed<float>(label.c_str(), value));
    const float* data = checked<float>(label.c_str(), value, shape);
    found[name] = {data, {shape.begin(), shape.end()}};
  }
  return found;
}

std::unique_ptr<PolicyDecoder> make_decoder(const py::dict& weights, std::int64_t num_envs, bool parallel_residual,
                                            bool action_first, float reward_scale, const std::vector<float>& slopes,
                                            const std::vector<float>& score_bounds,
                                            const std::vector<std::vector<std::int64_t>>& spans,
                                            const std::string& cache_dtype, double dropped_mass, std::int64_t threads,
                                            const std::string& implementation) {
  if (spans.size() != score_bounds.size()) throw py::value_error("spans: expected one list for each layer");
  std::vector<std::vector<int>> checked_spans;
  for (const auto& layer : spans) {
    if (layer.size() != slopes.size()) throw py::value_error("spans: expected one for each head of a layer");
    std::vector<int>& checked_layer = checked_spans.emplace_back();
    for (const std::int64_t span : layer) checked_layer.push_back(positive("spans", span));
  }
  if (!(dropped_mass >= 0.0 && dropped_mass < 1.0)) {
    throw py::value_error("dropped_mass: expected 0 to below 1, got " + std::to_string(dropped_mass));
  }
  const DecoderConfig config{parallel_residual, action_first, reward_scale, cache_type(cache_dtype),
                             static_cast<float>(dropped_mass), slopes, score_bounds, std::move(checked_spans),
                             positive("num_envs", num_envs), positive("threads", threads), implementation};
  const Weights given = tensors(weights);
  const py::gil_scoped_release release;
  return std::make_unique<PolicyDecoder>(config, given);
}

void reset(PolicyDecoder& decoder, const py::handle& mask) {
  const std::uint8_t* flags = nullptr;
  if (!mask.is_none()) {
    flags = reinterpret_cast<const std::uint8_t*>(checked<bool>("mask", mask, {decoder.num_envs()}));
  }
  const py::gil_scoped_release release;
  decoder.reset(flags);
}

void begin(PolicyDecoder& decoder, const py::handle& observation, const py::handle& prev_action,
           const py::handle& prev_reward, const py::handle& step_num) {
  const int n = decoder.num_envs();
  decoder.begin(checked<float>("observation", observation, {n, decoder.observation_dim()}),
                checked<float>("prev_action", prev_action, {n, decoder.action_dim()}),
                checked<float>("prev_reward", prev_reward, {n}),
                checked<std::int32_t>("step_num", step_num, {n}));
}

py::array_t<float> finish(PolicyDecoder& decoder) {
  py::array_t<float> result(Shape{decoder.num_envs(), decoder.action_dim()});
  float* data = result.mutable_data();
  const py::gil_scoped_release release;
  decoder.finish(data);
  return result;
}

}  // namespace

void bind_policy_decoder(py::module_& module) {
  py::class_<PolicyDecoder>(module, "PolicyDecoder", "See _core.pyi and csrc/policy_decoder.hpp.")
      .def(py::init(&make_decoder), py::arg("weights"), py::kw_only(), py::arg("num_envs"),
           py::arg("parallel_residual"), py::arg("action_first"), py::arg("reward_scale"), py::arg("slopes"),
           py::arg("score_bounds"), py::arg("spans"), py::arg("cache_dtype"), py::arg("dropped_mass"),
           py::arg("threads"), py::arg("implementation") = "")
      .def("reset", &reset, py::arg("mask") = py::none())
      .def("begin", &begin, py::arg("observation"), py::arg("prev_action"), py::arg("prev_reward"), py::arg("step_num"))
      .def("finish", &finish)
      .def_property_readonly("implementation", &PolicyDecoder::implementation)
      .def_property_readonly("bytes_per_env", &PolicyDecoder::bytes_per_env)
      .def_property_readonly("bytes_read", &PolicyDecoder::bytes_read);
}

}  // namespace vintix_fast
