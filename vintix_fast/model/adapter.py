"""A new robot's own parts: copied from a reference robot, turned to its joints' directions, trained alone.

Owns which tensors are a group's, how they are converted, and the proof that nothing else changed.  Knows nothing
about robots beyond one sign for each joint, nor about optimisers and data.
"""

from __future__ import annotations

import copy
import dataclasses
import hashlib

import numpy as np
import torch
from torch import Tensor, nn

from vintix_fast.model.vintix import Vintix
from vintix_fast.service.errors import UsageError
from vintix_fast.world.layout import ObservationLayout


def add_group(
    model: Vintix, new_task_name: str, new_group: str, reference_task_name: str, sign: np.ndarray | None = None
) -> None:
    """Give ``model`` a new task with a group of its own, copied from the reference task's.

    With s = ``sign`` and S its extension to observations, the new task's actions are those of the reference, seen in
    the new robot's joint directions: new(S * observation, s * prev_action) = s * reference(observation, prev_action).
    The statistics are the reference's too, because the copied encoder expects them.

    Args:
        model: changed in place.
        new_task_name, new_group: must not exist yet.
        reference_task_name: whose encoders, decoder and statistics are copied.
        sign: [act] of +1 and -1; -1 where the joint turns the other way than the reference's. ``None``: all +1.

    Raises:
        UsageError: the reference is unknown, a name is taken, or ``sign`` is not [act] of +1 and -1. The model is
            then unchanged.
    """
    # Whatever can be wrong is found first, so that a refused model is unchanged.
    if reference_task_name not in model.tasks:
        raise UsageError(f"unknown reference task {reference_task_name!r}; the model has: {', '.join(model.tasks)}")
    reference = model.tasks[reference_task_name]
    if new_task_name in model.tasks:
        raise UsageError(f"the model already has a task {new_task_name!r}")
    if new_group in model.groups:
        raise UsageError(f"the model already has a group {new_group!r}; it has: {', '.join(model.groups)}")
    joint_sign = np.ones(reference.action_dim) if sign is None else np.asarray(sign, dtype=np.float64)
    if joint_sign.shape != (reference.action_dim,) or not np.isin(joint_sign, (-1.0, 1.0)).all():
        raise UsageError(f"sign must be {reference.action_dim} values of +1 or -1, got {sign!r}")
    obs_sign = np.ones(reference.observation_dim)
    if (joint_sign < 0).any():
        layout = ObservationLayout(reference.action_dim)
        if reference.observation_dim != layout.size:
            raise UsageError(
                f"joints can only be turned in observations of {layout.size} entries, which {layout.num_joints} joints "
                f"have, but {reference_task_name!r} has {reference.observation_dim}"
            )
        obs_sign = layout.signs(joint_sign)

    # The statistics are turned, and the parts copied.
    info = dataclasses.replace(
        reference,
        group_name=new_group,
        obs_mean=tuple((obs_sign * reference.obs_mean).tolist()),
        acs_mean=tuple((joint_sign * reference.acs_mean).tolist()),
    )
    old = reference.group_name
    with torch.random.fork_rng(devices=[]):  # the random parts made here are replaced at once
        model.add_task(new_task_name, info)
    for parts in model.parts:
        parts[new_group] = copy.deepcopy(parts[old])
    # (S o - S m) / std = S (o - m) / std: undoing S in the first layer's columns is exact.
    _scale(model.encoder.obs_encoders[new_group].linear(0).weight, obs_sign[None, :])
    _scale(model.encoder.acs_encoders[new_group].linear(0).weight, joint_sign[None, :])
    # The decoder gives actions: the same in its last layer's rows.
    last = model.head.acs_decoders[new_group].linear(-1)
    _scale(last.weight, joint_sign[:, None])
    _scale(last.bias, joint_sign)


@torch.no_grad()
def move_posture(model: Vintix, task_name: str, action_offset: np.ndarray, position_offset: np.ndarray) -> None:
    """Let a task's own group act around another pose: all that it sees and does is moved by a constant.

    With b = ``action_offset`` and p = ``position_offset``, new(observation + p, prev_action + b) =
    old(observation, prev_action) + b, exactly, p being added to the joint positions.

    Args:
        model: changed in place; UsageError where another task uses the group too.
        action_offset: [act], in the action's units.
        position_offset: [act], in those of the joint positions in the observation.
    """
    info = model.tasks[task_name]
    if sharing := model.sharing(task_name):
        raise UsageError(f"the group {info.group_name} is shared with {', '.join(sharing)}, which would move too")
    group, positions = info.group_name, ObservationLayout(info.action_dim).joint_pos
    seen = np.zeros(info.observation_dim)
    seen[positions] = position_offset
    if model.config.norm_obs:
        info = dataclasses.replace(info, obs_mean=tuple((np.array(info.obs_mean) + seen).tolist()))
    else:
        _see_without(model.encoder.obs_encoders[group].linear(0), seen)
    if model.config.norm_acs:  # normalises what goes in and what comes out
        info = dataclasses.replace(info, acs_mean=tuple((np.array(info.acs_mean) + action_offset).tolist()))
    else:
        _see_without(model.encoder.acs_encoders[group].linear(0), action_offset)
        last = model.head.acs_decoders[group].linear(-1)
        last.bias.add_(torch.as_tensor(action_offset, dtype=last.bias.dtype, device=last.bias.device))
    model.set_task_info(task_name, info)


def _see_without(layer: nn.Linear, offset: np.ndarray) -> None:
    """Make a layer give for x + ``offset`` what it gave for x."""
    layer.bias.sub_(layer.weight @ torch.as_tensor(offset, dtype=layer.weight.dtype, device=layer.weight.device))


def freeze_all_but_group(model: Vintix, group: str) -> list[nn.Parameter]:
    """Let gradients reach one group's encoders and decoder only, not the shared padding vectors; returns those."""
    trainable = [parameter for _, parameter in model.group_parameters(group)]
    for parameter in model.parameters():
        parameter.requires_grad_(False)
        parameter.grad = None
    for parameter in trainable:
        parameter.requires_grad_(True)
    return trainable


def fingerprint(model: Vintix, exclude_group: str) -> str:
    """SHA-256 (hex) of all tensors outside a group, names and bytes, to show that training left them as they were."""
    excluded = {name for name, _ in model.group_parameters(exclude_group)}
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        if name not in excluded:
            digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
            digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


@torch.no_grad()
def _scale(tensor: Tensor, factor: np.ndarray) -> None:
    tensor.mul_(torch.as_tensor(factor, dtype=tensor.dtype, device=tensor.device))
