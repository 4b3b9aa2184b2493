"""Plain torch: the truth that every kernel of this package is tested against.

Knows tensors only; nothing about robots' names, simulators or models.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch

from vintix_fast.world.layout import ObservationLayout
from vintix_fast.world.task_config import TaskConfig

STD_EPS = 1e-6  # added to a task's standard deviations
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


class TaskConstants(NamedTuple):
    """A task for a robot of J joints, as its three implementations are told it."""

    config: TaskConfig
    layout: ObservationLayout
    default_pose_rad: tuple[float, ...]  # [J]
    target_height_m: float
    max_steps: int  # an episode is truncated after so many
    dt_s: float
    max_joint_speed_rad_s: float  # beyond these two the simulation has failed
    max_base_speed_m_s: float


State = Sequence[torch.Tensor]
"""base_pos_m [N, 3], base_quat [N, 4] (w, x, y, z), base_lin_vel_m_s and base_ang_vel_rad_s [N, 3] (world frame),
joint_pos_rad and joint_vel_rad_s [N, J]; any strides."""


def observe(task: TaskConstants, state: State, command: torch.Tensor | None = None) -> torch.Tensor:
    """What the policy sees.

    Args:
        command: [N, 3], where environments have commands of their own.

    Returns:
        [N, 9 + 2 J]: body angular velocity, projected gravity, command, joint position minus the default pose, joint
        velocity; see `vintix_fast.world.layout` for the scales.
    """
    _, quat, _, ang_vel, joint_pos, joint_vel = state
    num_envs, device = len(quat), quat.device
    gravity = torch.tensor([0.0, 0.0, -1.0], device=device).expand(num_envs, 3)
    command = torch.tensor(task.config.command, device=device) if command is None else command
    command = command * torch.tensor(task.layout.command_scale, device=device)
    return torch.cat(
        [
            rotate_into_body(quat, ang_vel) * task.layout.ang_vel_scale,
            rotate_into_body(quat, gravity),
            command.expand(num_envs, 3),
            joint_pos - torch.tensor(task.default_pose_rad, device=device),
            joint_vel * task.layout.joint_vel_scale,
        ],
        dim=1,
    )


def reward_terms(
    task: TaskConstants,
    state: State,
    action: torch.Tensor,
    last_action: torch.Tensor,
    command: torch.Tensor | None = None,
) -> list[torch.Tensor]:
    """The reward's terms, each [N], before their weights, in the order of `RewardWeights`."""
    pos, quat, lin_vel, ang_vel, joint_pos, _ = state
    command = torch.tensor(task.config.command, device=quat.device) if command is None else command
    velocity = rotate_into_body(quat, lin_vel)
    yaw_rate = rotate_into_body(quat, ang_vel)[:, 2]
    speed_error = (command[..., :2] - velocity[:, :2]).square().sum(dim=1)
    yaw_error = (command[..., 2] - yaw_rate).square()
    return [
        torch.exp(-speed_error / task.config.tracking_sigma),
        torch.exp(-yaw_error / task.config.tracking_sigma),
        velocity[:, 2].square(),
        (pos[:, 2] - task.target_height_m).square(),
        (last_action - action).square().sum(dim=1),
        (joint_pos - torch.tensor(task.default_pose_rad, device=quat.device)).abs().sum(dim=1),
    ]


def task_step(
    task: TaskConstants,
    state: State,
    action: torch.Tensor,
    solver_failed: torch.Tensor,
    last_action: torch.Tensor,
    step_num: torch.Tensor,
    command: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Reward, ends of episodes, and what the state as it is looks like.

    Args:
        state: after the physics of the step.
        action: [N, J], decided in this step; clipped here.
        solver_failed: bool [N].
        last_action: [N, J], decided one step before; becomes ``action``, clipped.
        step_num: int32 [N]; becomes one more.
        command: [N, 3], where environments have commands of their own.

    Returns:
        observation [N, 9 + 2 J], reward [N], and bool [N] each: terminated, truncated, failed.
    """
    config = task.config
    action = action.clamp(-config.action_clip, config.action_clip)
    step_num += 1
    # A robot whose state is nonsense ends its episode without a reward.
    failed = solver_failed | exploded(task, state)
    terms = reward_terms(task, state, action, last_action, command)
    per_second = sum(weight * term for weight, term in zip(config.weights, terms, strict=True))
    reward = torch.where(failed, 0.0, per_second * task.dt_s)
    # Falling comes before running out of time.
    roll, pitch = tilt(state[1])
    terminated = failed | (roll.abs() > config.max_tilt_rad) | (pitch.abs() > config.max_tilt_rad)
    if config.min_height_m is not None:
        terminated |= state[0][:, 2] < config.min_height_m
    truncated = ~terminated & (step_num >= task.max_steps)
    last_action.copy_(action)
    return observe(task, state, command), reward, terminated, truncated, failed


def task_observe(
    task: TaskConstants,
    state: State,
    mask: torch.Tensor,
    observation: torch.Tensor,
    command: torch.Tensor | None = None,
) -> None:
    """Write the rows of ``observation`` [N, 9 + 2 J] whose ``mask``, bool [N], is set."""
    torch.where(mask[:, None], observe(task, state, command), observation, out=observation)


def exploded(task: TaskConstants, state: State) -> torch.Tensor:
    """Environments whose state is not finite or faster than any real robot: bool [N]."""
    _, _, lin_vel, _, _, joint_vel = state
    return (
        ~torch.cat(list(state), dim=1).isfinite().all(dim=1)
        | (joint_vel.abs() > task.max_joint_speed_rad_s).any(dim=1)
        | (lin_vel.abs() > task.max_base_speed_m_s).any(dim=1)
    )


def tilt(quat: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Roll and pitch in rad, each [N], of quaternions [N, 4] (w, x, y, z); rotation order z-y-x."""
    w, x, y, z = quat.unbind(1)
    roll = torch.atan2(2.0 * (w * x + y * z), 1.0 - 2.0 * (x * x + y * y))
    pitch = torch.asin((2.0 * (w * y - z * x)).clamp(-1.0, 1.0))
    return roll, pitch


def standardise(observation: torch.Tensor, mean: torch.Tensor, std: torch.Tensor) -> torch.Tensor:
    """[..., O] in its own units -> as a model reads it; mean and std [O]."""
    return (observation - mean) / (std + STD_EPS)


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
