#include "task.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <stdexcept>
#include <string>

namespace vintix_fast {
namespace {

using Vector = std::array<float, 3>;

struct Quaternion {
  float w, x, y, z;
};

Vector vector_at(const Rows& rows, std::size_t env) { return {rows.at(env, 0), rows.at(env, 1), rows.at(env, 2)}; }

Quaternion quaternion_at(const Rows& rows, std::size_t env) {
  return {rows.at(env, 0), rows.at(env, 1), rows.at(env, 2), rows.at(env, 3)};
}

// v - 2 w (u x v) + 2 u x (u x v) with u = (x, y, z): the inverse of the quaternion's rotation.
Vector rotate_into_body(const Quaternion& q, const Vector& v) {
  const float tx = q.y * v[2] - q.z * v[1], ty = q.z * v[0] - q.x * v[2], tz = q.x * v[1] - q.y * v[0];
  return {v[0] + 2.0f * (q.y * tz - q.z * ty - q.w * tx), v[1] + 2.0f * (q.z * tx - q.x * tz - q.w * ty),
          v[2] + 2.0f * (q.x * ty - q.y * tx - q.w * tz)};
}

float squared(float value) { return value * value; }

bool within(const Rows& rows, std::size_t env, std::size_t columns, float limit) {
  for (std::size_t i = 0; i < columns; ++i) {
    if (!(std::fabs(rows.at(env, i)) <= limit)) return false;  // not true of NaN either
  }
  return true;
}

bool exploded(const TaskConstants& task, const RobotStates& state, std::size_t env) {
  constexpr float largest = std::numeric_limits<float>::max();
  return !(within(state.base_pos_m, env, 3, largest) && within(state.base_quat, env, 4, largest) &&
           within(state.base_lin_vel_m_s, env, 3, task.max_base_speed_m_s) &&
           within(state.base_ang_vel_rad_s, env, 3, largest) &&
           within(state.joint_pos_rad, env, task.num_joints(), largest) &&
           within(state.joint_vel_rad_s, env, task.num_joints(), task.max_joint_speed_rad_s));
}

bool fallen(const TaskConstants& task, const RobotStates& state, std::size_t env) {
  const Quaternion q = quaternion_at(state.base_quat, env);
  const float roll = std::atan2(2.0f * (q.w * q.x + q.y * q.z), 1.0f - 2.0f * (q.x * q.x + q.y * q.y));
  const float pitch = std::asin(std::clamp(2.0f * (q.w * q.y - q.z * q.x), -1.0f, 1.0f));
  return std::fabs(roll) > task.max_tilt_rad || std::fabs(pitch) > task.max_tilt_rad ||
         state.base_pos_m.at(env, 2) < task.min_height_m;
}

// Without their weights, in the order of RewardWeights in vintix_fast/world/task_config.py.  action [J] is the clipped one.
constexpr std::size_t kRewardTerms = 6;
std::array<float, kRewardTerms> reward_terms(const TaskConstants& task, const RobotStates& state, std::size_t env,
                                             const Vector& command, const float* action, const float* last_action) {
  const Quaternion quat = quaternion_at(state.base_quat, env);
  const Vector velocity = rotate_into_body(quat, vector_at(state.base_lin_vel_m_s, env));
  const float yaw_rate = rotate_into_body(quat, vector_at(state.base_ang_vel_rad_s, env))[2];
  const float speed_error = squared(command[0] - velocity[0]) + squared(command[1] - velocity[1]);
  const float yaw_error = squared(command[2] - yaw_rate);
  float action_change = 0.0f, pose_error = 0.0f;
  for (std::size_t i = 0; i < task.num_joints(); ++i) {
    action_change += squared(last_action[i] - action[i]);
    pose_error += std::fabs(state.joint_pos_rad.at(env, i) - task.default_pose_rad[i]);
  }
  return {std::exp(-speed_error / task.tracking_sigma),
          std::exp(-yaw_error / task.tracking_sigma),
          squared(velocity[2]),
          squared(state.base_pos_m.at(env, 2) - task.target_height_m),
          action_change,
          pose_error};
}

float reward(const TaskConstants& task, const RobotStates& state, std::size_t env, const Vector& command,
             const float* action, const float* last_action) {
  const auto terms = reward_terms(task, state, env, command, action, last_action);
  float per_second = 0.0f;
  for (std::size_t i = 0; i < kRewardTerms; ++i) per_second += task.reward_weights[i] * terms[i];
  return per_second * task.dt_s;
}

void observe_row(const TaskConstants& task, const RobotStates& state, std::size_t env, const Vector& command,
                 float* out) {
  const Quaternion quat = quaternion_at(state.base_quat, env);
  const Vector turning = rotate_into_body(quat, vector_at(state.base_ang_vel_rad_s, env));
  const Vector gravity = rotate_into_body(quat, {0.0f, 0.0f, -1.0f});
  for (std::size_t i = 0; i < 3; ++i) {
    out[i] = turning[i] * task.ang_vel_scale;
    out[3 + i] = gravity[i];
    out[6 + i] = command[i] * task.command_scale[i];
  }
  const std::size_t joints = task.num_joints();
  for (std::size_t i = 0; i < joints; ++i) {
    out[9 + i] = state.joint_pos_rad.at(env, i) - task.default_pose_rad[i];
    out[9 + joints + i] = state.joint_vel_rad_s.at(env, i) * task.joint_vel_scale;
  }
}

}  // namespace

void check(const TaskConstants& task) {
  if (task.reward_weights.size() == kRewardTerms) return;
  throw std::invalid_argument("reward_weights: expected " + std::to_string(kRewardTerms) + " numbers, got " +
                              std::to_string(task.reward_weights.size()));
}

void step(const TaskConstants& task, const RobotStates& state, const Rows& command, const Rows& action,
          const bool* solver_failed, float* last_action, std::int32_t* step_num, const StepOutputs& out) {
  const std::size_t joints = task.num_joints();
  std::vector<float> clipped(joints);
  for (std::size_t env = 0; env < state.num_envs; ++env) {
    float* const last = last_action + env * joints;
    const Vector asked = vector_at(command, env);
    for (std::size_t i = 0; i < joints; ++i) {
      clipped[i] = std::clamp(action.at(env, i), -task.action_clip, task.action_clip);
    }
    const bool failed = solver_failed[env] || exploded(task, state, env);
    const bool terminated = failed || fallen(task, state, env);
    out.failed[env] = failed;
    out.terminated[env] = terminated;
    out.truncated[env] = ++step_num[env] >= task.max_steps && !terminated;
    out.reward[env] = failed ? 0.0f : reward(task, state, env, asked, clipped.data(), last);
    observe_row(task, state, env, asked, out.observation + env * task.observation_dim());
    std::copy(clipped.begin(), clipped.end(), last);
  }
}

void observe(const TaskConstants& task, const RobotStates& state, const Rows& command, const bool* mask,
             float* observation) {
  for (std::size_t env = 0; env < state.num_envs; ++env) {
    if (mask[env]) {
      observe_row(task, state, env, vector_at(command, env), observation + env * task.observation_dim());
    }
  }
}

}  // namespace vintix_fast
