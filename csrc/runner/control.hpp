// From a robot's sensors to its joint targets, around a model: observation, reward, latency, limits, when to hold still.
//
// What it computes is what the task computes in simulation: vintix_fast/kernels/reference.py, `observe` and the terms
// of the reward, and `WalkingTask`.  Knows no file and no clock.  One thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "../policy_decoder.hpp"
#include "exploration.hpp"
#include "policy_file.hpp"
#include "vintix_policy.h"

namespace vintix_fast {

enum class RewardInput { measured, constant, estimate };

// The numbers of the contract, by the names that they have there.
struct Contract {
  std::size_t joints;
  float period_s, kp, kd, action_scale_rad, action_clip, max_tilt_rad;
  int latency_steps;
  float ang_vel_scale, joint_vel_scale;
  float command[3], command_scale[3];
  std::vector<float> default_pose_rad, joint_range_rad;  // [J], [J][2]
  RewardInput reward;
  float reward_constant, tracking_sigma;
  float tracking_lin_vel, tracking_ang_vel, action_rate, similar_to_default;  // weights
};

class Control {
 public:
  // Throws std::runtime_error or std::invalid_argument.
  Control(const PolicyFile& file, const std::string& implementation);

  vintix_status step(const vintix_state& state, float* target_rad);
  void hold(float* target_rad);
  void begin_episode();
  void forget();
  void explore(float sigma, std::uint64_t seed) { exploration_.begin(sigma, seed); }
  void act(const float* observation, const float* previous_action, float previous_reward, std::int32_t step_num,
           float* action);

  const Contract& contract() const { return contract_; }
  const PolicyDecoder& decoder() const { return decoder_; }
  const std::vector<float>& observation() const { return observation_; }
  const std::vector<float>& action() const { return action_; }
  const std::vector<float>& meant() const { return meant_; }
  float reward() const { return reward_; }

 private:
  bool observe(const vintix_state& state);
  float told_reward(const vintix_state& state) const;

  Contract contract_;
  PolicyDecoder decoder_;
  Exploration exploration_;
  std::vector<float> observation_, action_, answer_;
  std::vector<float> meant_;    // the last answer, before exploration
  std::vector<float> decided_;  // [latency_steps + 1, at least 2][J], cut; the newest first
  float reward_ = 0.0f, roll_ = 0.0f, pitch_ = 0.0f;
  std::int32_t step_num_ = 0;
};

}  // namespace vintix_fast
