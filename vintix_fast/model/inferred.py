"""What other tools leave out of a checkpoint or write differently, read off its tensors.

The public code's decoder-only fine-tuning adds tasks with statistics alone, its scripts leave out a new task's group,
and training wrappers put a prefix before every tensor's name.  Nothing is guessed: what the tensors do not decide stays
as it is and is refused later.  Knows nothing about files.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from vintix_fast.model.config import DEFAULT_GROUP
from vintix_fast.service.errors import InputFileError

PREFIXES = ("module.", "_orig_mod.")
"""Of torch's DataParallel and of torch.compile."""
_OBSERVATION = "encoder.obs_encoders.{}.layers.0.weight"
_ACTION = "encoder.acs_encoders.{}.layers.0.weight"


def without_prefixes(state: dict[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """The tensors under their plain names, and what was done about it, in words."""
    found: dict[str, Tensor] = {}
    taken_off: dict[str, None] = {}
    for name, value in state.items():
        plain = name
        while prefix := next((p for p in PREFIXES if plain.startswith(p)), ""):
            plain = plain.removeprefix(prefix)
            taken_off[prefix] = None
        if plain in found:
            raise InputFileError(
                f"{plain} is there twice, with and without a prefix; save the plain model's state_dict"
            )
        found[plain] = value
    words = [f"names without {' and '.join(map(repr, taken_off))}"] if taken_off else []
    return found, words


def complete_tasks(tasks: dict[str, Any], state: dict[str, Tensor]) -> tuple[dict[str, Any], list[str]]:
    """Entries of ``metadata.json`` with the groups and sizes that they lack, and what was added, in words.

    A task without a group has `DEFAULT_GROUP`'s, as the public code says, if its tensors are there; otherwise the one
    group that no other task claims, or of several the one that is called like the task's robot.
    """
    groups = [name.split(".")[2] for name in state if name.startswith("encoder.obs_encoders.") and name.count(".") > 2]
    groups = list(dict.fromkeys(groups))
    named = (entry.get("group_name") for entry in tasks.values() if isinstance(entry, dict))
    claimed = {group for group in named if isinstance(group, str) and group}
    completed, words = {}, []
    for name, entry in tasks.items():
        if not isinstance(entry, dict):
            completed[name] = entry
            continue
        entry, added = dict(entry), []
        if entry.get("group_name") in (None, ""):
            entry["group_name"] = group = _group_for(name, groups, claimed)
            claimed |= {group} - {DEFAULT_GROUP}
            if group != DEFAULT_GROUP or DEFAULT_GROUP in groups:
                added.append(f"group {group}")
        added += _add_sizes(entry, state)
        completed[name] = entry
        if added:
            words.append(f"{name}: {', '.join(added)}")
    return completed, words


def _group_for(task: str, groups: list[str], claimed: set[str]) -> str:
    free = [group for group in groups if group not in claimed]
    if DEFAULT_GROUP in groups or not free:
        return DEFAULT_GROUP
    if len(free) == 1:
        return free[0]
    robot = task.split("_")[0].removeprefix("unitree")
    return next((group for group in free if group.split("_")[0] == robot), DEFAULT_GROUP)


def _add_sizes(entry: dict[str, Any], state: dict[str, Tensor]) -> list[str]:
    """Add the sizes that are missing to a task's entry, of its group's first layers; says which."""
    added = []
    for key, name, what in (
        ("observation_shape", _OBSERVATION, "observations"),
        ("action_dim", _ACTION, "actions"),
    ):
        weight = state.get(name.format(entry.get("group_name")))
        if entry.get(key) is None and weight is not None and weight.dim() == 2 and weight.numel():
            size = weight.shape[1]
            entry[key] = {"proprio": [size]} if key == "observation_shape" else size
            added.append(f"{size} {what}")
    return added
