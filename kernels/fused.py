"""Triton: simulator state -> observation, and the same normalised, in one launch, for `reference.observe`.

On a GPU the plain version is about fifteen small launches a step.  One program handles one environment.

`observe_and_normalise` is for callers who feed a model launch by launch.  The collection loop does not use it: the
policy's CUDA graph normalises inside itself, where that costs no launch, and the task need not know any statistics.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from vintix_fast.kernels.reference import ANG_VEL_SCALE, COMMAND_SCALE, JOINT_VEL_SCALE, STD_EPS

EPS = tl.constexpr(STD_EPS)
OPTIONS = {"enable_fp_fusion": True, "num_warps": 1}  # triton 3.9 warns where the first one's default is relied upon


@triton.jit
def load3(ptr, stride):
    return tl.load(ptr), tl.load(ptr + stride), tl.load(ptr + 2 * stride)


@triton.jit
def into_body(w, x, y, z, vx, vy, vz):
    """`reference.rotate_into_body`, of one vector."""
    tx, ty, tz = y * vz - z * vy, z * vx - x * vz, x * vy - y * vx
    body_x = vx + 2.0 * (y * tz - z * ty - w * tx)
    body_y = vy + 2.0 * (z * tx - x * tz - w * ty)
    return body_x, body_y, vz + 2.0 * (x * ty - y * tx - w * tz)


@triton.jit
def observation_row(
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
def load_joints(column, env, num_joints, pos_ptr, pos_stride, pos_step, vel_ptr, vel_stride, vel_step, default_ptr):
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
    x, y, z = load3(quat_ptr + env * quat_stride + quat_step, quat_step)
    vx, vy, vz = load3(turning_ptr + env * turning_stride, turning_step)
    turn_x, turn_y, turn_z = into_body(w, x, y, z, vx, vy, vz)
    pos, default, vel = load_joints(
        column, env, num_joints, joint_pos_ptr, pos_stride, pos_step, joint_vel_ptr, vel_stride, vel_step, default_ptr
    )
    row = observation_row(
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
