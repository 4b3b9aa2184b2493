"""Triton: the walking task's step, simulator state -> observation, reward and end of episode, in one launch.

In plain torch a step is about fifty small launches; `reference.task_step` is that version, whose formulas this repeats.
One program handles one environment.  Knows nothing about robots, policies or where constants come from.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import triton
import triton.language as tl

from vintix_fast.kernels.reference import STD_EPS, TaskConstants

EPS = tl.constexpr(STD_EPS)
LARGEST = tl.constexpr(torch.finfo(torch.float32).max)
OPTIONS = {"enable_fp_fusion": True, "num_warps": 1}  # triton 3.9 warns where the first one's default is relied upon


@triton.jit
def _load3(ptr, stride):
    return tl.load(ptr), tl.load(ptr + stride), tl.load(ptr + 2 * stride)


@triton.jit
def _into_body(w, x, y, z, vx, vy, vz):
    """`reference.rotate_into_body`, of one vector."""
    tx, ty, tz = y * vz - z * vy, z * vx - x * vz, x * vy - y * vx
    body_x = vx + 2.0 * (y * tz - z * ty - w * tx)
    body_y = vy + 2.0 * (z * tx - x * tz - w * ty)
    return body_x, body_y, vz + 2.0 * (x * ty - y * tx - w * tz)


@triton.jit
def _observation_row(
    column, w, x, y, z, turn_x, turn_y, turn_z, pose_error, joint_vel, command_ptr,
    ang_vel_scale, joint_vel_scale, forward_scale, side_scale, yaw_scale,
):  # fmt: skip
    """One environment's row; ``pose_error`` and ``joint_vel`` are 0 outside their columns."""
    command = tl.load(command_ptr + column - 6, mask=(column >= 6) & (column < 9), other=0.0)
    command *= tl.where(column == 6, forward_scale, tl.where(column == 7, side_scale, yaw_scale))
    row = pose_error + joint_vel * joint_vel_scale + command
    turn = tl.where(column == 0, turn_x, tl.where(column == 1, turn_y, tl.where(column == 2, turn_z, 0.0)))
    row += turn * ang_vel_scale
    # gravity, (0, 0, -1) turned into the body
    row += tl.where(column == 3, 2.0 * (w * y - z * x), tl.where(column == 4, -2.0 * (z * y + w * x), 0.0))
    return row + tl.where(column == 5, 2.0 * (x * x + y * y) - 1.0, 0.0)


@triton.jit
def _load_joints(column, env, num_joints, pos_ptr, pos_stride, pos_step, vel_ptr, vel_stride, vel_step, default_ptr):
    """Positions, defaults and speeds, each in its columns of an observation and 0 elsewhere."""
    joint = column - 9
    is_pos = (joint >= 0) & (joint < num_joints)
    pos = tl.load(pos_ptr + env * pos_stride + joint * pos_step, mask=is_pos, other=0.0)
    default = tl.load(default_ptr + joint, mask=is_pos, other=0.0)
    is_vel = (joint >= num_joints) & (joint < 2 * num_joints)
    vel = tl.load(vel_ptr + env * vel_stride + (joint - num_joints) * vel_step, mask=is_vel, other=0.0)
    return pos, default, vel


@triton.jit
def _store_observation(
    env, column, row, width, written, observation_ptr, standardised_ptr, mean_ptr, std_ptr, STANDARDISE: tl.constexpr
):
    """An environment's row where ``written``, and the same as `reference.standardise` has it."""
    inside = (column < width) & written
    tl.store(observation_ptr + env * width + column, row, mask=inside)
    if STANDARDISE:
        mean = tl.load(mean_ptr + column, mask=inside, other=0.0)
        std = tl.load(std_ptr + column, mask=inside, other=1.0)
        tl.store(standardised_ptr + env * width + column, tl.div_rn(row - mean, std + EPS), mask=inside)


