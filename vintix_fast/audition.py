"""Which of a checkpoint's robots a new one begins as a copy of, and through which map of its joints: each is tried.

Owns the candidates and their trial.  Nothing is trained here.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from vintix_fast.model import Vintix
from vintix_fast.model.new_group import add_target, find_task
from vintix_fast.policy import Actor
from vintix_fast.rollout import collect
from vintix_fast.service.errors import InputFileError, UsageError
from vintix_fast.world.joint_map import MAPS, JointMap
from vintix_fast.world.robot import Robot, load_robot, robot_names
from vintix_fast.world.task import WalkingTask
from vintix_fast.world.transplant import joint_map

TRIAL_STEPS = 400


@dataclass(frozen=True)
class Tried:
    """What a candidate earned."""

    reference: str  # the robot whose adapter was copied
    init_map: str
    mean_return: float  # of the first episodes, cut off after `TRIAL_STEPS`
    mean_length: float


@dataclass(frozen=True)
class Audition:
    """All candidates, the best first."""

    tried: list[Tried]
    env_steps: int

    @property
    def best(self) -> Tried:
        return self.tried[0]

    def to_json(self) -> dict[str, Any]:
        return {"trial_steps": TRIAL_STEPS, "env_steps": self.env_steps, "tried": [asdict(one) for one in self.tried]}


def candidates(model: Vintix, robot: Robot) -> list[tuple[Robot, str]]:
    """Reference robots that the model knows, each with the maps that exist and differ.

    Raises:
        InputFileError: there is none.
    """
    found: list[tuple[Robot, str]] = []
    for name in robot_names():
        reference = load_robot(name)
        if find_task(reference, model.tasks) is None or reference.name == robot.name:
            continue
        seen: list[JointMap] = []
        for kind in MAPS:
            try:
                joints = joint_map(robot, reference, kind)
            except UsageError:  # this map does not exist for these two
                continue
            if not any(np.array_equal(joints.to_target, other.to_target) for other in seen):
                seen.append(joints)
                found.append((reference, kind))
    if not found:
        raise InputFileError(
            f"the checkpoint has no robot that {robot.name} could begin as a copy of; it has the tasks "
            f"{', '.join(model.tasks)}"
        )
    return found


def audition(
    model: Vintix,
    robot: Robot,
    task: WalkingTask,
    make_actor: Callable[[Vintix, str], Actor],
    seed: int,
    on_tried: Callable[[Tried], None] = lambda tried: None,
) -> Audition:
    """Try every candidate in all of the task's environments, from randomised starts, until it falls.

    Args:
        model: pretrained; stays as it is.
        make_actor: makes a model act for a task of its own, with a cold context.
        seed: of the starts, the same for all.
        on_tried: hears of each candidate.
    """
    tried, env_steps, steps = [], 0, min(TRIAL_STEPS, task.max_steps)
    for reference, kind in candidates(model, robot):
        candidate = copy.deepcopy(model)
        name = add_target(candidate, robot, reference, lambda text: None, init_map=kind, reinitialize=True)
        found = collect(
            task, make_actor(candidate, name), seed=seed, random_starts=True, steps_per_env=steps, keep=True
        )  # fmt: skip
        firsts = [history.reward[slice(*history.episodes()[0])] for history in found.histories]
        env_steps += steps * task.num_envs
        tried.append(
            Tried(
                reference.name,
                kind,
                float(np.mean([rewards.sum() for rewards in firsts])),
                float(np.mean([len(rewards) for rewards in firsts])),
            )
        )
        on_tried(tried[-1])
    return Audition(sorted(tried, key=lambda one: -one.mean_return), env_steps)
