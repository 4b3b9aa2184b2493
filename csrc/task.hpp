// The walking task on a CPU, in one pass over the environments: state -> observation, reward, end of episode.
//
//   state (strided views) + action -> step() -> observation, reward, terminated, truncated, failed
//                                            -> last_action and step_num of the next step
//
// The plain version is in kernels/reference.py, and a test holds the two together; every constant comes from Python.
// Any thread; nothing is kept between calls.  Knows nothing about Python, policies or where the state lies.

#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace vintix_fast {

// A float matrix that lies anywhere, one row an environment; strides count elements.
struct Rows {
  const float* data;
  std::ptrdiff_t row_stride;
  std::ptrdiff_t column_stride;

  float at(std::size_t row, std::size_t column) const {
    return data[static_cast<std::ptrdiff_t>(row) * row_stride + static_cast<std::ptrdiff_t>(column) * column_stride];
  }
};

// Velocities are in the world frame; quaternions are (w, x, y, z).
struct RobotStates {
  std::size_t num_envs;
  Rows base_pos_m;           // [N, 3]
  Rows base_quat;            // [N, 4]
  Rows base_lin_vel_m_s;     // [N, 3]
  Rows base_ang_vel_rad_s;   // [N, 3]
  Rows joint_pos_rad;        // [N, J]
  Rows joint_vel_rad_s;      // [N, J]
};

// vintix_fast/world/task_config.py, layout.py and kernels/reference.py say what each is.
struct TaskConstants {
  std::vector<float> default_pose_rad;  // [J]
  float target_height_m;
  std::array<float, 3> command;
  std::array<float, 3> command_scale;
  float ang_vel_scale;
  float joint_vel_scale;
  std::vector<float> reward_weights;  // per second, in the order of reward_terms() in task.cpp
  float tracking_sigma;
  float dt_s;
  float action_clip;
  float max_tilt_rad;
  float min_height_m;  // minus infinity: none
  float max_joint_speed_rad_s;
  float max_base_speed_m_s;
  std::int32_t max_steps;

  std::size_t num_joints() const { return default_pose_rad.size(); }
  std::size_t observation_dim() const { return 9 + 2 * num_joints(); }
};

// Throws std::invalid_argument unless there is a weight for each of the reward's terms.
void check(const TaskConstants& task);

// What step() writes, all C-contiguous.
struct StepOutputs {
  float* observation;  // [N, 9 + 2 J], of the state as it is
  float* reward;       // [N]
  bool* terminated;    // [N]
  bool* truncated;     // [N]
  bool* failed;        // [N]
};

// The commands [N, 3] where all environments have the task's: the same row for each.
inline Rows one_command(const TaskConstants& task) { return {task.command.data(), 0, 1}; }

// last_action [N, J] and step_num [N] become the next step's.
void step(const TaskConstants& task, const RobotStates& state, const Rows& command, const Rows& action,
          const bool* solver_failed, float* last_action, std::int32_t* step_num, const StepOutputs& out);

// Writes the rows of observation [N, 9 + 2 J] whose mask is set.
void observe(const TaskConstants& task, const RobotStates& state, const Rows& command, const bool* mask,
             float* observation);

}  // namespace vintix_fast
