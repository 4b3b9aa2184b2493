"""Triton: simulator state -> observation in one launch, for `reference.observe`.

On a GPU the plain version is about fifteen small launches a step; this is one.  One program handles one environment.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from vintix_fast.kernels.reference import ANG_VEL_SCALE, COMMAND_SCALE, JOINT_VEL_SCALE


@triton.jit
def _observe_kernel(
    quat_ptr, ang_vel_ptr, joint_pos_ptr, joint_vel_ptr, default_ptr, command_ptr, out_ptr,
    quat_stride, ang_vel_stride, joint_pos_stride, joint_vel_stride,
    num_joints, ang_vel_scale, joint_vel_scale, forward_scale, yaw_scale,
    BLOCK: tl.constexpr,
):  # fmt: skip
    env = tl.program_id(0)
    out = out_ptr + env * (9 + 2 * num_joints)
    w = tl.load(quat_ptr + env * quat_stride)
    x = tl.load(quat_ptr + env * quat_stride + 1)
    y = tl.load(quat_ptr + env * quat_stride + 2)
    z = tl.load(quat_ptr + env * quat_stride + 3)
    vx = tl.load(ang_vel_ptr + env * ang_vel_stride)
    vy = tl.load(ang_vel_ptr + env * ang_vel_stride + 1)
    vz = tl.load(ang_vel_ptr + env * ang_vel_stride + 2)
    # turned = u x v; body = v + 2 (u x turned - w turned)
    tx, ty, tz = y * vz - z * vy, z * vx - x * vz, x * vy - y * vx
    tl.store(out, (vx + 2.0 * (y * tz - z * ty - w * tx)) * ang_vel_scale)
    tl.store(out + 1, (vy + 2.0 * (z * tx - x * tz - w * ty)) * ang_vel_scale)
    tl.store(out + 2, (vz + 2.0 * (x * ty - y * tx - w * tz)) * ang_vel_scale)
    # the same for v = (0, 0, -1): u x v = (-y, x, 0)
    tl.store(out + 3, 2.0 * (w * y - z * x))
    tl.store(out + 4, -2.0 * (z * y + w * x))
    tl.store(out + 5, -1.0 + 2.0 * (x * x + y * y))
    tl.store(out + 6, tl.load(command_ptr) * forward_scale)
    tl.store(out + 7, tl.load(command_ptr + 1) * forward_scale)
    tl.store(out + 8, tl.load(command_ptr + 2) * yaw_scale)
    joint = tl.arange(0, BLOCK)
    inside = joint < num_joints
    pos = tl.load(joint_pos_ptr + env * joint_pos_stride + joint, mask=inside)
    default = tl.load(default_ptr + joint, mask=inside)
    vel = tl.load(joint_vel_ptr + env * joint_vel_stride + joint, mask=inside)
    tl.store(out + 9 + joint, pos - default, mask=inside)
    tl.store(out + 9 + num_joints + joint, vel * joint_vel_scale, mask=inside)


def observe(
    base_quat: torch.Tensor,
    base_ang_vel: torch.Tensor,
    joint_pos: torch.Tensor,
    joint_vel: torch.Tensor,
    default_pose: torch.Tensor,
    command: torch.Tensor,
) -> torch.Tensor:
    """Same as `reference.observe`; rows may be strided views, columns must be contiguous."""
    for tensor in (base_quat, base_ang_vel, joint_pos, joint_vel):
        assert tensor.stride(1) == 1 and tensor.dtype == torch.float32, (tensor.stride(), tensor.dtype)
    num_envs, num_joints = joint_pos.shape
    out = torch.empty(num_envs, 9 + 2 * num_joints, device=joint_pos.device)
    _observe_kernel[(num_envs,)](
        base_quat, base_ang_vel, joint_pos, joint_vel, default_pose, command, out,
        base_quat.stride(0), base_ang_vel.stride(0), joint_pos.stride(0), joint_vel.stride(0),
        num_joints, ANG_VEL_SCALE, JOINT_VEL_SCALE, COMMAND_SCALE[0], COMMAND_SCALE[2],
        BLOCK=triton.next_power_of_2(num_joints),
        enable_fp_fusion=True,  # triton 3.9 warns where its coming change of default is not answered
    )  # fmt: skip
    return out
