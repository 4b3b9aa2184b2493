// A model's tensors by name, and how they are packed for the loops of decode_rows.cpp.  For policy_decoder.cpp.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <map>
#include <stdexcept>
#include <string>
#include <vector>

#include "decode_rows.hpp"

namespace vintix_fast {

struct Tensor {
  const float* data;
  std::vector<std::size_t> shape;
};

using Weights = std::map<std::string, Tensor>;

inline std::string shape_text(const std::vector<std::size_t>& shape) {
  std::string joined;
  for (const std::size_t size : shape) joined += (joined.empty() ? "" : ", ") + std::to_string(size);
  return "[" + joined + "]";
}

inline const Tensor& tensor_named(const Weights& weights, const std::string& name) {
  const auto found = weights.find(name);
  if (found == weights.end()) throw std::invalid_argument("weights: '" + name + "' is missing");
  return found->second;
}

// Of a matrix: 0 is its rows.
inline int size_of(const Weights& weights, const std::string& name, int axis) {
  const std::vector<std::size_t>& shape = tensor_named(weights, name).shape;
  if (shape.size() != 2 || shape[axis] < 1) {
    throw std::invalid_argument("weights: '" + name + "': expected a matrix, got shape " + shape_text(shape));
  }
  return static_cast<int>(shape[axis]);
}

inline std::string first_mlp_layer(const Weights& weights, const std::string& block) {
  return block + (weights.count(block + "mlp.fc.weight") != 0 ? "mlp.fc" : "mlp.fc_1");
}

inline std::uint32_t bits_of(float number) {
  std::uint32_t bits;
  std::memcpy(&bits, &number, sizeof bits);
  return bits;
}

inline bool all_bfloat16(const float* numbers, std::size_t count) {
  return std::all_of(numbers, numbers + count, [](float number) { return (bits_of(number) & 0xFFFFu) == 0; });
}

// Packs tensors into memory that the model's structs point to.
class Packer {
 public:
  // narrow: see DecoderConfig::narrow_weights.
  Packer(const Weights& weights, std::vector<std::vector<float>>& memory, bool narrow)
      : weights_(weights), memory_(memory), narrow_(narrow) {}

  bool has(const std::string& name) const { return weights_.count(name) != 0; }

  // weight [outputs][inputs] and bias [outputs], which may be absent.
  Linear linear(const std::string& name, int inputs, int outputs) {
    const Tensor& weight = get(name + ".weight", {outputs, inputs});
    Linear layer;
    layer.inputs = inputs, layer.outputs = padded(outputs, kPanel);
    if (narrow_ && all_bfloat16(weight.data, static_cast<std::size_t>(outputs) * inputs)) {
      layer.pairs = pairs(weight.data, inputs, outputs);
    } else {
      float* packed = take(static_cast<std::size_t>(layer.outputs) * inputs);
      for (int o = 0; o < outputs; ++o) {
        float* panel = packed + static_cast<std::size_t>(o / kPanel) * kPanel * inputs + o % kPanel;
        for (int i = 0; i < inputs; ++i) panel[i * kPanel] = weight.data[static_cast<std::size_t>(o) * inputs + i];
      }
      layer.weight = packed;
    }
    layer.bias = has(name + ".bias") ? vector(name + ".bias", outputs) : take(layer.outputs);
    return layer;
  }

  Norm norm(const std::string& name, int size) {
    return {vector(name + ".weight", size), has(name + ".bias") ? vector(name + ".bias", size) : nullptr, size};
  }

  Norm norm_if_present(const std::string& name, int size) {
    return has(name + ".weight") ? norm(name, size) : Norm{};
  }

  const float* vector(const std::string& name, int size) { return copied(get(name, {size}), size); }

  // [rows][columns]
  const float* matrix(const std::string& name, int rows, int columns) {
    return copied(get(name, {rows, columns}), static_cast<std::size_t>(rows) * columns);
  }

  const float* vector_if_present(const std::string& name, int size) { return has(name) ? vector(name, size) : nullptr; }

 private:
  const Tensor& get(const std::string& name, const std::vector<int>& shape) {
    const Tensor& tensor = tensor_named(weights_, name);
    const std::vector<std::size_t> expected(shape.begin(), shape.end());
    if (tensor.shape != expected) {
      throw std::invalid_argument("weights: '" + name + "': expected shape " + shape_text(expected) + ", got " +
                                  shape_text(tensor.shape));
    }
    return tensor;
  }

  // See Linear::pairs.
  const std::uint32_t* pairs(const float* weight, int inputs, int outputs) {
    auto* words = reinterpret_cast<std::uint32_t*>(take(static_cast<std::size_t>(padded(outputs, kPanel)) * inputs / 2));
    for (int o = 0; o < outputs; ++o) {
      std::uint32_t* panel = words + static_cast<std::size_t>(o / kPanel) * kLanes * inputs + o % kLanes;
      const int shift = o % kPanel < kLanes ? 16 : 0;
      for (int i = 0; i < inputs; ++i) panel[i * kLanes] |= bits_of(weight[static_cast<std::size_t>(o) * inputs + i]) >> shift;
    }
    return words;
  }

  const float* copied(const Tensor& tensor, std::size_t size) {
    float* packed = take(size);
    std::memcpy(packed, tensor.data, sizeof(float) * size);
    return packed;
  }

  // Zeros, padded so that whole panels can be read, at the start of a cache line.
  float* take(std::size_t size) {
    std::vector<float>& memory = memory_.emplace_back(size + kPanel + kLanes, 0.0f);
    const auto address = reinterpret_cast<std::uintptr_t>(memory.data());
    return memory.data() + (64 - address % 64) % 64 / sizeof(float);
  }

  const Weights& weights_;
  std::vector<std::vector<float>>& memory_;
  bool narrow_;
};

}  // namespace vintix_fast
