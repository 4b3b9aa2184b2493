// One decode step for a few environments: token -> layers with ring caches -> action.  See decode_rows.hpp.
//
// Compiled once for each instruction set, with VF_NAMESPACE and VF_ROWS (rows of a matrix product that the registers
// hold) set; everything is in that namespace, so that no other translation unit shares it.

#include "decode_rows.hpp"

#if defined(__AVX2__)
#include <immintrin.h>
#endif

namespace vintix_fast {
namespace VF_NAMESPACE {

#include "vector.hpp"

// ------------------------------------------------------------------------------------------------------ dense layers

template <int Rows>
VF_INLINE void linear_rows(const float* weight, const float* bias, int inputs, const float* x, int x_stride, float* y,
                           int y_stride) {
  Vec low[Rows], high[Rows];
  for (int r = 0; r < Rows; ++r) low[r] = load(bias), high[r] = load(bias + kLanes);
  for (int i = 0; i < inputs; ++i) {
    const Vec w_low = load(weight + i * kPanel), w_high = load(weight + i * kPanel + kLanes);
    for (int r = 0; r < Rows; ++r) {
      const float input = x[r * x_stride + i];
      low[r] += w_low * input;
      high[r] += w_high * input;
    }
  }
  for (int r = 0; r < Rows; ++r) store(y + r * y_stride, low[r]), store(y + r * y_stride + kLanes, high[r]);
}

// x [rows][x_stride] -> y [rows][y_stride], layer.outputs of each row.
static void linear(const Linear& layer, const float* x, int x_stride, float* y, int y_stride, int rows) {
  for (int o = 0; o < layer.outputs; o += kPanel) {
    const float* weight = layer.weight + static_cast<std::size_t>(o) * layer.inputs;
    const float* bias = layer.bias + o;
    int r = 0;
    for (; r + VF_ROWS <= rows; r += VF_ROWS) {
      linear_rows<VF_ROWS>(weight, bias, layer.inputs, x + r * x_stride, x_stride, y + r * y_stride + o, y_stride);
    }
    for (; r < rows; ++r) {
      linear_rows<1>(weight, bias, layer.inputs, x + r * x_stride, x_stride, y + r * y_stride + o, y_stride);
    }
  }
}

constexpr float kEpsilon = 1e-5f;    // of both norms
constexpr float kStdEpsilon = 1e-6f; // of the statistics
constexpr int kKeyOffset = 128;  // keys are stored as unsigned bytes, which is what processors multiply signed ones with
constexpr float kSmallestScale = 1e-30f;  // of int8 vectors: nothing is divided by 0

VF_INLINE Vec inside(Vec v, int first, int size) { return lane_numbers() + first < size ? v : Vec{}; }

// One row of norm.size numbers; x and y may be the same; y is 0 from there to its padding.
static void normalise(const Norm& norm, const float* x, float* y) {
  const int size = norm.size;
  float mean = 0.0f;
  if (norm.bias != nullptr) {
    Vec total = {};
    for (int i = 0; i < size; i += kLanes) total += inside(load(x + i), i, size);
    mean = sum(total) / size;
  }
  Vec squares = {};
  for (int i = 0; i < size; i += kLanes) {
    const Vec centred = inside(load(x + i) - mean, i, size);
    squares += centred * centred;
  }
  const float scale = 1.0f / __builtin_sqrtf(sum(squares) / size + kEpsilon);
  for (int i = 0; i < size; i += kLanes) {
    const Vec scaled = (load(x + i) - mean) * scale * load(norm.weight + i);
    store(y + i, norm.bias == nullptr ? scaled : scaled + load(norm.bias + i));
  }
}

static void normalise_rows(const Norm& norm, const float* x, float* y, int stride, int rows) {
  for (int r = 0; r < rows; ++r) normalise(norm, x + r * stride, y + r * stride);
}

static void leaky_relu(float* x, std::size_t size) {
  for (std::size_t i = 0; i < size; i += kLanes) {
    const Vec v = load(x + i);
    store(x + i, v > 0.0f ? v : 0.01f * v);
  }
}

static void gelu(float* x, std::size_t size) {
  for (std::size_t i = 0; i < size; i += kLanes) {
    const Vec v = load(x + i);
    store(x + i, 0.5f * v * (1.0f + error_function(v * 0.70710678f)));
  }
}

static void gated_silu(float* x, const float* gate, std::size_t size) {
  for (std::size_t i = 0; i < size; i += kLanes) {
    const Vec v = load(x + i);
    store(x + i, v / (1.0f + exponential(-v)) * load(gate + i));
  }
}

static void add(float* x, const float* y, std::size_t size) {
  for (std::size_t i = 0; i < size; i += kLanes) store(x + i, load(x + i) + load(y + i));
}

static void copy(float* to, const float* from, int size) { __builtin_memcpy(to, from, sizeof(float) * size); }

// --------------------------------------------------------------------------------------------------------- ring cache

// Newer tokens lie lower, so that reading from the newest to the oldest is reading upwards: three times as fast as
// downwards, because the processor then fetches ahead.
VF_INLINE int slot_of(const Ring& ring, std::int64_t position) {
  return ring.slots - 1 - static_cast<int>(position % ring.slots);
}

// What a level of the vector x [width] stands for, with levels from -127 to 127.
VF_INLINE float scale_of(const float* x, int width) {
  Vec most = {};
  for (int d = 0; d < width; d += kLanes) most = max(magnitude(load(x + d)), most);
  return max(largest(most) / 127.0f, kSmallestScale);
}

// key and value have head_padded entries, 0 past head_dim.
VF_INLINE void store_token(CacheType type, const Ring& ring, std::uint8_t* memory, std::int64_t position, int width,
                           const float* key, const float* value) {
  const int slot = slot_of(ring, position), lane = slot % kLanes;
  const std::size_t block = static_cast<std::size_t>(slot / kLanes) * width * kLanes;
  if (type == CacheType::float32) {
    float* keys = reinterpret_cast<float*>(memory + ring.keys) + block + lane;
    for (int d = 0; d < width; ++d) keys[d * kLanes] = key[d];
    copy(reinterpret_cast<float*>(memory + ring.values) + static_cast<std::size_t>(slot) * width, value, width);
  } else if (type == CacheType::bfloat16) {
    auto* keys = reinterpret_cast<std::uint16_t*>(memory + ring.keys) + block + 2 * lane;
    for (int d = 0; d < width; ++d) keys[d / 2 * 2 * kLanes + d % 2] = to_bfloat16(key[d]);
    auto* values = reinterpret_cast<std::uint16_t*>(memory + ring.values) +
                   static_cast<std::size_t>(slot / 2) * 2 * width;
    const bool clear = slot % 2 == 1 && position < ring.slots;  // what an older history left beside it may be NaN
    for (int d = 0; d < width; ++d) {
      values[2 * d + slot % 2] = to_bfloat16(value[d]);
      if (clear) values[2 * d] = 0;
    }
  } else {
    float* scales = reinterpret_cast<float*>(memory + ring.scales);
    auto* keys = memory + ring.keys + block + 4 * lane;
    auto* values = memory + ring.values + static_cast<std::size_t>(slot / 4) * 4 * width + slot % 4;
    std::uint8_t levels[kLanes];
    const float key_scale = scales[slot] = scale_of(key, width);
    const float value_scale = scales[ring.slots + slot] = scale_of(value, width);
    for (int d = 0; d < width; d += kLanes) {
      store_bytes(levels, round(load(key + d) / key_scale) + kKeyOffset);
      for (int i = 0; i < kLanes; ++i) keys[(d + i) / 4 * 4 * kLanes + i % 4] = levels[i];
      store_bytes(levels, round(load(value + d) / value_scale));
      for (int i = 0; i < kLanes; ++i) values[4 * (d + i)] = levels[i];
    }
  }
}

// A query of one head: its numbers, scaled by 1 / sqrt(head_dim), and for keys in int8 the same in levels.
struct Query {
  float* numbers;
  std::int8_t* levels;
  float scale;
  int level_sum;
};

VF_INLINE void round_query(Query& query, int width) {
  query.scale = scale_of(query.numbers, width);
  Int total = {};
  for (int d = 0; d < width; d += kLanes) {
    const Int levels = round(load(query.numbers + d) / query.scale);
    store_bytes(query.levels + d, levels);
    total += levels;
  }
  query.level_sum = static_cast<int>(sum(to_float(total)));
}

// The scores, before ALiBi, of the kLanes slots of one block.
template <CacheType type>
VF_INLINE Vec block_scores(const Ring& ring, const std::uint8_t* memory, int block, int width, const Query& query) {
  Vec part[4] = {};
  const std::size_t first = static_cast<std::size_t>(block) * width * kLanes;
  if constexpr (type == CacheType::float32) {
    const float* keys = reinterpret_cast<const float*>(memory + ring.keys) + first;
    for (int d = 0; d < width; d += 4) {
      for (int i = 0; i < 4; ++i) part[i] += load(keys + (d + i) * kLanes) * query.numbers[d + i];
    }
  } else if constexpr (type == CacheType::bfloat16) {
    const auto* keys = reinterpret_cast<const std::uint16_t*>(memory + ring.keys) + first;
    for (int d = 0; d < width; d += 4) {
      for (int i = 0; i < 4; i += 2) {
        const Bits pair = load_bits(keys + (d + i) * kLanes);
        part[i] += low_half(pair) * query.numbers[d + i];
        part[i + 1] += high_half(pair) * query.numbers[d + i + 1];
      }
    }
  } else {
    const std::uint8_t* keys = memory + ring.keys + first;
    Int whole[2] = {};
    for (int d = 0; d < width; d += 8) {
      whole[0] = dot_bytes(whole[0], load_bits(keys + d * kLanes), fill_bytes(query.levels + d));
      whole[1] = dot_bytes(whole[1], load_bits(keys + (d + 4) * kLanes), fill_bytes(query.levels + d + 4));
    }
    const Int dot = whole[0] + whole[1] - kKeyOffset * query.level_sum;
    return to_float(dot) * query.scale * load(reinterpret_cast<const float*>(memory + ring.scales) + block * kLanes);
  }
  return (part[0] + part[1]) + (part[2] + part[3]);
}

// out [Columns * kLanes] += sum over the slots first to last, which lie in one block, of weight * value.  Of int8
// values the weights are levels times scale.
template <CacheType type, int Columns>
VF_INLINE void add_values(const Ring& ring, const std::uint8_t* memory, int first, int last, int width, int column,
                          const float* weight, const std::uint8_t* levels, float scale, float* out) {
  if constexpr (type == CacheType::int8) {
    Int whole[Columns] = {};
    for (int i = 0; i < kLanes; i += 4) {
      const std::uint8_t* values = memory + ring.values + static_cast<std::size_t>(last - kLanes + i) * width + 4 * column;
      const Bits four = fill_bytes(levels + i);
      for (int c = 0; c < Columns; ++c) whole[c] = dot_bytes(whole[c], four, load_bits(values + 4 * c * kLanes));
    }
    for (int c = 0; c < Columns; ++c) {
      float* sum = out + column + c * kLanes;
      store(sum, load(sum) + to_float(whole[c]) * scale);
    }
    return;
  }
  Vec total[Columns];
  for (int c = 0; c < Columns; ++c) total[c] = load(out + column + c * kLanes);
  for (int slot = first; slot < last; slot += type == CacheType::bfloat16 ? 2 : 1) {
    const std::size_t row = static_cast<std::size_t>(slot) * width + column;
    if constexpr (type == CacheType::float32) {
      const float* values = reinterpret_cast<const float*>(memory + ring.values) + row;
      for (int c = 0; c < Columns; ++c) total[c] += load(values + c * kLanes) * weight[slot];
    } else {
      const auto* values = reinterpret_cast<const std::uint16_t*>(memory + ring.values) + row + column;
      for (int c = 0; c < Columns; ++c) {
        const Bits pair = load_bits(values + 2 * c * kLanes);
        total[c] += low_half(pair) * weight[slot];
        total[c] += high_half(pair) * weight[slot + 1];
      }
    }
  }
  for (int c = 0; c < Columns; ++c) store(out + column + c * kLanes, total[c]);
}

// Attend from one token to its head's history, this token included: query [width] -> out [width].  weight has room for
// ring.slots.  Returns the bytes of keys and values read.
//
// Blocks are read from the newest to the oldest, until all tokens that are left weigh less than dropped_mass of the best
// one so far.  Of what was scored, values whose tokens weigh less than that together are not read.
template <CacheType type>
VF_INLINE std::size_t attend(const Ring& ring, const std::uint8_t* memory, std::int64_t position, int width,
                             float log_dropped_mass, const Query& query, float* weight, float* out) {
  const int slots = ring.slots, current = slot_of(ring, position);
  const std::int64_t held = position + 1;
  const int visible = static_cast<int>(held < ring.window ? held : ring.window);
  // The newest block comes first, and whole: once the ring is full it holds the oldest tokens as well.
  const int blocks = slots / kLanes, newest = current / kLanes, in_use = held < slots ? blocks - newest : blocks;
  const auto nth = [=](int i) { return newest + i < blocks ? newest + i : newest + i - blocks; };

  float best = -__builtin_inff();
  int read = 0;
  for (; read < in_use; ++read) {
    const int block = nth(read), age = read == 0 ? 0 : (newest + read) * kLanes - current;  // of its newest token
    if (ring.reach - ring.slope * age < best) break;
    Int ages = lane_numbers() + (block * kLanes - current);
    ages = ages < 0 ? ages + slots : ages;
    Vec score = block_scores<type>(ring, memory, block, width, query) - to_float(ages) * ring.slope;
    score = ages < visible ? score : fill(-__builtin_inff());
    store(weight + block * kLanes, score);
    const float top = largest(score);
    best = top > best ? top : best;
  }

  for (int d = 0; d < width; d += kLanes) store(out + d, Vec{});
  const float negligible = best + log_dropped_mass - __builtin_logf(static_cast<float>(visible));
  Vec total = {};
  std::size_t value_blocks = 0;
  for (int i = 0; i < read; ++i) {
    const int block = nth(i);
    const Vec score = load(weight + block * kLanes);
    if (largest(score) < negligible) continue;
    ++value_blocks;
    Vec share = exponential(score - best);
    total += share;
    std::uint8_t levels[kLanes];
    float scale = 0.0f;
    if constexpr (type == CacheType::int8) {
      const Vec scales = load(reinterpret_cast<const float*>(memory + ring.scales) + slots + block * kLanes);
      const Vec weights = share > 0.0f ? share * scales : Vec{};  // what was never written may have any scale
      scale = max(largest(weights) / 255.0f, kSmallestScale);
      store_bytes(levels, round(weights / scale));
    }
    store(weight + block * kLanes, share);
    const int last = (block + 1) * kLanes;
    // What lies before it was never written, or by an older history; bfloat16 reads pairs, see store_token.
    const int lowest = type == CacheType::bfloat16 ? current / 2 * 2 : current;
    const int first = held < slots && i == 0 ? lowest : block * kLanes;
    int column = 0;
    for (; column + 4 * kLanes <= width; column += 4 * kLanes) {
      add_values<type, 4>(ring, memory, first, last, width, column, weight, levels, scale, out);
    }
    for (; column < width; column += kLanes) {
      add_values<type, 1>(ring, memory, first, last, width, column, weight, levels, scale, out);
    }
  }
  const float inverse = 1.0f / sum(total);
  for (int d = 0; d < width; d += kLanes) store(out + d, load(out + d) * inverse);
  constexpr std::size_t bytes = type == CacheType::float32 ? 4 : type == CacheType::bfloat16 ? 2 : 1;
  return (read + value_blocks) * kLanes * (width * bytes + (type == CacheType::int8 ? sizeof(float) : 0));
}

// ---------------------------------------------------------------------------------------------------------- the model

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

