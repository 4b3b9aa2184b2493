// vintix_fast._core.TaskStep: checks arrays, releases the GIL; no logic of its own.

#include <array>
#include <cstdint>
#include <limits>
#include <optional>
#include <utility>
#include <vector>

#include "bindings.hpp"
#include "task.hpp"

namespace vintix_fast {
namespace {

// A float32 matrix with strides of its own.
Rows rows(const char* name, const py::array& array, py::ssize_t num_rows, py::ssize_t num_columns) {
  const Shape shape{num_rows, num_columns};
  constexpr py::ssize_t size = sizeof(float);
  bool fits = has_shape(typed<float>(name, array), shape);
  fits = fits && array.strides(0) % size == 0 && array.strides(1) % size == 0;
  fits = fits && reinterpret_cast<std::uintptr_t>(array.data()) % size == 0;
  if (!fits) throw_layout_error(name, "an array, aligned to 4 bytes,", shape, array);
  return {static_cast<const float*>(array.data()), array.strides(0) / size, array.strides(1) / size};
}

using State = std::array<py::array, 6>;  // in the order of RobotStates

RobotStates checked_state(const TaskConstants& task, const State& state) {
  const py::ssize_t n = length_of(state[0]);
  const auto joints = static_cast<py::ssize_t>(task.num_joints());
  return {static_cast<std::size_t>(n),
          rows("base_pos_m", state[0], n, 3),
          rows("base_quat", state[1], n, 4),
          rows("base_lin_vel_m_s", state[2], n, 3),
          rows("base_ang_vel_rad_s", state[3], n, 3),
          rows("joint_pos_rad", state[4], n, joints),
          rows("joint_vel_rad_s", state[5], n, joints)};
}

// The task's for all, unless environments have commands of their own.
Rows checked_command(const TaskConstants& task, const std::optional<py::array>& command, py::ssize_t n) {
  return command ? rows("command", *command, n, 3) : one_command(task);
}

py::tuple step_arrays(const TaskConstants& task, const State& arrays, const py::array& action,
                      const py::array& solver_failed, const py::array& last_action, const py::array& step_num,
                      const std::optional<py::array>& command) {
  const RobotStates state = checked_state(task, arrays);
  const auto n = static_cast<py::ssize_t>(state.num_envs), joints = static_cast<py::ssize_t>(task.num_joints());
  const Rows action_rows = rows("action", action, n, joints), command_rows = checked_command(task, command, n);
  const bool* const solver_failed_data = checked<bool>("solver_failed", solver_failed, {n});
  float* const last_action_data = writeable<float>("last_action", last_action, {n, joints});
  std::int32_t* const step_num_data = writeable<std::int32_t>("step_num", step_num, {n});

  py::array_t<float> observation({n, static_cast<py::ssize_t>(task.observation_dim())}), reward(n);
  py::array_t<bool> terminated(n), truncated(n), failed(n);
  const StepOutputs out{observation.mutable_data(), reward.mutable_data(), terminated.mutable_data(),
                        truncated.mutable_data(), failed.mutable_data()};
  {
    py::gil_scoped_release release;
    step(task, state, command_rows, action_rows, solver_failed_data, last_action_data, step_num_data, out);
  }
  return py::make_tuple(std::move(observation), std::move(reward), std::move(terminated), std::move(truncated),
                        std::move(failed));
}

void observe_arrays(const TaskConstants& task, const State& arrays, const py::array& mask,
                    const py::array& observation, const std::optional<py::array>& command) {
  const RobotStates state = checked_state(task, arrays);
  const auto n = static_cast<py::ssize_t>(state.num_envs);
  const bool* const mask_data = checked<bool>("mask", mask, {n});
  const Rows command_rows = checked_command(task, command, n);
  float* const out =
      writeable<float>("observation", observation, {n, static_cast<py::ssize_t>(task.observation_dim())});
  py::gil_scoped_release release;
  observe(task, state, command_rows, mask_data, out);
}

}  // namespace

void bind_task(py::module_& module) {
  py::class_<TaskConstants>(module, "TaskStep", "See _core.pyi and csrc/task.hpp.")
      .def(py::init([](const py::object& constants) {
             const py::object config = constants.attr("config"), layout = constants.attr("layout");
             TaskConstants task{constants.attr("default_pose_rad").cast<std::vector<float>>(),
                                constants.attr("target_height_m").cast<float>(),
                                config.attr("command").cast<std::array<float, 3>>(),
                                layout.attr("command_scale").cast<std::array<float, 3>>(),
                                layout.attr("ang_vel_scale").cast<float>(),
                                layout.attr("joint_vel_scale").cast<float>(),
                                config.attr("weights").cast<std::vector<float>>(),
                                config.attr("tracking_sigma").cast<float>(),
                                constants.attr("dt_s").cast<float>(),
                                config.attr("action_clip").cast<float>(),
                                config.attr("max_tilt_rad").cast<float>(),
                                config.attr("min_height_m").cast<std::optional<float>>().value_or(
                                    -std::numeric_limits<float>::infinity()),
                                constants.attr("max_joint_speed_rad_s").cast<float>(),
                                constants.attr("max_base_speed_m_s").cast<float>(),
                                constants.attr("max_steps").cast<std::int32_t>()};
             check(task);
             return task;
           }),
           py::arg("constants"))
      .def("step", &step_arrays, py::arg("state"), py::arg("action"), py::arg("solver_failed"), py::arg("last_action"),
           py::arg("step_num"), py::arg("command") = py::none())
      .def("observe", &observe_arrays, py::arg("state"), py::arg("mask"), py::arg("observation"),
           py::arg("command") = py::none());
}

}  // namespace vintix_fast
