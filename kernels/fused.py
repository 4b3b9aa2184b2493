"""Triton: the walking task's observation, reward and ends of episodes, each step in one launch.

In plain torch they are about fifteen and fifty small launches a step.  `observe` stands for `reference.observe`, and
`WalkingJudge` for the task's plain judge, whose formulas it repeats.  One program handles one environment.

Knows tensors and constants only; nothing about robots' names, simulators or models.
"""

from __future__ import annotations

import math

import torch
import triton
import triton.language as tl

from vintix_fast.kernels.reference import ANG_VEL_SCALE, COMMAND_SCALE, JOINT_VEL_SCALE, STD_EPS

LARGEST = tl.constexpr(torch.finfo(torch.float32).max)
EPS = tl.constexpr(STD_EPS)
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
def _observation(
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
def _joints(column, env, num_joints, pos_ptr, pos_stride, pos_step, vel_ptr, vel_stride, vel_step, default_ptr):
    """Positions, defaults and speeds, each in its columns of an observation and 0 elsewhere."""
    joint = column - 9
    is_pos = (joint >= 0) & (joint < num_joints)
    pos = tl.load(pos_ptr + env * pos_stride + joint * pos_step, mask=is_pos, other=0.0)
    default = tl.load(default_ptr + joint, mask=is_pos, other=0.0)
    is_vel = (joint >= num_joints) & (joint < 2 * num_joints)
    vel = tl.load(vel_ptr + env * vel_stride + (joint - num_joints) * vel_step, mask=is_vel, other=0.0)
    return pos, default, vel


@triton.jit
def _observe_kernel(
    quat_ptr, turning_ptr, joint_pos_ptr, joint_vel_ptr, default_ptr, command_ptr,
    observation_ptr, normalised_ptr, mean_ptr, std_ptr,
    quat_stride, quat_step, turning_stride, turning_step, pos_stride, pos_step, vel_stride, vel_step,
    num_joints, ang_vel_scale, joint_vel_scale, forward_scale, side_scale, yaw_scale,
    NORMALISE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    env = tl.program_id(0)
    column = tl.arange(0, BLOCK)
    w = tl.load(quat_ptr + env * quat_stride)
    x, y, z = _load3(quat_ptr + env * quat_stride + quat_step, quat_step)
    vx, vy, vz = _load3(turning_ptr + env * turning_stride, turning_step)
    turn_x, turn_y, turn_z = _into_body(w, x, y, z, vx, vy, vz)
    pos, default, vel = _joints(
        column, env, num_joints, joint_pos_ptr, pos_stride, pos_step, joint_vel_ptr, vel_stride, vel_step, default_ptr
    )
    row = _observation(
        column, w, x, y, z, turn_x, turn_y, turn_z, pos - default, vel, command_ptr,
        ang_vel_scale, joint_vel_scale, forward_scale, side_scale, yaw_scale,
    )  # fmt: skip
    width = 9 + 2 * num_joints
    tl.store(observation_ptr + env * width + column, row, mask=column < width)
    if NORMALISE:
        mean = tl.load(mean_ptr + column, mask=column < width, other=0.0)
        std = tl.load(std_ptr + column, mask=column < width, other=1.0)
        tl.store(normalised_ptr + env * width + column, tl.div_rn(row - mean, std + EPS), mask=column < width)


def observe(
    base_quat: torch.Tensor,
    base_ang_vel: torch.Tensor,
    joint_pos: torch.Tensor,
    joint_vel: torch.Tensor,
    default_pose: torch.Tensor,
    command: torch.Tensor,
) -> torch.Tensor:
    """Same as `reference.observe`; the states may be strided views."""
    return _observe((base_quat, base_ang_vel, joint_pos, joint_vel), default_pose, command, None)[0]


def observe_and_normalise(
    base_quat: torch.Tensor,
    base_ang_vel: torch.Tensor,
    joint_pos: torch.Tensor,
    joint_vel: torch.Tensor,
    default_pose: torch.Tensor,
    command: torch.Tensor,
    mean: torch.Tensor,
    std: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Same as `reference.observe_and_normalise`; the states may be strided views."""
    return _observe((base_quat, base_ang_vel, joint_pos, joint_vel), default_pose, command, (mean, std))


def _observe(
    states: tuple[torch.Tensor, ...],
    default_pose: torch.Tensor,
    command: torch.Tensor,
    statistics: tuple[torch.Tensor, torch.Tensor] | None,
) -> tuple[torch.Tensor, torch.Tensor]:
    num_envs, num_joints = states[2].shape
    observation = torch.empty(num_envs, 9 + 2 * num_joints, device=command.device)
    normalised = observation if statistics is None else torch.empty_like(observation)
    _observe_kernel[(num_envs,)](
        *states, default_pose, command, observation, normalised, *(statistics or (command, command)),
        *(stride for tensor in states for stride in tensor.stride()),
        num_joints, ANG_VEL_SCALE, JOINT_VEL_SCALE, *COMMAND_SCALE,
        NORMALISE=statistics is not None, BLOCK=triton.next_power_of_2(observation.shape[1]), **OPTIONS,
    )  # fmt: skip
    return observation, normalised


@triton.jit
def _judge_kernel(
    base_pos_ptr, quat_ptr, velocity_ptr, turning_ptr, joint_pos_ptr, joint_vel_ptr,
    action_ptr, solver_failed_ptr, last_action_ptr, step_num_ptr, default_ptr, command_ptr,
    observation_ptr, reward_ptr, terminated_ptr, truncated_ptr, failed_ptr,
    base_pos_stride, base_pos_step, quat_stride, quat_step, velocity_stride, velocity_step,
    turning_stride, turning_step, pos_stride, pos_step, vel_stride, vel_step,
    num_joints, max_steps, ang_vel_scale, joint_vel_scale, forward_scale, side_scale, yaw_scale,
    target_height, tracking_sigma, yaw_weight, lift_weight, height_weight, action_change_weight, pose_weight,
    dt_s, action_clip, tan_max_roll, sin_max_pitch, max_joint_speed, max_base_speed,
    BLOCK: tl.constexpr,
):  # fmt: skip
    env = tl.program_id(0)
    column = tl.arange(0, BLOCK)
    base_x, base_y, height = _load3(base_pos_ptr + env * base_pos_stride, base_pos_step)
    w = tl.load(quat_ptr + env * quat_stride)
    x, y, z = _load3(quat_ptr + env * quat_stride + quat_step, quat_step)
    vx, vy, vz = _load3(velocity_ptr + env * velocity_stride, velocity_step)
    ax, ay, az = _load3(turning_ptr + env * turning_stride, turning_step)
    pos, default, vel = _joints(
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
    terminated = failed | rolled | (tl.abs(2.0 * (w * y - z * x)) > sin_max_pitch)
    step_num = tl.load(step_num_ptr + env) + 1
    tl.store(step_num_ptr + env, step_num)
    tl.store(failed_ptr + env, failed)
    tl.store(terminated_ptr + env, terminated)
    tl.store(truncated_ptr + env, (step_num >= max_steps) & (terminated == 0))

    is_joint = column < num_joints
    action = tl.load(action_ptr + env * num_joints + column, mask=is_joint, other=0.0)
    action = tl.minimum(tl.maximum(action, -action_clip), action_clip)
    last_action = tl.load(last_action_ptr + env * num_joints + column, mask=is_joint, other=0.0)
    tl.store(last_action_ptr + env * num_joints + column, action, mask=is_joint)
    body_vx, body_vy, body_vz = _into_body(w, x, y, z, vx, vy, vz)
    turn_x, turn_y, turn_z = _into_body(w, x, y, z, ax, ay, az)
    forward, sideways, yaw_rate = _load3(command_ptr, 1)
    speed_error = (forward - body_vx) * (forward - body_vx) + (sideways - body_vy) * (sideways - body_vy)
    yaw_error = (yaw_rate - turn_z) * (yaw_rate - turn_z)
    per_second = tl.exp(-speed_error / tracking_sigma) + yaw_weight * tl.exp(-yaw_error / tracking_sigma)
    per_second -= lift_weight * body_vz * body_vz
    per_second -= height_weight * (height - target_height) * (height - target_height)
    per_second -= action_change_weight * tl.sum((last_action - action) * (last_action - action), axis=0)
    per_second -= pose_weight * tl.sum(tl.abs(pos - default), axis=0)
    tl.store(reward_ptr + env, tl.where(failed, 0.0, per_second * dt_s))

    row = _observation(
        column, w, x, y, z, turn_x, turn_y, turn_z, pos - default, vel, command_ptr,
        ang_vel_scale, joint_vel_scale, forward_scale, side_scale, yaw_scale,
    )  # fmt: skip
    width = 9 + 2 * num_joints
    tl.store(observation_ptr + env * width + column, row, mask=column < width)


class WalkingJudge:
    """What comes of a state, in one launch: the methods of `vintix_fast._core.WalkingJudge` for tensors on a GPU.

    Args:
        device: of every tensor.
        default_pose_rad: [J].
        command: forward and lateral speed in m/s, yaw rate in rad/s.
        max_steps: an episode is truncated after this many steps.
        max_tilt_rad: of roll and pitch, below a right angle.
        others: see `vintix_fast.task` and `vintix_fast.sim`, where each constant has its value.
    """

    def __init__(
        self,
        device: torch.device,
        *,
        default_pose_rad: tuple[float, ...],
        command: tuple[float, float, float],
        command_scale: tuple[float, float, float],
        ang_vel_scale: float,
        joint_vel_scale: float,
        target_height_m: float,
        tracking_sigma: float,
        yaw_weight: float,
        lift_weight: float,
        height_weight: float,
        action_change_weight: float,
        pose_weight: float,
        dt_s: float,
        action_clip: float,
        max_tilt_rad: float,
        max_joint_speed_rad_s: float,
        max_base_speed_m_s: float,
        max_steps: int,
    ) -> None:
        self._default = torch.tensor(default_pose_rad, dtype=torch.float32, device=device)
        self._command = torch.tensor(command, dtype=torch.float32, device=device)
        self._constants = (
            len(default_pose_rad), max_steps, ang_vel_scale, joint_vel_scale, *command_scale,
            target_height_m, tracking_sigma, yaw_weight, lift_weight, height_weight, action_change_weight, pose_weight,
            dt_s, action_clip, math.tan(max_tilt_rad), math.sin(max_tilt_rad), max_joint_speed_rad_s,
            max_base_speed_m_s,
        )  # fmt: skip

    def judge(
        self,
        base_pos_m: torch.Tensor,
        base_quat: torch.Tensor,
        base_lin_vel_m_s: torch.Tensor,
        base_ang_vel_rad_s: torch.Tensor,
        joint_pos_rad: torch.Tensor,
        joint_vel_rad_s: torch.Tensor,
        action: torch.Tensor,
        solver_failed: torch.Tensor,
        last_action: torch.Tensor,
        step_num: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """Reward, ends of episodes, and what the state as it is looks like.

        Args:
            base_pos_m, ..., joint_vel_rad_s: the state after the step's physics; may be strided views.
            action: [N, J], decided in this step; clipped here.
            solver_failed: bool [N].
            last_action: [N, J], decided one step before; becomes ``action``, clipped.
            step_num: int32 [N]; becomes one more.

        Returns:
            observation [N, 9 + 2 J], reward [N], and bool [N] each: terminated, truncated, failed.
        """
        states = (base_pos_m, base_quat, base_lin_vel_m_s, base_ang_vel_rad_s, joint_pos_rad, joint_vel_rad_s)
        for tensor in (action, solver_failed, last_action, step_num):
            assert tensor.is_contiguous(), tensor.stride()
        num_envs, num_joints = joint_pos_rad.shape
        observation = torch.empty(num_envs, 9 + 2 * num_joints, device=action.device)
        reward = torch.empty(num_envs, device=action.device)
        flags = [torch.empty(num_envs, device=action.device, dtype=torch.bool) for _ in range(3)]
        _judge_kernel[(num_envs,)](
            *states, action, solver_failed, last_action, step_num, self._default, self._command,
            observation, reward, *flags, *(stride for tensor in states for stride in tensor.stride()),
            *self._constants, BLOCK=triton.next_power_of_2(observation.shape[1]), **OPTIONS,
        )  # fmt: skip
        return observation, reward, *flags

    def observe(
        self,
        base_pos_m: torch.Tensor,
        base_quat: torch.Tensor,
        base_lin_vel_m_s: torch.Tensor,
        base_ang_vel_rad_s: torch.Tensor,
        joint_pos_rad: torch.Tensor,
        joint_vel_rad_s: torch.Tensor,
        mask: torch.Tensor,
        observation: torch.Tensor,
    ) -> None:
        """Write the rows of ``observation`` [N, 9 + 2 J] whose ``mask``, bool [N], is set."""
        seen = observe(base_quat, base_ang_vel_rad_s, joint_pos_rad, joint_vel_rad_s, self._default, self._command)
        torch.where(mask[:, None], seen, observation, out=observation)
