"""Kernels, each with a plain torch reference; these functions run whichever belongs to the tensors' device."""

from __future__ import annotations

import torch

from vintix_fast.kernels import reference


def observe(
    base_quat: torch.Tensor,
    base_ang_vel: torch.Tensor,
    joint_pos: torch.Tensor,
    joint_vel: torch.Tensor,
    default_pose: torch.Tensor,
    command: torch.Tensor,
) -> torch.Tensor:
    """Simulator state -> observation [N, 33]; see `reference.observe` for shapes and units."""
    if base_quat.device.type == "cuda":
        from vintix_fast.kernels import fused

        return fused.observe(base_quat, base_ang_vel, joint_pos, joint_vel, default_pose, command)
    return reference.observe(base_quat, base_ang_vel, joint_pos, joint_vel, default_pose, command)


def attend(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    ring: reference.Ring,
    slot: torch.Tensor,
    length: torch.Tensor,
    window: torch.Tensor,
    slopes: torch.Tensor,
) -> torch.Tensor:
    """Attention of one new token [N, H, D] over a ring; see `reference.attend` for shapes."""
    if q.device.type == "cuda":
        from vintix_fast.kernels import decode_attention

        return decode_attention.attend(q, k, v, ring, slot, length, window, slopes)
    return reference.attend(q, k, v, ring, slot, length, window, slopes)
