// What one decode step reads and writes: plain structs of pointers and sizes, and the function that does the step.
//
// policy_decoder.cpp fills the structs; decode_rows.cpp computes with them.  The latter is compiled once for each
// instruction set, so nothing here may pull in library templates: the linker would merge their copies, and an old
// processor might be handed one made of new instructions.
#pragma once

#include <cstddef>
#include <cstdint>

namespace vintix_fast {

constexpr int kLanes = 16;          // floats that all implementations work on at a time, whatever registers they have
constexpr int kPanel = 2 * kLanes;  // outputs of a linear layer that are computed together

static constexpr int padded(int size, int multiple) { return (size + multiple - 1) / multiple * multiple; }

enum class CacheType : std::uint8_t { float32, int8 };

// y = W x + b.  weight [outputs / kPanel][inputs][kPanel] and bias [outputs] are 0 past the layer's own outputs.
struct Linear {
  const float* weight = nullptr;
  // In the place of weight, where all its numbers are bfloat16: pairs [outputs / kPanel][inputs][kLanes], in the lower
  // half of a word what weight has there, in the upper half what it has kLanes further on.
  const std::uint32_t* pairs = nullptr;
  const float* bias = nullptr;
  int inputs = 0;
  int outputs = 0;  // padded to kPanel
};

// LayerNorm, or RMSNorm where bias is null; both arrays are 0 from size to its padding.
struct Norm {
  const float* weight = nullptr;
  const float* bias = nullptr;
  int size = 0;
};

// A head's ring of keys and values in one environment's memory.  slots is a multiple of kLanes.
//   keys    [slots / kLanes][head_padded / G][kLanes][G]
//   values  [slots / G][head_padded][G]
//   G is what four bytes hold: 1 float32, 4 int8
//   scales  float [2][slots], of keys and of values; int8 only: a number is its level times its token's scale
struct Ring {
  std::size_t keys = 0, values = 0, scales = 0;  // byte offsets in an environment's memory
  int slots = 0;
  int span = 0;     // tokens that may be seen, this one included
  float slope = 0;  // ALiBi's
  // exp(tail_bound - slope * a) bounds the weight of all tokens of age a and more, divided by dropped_mass; infinite
  // where scores have no bound.
  float tail_bound = 0;
};

struct Layer {
  Norm norm1, norm2;  // norm2 without weight: the MLP reads what norm1 gave
  Linear in_proj, out_proj, fc, gate, proj;  // gate only in gated MLPs
  Norm q_norm, k_norm;                       // without weight: absent
  const Ring* rings = nullptr;               // [heads]
};

struct VectorEncoder {
  Linear first, second;
  Norm first_norm, second_norm;
};

struct Model {
  int observation_dim, action_dim;
  int observation_emb, action_emb, reward_emb;
  int hidden, intermediate, heads, head_dim, layers;
  int attention;  // heads * head_dim, at most hidden: where heads do not divide it, some of it goes without
  bool parallel_residual, action_first;  // action_first: tokens are action | reward | observation
  float reward_scale;
  const float *observation_mean, *observation_std;  // null: observations are not normalised
  const float *action_mean, *action_std;            // null: actions are not normalised
  VectorEncoder observation, action;
  Linear reward;
  const float *first_action, *first_reward;  // embeddings of "there was no previous step"
  const float* step_embedding;               // [step_rows][hidden] or null
  int step_rows;
  const Layer* layer;
  Norm last_norm;
  Linear decoder[4];
  CacheType cache_type;
  float dropped_mass;  // of what attention may leave unread, relative to the softmax's sum
};

// One step of all N environments.
struct Step {
  const float* observation;      // [N, observation_dim]
  const float* action;           // [N, action_dim], the previous step's
  const float* reward;           // [N], the previous step's
  const std::int32_t* step_num;  // [N]
  const std::int64_t* position;  // [N] tokens that each history holds already
  std::uint8_t* cache;           // [N, env_bytes]
  std::size_t env_bytes;
  float* result;  // [N, action_dim]
};

// Decodes environments first to first + rows; returns the bytes of keys and values that it read.  scratch: zeros at
// first, as many as policy_decoder.cpp computes.
using DecodeRows = std::size_t (*)(const Model&, const Step&, int first, int rows, float* scratch);

struct Implementation {
  const char* name;
  DecodeRows decode_rows;
};

}  // namespace vintix_fast
