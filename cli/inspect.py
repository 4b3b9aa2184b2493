"""``vintix-fast inspect``: what a checkpoint directory or a trajectories.h5 holds, and whether it is sound."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from vintix_fast.cli.common import console, print_json, reports_errors


@reports_errors
def inspect(
    path: Annotated[Path, typer.Argument(help="a checkpoint directory or a trajectories.h5")],
    json: Annotated[bool, typer.Option("--json", help="print one JSON object last")] = False,
) -> None:
    """Say what a checkpoint directory or a trajectories.h5 holds, and whether it is sound."""
    facts = _checkpoint(path) if path.is_dir() else _trajectories(path)
    for key, value in facts.items():
        if isinstance(value, dict):
            console.print(f"{key}:", highlight=False)
            for inner, text in value.items():
                console.print(f"  {inner}: {text}", highlight=False, markup=False)
        else:
            console.print(f"{key}: {value}", highlight=False, markup=False)
    if json:
        print_json(facts)
    if not facts["sound"]:
        raise typer.Exit(4)


def _checkpoint(path: Path) -> dict[str, Any]:
    import torch

    from vintix_fast.model import load_checkpoint

    model = load_checkpoint(path)
    own = {group: sum(p.numel() for _, p in model.group_parameters(group)) for group in model.groups}
    broken = [name for name, tensor in model.state_dict().items() if not torch.isfinite(tensor).all()]
    facts: dict[str, Any] = {
        "kind": "checkpoint",
        "sound": not broken,
        "parameters": sum(p.numel() for p in model.parameters()),
        "groups": own,
        "tasks": {name: f"group {info.group_name}, {info.observation_dim} observations, {info.action_dim} actions"
                  for name, info in model.tasks.items()},
        "config": model.config.to_dict(),
    }  # fmt: skip
    return facts | ({"not finite": broken} if broken else {})


def _trajectories(path: Path) -> dict[str, Any]:
    import numpy as np

    from vintix_fast.data import read_trajectories

    trajectories = read_trajectories(path)
    slices = [(h, start, stop) for h in trajectories.histories for start, stop in h.episodes()]
    returns = [float(h.reward[start:stop].sum()) for h, start, stop in slices]
    arrays = [a for h in trajectories.histories for a in (h.observation, h.action, h.reward)]
    finite = all(np.isfinite(a).all() for a in arrays)
    facts: dict[str, Any] = {
        "kind": "trajectories",
        "sound": finite and trajectories.closed_cleanly,
        "closed cleanly": trajectories.closed_cleanly,
        "finite": finite,
        "transitions": trajectories.num_transitions,
        "environments": len(trajectories.histories),
        "episodes": len(slices),
        "mean return": float(np.mean(returns)),
        "mean length": float(np.mean([stop - start for _, start, stop in slices])),
        "attributes": trajectories.attributes,
    }
    return facts
