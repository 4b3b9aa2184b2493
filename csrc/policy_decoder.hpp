// The policy on the CPU: weights packed once, a ring cache for every environment, one decode step at a time.
//
// begin() copies a step's inputs and shares the environments out to threads; finish() helps them and hands out the
// actions.  Between the two the caller is free, which is when the simulator steps.  All methods belong to one thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "decode_rows.hpp"
#include "packed_weights.hpp"
#include "worker_pool.hpp"

namespace vintix_fast {

// What the weights' shapes do not say.
struct DecoderConfig {
  bool parallel_residual, action_first;
  float reward_scale;
  CacheType cache_type;
  float dropped_mass;
  std::vector<float> slopes;            // [heads], ALiBi's
  std::vector<float> score_bounds;      // [layers], of |q . k| / sqrt(head_dim); infinite where there is none
  std::vector<std::vector<int>> spans;  // [layers][heads], tokens that a head sees
  int num_envs;
  int threads;
  std::string implementation;  // empty: the widest that the processor has
  // Keep matrices as bfloat16 whose numbers all are such: the same results, with half of the memory traffic.
  bool narrow_weights = false;
};

// Those that this processor can run, the fastest first.
const std::vector<Implementation>& implementations();

class PolicyDecoder {
 public:
  // weights: by the names that policy_decoder.cpp asks for; copied.  Throws std::invalid_argument.
  PolicyDecoder(const DecoderConfig& config, const Weights& weights);

  // Forgets all histories, or those of the environments whose flag is not 0; and a step that was begun.
  void reset(const std::uint8_t* flags);

  // Shapes as in Step.  What is given is copied.
  void begin(const float* observation, const float* action, const float* reward, const std::int32_t* step_num);

  // result [N, action_dim].  The histories are one token longer now.
  void finish(float* result);

  int num_envs() const { return config_.num_envs; }
  int observation_dim() const { return model_.observation_dim; }
  int action_dim() const { return model_.action_dim; }
  const char* implementation() const { return implementation_.name; }
  std::size_t bytes_per_env() const { return step_.env_bytes; }
  std::uint64_t bytes_read() const { return bytes_read_; }  // keys, values and their scales, by all steps

 private:
  struct Unmap {
    std::size_t bytes;
    void operator()(std::uint8_t* memory) const;
  };
  using Memory = std::unique_ptr<std::uint8_t[], Unmap>;

  void read_sizes(const Weights& weights);
  void lay_out_cache();
  void pack_weights(const Weights& weights);
  static Memory allocate(std::size_t bytes);

  DecoderConfig config_;
  Implementation implementation_;
  std::vector<std::vector<float>> packed_;
  std::vector<Ring> rings_;  // [layers][heads]
  std::vector<Layer> layers_;
  Model model_{};
  Step step_{};
  Memory cache_;
  std::vector<float> observation_, action_, reward_, result_;
  std::vector<std::int32_t> step_num_;
  std::vector<std::int64_t> position_;
  std::vector<Memory> scratch_;                   // of each thread
  std::vector<std::uint64_t> thread_bytes_read_;  // by each thread in this step
  int rows_;                                      // environments in one item of work
  bool begun_ = false;
  std::uint64_t bytes_read_ = 0;
  WorkerPool pool_;  // last: its threads use the rest
};

}  // namespace vintix_fast
