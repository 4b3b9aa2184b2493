// The C functions of vintix_policy.h: no exception leaves, no logic of their own.

#include "vintix_policy.h"

#include <algorithm>
#include <cstdio>
#include <exception>
#include <string>

#include "control.hpp"

struct vintix_policy {
  std::string contract;
  vintix_fast::Control control;
};

vintix_policy* vintix_open(const char* path, const char* implementation, char* message, size_t message_size) {
  try {
    const vintix_fast::PolicyFile file(path);
    return new vintix_policy{file.contract(), vintix_fast::Control(file, implementation)};
  } catch (const std::bad_alloc&) {
    std::snprintf(message, message_size, "%s: there is not enough memory for it", path);
  } catch (const std::exception& error) {
    std::snprintf(message, message_size, "%s: %s", path, error.what());
  }
  return nullptr;
}

void vintix_close(vintix_policy* policy) { delete policy; }

const char* vintix_contract(const vintix_policy* policy) { return policy->contract.c_str(); }
const char* vintix_implementation(const vintix_policy* policy) { return policy->control.decoder().implementation(); }
int vintix_joints(const vintix_policy* policy) { return static_cast<int>(policy->control.contract().joints); }
int vintix_observation_size(const vintix_policy* policy) { return policy->control.decoder().observation_dim(); }
double vintix_period_s(const vintix_policy* policy) { return policy->control.contract().period_s; }
float vintix_kp(const vintix_policy* policy) { return policy->control.contract().kp; }
float vintix_kd(const vintix_policy* policy) { return policy->control.contract().kd; }
const float* vintix_default_pose(const vintix_policy* policy) {
  return policy->control.contract().default_pose_rad.data();
}

const char* vintix_says(vintix_status status) {
  switch (status) {
    case VINTIX_OK: return "walking";
    case VINTIX_NOT_FINITE: return "a sensor gives no number (NaN, infinity, or a quaternion of 0)";
    case VINTIX_FALLEN: return "roll or pitch is beyond the contract's max_tilt_rad";
    case VINTIX_POLICY_FAILED: return "the model's answer is not finite; its history is forgotten";
    case VINTIX_NO_STATE: return "no state arrived in time";
  }
  return "unknown status";
}

vintix_status vintix_step(vintix_policy* policy, const vintix_state* state, float* target_rad) {
  return policy->control.step(*state, target_rad);
}

vintix_status vintix_hold(vintix_policy* policy, float* target_rad) {
  policy->control.hold(target_rad);
  return VINTIX_NO_STATE;
}

void vintix_last(const vintix_policy* policy, float* observation, float* action, float* reward) {
  const vintix_fast::Control& control = policy->control;
  if (observation != nullptr) std::copy(control.observation().begin(), control.observation().end(), observation);
  if (action != nullptr) std::copy(control.action().begin(), control.action().end(), action);
  if (reward != nullptr) *reward = control.reward();
}

void vintix_explore(vintix_policy* policy, float sigma, uint64_t seed) { policy->control.explore(sigma, seed); }

void vintix_meant(const vintix_policy* policy, float* action) {
  std::copy(policy->control.meant().begin(), policy->control.meant().end(), action);
}

void vintix_begin_episode(vintix_policy* policy) { policy->control.begin_episode(); }
void vintix_forget(vintix_policy* policy) { policy->control.forget(); }

void vintix_act(vintix_policy* policy, const float* observation, const float* previous_action, float previous_reward,
                int32_t step_num, float* action) {
  policy->control.act(observation, previous_action, previous_reward, step_num, action);
}
