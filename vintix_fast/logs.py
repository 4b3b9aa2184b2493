"""A robot's log as something to learn from: read, checked, and given a return that two logs can be compared by.

Data flows trajectories.h5 -> `Log`.  Knows nothing about models.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vintix_fast.data import History, Trajectories, read_trajectories
from vintix_fast.export.reward import estimated_reward
from vintix_fast.service.errors import InputFileError, UsageError
from vintix_fast.service.files import parse_json
from vintix_fast.world.robot import Robot
from vintix_fast.world.task_config import TaskConfig

LEAST_EXPLORATION = 0.005
"""Root mean square of the noise, in action units: less is rounding, or nothing."""
PIECE = 1000
"""Steps of a history, where there are too few of them to hold any back."""
ENOUGH_HISTORIES = 5
NEEDED = ("mean_action", "terminated")
EXPLORE = "walk with `vintix_walk --explore 0.3`, or collect with noise"


@dataclass(frozen=True)
class Log:
    """One file, sound, of the right robot, with exploration."""

    path: Path
    sha256: str
    histories: list[History]
    shown_reward: float | None
    """What the model was told of every reward; None: the true one."""

    @property
    def shown(self) -> list[History]:
        """With the rewards that the model was shown."""
        if self.shown_reward is None:
            return self.histories
        return [replace(h, reward=np.full_like(h.reward, self.shown_reward)) for h in self.histories]


def exploration(histories: list[History], part: slice = slice(None)) -> float:
    """Root mean square of what was added to the policy's actions, in a part of each history."""
    noise = [h.action[part] - h.extras["mean_action"][part] for h in histories]
    return float(np.sqrt(np.mean(np.square(np.concatenate(noise)), dtype=np.float64)))


def read_log(path: Path, robot: Robot, task: TaskConfig) -> Log:
    """A log of this robot's in this task.

    Raises:
        InputFileError: it is missing, broken, or holds numbers that are not finite.
        UsageError: it is another robot's or task's, or has nothing that could be learnt.
    """
    found = read_trajectories(path)
    text = found.attributes.get("contract")
    contract = parse_json(text, f"{path}: its contract", "log the walk again") if isinstance(text, str) else {}
    _check_robot(found, contract, robot, task)
    for name in NEEDED:
        if any(name not in history.extras for history in found.histories):
            raise UsageError(f"{path} has no dataset {name}, so that nothing can be learnt from it; {EXPLORE}")
    histories = found.histories
    for h in histories:
        h.extras.setdefault("failed", np.zeros(len(h), np.uint8))
        numbers = {"proprio_observation": h.observation, "action": h.action, "reward": h.reward}
        for name, values in (numbers | {"mean_action": h.extras["mean_action"]}).items():
            if not np.isfinite(values).all():
                step = int(np.flatnonzero(~np.isfinite(values.reshape(len(h), -1)).all(axis=1))[0])
                raise InputFileError(f"{path}: {name} is not finite at step {step} of environment {h.env}")
    if (noise := exploration(histories)) < LEAST_EXPLORATION:
        raise UsageError(
            f"{path}: the robot did not explore (its actions are {noise:.4f} action units from the policy's), so that "
            f"nothing can be learnt from it; {EXPLORE}"
        )
    rewards = np.concatenate([h.reward for h in histories])
    if np.ptp(rewards) == 0.0:
        raise UsageError(
            f"{path}: all rewards are {rewards[0]:g}, so they were not measured, and nothing can be learnt from them; "
            "the log needs the task's reward of each step: from motion capture or the robot's estimate of its speed"
        )
    told = contract.get("reward", {}) if isinstance(contract.get("reward"), dict) else {}
    if told.get("input") == "estimate" and _estimated(histories[0], robot, task):
        raise UsageError(
            f"{path}: its rewards are the model's estimate, which takes speed and height for granted; a robot would "
            "learn from them to stand still. The log needs measured rewards"
        )
    constant = told.get("value") if told.get("input") == "constant" else None
    shown = float(constant) if isinstance(constant, int | float) else None
    return Log(path, hashlib.sha256(path.read_bytes()).hexdigest(), histories, shown)