  const float* observation = step.observation + static_cast<std::size_t>(first) * m.observation_dim;
  const float* action = step.action + static_cast<std::size_t>(first) * m.action_dim;
  for (int i = 0; i < rows * m.observation_dim; ++i) {
    const int j = i % m.observation_dim;
    x[i] = m.observation_mean == nullptr
               ? observation[i]
               : (observation[i] - m.observation_mean[j]) / (m.observation_std[j] + kStdEpsilon);
  }
  for (int i = 0; i < rows * m.action_dim; ++i) {
    const int j = i % m.action_dim;
    y[i] = m.action_mean == nullptr ? action[i] : (action[i] - m.action_mean[j]) / (m.action_std[j] + kStdEpsilon);
  }
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
      const int place = number < m.step_rows ? number : m.step_rows - 1;
      for (int j = 0; j < m.hidden; ++j) row[j] += m.step_embedding[static_cast<std::size_t>(place) * m.hidden + j];
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
      copy(key, row + m.hidden, m.head_dim);
      copy(value, row + 2 * m.hidden, m.head_dim);
      if (layer.q_norm.weight != nullptr) {
        normalise(layer.q_norm, query.numbers, query.numbers);
        normalise(layer.k_norm, key, key);
      }
      for (int d = 0; d < width; d += kLanes) store(query.numbers + d, load(query.numbers + d) * scale);
      if constexpr (type == CacheType::int8) round_query(query, width);
      store_token(type, layer.rings[h], memory, position, width, key, value);
      bytes += attend<type>(layer.rings[h], memory, position, width, m.log_dropped_mass, query, weight, out);
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
    const auto attend_type = m.cache_type == CacheType::float32    ? attend_rows<CacheType::float32>
                             : m.cache_type == CacheType::bfloat16 ? attend_rows<CacheType::bfloat16>
                                                                   : attend_rows<CacheType::int8>;
    bytes += attend_type(m, layer, step, first, rows, projected, wide, attended, stride, scratch);
    linear(layer.out_proj, attended, stride, projected, wide, rows);
    // A parallel MLP reads the residual stream as it was before attention.
    if (!m.parallel_residual) {
      for (int r = 0; r < rows; ++r) add(x + r * stride, projected + r * wide, stride);
    }
    if (layer.norm2.weight != nullptr) normalise_rows(layer.norm2, x, normed, stride, rows);
    if (m.parallel_residual) {
      for (int r = 0; r < rows; ++r) add(x + r * stride, projected + r * wide, stride);
    }
    linear(layer.fc, normed, stride, inner, middle, rows);
    if (layer.gate.weight != nullptr) {
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
