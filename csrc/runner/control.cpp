#include "control.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <stdexcept>

namespace vintix_fast {
namespace {

constexpr int kMostSpan = 1 << 20, kMostLatency = 64;
constexpr std::size_t kMostJoints = 64;
constexpr double kMostCacheBytes = 1 << 30, kLargest = 1e6;
constexpr std::int32_t kMostSteps = 1 << 30;  // of an episode: its steps are counted no further

Contract read_contract(const PolicyFile& file) {
  Contract c{};
  c.joints = file.length("contract.default_pose_rad");
  if (c.joints > kMostJoints) throw std::runtime_error("does not fit together: " + std::to_string(c.joints) + " joints");
  const auto number = [&](const char* name, double least, double most) {
    return file.number(std::string("contract.") + name, least, most);
  };
  const auto list = [&](const char* name, std::size_t count) {
    return file.numbers(std::string("contract.") + name, count);
  };
  c.period_s = number("control_period_s", 1e-4, 10.0);
  c.kp = number("kp", 0.0, kLargest);
  c.kd = number("kd", 0.0, kLargest);
  c.action_scale_rad = number("action_scale_rad", 0.0, kLargest);
  c.action_clip = number("action_clip", 0.0, kLargest);
  c.max_tilt_rad = number("max_tilt_rad", 0.0, 3.2);
  c.latency_steps = file.integer("contract.latency_steps", 0, kMostLatency);
  c.ang_vel_scale = number("ang_vel_scale", 1e-6, kLargest);
  c.joint_vel_scale = number("joint_vel_scale", 1e-6, kLargest);
  std::copy_n(list("command", 3), 3, c.command);
  std::copy_n(list("command_scale", 3), 3, c.command_scale);
  const float* pose = list("default_pose_rad", c.joints);
  const float* range = list("joint_range_rad", 2 * c.joints);
  c.default_pose_rad.assign(pose, pose + c.joints);
  c.joint_range_rad.assign(range, range + 2 * c.joints);
  for (std::size_t j = 0; j < c.joints; ++j) {
    if (!(range[2 * j] <= range[2 * j + 1])) throw std::runtime_error("does not fit together: an empty joint range");
  }
  c.reward = static_cast<RewardInput>(file.integer("contract.reward_input", 0, 2));
  c.reward_constant = number("reward_constant", -kLargest, kLargest);
  c.tracking_sigma = number("tracking_sigma", 1e-9, kLargest);
  const float* weights = list("reward_weights", 4);
  c.tracking_lin_vel = weights[0], c.tracking_ang_vel = weights[1];
  c.action_rate = weights[2], c.similar_to_default = weights[3];
  return c;
}

DecoderConfig read_decoder(const PolicyFile& file, const std::string& implementation) {
  DecoderConfig config{};
  config.parallel_residual = file.integer("parallel_residual", 0, 1) != 0;
  config.action_first = file.integer("action_first", 0, 1) != 0;
  config.reward_scale = file.number("reward_scale", -kLargest, kLargest);
  config.cache_type = file.integer("cache_int8", 0, 1) != 0 ? CacheType::int8 : CacheType::float32;
  config.dropped_mass = file.number("dropped_mass", 0.0, 0.5);
  const std::size_t heads = file.length("slopes");
  const std::size_t layers = file.length("score_bounds");
  const float* slopes = file.numbers("slopes", heads);
  const float* bounds = file.numbers("score_bounds", layers);
  const float* spans = file.numbers("spans", layers * heads);
  config.slopes.assign(slopes, slopes + heads);
  config.score_bounds.assign(bounds, bounds + layers);
  // Of a head a lane of 16 numbers at least, as keys and as values.
  const double width = static_cast<double>(size_of(file.arrays(), "blocks.0.attention.out_proj.weight", 0)) / heads + 16;
  double cache_bytes = 0.0;
  for (std::size_t layer = 0; layer < layers; ++layer) {
    std::vector<int>& of_layer = config.spans.emplace_back();
    for (std::size_t head = 0; head < heads; ++head, ++spans) {
      if (!(*spans >= 1 && *spans <= kMostSpan && *spans == std::floor(*spans))) {
        throw std::runtime_error("does not fit together: a span is " + std::to_string(*spans));
      }
      of_layer.push_back(static_cast<int>(*spans));
      cache_bytes += 8.0 * (*spans + kLanes) * width;
    }
  }
  if (cache_bytes > kMostCacheBytes) throw std::runtime_error("does not fit together: its context would take over 1 GiB");
  for (const float slope : config.slopes) {
    if (!(slope > 0.0f)) throw std::runtime_error("does not fit together: a slope is " + std::to_string(slope));
  }
  config.num_envs = config.threads = 1;
  config.implementation = implementation;
  config.narrow_weights = true;  // one row at a time waits for memory, which the weights of bundled models fill half of
  return config;
}

bool finite(const float* numbers, std::size_t count) {
  return std::all_of(numbers, numbers + count, [](float number) { return std::isfinite(number); });
}

}  // namespace

Control::Control(const PolicyFile& file, const std::string& implementation)
    : contract_(read_contract(file)), decoder_(read_decoder(file, implementation), file.arrays()),
      exploration_(contract_.joints) {
  const std::size_t joints = contract_.joints, observations = 9 + 2 * joints;
  if (decoder_.action_dim() != static_cast<int>(joints) || decoder_.observation_dim() != static_cast<int>(observations)) {
    throw std::runtime_error("does not fit together: a robot of " + std::to_string(joints) +
                             " joints, and a model of " + std::to_string(decoder_.observation_dim()) +
                             " observations and " + std::to_string(decoder_.action_dim()) + " actions");
  }
  observation_.resize(observations);
  action_.resize(joints);
  answer_.resize(joints);
  meant_.resize(joints);
  decided_.resize(joints * static_cast<std::size_t>(std::max(2, contract_.latency_steps + 1)));
  // Touch all memory and code once, so that no step has to wait for either.
  const std::size_t count = file.length("score_bounds") * file.length("slopes");
  const float* spans = file.numbers("spans", count);
  const int longest = static_cast<int>(*std::max_element(spans, spans + count));
  for (int t = 0; t < longest + kLanes; ++t) act(observation_.data(), action_.data(), 0.0f, 1, answer_.data());
  forget();
}

void Control::begin_episode() {
  step_num_ = 0;
  std::fill(action_.begin(), action_.end(), 0.0f);
  std::fill(decided_.begin(), decided_.end(), 0.0f);
}

void Control::forget() {
  begin_episode();
  decoder_.reset(nullptr);
}

void Control::hold(float* target_rad) {
  begin_episode();
  std::copy(contract_.default_pose_rad.begin(), contract_.default_pose_rad.end(), target_rad);
}

void Control::act(const float* observation, const float* previous_action, float previous_reward, std::int32_t step_num,
                  float* action) {
  decoder_.begin(observation, previous_action, &previous_reward, &step_num);
  decoder_.finish(action);
}

// Fills observation_, roll_ and pitch_; false where a sensor gives no number.
bool Control::observe(const vintix_state& state) {
  const Contract& c = contract_;
  const float* q = state.quaternion;
  const float length = std::sqrt(q[0] * q[0] + q[1] * q[1] + q[2] * q[2] + q[3] * q[3]);
  if (!(length > 1e-3f) || !finite(q, 4) || !finite(state.gyro_rad_s, 3) || !finite(state.joint_pos_rad, c.joints) ||
      !finite(state.joint_vel_rad_s, c.joints) || !std::isfinite(length)) {
    return false;
  }
  const float w = q[0] / length, x = q[1] / length, y = q[2] / length, z = q[3] / length;
  float* o = observation_.data();
  for (int i = 0; i < 3; ++i) {
    o[i] = state.gyro_rad_s[i] * c.ang_vel_scale;
    o[6 + i] = c.command[i] * c.command_scale[i];
  }
  // (0, 0, -1) in the body's frame.
  o[3] = 2.0f * (w * y - x * z);
  o[4] = -2.0f * (w * x + y * z);
  o[5] = 2.0f * (x * x + y * y) - 1.0f;
  for (std::size_t j = 0; j < c.joints; ++j) {
    o[9 + j] = state.joint_pos_rad[j] - c.default_pose_rad[j];
    o[9 + c.joints + j] = state.joint_vel_rad_s[j] * c.joint_vel_scale;
  }
  roll_ = std::atan2(2.0f * (w * x + y * z), 1.0f - 2.0f * (x * x + y * y));
  pitch_ = std::asin(std::clamp(2.0f * (w * y - z * x), -1.0f, 1.0f));
  return true;
}

// Of the step that ended in observation_.  The estimate is vintix_fast/export/reward.py's.
float Control::told_reward(const vintix_state& state) const {
  const Contract& c = contract_;
  if (c.reward == RewardInput::measured) return state.reward;
  if (c.reward == RewardInput::constant) return c.reward_constant;
  const float yaw_error = c.command[2] - observation_[2] / c.ang_vel_scale;
  float change = 0.0f, offset = 0.0f;
  for (std::size_t j = 0; j < c.joints; ++j) {
    const float difference = decided_[c.joints + j] - decided_[j];
    change += difference * difference;
    offset += std::fabs(observation_[9 + j]);
  }
  return c.period_s * (c.tracking_lin_vel + c.tracking_ang_vel * std::exp(-yaw_error * yaw_error / c.tracking_sigma) +
                       c.action_rate * change + c.similar_to_default * offset);
}

vintix_status Control::step(const vintix_state& state, float* target_rad) {
  const Contract& c = contract_;
  const bool sensed = observe(state);
  const float reward = sensed ? told_reward(state) : 0.0f;
  // An episode's first step has no reward yet.
  if (!sensed || (step_num_ > 0 && !std::isfinite(reward))) {
    hold(target_rad);
    return VINTIX_NOT_FINITE;
  }
  if (std::fabs(roll_) > c.max_tilt_rad || std::fabs(pitch_) > c.max_tilt_rad) {
    hold(target_rad);
    return VINTIX_FALLEN;
  }
  reward_ = step_num_ > 0 ? reward : 0.0f;
  act(observation_.data(), action_.data(), reward_, step_num_, answer_.data());
  if (!finite(answer_.data(), c.joints)) {
    forget();
    hold(target_rad);
    return VINTIX_POLICY_FAILED;
  }
  step_num_ = std::min(step_num_ + 1, kMostSteps);
  meant_ = answer_;  // of the same size, as below: nothing is allocated
  exploration_.add_to(answer_.data());
  action_ = answer_;
  std::copy_backward(decided_.begin(), decided_.end() - c.joints, decided_.end());
  const float* due = decided_.data() + c.joints * static_cast<std::size_t>(c.latency_steps);
  for (std::size_t j = 0; j < c.joints; ++j) decided_[j] = std::clamp(answer_[j], -c.action_clip, c.action_clip);
  for (std::size_t j = 0; j < c.joints; ++j) {
    target_rad[j] = std::clamp(c.default_pose_rad[j] + c.action_scale_rad * due[j], c.joint_range_rad[2 * j],
                               c.joint_range_rad[2 * j + 1]);
  }
  return VINTIX_OK;
}

}  // namespace vintix_fast
