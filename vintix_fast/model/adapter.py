"""A new robot's own parts: copied from a reference robot, seen through a map of its joints, trained alone.

Owns which tensors are a group's, how they are converted, and the proof that nothing else changed.  Knows nothing
about robots beyond that map, nor about optimisers and data.
"""

from __future__ import annotations

import copy
import dataclasses
import hashlib
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from vintix_fast.kernels.reference import STD_EPS
from vintix_fast.model.vintix import Vintix
from vintix_fast.service.errors import UsageError
from vintix_fast.world.joint_map import JointMap
from vintix_fast.world.layout import ObservationLayout


def add_group(
    model: Vintix, new_task_name: str, new_group: str, reference_task_name: str, joints: JointMap | None = None
) -> None:
    """Give ``model`` a new task with a group of its own, copied from the reference task's and seen through a joint map.

    With M = ``joints.to_target``, and A its extension to observations, new(A observation, M prev_action) =
    M reference(observation, prev_action) wherever the map has an inverse.  The map is folded into the first layers
    of the encoders, the last of the decoder, and the statistics, which are those that the reference's observations
    would have through it if their numbers were independent.

    Args:
        model: changed in place.
        new_task_name, new_group: must not exist yet.
        reference_task_name: whose encoders, decoder and statistics are copied.
        joints: from the reference's R joints to the new robot's J; ``None``: a plain copy.

    Raises:
        UsageError: the reference is unknown, a name is taken, or the map is not from so many joints.  The model is
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
    if joints is None:
        joints = JointMap.of_signs(np.ones(reference.action_dim))
    if joints.to_target.shape[1] != reference.action_dim:
        raise UsageError(
            f"the joint map is from {joints.to_target.shape[1]} joints, but {reference_task_name!r} has "
            f"{reference.action_dim}"
        )
    seen = JointMap(np.eye(reference.observation_dim), np.eye(reference.observation_dim))
    if not joints.is_identity:
        layout = ObservationLayout(reference.action_dim)
        if reference.observation_dim != layout.size:
            raise UsageError(
                f"joints can only be mapped in observations of {layout.size} entries, which {layout.num_joints} joints "
                f"have, but {reference_task_name!r} has {reference.observation_dim}"
            )
        seen = JointMap(layout.extended(joints.to_target), layout.extended(joints.to_reference))

    # Statistics go through the map, and the parts are copied.
    obs_mean, obs_std = _mapped(seen, reference.obs_mean, reference.obs_std)
    acs_mean, acs_std = _mapped(joints, reference.acs_mean, reference.acs_std)
    info = dataclasses.replace(
        reference,
        group_name=new_group,
        observation_dim=len(seen.to_target),
        action_dim=len(joints.to_target),
        obs_mean=obs_mean,
        obs_std=obs_std,
        acs_mean=acs_mean,
        acs_std=acs_std,
    )
    old = reference.group_name
    with torch.random.fork_rng(devices=[]):  # the random parts made here are replaced at once
        model.add_task(new_task_name, info)
    for parts in model.parts:
        parts[new_group] = copy.deepcopy(parts[old])

    # What the copied encoders read is brought back to the reference's numbers, what its decoder says to the new ones.
    units = {"obs": (reference.obs_mean, reference.obs_std, info.obs_mean, info.obs_std)}
    units["acs"] = (reference.acs_mean, reference.acs_std, info.acs_mean, info.acs_std)
    for key, norm, layers, there in (
        ("obs", model.config.norm_obs, model.encoder.obs_encoders[new_group], seen),
        ("acs", model.config.norm_acs, model.encoder.acs_encoders[new_group], joints),
    ):
        matrix, offset = there.to_reference, np.zeros(len(there.to_reference))
        if norm:
            mean, std, new_mean, new_std = (np.array(values) for values in units[key])
            matrix = matrix * (new_std + STD_EPS) / (std + STD_EPS)[:, None]
            offset = (there.to_reference @ new_mean - mean) / (std + STD_EPS)
        first = layers.linear(0)
        weight = first.weight.detach().double()
        first.weight = nn.Parameter((weight @ _like(matrix, weight)).to(first.weight.dtype))
        first.in_features = matrix.shape[1]
        if offset.any():
            first.bias.data += (weight @ _like(offset, weight)).to(first.bias.dtype)
    matrix = joints.to_target
    if model.config.norm_acs:
        matrix = matrix * np.array(reference.acs_std) / np.array(info.acs_std)[:, None]
    last = model.head.acs_decoders[new_group].linear(-1)
    for name in ("weight", "bias"):
        value = getattr(last, name).detach()
        setattr(last, name, nn.Parameter((_like(matrix, value.double()) @ value.double()).to(value.dtype)))
    last.out_features = len(matrix)


def _mapped(
    through: JointMap, mean: Sequence[float], std: Sequence[float]
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of independent numbers, seen through a map."""
    new_std = np.sqrt(through.to_target**2 @ np.square(std))
    return tuple((through.to_target @ mean).tolist()), tuple(new_std.tolist())


def _like(array: np.ndarray, tensor: Tensor) -> Tensor:
    return torch.as_tensor(array, dtype=tensor.dtype, device=tensor.device)


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


def fingerprint(model: Vintix, exclude_group: str | None = None) -> str:
    """SHA-256 (hex) of all tensors, names and bytes.

    Args:
        exclude_group: leave this group out, to show that training left the others as they were.
    """
    excluded = {name for name, _ in model.group_parameters(exclude_group)} if exclude_group is not None else set()
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        if name not in excluded:
            digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
            digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
