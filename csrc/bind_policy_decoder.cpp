// vintix_fast._core.PolicyDecoder: checks arguments, releases the GIL around calls that compute; no logic of its own.

#include <cmath>
#include <cstdint>
#include <limits>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "bindings.hpp"
#include "policy_decoder.hpp"

namespace py = pybind11;

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

std::map<std::string, Tensor> tensors(const py::dict& weights) {
  std::map<std::string, Tensor> found;
  for (const auto& [key, value] : weights) {
    const std::string name = text(key);
    if (!py::isinstance<py::array>(value)) throw py::type_error("weights: '" + name + "': expected a numpy array");
    const auto array = py::reinterpret_borrow<py::array>(value);
    const Shape shape(array.shape(), array.shape() + array.ndim());
    const float* data = checked<float>(("weights: '" + name + "'").c_str(), value, shape);
    found[name] = {data, {shape.begin(), shape.end()}};
  }
  return found;
}

std::unique_ptr<PolicyDecoder> make_decoder(
    const py::dict& weights, std::int64_t num_envs, std::int64_t observation_dim, std::int64_t action_dim,
    std::int64_t observation_emb_dim, std::int64_t action_emb_dim, std::int64_t reward_emb_dim, std::int64_t hidden_dim,
    std::int64_t transformer_depth, std::int64_t transformer_heads, std::int64_t intermediate_size,
    bool parallel_residual, bool action_first, double reward_scale, const std::vector<float>& slopes,
    const std::vector<float>& score_bounds, const std::vector<std::vector<std::int64_t>>& windows,
    const std::string& cache_dtype, double dropped_mass, std::int64_t threads, const std::string& implementation) {
  DecoderConfig config;
  config.observation_dim = positive("observation_dim", observation_dim);
  config.action_dim = positive("action_dim", action_dim);
  config.observation_emb_dim = positive("observation_emb_dim", observation_emb_dim);
  config.action_emb_dim = positive("action_emb_dim", action_emb_dim);
  config.reward_emb_dim = positive("reward_emb_dim", reward_emb_dim);
  config.hidden_dim = positive("hidden_dim", hidden_dim);
  config.transformer_depth = positive("transformer_depth", transformer_depth);
  config.transformer_heads = positive("transformer_heads", transformer_heads);
  config.intermediate_size = positive("intermediate_size", intermediate_size);
  if (observation_emb_dim + action_emb_dim + reward_emb_dim != hidden_dim || hidden_dim < transformer_heads) {
    throw py::value_error("hidden_dim: expected the embeddings' sum and at least transformer_heads, got " +
                          std::to_string(hidden_dim));
  }
  config.parallel_residual = parallel_residual;
  config.action_first = action_first;
  config.reward_scale = static_cast<float>(reward_scale);
  config.slopes = slopes;
  config.score_bounds = score_bounds;
  const std::size_t layers = config.transformer_depth, heads = config.transformer_heads;
  if (slopes.size() != heads || score_bounds.size() != layers || windows.size() != layers) {
    throw py::value_error("slopes, score_bounds, windows: expected one for each head, layer, layer");
  }
  for (const auto& layer : windows) {
    if (layer.size() != heads) throw py::value_error("windows: expected one for each head of a layer");
    std::vector<int>& checked_layer = config.windows.emplace_back();
    for (const std::int64_t window : layer) checked_layer.push_back(positive("windows", window));
  }
  config.cache_type = cache_type(cache_dtype);
  if (!(dropped_mass >= 0.0 && dropped_mass < 1.0)) {
    throw py::value_error("dropped_mass: expected 0 to below 1, got " + std::to_string(dropped_mass));
  }
  config.dropped_mass = static_cast<float>(dropped_mass);
  config.num_envs = positive("num_envs", num_envs);
  config.threads = positive("threads", threads);
  config.implementation = implementation;
  const std::map<std::string, Tensor> given = tensors(weights);
  const py::gil_scoped_release release;
  return std::make_unique<PolicyDecoder>(config, given);
}

void reset(PolicyDecoder& decoder, const py::handle& mask) {
  const std::uint8_t* flags = nullptr;
  if (!mask.is_none()) {
    flags = reinterpret_cast<const std::uint8_t*>(checked<bool>("mask", mask, {decoder.config().num_envs}));
  }
  const py::gil_scoped_release release;
  decoder.reset(flags);
}

void begin(PolicyDecoder& decoder, const py::handle& observation, const py::handle& prev_action,
           const py::handle& prev_reward, const py::handle& step_num) {
  const DecoderConfig& config = decoder.config();
  decoder.begin(checked<float>("observation", observation, {config.num_envs, config.observation_dim}),
                checked<float>("prev_action", prev_action, {config.num_envs, config.action_dim}),
                checked<float>("prev_reward", prev_reward, {config.num_envs}),
                checked<std::int32_t>("step_num", step_num, {config.num_envs}));
}

py::array_t<float> finish(PolicyDecoder& decoder) {
  py::array_t<float> result(Shape{decoder.config().num_envs, decoder.config().action_dim});
  float* data = result.mutable_data();
  const py::gil_scoped_release release;
  decoder.finish(data);
  return result;
}

py::dict stats(const PolicyDecoder& decoder) {
  py::dict result;
  result["steps"] = decoder.stats().steps;
  result["bytes_read"] = decoder.stats().bytes_read;
  return result;
}

}  // namespace

void bind_policy_decoder(py::module_& module) {
  module.def("decode_implementations", [] {
    std::vector<std::string> names;
    for (const Implementation& implementation : implementations()) names.emplace_back(implementation.name);
    return names;
  });
  py::class_<PolicyDecoder>(module, "PolicyDecoder",
                            "A policy's decode step for many environments on the CPU.\n\n"
                            "See _core.pyi for signatures; csrc/policy_decoder.hpp for the design.")
      .def(py::init(&make_decoder), py::arg("weights"), py::kw_only(), py::arg("num_envs"), py::arg("observation_dim"),
           py::arg("action_dim"), py::arg("observation_emb_dim"), py::arg("action_emb_dim"), py::arg("reward_emb_dim"),
           py::arg("hidden_dim"), py::arg("transformer_depth"), py::arg("transformer_heads"),
           py::arg("intermediate_size"), py::arg("parallel_residual"), py::arg("action_first"), py::arg("reward_scale"),
           py::arg("slopes"), py::arg("score_bounds"), py::arg("windows"), py::arg("cache_dtype"),
           py::arg("dropped_mass"), py::arg("threads"), py::arg("implementation") = "")
      .def("reset", &reset, py::arg("mask") = py::none())
      .def("begin", &begin, py::arg("observation"), py::arg("prev_action"), py::arg("prev_reward"), py::arg("step_num"))
      .def("finish", &finish)
      .def_property_readonly("implementation", &PolicyDecoder::implementation)
      .def_property_readonly("bytes_per_env", &PolicyDecoder::bytes_per_env)
      .def_property_readonly("stats", &stats);
}

}  // namespace vintix_fast
