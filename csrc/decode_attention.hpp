// A head's ring of keys and values, and attention of one token over it.  Included by decode_rows.cpp alone, inside the
// namespace of an instruction set, after vector.hpp and dense_layers.hpp.

constexpr int kKeyOffset = 128;  // keys are stored as unsigned bytes, which is what processors multiply signed ones with
constexpr float kSmallestScale = 1e-30f;  // of int8 vectors: nothing is divided by 0

// Newer tokens lie lower, so that reading from the newest to the oldest is reading upwards: three times as fast as
// downwards, because the processor then fetches ahead.
VF_INLINE int slot_of(const Ring& ring, std::int64_t position) {
  return ring.slots - 1 - static_cast<int>(position % ring.slots);
}

// What a level of the vector x [width] stands for, with levels from -127 to 127; NaN if one of its numbers is.
VF_INLINE float scale_of(const float* x, int width) {
  Vec most = {}, nothing = {};
  for (int d = 0; d < width; d += kLanes) {
    most = max(magnitude(load(x + d)), most);
    nothing += load(x + d) * 0.0f;
  }
  return max(largest(most) / 127.0f, kSmallestScale) + sum(nothing);
}

// key and value have head_padded entries, 0 past head_dim.
template <CacheType type>
VF_INLINE void store_token(const Ring& ring, std::uint8_t* memory, std::int64_t position, int width, const float* key,
                           const float* value) {
  const int slot = slot_of(ring, position), lane = slot % kLanes;
  const std::size_t block = static_cast<std::size_t>(slot / kLanes) * width * kLanes;
  if constexpr (type == CacheType::float32) {
    float* keys = reinterpret_cast<float*>(memory + ring.keys) + block + lane;
    for (int d = 0; d < width; ++d) keys[d * kLanes] = key[d];
    copy(reinterpret_cast<float*>(memory + ring.values) + static_cast<std::size_t>(slot) * width, value, width);
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
  const std::size_t first = static_cast<std::size_t>(block) * width * kLanes;
  if constexpr (type == CacheType::float32) {
    Vec part[4] = {};
    const float* keys = reinterpret_cast<const float*>(memory + ring.keys) + first;
    for (int d = 0; d < width; d += 4) {
      for (int i = 0; i < 4; ++i) part[i] += load(keys + (d + i) * kLanes) * query.numbers[d + i];
    }
    return (part[0] + part[1]) + (part[2] + part[3]);
  } else {
    const std::uint8_t* keys = memory + ring.keys + first;
    Int sums[2] = {};
    for (int d = 0; d < width; d += 8) {
      sums[0] = dot_bytes(sums[0], load_bits(keys + d * kLanes), fill_bytes(query.levels + d));
      sums[1] = dot_bytes(sums[1], load_bits(keys + (d + 4) * kLanes), fill_bytes(query.levels + d + 4));
    }
    const Int dot = sums[0] + sums[1] - kKeyOffset * query.level_sum;
    return to_float(dot) * query.scale * load(reinterpret_cast<const float*>(memory + ring.scales) + block * kLanes);
  }
}

// out [Columns * kLanes] += sum over the slots first to last, which lie in one block, of weight * value.  Of int8
// values the weights are levels times scale.
template <CacheType type, int Columns>
VF_INLINE void add_values(const Ring& ring, const std::uint8_t* memory, int first, int last, int width, int column,
                          const float* weight, const std::uint8_t* levels, float scale, float* out) {
  if constexpr (type == CacheType::int8) {
    Int sums[Columns] = {};
    for (int i = 0; i < kLanes; i += 4) {
      const std::uint8_t* values = memory + ring.values + static_cast<std::size_t>(last - kLanes + i) * width + 4 * column;
      const Bits four = fill_bytes(levels + i);
      for (int c = 0; c < Columns; ++c) sums[c] = dot_bytes(sums[c], four, load_bits(values + 4 * c * kLanes));
    }
    for (int c = 0; c < Columns; ++c) {
      float* sum = out + column + c * kLanes;
      store(sum, load(sum) + to_float(sums[c]) * scale);
    }
  } else {
    Vec total[Columns];
    for (int c = 0; c < Columns; ++c) total[c] = load(out + column + c * kLanes);
    for (int slot = first; slot < last; ++slot) {
      const float* values =
          reinterpret_cast<const float*>(memory + ring.values) + static_cast<std::size_t>(slot) * width + column;
      for (int c = 0; c < Columns; ++c) total[c] += load(values + c * kLanes) * weight[slot];
    }
    for (int c = 0; c < Columns; ++c) store(out + column + c * kLanes, total[c]);
  }
}

// Attend from one token to its head's history, this token included: query [width] -> out [width].  weight has room for
// ring.slots.  Returns the bytes of keys and values read.
//
// Blocks are read from the newest to the oldest, until all tokens that are left weigh less than dropped_mass of those
// read.  Then the values, from the newest until the tokens left weigh less than dropped_mass of all that were scored.
template <CacheType type>
VF_INLINE std::size_t attend(const Ring& ring, const std::uint8_t* memory, std::int64_t position, int width,
                             float dropped_mass, const Query& query, float* weight, float* out) {
  const int slots = ring.slots, current = slot_of(ring, position);
  const std::int64_t held = position + 1;
  const int visible = static_cast<int>(held < ring.span ? held : ring.span);
  // The newest block comes first, and whole: once the ring is full it holds the oldest tokens as well.
  const int blocks = slots / kLanes, newest = current / kLanes, in_use = held < slots ? blocks - newest : blocks;
  const auto nth = [=](int i) { return newest + i < blocks ? newest + i : newest + i - blocks; };

  const float log_visible = __builtin_logf(static_cast<float>(visible));
  float best = -__builtin_inff();
  Vec total = {};  // of exp(score - best)
  int read = 0;
  for (; read < in_use; ++read) {
    const int block = nth(read), age = read == 0 ? 0 : (newest + read) * kLanes - current;  // of its newest token
    const float tail = ring.tail_bound - ring.slope * age - best;
    if (tail < log_visible && tail < __builtin_logf(sum(total))) break;  // the former is cheap, and no smaller
    Int ages = lane_numbers() + (block * kLanes - current);
    ages = select(ages < 0, ages + slots, ages);
    Vec score = block_scores<type>(ring, memory, block, width, query) - to_float(ages) * ring.slope;
    score = select(ages < visible, score, fill(-__builtin_inff()));
    store(weight + block * kLanes, score);
    const float top = largest(score);
    if (top > best) {
      total = total * exponential(fill(best - top));
      best = top;
    }
    total += exponential(score - best);
  }

  int kept = read;
  const float negligible = dropped_mass * sum(total);
  for (Vec rest = {}; kept > 0; --kept) {
    rest += exponential(load(weight + nth(kept - 1) * kLanes) - best);
    if (!(sum(rest) <= negligible)) break;  // so is NaN
  }

  for (int d = 0; d < width; d += kLanes) store(out + d, Vec{});
  total = Vec{};
  for (int i = 0; i < kept; ++i) {
    const int block = nth(i);
    const Vec probability = exponential(load(weight + block * kLanes) - best);
    total += probability;
    std::uint8_t levels[kLanes];
    float scale = 0.0f;
    if constexpr (type == CacheType::int8) {
      const Vec scales = load(reinterpret_cast<const float*>(memory + ring.scales) + slots + block * kLanes);
      const Vec weights = select(probability > 0.0f, probability * scales, Vec{});  // what was never written may have any scale
      scale = max(largest(weights) / 255.0f, kSmallestScale);
      store_bytes(levels, round(weights / scale));
    }
    store(weight + block * kLanes, probability);
    const int last = (block + 1) * kLanes;
    // What lies before the current slot was never written, or by an older history.
    const int first = held < slots && i == 0 ? current : block * kLanes;
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
  const std::size_t bytes = type == CacheType::float32 ? 4 * width : width + sizeof(float);  // of a vector
  return static_cast<std::size_t>(read + kept) * kLanes * bytes;
}
