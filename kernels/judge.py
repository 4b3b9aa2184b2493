"""Triton: simulator state -> observation, reward and end of episode, in one launch.

In plain torch they are about fifty small launches a step.  The plain version is the task's own, in `vintix_fast.task`,
whose formulas this repeats; every constant comes from there.  One program handles one environment.
"""

from __future__ import annotations

import math

import torch
import triton
import triton.language as tl

from vintix_fast.kernels.fused import OPTIONS, into_body, load3, load_joints, observation_row, observe

LARGEST = tl.constexpr(torch.finfo(torch.float32).max)


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
    base_x, base_y, height = load3(base_pos_ptr + env * base_pos_stride, base_pos_step)
    w = tl.load(quat_ptr + env * quat_stride)
    x, y, z = load3(quat_ptr + env * quat_stride + quat_step, quat_step)
    vx, vy, vz = load3(velocity_ptr + env * velocity_stride, velocity_step)
    ax, ay, az = load3(turning_ptr + env * turning_stride, turning_step)
    pos, default, vel = load_joints(
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
    action = tl.where(action > action_clip, action_clip, action)  # comparisons, because NaN is to stay
    action = tl.where(action < -action_clip, -action_clip, action)
    last_action = tl.load(last_action_ptr + env * num_joints + column, mask=is_joint, other=0.0)
    tl.store(last_action_ptr + env * num_joints + column, action, mask=is_joint)
    body_vx, body_vy, body_vz = into_body(w, x, y, z, vx, vy, vz)
    turn_x, turn_y, turn_z = into_body(w, x, y, z, ax, ay, az)
    forward, sideways, yaw_rate = load3(command_ptr, 1)
    speed_error = (forward - body_vx) * (forward - body_vx) + (sideways - body_vy) * (sideways - body_vy)
    yaw_error = (yaw_rate - turn_z) * (yaw_rate - turn_z)
    per_second = tl.exp(-speed_error / tracking_sigma) + yaw_weight * tl.exp(-yaw_error / tracking_sigma)
    per_second -= lift_weight * body_vz * body_vz
    per_second -= height_weight * (height - target_height) * (height - target_height)
    per_second -= action_change_weight * tl.sum((last_action - action) * (last_action - action), axis=0)
    per_second -= pose_weight * tl.sum(tl.abs(pos - default), axis=0)
    tl.store(reward_ptr + env, tl.where(failed, 0.0, per_second * dt_s))

    row = observation_row(
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
            observation [N, 9 + 2 J], reward [N], and bool [N] each: terminated, truncated, failed. All are new tensors,
            which no later call writes to.
        """
        states = (base_pos_m, base_quat, base_lin_vel_m_s, base_ang_vel_rad_s, joint_pos_rad, joint_vel_rad_s)
        action = action.contiguous()
        for tensor in (solver_failed, last_action, step_num):
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
