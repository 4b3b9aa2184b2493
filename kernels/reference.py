"""Plain torch: the truth that every kernel of this package is tested against.

Knows tensors only; nothing about robots' names, simulators or models.
"""

from __future__ import annotations

from typing import NamedTuple

import torch

ANG_VEL_SCALE = 0.25
JOINT_VEL_SCALE = 0.05
COMMAND_SCALE = (2.0, 2.0, 0.25)
STD_EPS = 1e-6  # as the model adds to a task's standard deviations
INT8_MAX = 127
SMALLEST_SCALE = 1e-30  # of a vector of zeros, which would otherwise divide by 0


def rotate_into_body(quat: torch.Tensor, vector: torch.Tensor) -> torch.Tensor:
    """Express world-frame vectors in body frames.

    Args:
        quat: [N, 4] unit quaternions (w, x, y, z) of the bodies.
        vector: [N, 3] in the world frame.

    Returns:
        [N, 3], v - 2 w (u x v) + 2 u x (u x v) with u = (x, y, z): the inverse of the quaternion's rotation.
    """
    w, u = quat[:, :1], quat[:, 1:]
    turned = torch.linalg.cross(u, vector)
    return vector + 2.0 * (torch.linalg.cross(u, turned) - w * turned)


def observe(
    base_quat: torch.Tensor,
    base_ang_vel: torch.Tensor,
    joint_pos: torch.Tensor,
    joint_vel: torch.Tensor,
    default_pose: torch.Tensor,
    command: torch.Tensor,
) -> torch.Tensor:
    """The 33 numbers that the policy sees.

    Args:
        base_quat: [N, 4] (w, x, y, z).
        base_ang_vel: [N, 3] rad/s, world frame.
        joint_pos: [N, J] rad; joint_vel: [N, J] rad/s.
        default_pose: [J] rad.
        command: [3] forward and lateral speed in m/s, yaw rate in rad/s.

    Returns:
        [N, 9 + 2 J]: body angular velocity x 0.25, projected gravity, command x (2, 2, 0.25), joint position minus
        the default pose, joint velocity x 0.05.
    """
    n = len(base_quat)
    gravity = torch.tensor([0.0, 0.0, -1.0], device=base_quat.device).expand(n, 3)
    scale = torch.tensor(COMMAND_SCALE, device=command.device)
    return torch.cat(
        [
            rotate_into_body(base_quat, base_ang_vel) * ANG_VEL_SCALE,
            rotate_into_body(base_quat, gravity),
            (command * scale).expand(n, 3),
            joint_pos - default_pose,
            joint_vel * JOINT_VEL_SCALE,
        ],
        dim=1,
    )


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
    """`observe`, and the same standardised: (observation - mean) / (std + 1e-6) with mean and std [9 + 2 J]."""
    observation = observe(base_quat, base_ang_vel, joint_pos, joint_vel, default_pose, command)
    return observation, (observation - mean) / (std + STD_EPS)


class Ring(NamedTuple):
    """One layer's latest C keys and values: ring buffers that `attend` writes and reads.

    All environments write the same slot in the same step, so a slot's age is the same for all.
    """

    keys: torch.Tensor  # [N, H, C, D] float32 or int8
    values: torch.Tensor  # the same
    key_scales: torch.Tensor | None = None  # [N, H, C] float32 for int8: a vector is its integers times its scale
    value_scales: torch.Tensor | None = None


def quantise(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Float vectors [..., D] -> int8 [..., D] and scales [...]: absmax / 127, rounded to nearest, halves to even."""
    largest = x.float().abs().amax(dim=-1)
    # By a tensor: on CUDA, torch divides by a number by multiplying with its reciprocal, which rounds otherwise.
    scale = (largest / torch.full_like(largest, INT8_MAX)).clamp(min=SMALLEST_SCALE)
    return (x.float() / scale[..., None]).round().to(torch.int8), scale


def attend(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    ring: Ring,
    slot: torch.Tensor,
    length: torch.Tensor,
    span: torch.Tensor,
    slopes: torch.Tensor,
) -> torch.Tensor:
    """Store one new key and value for each environment and head, and attend to the history including them.

    softmax(q . k_a / sqrt(D) - slope a) over ages a = 0 (this step), 1, ... below both the history's length and the
    head's span, but always over a = 0 (ALiBi, arXiv 2108.12409).  All arithmetic is in float32; the new token too
    is read back from the ring as it was rounded.

    Args:
        q, k, v: [N, H, D].
        ring: where to store and what to read.
        slot: [1] integer, the slot of this step; the step before wrote ``slot - 1`` modulo C.
        length: [N] integers, tokens in each history, this one included.
        span: [H] integers, how many of the latest tokens each head reads.
        slopes: [H], ALiBi's.

    Returns:
        [N, H, D], in q's dtype.
    """
    keys = _store(ring.keys, ring.key_scales, slot, k)
    values = _store(ring.values, ring.value_scales, slot, v)
    context_len = keys.shape[2]
    age = (slot - torch.arange(context_len, device=q.device)) % context_len  # [C]
    seen = torch.minimum(length[:, None], span).clamp(min=1)  # [N, H]
    scores = torch.einsum("nhd,nhcd->nhc", q.float() * q.shape[-1] ** -0.5, keys) - slopes[:, None] * age
    weights = scores.masked_fill(age >= seen[..., None], -torch.inf).softmax(dim=-1)
    return torch.einsum("nhc,nhcd->nhd", weights, values).to(q.dtype)


def _store(ring: torch.Tensor, scales: torch.Tensor | None, slot: torch.Tensor, new: torch.Tensor) -> torch.Tensor:
    """Write new [N, H, D] into a slot of ring [N, H, C, D]; returns the ring's vectors in float32."""
    if scales is None:
        return ring.index_copy_(2, slot, new[:, :, None])
    new, scale = quantise(new)
    ring.index_copy_(2, slot, new[:, :, None])
    scales.index_copy_(2, slot, scale[:, :, None])
    return ring * scales[..., None]
