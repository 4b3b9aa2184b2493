// One decode step for a few environments: token -> layers with ring caches -> action.  See decode_rows.hpp.
//
// Compiled once for each instruction set, with VF_NAMESPACE and VF_ROWS (rows of a matrix product that the registers
// hold) set; everything is in that namespace, so that no other translation unit shares it.

#include "decode_rows.hpp"

#if defined(__AVX2__)
#include <immintrin.h>
#elif defined(VF_NEON)
#include <arm_neon.h>
#endif

namespace vintix_fast {
namespace VF_NAMESPACE {

#include "vector.hpp"

#include "dense_layers.hpp"
#include "decode_attention.hpp"

VF_INLINE float* take(float*& scratch, std::size_t size) {
  float* taken = scratch;
  scratch += padded(static_cast<int>(size), kPanel);
  return taken;
}

static void encode_vector(const VectorEncoder& encoder, const float* x, int x_stride, float* y, int y_stride,
                          float* between, int rows) {
  linear(encoder.first, x, x_stride, between, y_stride, rows);
  leaky_relu(between, static_cast<std::size_t>(rows) * y_stride);
  normalise_rows(encoder.first_norm, between, between, y_stride, rows);
  linear(encoder.second, between, y_stride, y, y_stride, rows);
  leaky_relu(y, static_cast<std::size_t>(rows) * y_stride);
  normalise_rows(encoder.second_norm, y, y, y_stride, rows);
}

// Tokens [rows][stride] of the environments from first on.
static void encode(const Model& m, const Step& step, int first, int rows, float* token, int stride, float* scratch) {
  const int o_stride = padded(m.observation_emb, kPanel), a_stride = padded(m.action_emb, kPanel);
  float* o = take(scratch, static_cast<std::size_t>(rows) * o_stride);
  float* a = take(scratch, static_cast<std::size_t>(rows) * a_stride);
  float* r = take(scratch, static_cast<std::size_t>(rows) * padded(m.reward_emb, kPanel));
  float* between = take(scratch, static_cast<std::size_t>(rows) * (o_stride > a_stride ? o_stride : a_stride));
  float* x = take(scratch, static_cast<std::size_t>(rows) * m.observation_dim);
  float* y = take(scratch, static_cast<std::size_t>(rows) * m.action_dim);
  float* z = take(scratch, rows);

  const auto standardise = [=](const float* from, int dim, const float* mean, const float* std, float* to) {
    from += static_cast<std::size_t>(first) * dim;
    for (int i = 0; i < rows * dim; ++i) {
      to[i] = mean == nullptr ? from[i] : (from[i] - mean[i % dim]) / (std[i % dim] + kStdEpsilon);
    }
  };
  standardise(step.observation, m.observation_dim, m.observation_mean, m.observation_std, x);
  standardise(step.action, m.action_dim, m.action_mean, m.action_std, y);
  for (int i = 0; i < rows; ++i) z[i] = m.reward_scale * step.reward[first + i];

  encode_vector(m.observation, x, m.observation_dim, o, o_stride, between, rows);
  encode_vector(m.action, y, m.action_dim, a, a_stride, between, rows);
  const int r_stride = padded(m.reward_emb, kPanel);
  linear(m.reward, z, 1, r, r_stride, rows);
  leaky_relu(r, static_cast<std::size_t>(rows) * r_stride);

  for (int i = 0; i < rows; ++i) {
    const int number = step.step_num[first + i];
    const float* a_row = number == 0 ? m.first_action : a + i * a_stride;
    const float* r_row = number == 0 ? m.first_reward : r + i * r_stride;
    float* row = token + i * stride;
    float* rest = m.action_first ? row : row + m.observation_emb;
    copy(rest, a_row, m.action_emb);
    copy(rest + m.action_emb, r_row, m.reward_emb);
    copy(m.action_first ? row + m.action_emb + m.reward_emb : row, o + i * o_stride, m.observation_emb);
    for (int j = m.hidden; j < stride; ++j) row[j] = 0.0f;
    if (m.step_embedding != nullptr) {
      const int past = number < m.step_rows ? number : m.step_rows - 1;
      const float* embedding = m.step_embedding + static_cast<std::size_t>(past > 0 ? past : 0) * m.hidden;
      for (int j = 0; j < m.hidden; ++j) row[j] += embedding[j];
    }
  }
}

// Store the new tokens' keys and values and attend: projected [rows][q | k | v] -> attended [rows][stride].
template <CacheType type>
static std::size_t attend_rows(const Model& m, const Layer& layer, const Step& step, int first, int rows,
                               const float* projected, int projected_stride, float* attended, int stride,
                               float* scratch) {
  const int width = padded(m.head_dim, kLanes);
  Query query{take(scratch, width), reinterpret_cast<std::int8_t*>(take(scratch, width)), 0.0f, 0};
  float* key = take(scratch, width);
  float* value = take(scratch, width);
  float* out = take(scratch, width);
  float* weight = scratch;
  for (int d = 0; d < width; ++d) query.numbers[d] = key[d] = value[d] = 0.0f;
  const float scale = 1.0f / __builtin_sqrtf(static_cast<float>(m.head_dim));
  std::size_t bytes = 0;
  for (int r = 0; r < rows; ++r) {
    std::uint8_t* memory = step.cache + static_cast<std::size_t>(first + r) * step.env_bytes;
    const std::int64_t position = step.position[first + r];
    for (int h = 0; h < m.heads; ++h) {
      const float* row = projected + static_cast<std::size_t>(r) * projected_stride + h * m.head_dim;
      copy(query.numbers, row, m.head_dim);
      copy(key, row + m.attention, m.head_dim);
      copy(value, row + 2 * m.attention, m.head_dim);
      if (layer.q_norm.weight != nullptr) {
        normalise(layer.q_norm, query.numbers, query.numbers);
        normalise(layer.k_norm, key, key);
      }
      for (int d = 0; d < width; d += kLanes) store(query.numbers + d, load(query.numbers + d) * scale);
      if constexpr (type == CacheType::int8) round_query(query, width);
      store_token<type>(layer.rings[h], memory, position, width, key, value);
      bytes += attend<type>(layer.rings[h], memory, position, width, m.dropped_mass, query, weight, out);
      copy(attended + r * stride + h * m.head_dim, out, m.head_dim);
    }
  }
  return bytes;
}

std::size_t decode_rows(const Model& m, const Step& step, int first, int rows, float* scratch) {
  const int stride = padded(m.hidden, kPanel), wide = padded(3 * m.hidden, kPanel);
  const std::size_t size = static_cast<std::size_t>(rows) * stride;
  float* x = take(scratch, size);
  float* normed = take(scratch, size);
  float* attended = take(scratch, size);
  float* projected = take(scratch, static_cast<std::size_t>(rows) * wide);
  const int middle = m.layer[0].fc.outputs;
  float* inner = take(scratch, static_cast<std::size_t>(rows) * middle);
  float* gate = take(scratch, static_cast<std::size_t>(rows) * middle);

  encode(m, step, first, rows, x, stride, scratch);
  for (std::size_t i = 0; i < size; ++i) attended[i] = 0.0f;
  std::size_t bytes = 0;
  for (int l = 0; l < m.layers; ++l) {
    const Layer& layer = m.layer[l];
    normalise_rows(layer.norm1, x, normed, stride, rows);
    linear(layer.in_proj, normed, stride, projected, wide, rows);
    const auto attend_type =
        m.cache_type == CacheType::float32 ? attend_rows<CacheType::float32> : attend_rows<CacheType::int8>;
    bytes += attend_type(m, layer, step, first, rows, projected, wide, attended, stride, scratch);
    linear(layer.out_proj, attended, stride, projected, wide, rows);
    const auto add_attention = [&] {
      for (int r = 0; r < rows; ++r) add(x + r * stride, projected + r * wide, stride);
    };
    // A parallel MLP reads the residual stream as it was before attention.
    if (!m.parallel_residual) add_attention();
    if (layer.norm2.weight != nullptr) normalise_rows(layer.norm2, x, normed, stride, rows);
    if (m.parallel_residual) add_attention();
    linear(layer.fc, normed, stride, inner, middle, rows);
    if (layer.gate.outputs != 0) {
      linear(layer.gate, normed, stride, gate, middle, rows);
      gated_silu(inner, gate, static_cast<std::size_t>(rows) * middle);
    } else {
      gelu(inner, static_cast<std::size_t>(rows) * middle);
    }
    linear(layer.proj, inner, middle, normed, stride, rows);
    add(x, normed, size);
  }
  normalise_rows(m.last_norm, x, normed, stride, rows);
  float* from = normed;
  float* to = x;
  for (int l = 0; l < 4; ++l) {
    linear(m.decoder[l], from, stride, to, l < 3 ? stride : m.decoder[3].outputs, rows);
    if (l < 3) leaky_relu(to, size);
    float* swapped = from;
    from = to, to = swapped;
  }
  for (int r = 0; r < rows; ++r) {
    float* result = step.result + static_cast<std::size_t>(first + r) * m.action_dim;
    copy(result, from + r * m.decoder[3].outputs, m.action_dim);
    for (int j = 0; m.action_mean != nullptr && j < m.action_dim; ++j) {
      result[j] = result[j] * m.action_std[j] + m.action_mean[j];
    }
  }
  return bytes;
}

}  // namespace VF_NAMESPACE
}  // namespace vintix_fast