@triton.jit
def _observe_kernel(
    quat_ptr, turning_ptr, joint_pos_ptr, joint_vel_ptr, mask_ptr, default_ptr, command_ptr,
    observation_ptr, standardised_ptr, mean_ptr, std_ptr,
    quat_stride, quat_step, turning_stride, turning_step, pos_stride, pos_step, vel_stride, vel_step, command_stride,
    num_joints, ang_vel_scale, joint_vel_scale, forward_scale, side_scale, yaw_scale,
    STANDARDISE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    env = tl.program_id(0)
    column = tl.arange(0, BLOCK)
    command_ptr += env * command_stride
    w = tl.load(quat_ptr + env * quat_stride)
    x, y, z = _load3(quat_ptr + env * quat_stride + quat_step, quat_step)
    vx, vy, vz = _load3(turning_ptr + env * turning_stride, turning_step)
    turn_x, turn_y, turn_z = _into_body(w, x, y, z, vx, vy, vz)
    pos, default, vel = _load_joints(
        column, env, num_joints, joint_pos_ptr, pos_stride, pos_step, joint_vel_ptr, vel_stride, vel_step, default_ptr
    )
    row = _observation_row(
        column, w, x, y, z, turn_x, turn_y, turn_z, pos - default, vel, command_ptr,
        ang_vel_scale, joint_vel_scale, forward_scale, side_scale, yaw_scale,
    )  # fmt: skip
    _store_observation(
        env, column, row, 9 + 2 * num_joints, tl.load(mask_ptr + env).to(tl.int1),
        observation_ptr, standardised_ptr, mean_ptr, std_ptr, STANDARDISE,
    )  # fmt: skip


@triton.jit
def _step_kernel(
    base_pos_ptr, quat_ptr, velocity_ptr, turning_ptr, joint_pos_ptr, joint_vel_ptr,
    action_ptr, solver_failed_ptr, last_action_ptr, step_num_ptr, default_ptr, command_ptr,
    observation_ptr, standardised_ptr, mean_ptr, std_ptr, reward_ptr, terminated_ptr, truncated_ptr, failed_ptr,
    base_pos_stride, base_pos_step, quat_stride, quat_step, velocity_stride, velocity_step,
    turning_stride, turning_step, pos_stride, pos_step, vel_stride, vel_step, command_stride,
    num_joints, max_steps, ang_vel_scale, joint_vel_scale, forward_scale, side_scale, yaw_scale,
    target_height, tracking_sigma, dt_s, action_clip, tan_max_roll, sin_max_pitch, min_height,
    max_joint_speed, max_base_speed,
    tracking_lin_vel, tracking_ang_vel, lin_vel_z, base_height, action_rate, similar_to_default,
    STANDARDISE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    env = tl.program_id(0)
    column = tl.arange(0, BLOCK)
    command_ptr += env * command_stride
    base_x, base_y, height = _load3(base_pos_ptr + env * base_pos_stride, base_pos_step)
    w = tl.load(quat_ptr + env * quat_stride)
    x, y, z = _load3(quat_ptr + env * quat_stride + quat_step, quat_step)
    vx, vy, vz = _load3(velocity_ptr + env * velocity_stride, velocity_step)
    ax, ay, az = _load3(turning_ptr + env * turning_stride, turning_step)
    pos, default, vel = _load_joints(
        column, env, num_joints, joint_pos_ptr, pos_stride, pos_step, joint_vel_ptr, vel_stride, vel_step, default_ptr
    )

    # Each comparison is false of NaN.
    sane = (tl.abs(base_x) <= LARGEST) & (tl.abs(base_y) <= LARGEST) & (tl.abs(height) <= LARGEST)
    sane &= (tl.abs(w) <= LARGEST) & (tl.abs(x) <= LARGEST) & (tl.abs(y) <= LARGEST) & (tl.abs(z) <= LARGEST)
    sane &= (tl.abs(ax) <= LARGEST) & (tl.abs(ay) <= LARGEST) & (tl.abs(az) <= LARGEST)
    sane &= (tl.abs(vx) <= max_base_speed) & (tl.abs(vy) <= max_base_speed) & (tl.abs(vz) <= max_base_speed)
    insane_joints = tl.where((tl.abs(pos) <= LARGEST) & (tl.abs(vel) <= max_joint_speed), 0, 1)
    solver_failed = tl.load(solver_failed_ptr + env).to(tl.int1)
    failed = solver_failed | (tl.sum(insane_joints, axis=0) > 0) | (sane == 0)
    # |atan2(s, c)| > t is |s| > c tan t for t below a right angle, and |asin s| > t is |s| > sin t.
    rolled = tl.abs(2.0 * (w * x + y * z)) > (1.0 - 2.0 * (x * x + y * y)) * tan_max_roll
    terminated = failed | rolled | (tl.abs(2.0 * (w * y - z * x)) > sin_max_pitch) | (height < min_height)
    step_num = tl.load(step_num_ptr + env) + 1
    tl.store(step_num_ptr + env, step_num)
    tl.store(failed_ptr + env, failed)
    tl.store(terminated_ptr + env, terminated)
    tl.store(truncated_ptr + env, (step_num >= max_steps) & (terminated == 0))

    # The action of this step is the next one's last action.
    is_joint = column < num_joints
    action = tl.load(action_ptr + env * num_joints + column, mask=is_joint, other=0.0)
    action = tl.where(action > action_clip, action_clip, action)  # comparisons, because NaN is to stay
    action = tl.where(action < -action_clip, -action_clip, action)
    last_action = tl.load(last_action_ptr + env * num_joints + column, mask=is_joint, other=0.0)
    tl.store(last_action_ptr + env * num_joints + column, action, mask=is_joint)
    body_vx, body_vy, body_vz = _into_body(w, x, y, z, vx, vy, vz)
    turn_x, turn_y, turn_z = _into_body(w, x, y, z, ax, ay, az)
    forward, sideways, yaw_rate = _load3(command_ptr, 1)
    speed_error = (forward - body_vx) * (forward - body_vx) + (sideways - body_vy) * (sideways - body_vy)
    yaw_error = (yaw_rate - turn_z) * (yaw_rate - turn_z)
    per_second = 0.0
    per_second += tracking_lin_vel * tl.exp(-speed_error / tracking_sigma)
    per_second += tracking_ang_vel * tl.exp(-yaw_error / tracking_sigma)
    per_second += lin_vel_z * body_vz * body_vz
    per_second += base_height * (height - target_height) * (height - target_height)
    per_second += action_rate * tl.sum((last_action - action) * (last_action - action), axis=0)
    per_second += similar_to_default * tl.sum(tl.abs(pos - default), axis=0)
    tl.store(reward_ptr + env, tl.where(failed, 0.0, per_second * dt_s))

    row = _observation_row(
        column, w, x, y, z, turn_x, turn_y, turn_z, pos - default, vel, command_ptr,
        ang_vel_scale, joint_vel_scale, forward_scale, side_scale, yaw_scale,
    )  # fmt: skip
    _store_observation(
        env, column, row, 9 + 2 * num_joints, True, observation_ptr, standardised_ptr, mean_ptr, std_ptr, STANDARDISE
    )


class TaskStep:
    """`reference.task_step` and `reference.task_observe`, a launch each; a state's tensors may be strided views.

    Args:
        task: what to compute.
        device: of every tensor.
    """

    def __init__(self, task: TaskConstants, device: torch.device) -> None:
        self.statistics: tuple[torch.Tensor, torch.Tensor] | None = None
        """Mean and deviation, [9 + 2 J] each, for observations to be given standardised by them too."""
        self.command: torch.Tensor | None = None
        """[N, 3], where environments have commands of their own."""
        config, layout = task.config, task.layout
        self._default = torch.tensor(task.default_pose_rad, dtype=torch.float32, device=device)
        self._one_command = torch.tensor(config.command, dtype=torch.float32, device=device).expand(2, 3)  # stride 0
        self._scales = (layout.num_joints, layout.ang_vel_scale, layout.joint_vel_scale, *layout.command_scale)
        self._limits = (
            task.target_height_m, config.tracking_sigma, task.dt_s, config.action_clip,
            math.tan(config.max_tilt_rad), math.sin(config.max_tilt_rad),
            -math.inf if config.min_height_m is None else config.min_height_m,
            task.max_joint_speed_rad_s, task.max_base_speed_m_s,
        )  # fmt: skip
        self._max_steps, self._weights = task.max_steps, config.weights

    def step(
        self,
        state: Sequence[torch.Tensor],
        action: torch.Tensor,
        solver_failed: torch.Tensor,
        last_action: torch.Tensor,
        step_num: torch.Tensor,
    ) -> tuple[torch.Tensor | None, ...]:
        """See `reference.task_step`; what it returns, and the observation standardised, or None.

        All are new tensors, which no later call writes to.
        """
        action = action.contiguous()
        for tensor in (solver_failed, last_action, step_num):
            assert tensor.is_contiguous(), tensor.stride()
        num_envs, num_joints = action.shape
        observation = torch.empty(num_envs, 9 + 2 * num_joints, device=action.device)
        standardised = None if self.statistics is None else torch.empty_like(observation)
        reward = torch.empty(num_envs, device=action.device)
        flags = [torch.empty(num_envs, device=action.device, dtype=torch.bool) for _ in range(3)]
        num_joints, *scales = self._scales
        _step_kernel[(num_envs,)](
            *state, action, solver_failed, last_action, step_num, self._default, self._commands,
            observation, *self._standardised(standardised), reward, *flags,
            *(stride for tensor in state for stride in tensor.stride()), self._commands.stride(0),
            num_joints, self._max_steps, *scales, *self._limits, *self._weights,
            STANDARDISE=standardised is not None, BLOCK=triton.next_power_of_2(observation.shape[1]), **OPTIONS,
        )  # fmt: skip
        return observation, reward, *flags, standardised

    def observe(
        self,
        state: Sequence[torch.Tensor],
        mask: torch.Tensor,
        observation: torch.Tensor,
        standardised: torch.Tensor | None = None,
    ) -> None:
        """See `reference.task_observe`; writes the same rows of ``standardised``, if given, by `statistics`."""
        seen = (state[1], *state[3:])
        _observe_kernel[(len(mask),)](
            *seen, mask, self._default, self._commands, observation, *self._standardised(standardised),
            *(stride for tensor in seen for stride in tensor.stride()), self._commands.stride(0), *self._scales,
            STANDARDISE=standardised is not None, BLOCK=triton.next_power_of_2(observation.shape[1]), **OPTIONS,
        )  # fmt: skip

    @property
    def _commands(self) -> torch.Tensor:
        return self._one_command if self.command is None else self.command

    def _standardised(self, out: torch.Tensor | None) -> tuple[torch.Tensor, ...]:
        """Where to write it, mean and deviation; without ``out`` what no kernel reads."""
        if out is None:
            return (self._default,) * 3
        assert self.statistics is not None  # by which else was it made?
        return (out, *self.statistics)
