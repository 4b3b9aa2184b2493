"""Histories to pretrain on: directories of trajectory files -> one robot's histories each, some of them held out.

Reads what `distil` writes and the slow pipeline's layout (several files with ``trajectories_env_*.json`` beside them,
one more observation than actions).  Knows nothing about models.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vintix_fast.data import History, ShapeError, Trajectories, read_trajectories
from vintix_fast.model import TaskInfo
from vintix_fast.model.new_group import SMALLEST_STD
from vintix_fast.service.errors import InputFileError
from vintix_fast.service.files import read_json
from vintix_fast.world.layout import ObservationLayout
from vintix_fast.world.robot import robots_of

LATE = 0.1
"""The last part of a history, in which the robot walks as it will when it acts."""


@dataclass(frozen=True)
class RobotHistories:
    """One robot's histories."""

    task_name: str
    group_name: str
    train: list[History]
    held_out: list[History]
    skipped: list[str]
    """What was wrong with the files that were left out."""

    @property
    def layout(self) -> ObservationLayout:
        return ObservationLayout(self.train[0].action.shape[1])

    def statistics(self, group_name: str) -> TaskInfo:
        """Mean and standard deviation of the training histories; 1 for what never varies, such as the command."""
        columns: dict[str, Any] = {"observation_dim": self.layout.size, "action_dim": self.layout.num_joints}
        for key, name in (("obs", "observation"), ("acs", "action")):
            values = np.concatenate([getattr(history, name) for history in self.train])
            std = values.std(axis=0, dtype=np.float64)
            columns[f"{key}_mean"] = tuple(values.mean(axis=0, dtype=np.float64).tolist())
            columns[f"{key}_std"] = tuple(np.where(std < SMALLEST_STD, 1.0, std).tolist())
        return TaskInfo(group_name=group_name, **columns)

    @property
    def late_reward(self) -> float:
        """A step's mean reward in the `LATE` part of the training histories."""
        late = [history.reward[-max(1, int(LATE * len(history))) :] for history in self.train]
        return float(np.concatenate(late).mean(dtype=np.float64))


def read_histories(
    directories: tuple[Path, ...], held_out: float, seed: int, say: Callable[[str], None]
) -> list[RobotHistories]:
    """Read every directory; those of the same task are joined.

    Args:
        directories: each holds one robot's trajectory files (``*.h5``).
        held_out: share of each robot's histories to keep for validation; at least one where there are several, and not
            all.
        seed: of the choice of these.
        say: told which files are skipped, and why.

    Raises:
        InputFileError: a directory is missing, holds no usable file, or mixes robots; or a file's sizes are not the
            walking task's.
    """
    # By task: a robot's directories under its older and newer names are one.
    found: dict[str, tuple[str, list[History], list[str]]] = {}
    for directory in directories:
        task_name, group_name, histories, skipped = _read_directory(directory, say)
        _, so_far, left_out = found.setdefault(task_name, (group_name, [], []))
        so_far += histories
        left_out += skipped
    # The choice of what is held out depends on a robot's own histories alone, not on who else is there.
    robots = []
    for task_name, (group_name, histories, skipped) in found.items():
        # One history is for training; of several at least one is held out, and not all.
        several = held_out > 0.0 and len(histories) > 1
        kept = min(max(1, round(held_out * len(histories))), len(histories) - 1) if several else 0
        chosen = set(np.random.default_rng(seed).permutation(len(histories))[:kept].tolist())
        robots.append(
            RobotHistories(
                task_name,
                group_name,
                train=[h for i, h in enumerate(histories) if i not in chosen],
                held_out=[h for i, h in enumerate(histories) if i in chosen],
                skipped=skipped,
            )
        )
    return robots


def directory_task(directory: Path) -> str:
    """The task of a directory's first usable trajectory file.

    Raises:
        InputFileError: there is none.
    """
    fault = None
    for file in _files(directory):
        try:
            return _about(file, read_trajectories(file))[0]
        except InputFileError as error:
            fault = fault or error
    raise InputFileError(f"--data {directory}: none of its trajectory files is usable: {fault}")


def _files(directory: Path) -> list[Path]:
    if not directory.is_dir():
        raise InputFileError(f"--data {directory}: no such directory; give one that holds a robot's trajectory files")
    files = sorted(directory.glob("*.h5"))
    if not files:
        raise InputFileError(f"--data {directory}: no trajectory files (*.h5) in it; `vintix-fast distil` makes them")
    return files


def _read_directory(directory: Path, say: Callable[[str], None]) -> tuple[str, str, list[History], list[str]]:
    files = _files(directory)
    histories, skipped, first = [], [], None
    for file in files:
        try:
            trajectories = read_trajectories(file)
            about = _about(file, trajectories)
            for history in trajectories.histories:
                numbers = (history.observation, history.action, history.reward, history.extras.get("mean_action", 0.0))
                if not all(np.isfinite(values).all() for values in numbers):
                    raise InputFileError(f"{file}: holds NaN or infinity. Collect it again.")
        except ShapeError:
            raise
        except InputFileError as error:
            skipped.append(str(error))
            say(f"skipped: {error}")
            continue
        if first is None:
            first = (file, about)
        elif about != first[1]:
            raise InputFileError(
                f"--data {directory} mixes robots: {first[0].name} is of {first[1][0]}, {file.name} of {about[0]}; "
                "give each robot a directory of its own"
            )
        histories += trajectories.histories
    if first is None:
        raise InputFileError(f"--data {directory}: none of its {len(files)} trajectory files is usable: {skipped[0]}")
    return *first[1], histories, skipped


def _about(file: Path, trajectories: Trajectories) -> tuple[str, str]:
    """Task and group of a file: from the JSON file beside it, else from its attributes.

    Raises:
        ShapeError: the sizes that it names are not the file's.
        InputFileError: neither names a task, or the JSON file is broken.
    """
    beside = file.with_suffix(".json")
    about: Any = trajectories.attributes
    if beside.is_file():
        about = read_json(beside, "copy it again")
    task_name = about.get("task_name") if isinstance(about, dict) else None
    if not isinstance(task_name, str) or not task_name:
        raise InputFileError(f"{file}: neither {beside.name} nor its attributes name a task (task_name). Add the file.")
    for history in trajectories.histories:
        layout = ObservationLayout(history.action.shape[1])
        held = ({"proprio": [layout.size]}, layout.num_joints)
        named = (about.get("observation_shape", held[0]), about.get("action_dim", held[1]))
        if named != held:
            raise ShapeError(
                f"{beside}: observation_shape {named[0]} and action_dim {named[1]}; the file has "
                f"{layout.size} observations and {layout.num_joints} actions"
            )
    known_name, group = known_task(task_name)
    return known_name, about.get("group_name") or group


@functools.cache
def known_task(task_name: str) -> tuple[str, str]:
    """The newest of a bundled robot's names for its task, and its group; of another robot's the name itself."""
    robot = next(iter(robots_of((task_name,))), None)
    return (robot.task_names[0], robot.group_name) if robot else (task_name, task_name)
