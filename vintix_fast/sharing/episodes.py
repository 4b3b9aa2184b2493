"""Recorded episodes, one by one, for data sets of other libraries.

Trajectory files of a run, of `distil`, or of one collection -> episodes.  Knows no other format.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vintix_fast.data import Trajectories, read_trajectories
from vintix_fast.service.errors import InputFileError
from vintix_fast.service.files import parse_json
from vintix_fast.world.layout import ObservationLayout
from vintix_fast.world.task_config import TaskConfig


@dataclass(frozen=True)
class RecordedEpisode:
    """What happened in one episode of n steps; ``truncated`` is set at the end of one that was cut."""

    observation: np.ndarray  # [n, O] float32, what the policy saw
    action: np.ndarray  # [n, J] float32, what it did
    reward: np.ndarray  # [n] float32, what it got for it
    terminated: np.ndarray  # bool [n]: the robot fell
    truncated: np.ndarray  # bool [n]: time ran out, or the collection ended
    failed: np.ndarray  # bool [n]: the simulation left the finite numbers
    mean_action: np.ndarray  # [n, J] float32, the policy's action before exploration noise

    def __len__(self) -> int:
        return len(self.reward)


@dataclass(frozen=True)
class Recordings:
    """Trajectory files of one robot and one task."""

    files: tuple[Trajectories, ...]
    robot: str
    """Its name, with _ for what is neither letter nor digit; "quadruped" where no file tells."""
    layout: ObservationLayout
    task: TaskConfig

    def __iter__(self) -> Iterator[RecordedEpisode]:
        """The episodes, in the order of the files, of their environments, of time."""
        for file in self.files:
            for history in file.histories:
                for start, stop in history.episodes():
                    yield _episode(history, start, stop)


def read_recordings(path: Path) -> Recordings:
    """Read a trajectory file, or all of a directory: of a run's collections, or those that `distil` wrote.

    Raises:
        InputFileError: there is none, one is broken, or they tell of different robots or tasks.
    """
    paths = [path] if path.is_file() else sorted(path.glob("loop_*/trajectories.h5")) or sorted(path.glob("*.h5"))
    if not paths:
        what = "holds no trajectories" if path.is_dir() else "does not exist"
        raise InputFileError(
            f"{path} {what}; give a trajectories.h5, the --output-dir of an `adapt` run, or that of `distil`"
        )
    files = tuple(read_trajectories(path) for path in paths)
    for file in files:
        for history in file.histories:
            for name in ("observation", "action", "reward"):
                if not np.isfinite(getattr(history, name)).all():
                    raise InputFileError(f"{file.path}: {name} holds NaN or infinity; `vintix-fast inspect` tells more")
    first, about = files[0], _about(files[0])
    for file in files[1:]:
        if _about(file) != about:
            raise InputFileError(f"{file.path} is of another robot or task than {first.path}; convert them apart")
    robot, joints, task = about
    return Recordings(files, robot, ObservationLayout(joints), TaskConfig.from_json(task))


def _about(file: Trajectories) -> tuple[str, int, dict[str, Any]]:
    """Robot, number of joints and the task's record."""
    task = parse_json(str(file.attributes.get("task", "{}")), f"{file.path}: its attribute task", "collect it again")
    robot = re.sub(r"[^A-Za-z0-9-]+", "_", str(file.attributes.get("robot", "quadruped")))
    return robot, file.histories[0].action.shape[1], task


def _episode(history: Any, start: int, stop: int) -> RecordedEpisode:
    """One episode; what a file of another tool does not tell is taken as not having happened."""
    flags = {
        name: history.extras.get(name, np.zeros(len(history), np.uint8))[start:stop].astype(bool)
        for name in ("terminated", "truncated", "failed")
    }
    flags["truncated"][-1] |= not flags["terminated"][-1]
    mean = history.extras.get("mean_action", history.action)
    columns = (history.observation, history.action, history.reward)
    observation, action, reward = (column[start:stop] for column in columns)
    return RecordedEpisode(observation, action, reward, **flags, mean_action=mean[start:stop])
