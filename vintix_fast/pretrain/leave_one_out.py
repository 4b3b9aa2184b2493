"""For each robot the model that never saw it: `pretrain` on the others' histories, one training for each."""

from __future__ import annotations

import functools
from dataclasses import replace
from pathlib import Path
from typing import Any

from vintix_fast.outdir import OPTIONS_FILE
from vintix_fast.pretrain.config import PretrainConfig
from vintix_fast.pretrain.histories import directory_task
from vintix_fast.pretrain.pretrain import pretrain, run_directory
from vintix_fast.service.errors import UsageError
from vintix_fast.service.progress import Progress
from vintix_fast.sweep.trials import run_here_or_on_cluster


def leave_one_out(config: PretrainConfig, *, progress: Progress | None = None) -> dict[str, dict[str, Any]]:
    """For each robot of ``config.data`` train the model that never saw it, in ``config.output_dir/without-<robot>``.

    Args:
        config: of every training; ``data`` holds one directory a robot.
        progress: told what happens; None for silence.

    Returns:
        Each model's card, by the name of its directory; ``<robot>`` is that of the robot's directory of histories.

    Raises:
        UsageError: fewer than two directories, or two of the same name or robot; nothing was written then.
        see `pretrain`: finished models stay, and a resumed run goes on with the others.

    With RAY_ADDRESS the trainings are the cluster's, one a node, and what they say goes to ``config.output_dir/logs``.
    """
    if len(config.data) < 2:
        raise UsageError("--data names one robot; leave-one-out needs at least two")
    trainings = {}
    # Directories of one name would share a training; those of one robot would let the model see the one left out.
    for label, of in (("name", lambda path: path.resolve().name), ("robot", directory_task)):
        seen: dict[str, Path] = {}
        for path in config.data:
            other = seen.setdefault(of(path), path)
            if other != path:
                raise UsageError(
                    f"--data {other} and --data {path} have the same {label}, {of(path)}; join or rename them"
                )
    # All trainings are checked before the first begins.
    for left_out in config.data:
        name = f"without-{left_out.resolve().name}"
        directory = config.output_dir / name
        others = tuple(path for path in config.data if path != left_out)
        # Where a resumed run was stopped early, later trainings begin now.
        begun = config.resume and directory.is_dir()
        trainings[name] = replace(config, data=others, output_dir=directory, resume=begun)
        run_directory(trainings[name]).check()
    trials = {name: functools.partial(_one_of_many, training) for name, training in trainings.items()}
    return run_here_or_on_cluster(trials, config.output_dir / "logs", progress, gpus=float(config.device != "cpu"))


def _one_of_many(config: PretrainConfig, again: bool, progress: Progress) -> dict[str, Any]:
    """A training that goes on where a killed process has begun it."""
    if again:
        config = replace(config, resume=(config.output_dir / OPTIONS_FILE).is_file(), overwrite=False)
    return pretrain(config, progress=progress)
