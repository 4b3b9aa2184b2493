"""``vintix-fast inspect``: what a checkpoint directory or a trajectories.h5 holds, and whether it is sound."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from vintix_fast.cli.common import PlainJson, print_json, result_console, show
from vintix_fast.service.bundled import checkpoint_path
from vintix_fast.service.errors import InputFileError

LARGEST = 1e15
"""Sums of so large values are finite still, and no robot's come near it, not even of a simulation that fails."""


def inspect(
    path: Annotated[Path, typer.Argument(help="a checkpoint directory, builtin:<name>, or a trajectories.h5")],
    json: PlainJson = False,
) -> None:
    """Say what a checkpoint directory or a trajectories.h5 holds, and whether it is sound.

    Ends with exit code 4 if it is not.
    """
    path = checkpoint_path(path)
    if path.suffix not in (".h5", ".partial") and not path.exists():
        raise InputFileError(f"{path}: no such file or directory; give a checkpoint directory or a trajectories.h5")
    if path.is_file() and path.suffix in (".pth", ".safetensors", ".json"):
        raise InputFileError(f"{path}: may be a part of a checkpoint; give the directory that it is in")
    facts = _checkpoint(path) if path.is_dir() else _trajectories(path)

    out = result_console(json)
    for key, value in facts.items():
        if isinstance(value, dict):
            value = "".join(f"\n  {inner}: {text}" for inner, text in value.items())
        elif isinstance(value, list):
            value = "".join(f"\n  {text}" for text in value) or " none"
        else:
            value = f" {value}"
        show(out, f"{key.replace('_', ' ')}:{value}")
    if json:
        print_json(facts)
    if not facts["sound"]:
        raise typer.Exit(4)


def _checkpoint(path: Path) -> dict[str, Any]:
    from vintix_fast.model import load_checkpoint

    notes: list[str] = []
    model = load_checkpoint(path, say=notes.append)  # raises unless it is sound
    return {
        "kind": "checkpoint",
        "sound": True,
        **({"notes": notes} if notes else {}),
        "parameters": sum(p.numel() for p in model.parameters()),
        "groups": {group: sum(p.numel() for _, p in model.group_parameters(group)) for group in model.groups},
        "tasks": {
            name: f"group {info.group_name}, {info.observation_dim} observations, {info.action_dim} actions"
            for name, info in model.tasks.items()
        },
        "config": model.config.to_dict(),
    }


def _trajectories(path: Path) -> dict[str, Any]:
    import numpy as np

    from vintix_fast.data import read_trajectories

    trajectories = read_trajectories(path)
    slices = [(h, start, stop) for h in trajectories.histories for start, stop in h.episodes()]
    faults = []
    if not trajectories.closed_cleanly:
        faults.append("its collection was cut short; what was saved by then can be read, the last episodes are partial")
    for name in ("observation", "action", "reward"):
        broken = sum(int((~(np.abs(getattr(h, name)) < LARGEST)).sum()) for h in trajectories.histories)
        if broken:
            faults.append(f"{name}: {broken} values are NaN or infinite, or beyond {LARGEST:g}; collect it again")
    with np.errstate(all="ignore"):  # of values that are among the faults
        mean_return = float(np.mean([h.reward[start:stop].sum() for h, start, stop in slices]))
    return {
        "kind": "trajectories",
        "sound": not faults,
        "faults": faults,
        "transitions": trajectories.num_transitions,
        "environments": len(trajectories.histories),
        "episodes": len(slices),
        "mean_return": mean_return,
        "mean_episode_length": float(np.mean([stop - start for _, start, stop in slices])),
        "attributes": trajectories.attributes,
    }