def _check_robot(found: Trajectories, contract: dict[str, Any], robot: Robot, task: TaskConfig) -> None:
    path, first = found.path, found.histories[0]
    name = contract.get("robot", found.attributes.get("robot", robot.name))
    if name != robot.name:
        raise UsageError(f"{path} is a log of {name}, and --robot-type is {robot.name}; give the log of that robot")
    sizes = first.observation.shape[1], first.action.shape[1]
    if sizes != (robot.layout.size, robot.layout.num_joints):
        raise UsageError(
            f"{path} holds {sizes[0]} observations and {sizes[1]} actions; {robot.name} has {robot.layout.size} and "
            f"{robot.layout.num_joints}"
        )
    if isinstance(text := found.attributes.get("task"), str):
        logged = TaskConfig.from_json(parse_json(text, f"{path}: its task", "log the walk again"))
        if logged != replace(task, vary=logged.vary):
            raise UsageError(f"{path} was logged in another task than this run's; give that with --task FILE")


def _estimated(history: History, robot: Robot, task: TaskConfig) -> bool:
    """Whether the first episode's rewards are what an export with ``--reward estimate`` tells the model."""
    start, stop = history.episodes()[0]
    clip = task.action_clip
    action = torch.from_numpy(history.action[start : stop - 1]).clamp(-clip, clip)
    before = torch.cat([torch.zeros_like(action[:1]), action[:-1]])
    after = torch.from_numpy(history.observation[start + 1 : stop])
    estimate = estimated_reward(task, robot.layout, after, action, before).numpy()
    return len(estimate) > 1 and np.allclose(history.reward[start : stop - 1], estimate, atol=1e-5, rtol=0)


def pieces(histories: list[History]) -> list[History]:
    """Histories of at most `PIECE` steps, where there are too few of them to hold any back."""
    if len(histories) >= ENOUGH_HISTORIES:
        return histories
    cut = []
    for h in histories:
        for part in (slice(start, start + PIECE) for start in range(0, len(h), PIECE)):
            extras = {name: values[part] for name, values in h.extras.items()}
            cut.append(History(h.observation[part], h.action[part], h.reward[part], h.step_num[part], extras, h.env))
    return cut


def parts(h: History, max_steps: int, longest: int) -> Iterator[tuple[slice, int]]:
    """Episodes of at most ``max_steps``, in parts of at most ``longest``: their steps, and how many there could be.

    That is more where the robot fell: those that the episode lost.
    """
    for start, stop in h.episodes():
        fell = bool(h.extras["terminated"][stop - 1])
        for first in range(start, stop, max_steps):
            end = min(first + max_steps, stop)
            for begin in range(first, end, longest):
                last = min(begin + longest, end)
                yield slice(begin, last), (first + max_steps if fell and last == stop else last) - begin


def measured(histories: list[History], max_steps: int) -> dict[str, Any]:
    """What logs say of the model that made them, by the names of ``metrics.jsonl``.

    The return is that of an episode of ``max_steps``: all rewards, over the steps that there were and those that falls
    lost.  So a walk may be longer, or be stopped before its time; of whole episodes it is the plain mean.
    """
    returns, possible, lengths, failures = [], [], [], 0
    for h in histories:
        for start, stop in h.episodes():
            failures += bool(h.extras["failed"][stop - 1])
            lengths.append(stop - start)
        for part, steps in parts(h, max_steps, max_steps):
            returns.append(float(h.reward[part].sum(dtype=np.float64)))
            possible.append(steps)
    r, p = np.array(returns), np.array(possible)
    mean = float(max_steps * r.sum() / p.sum())
    # Of a ratio of sums, over pieces.
    deviation = r - mean * p / max_steps
    error = float(max_steps * np.sqrt(deviation.var() / max(1, len(r) - 1)) / p.mean())
    return {
        "episodes": len(lengths),
        "env_steps": int(sum(lengths)),
        "mean_return": mean,
        "std_return": float(np.std(max_steps * r / p)),
        "standard_error": error if len(r) > 1 else None,
        "mean_length": float(np.mean(lengths)),
        "failures": failures,
        "exploration": exploration(histories),
    }
