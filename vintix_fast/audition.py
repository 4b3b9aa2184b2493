"""Which of a checkpoint's robots a new one begins as a copy of, and through which map of its joints: each is tried.

Owns the candidates and their trial.  Nothing is trained here.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vintix_fast.acting_config import MAPS, EngineConfig
from vintix_fast.model import Vintix
from vintix_fast.model.new_group import add_target
from vintix_fast.policy import make_policy
from vintix_fast.rollout import collect
from vintix_fast.service.errors import InputFileError, UsageError
from vintix_fast.world.joint_map import JointMap
from vintix_fast.world.robot import Robot, load_robot, robots_of
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
    task_name: str  # the robot's, with a copy of the best's adapter

    def to_json(self) -> dict[str, Any]:
        return {"trial_steps": TRIAL_STEPS, "env_steps": self.env_steps, "tried": [asdict(one) for one in self.tried]}


def candidates(model: Vintix, robot: Robot) -> list[tuple[Robot, str]]:
    """Reference robots that the model knows, each with the maps that exist and differ.

    Raises:
        InputFileError: there is none.
    """
    found: list[tuple[Robot, str]] = []
    for reference in robots_of(model.tasks):
        if reference.name == robot.name:
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


def hold_audition(
    model: Vintix,
    task: WalkingTask,
    context_len: int,
    engine: EngineConfig,
    seed: int,
    say: Callable[[str], None],
    obs_stats: Path | None = None,
) -> Audition:
    """Try every candidate in all of the task's environments, from randomised starts, until it falls.

    Args:
        model: pretrained; is given the robot's task and a group, a copy of the best candidate's.
        context_len, engine: with which each acts.
        seed: of the starts, the same for all.
        say: told of each candidate.
        obs_stats: see `AdaptConfig`.
    """
    robot, tried, env_steps, steps = task.robot, [], 0, min(TRIAL_STEPS, task.max_steps)
    say("Audition: whose adapter, through which map of its joints, does best on this robot?")
    for reference, kind in candidates(model, robot):
        candidate = copy.deepcopy(model)
        name = add_target(candidate, robot, reference, lambda text: None, init_map=kind, reinitialize=True)
        actor = make_policy(candidate, name, task.num_envs, context_len, **engine.policy_options)
        found = collect(task, actor, seed=seed, random_starts=True, steps_per_env=steps, keep=True)
        firsts = [history.reward[slice(*history.episodes()[0])] for history in found.histories]
        returns, lengths = [rewards.sum() for rewards in firsts], [len(rewards) for rewards in firsts]
        one = Tried(reference.name, kind, float(np.mean(returns)), float(np.mean(lengths)))
        tried.append(one)
        env_steps += steps * task.num_envs
        say(f"  {one.reference}'s, {kind}: return {one.mean_return:.2f}, length {one.mean_length:.0f}")
    tried.sort(key=lambda one: -one.mean_return)
    best, reference = tried[0], load_robot(tried[0].reference)
    name = add_target(
        model, robot, reference, say, init_map=best.init_map, obs_stats=obs_stats, reinitialize=True
    )  # fmt: skip
    return Audition(tried, env_steps, name)
