"""A stance around which a robot earns more: away from standing still, with another robot's adapter, or where it walks.

A copied adapter acts around the robot's default pose.  Where that pose presses links against one another (the front
thighs of Mini Cheetah begin inside its body), joints do not follow small changes of their targets: exploration noise
moves nothing, a critic finds no slope, and the model learns to stand.  A constant offset of the actions, seen by the
adapter as no offset at all, frees them; and which robot's adapter walks then cannot be told from how well it stands.

A robot that walks may hold its legs where they earn little, too, and a critic hardly sees that: moving one joint of one
leg for one step, as exploration does, pays nothing, and moving all hind calves pays much.

The search is over six numbers, front and hind hip, thigh and calf, the left legs' mirror image on the right.  Each
environment tries another offset; the best of a round is where the next begins (pattern search, Hooke and Jeeves 1961).
"""

from __future__ import annotations

import copy
import functools
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from vintix_fast.model import TaskInfo, Vintix, add_group, move_posture
from vintix_fast.policy import Actor
from vintix_fast.rollout import collect
from vintix_fast.service.errors import UsageError
from vintix_fast.service.progress import Progress
from vintix_fast.world.robot import LEGS, Robot, find_task, robots_of
from vintix_fast.world.task import WalkingTask
from vintix_fast.world.transplant import joint_map

SIZES = np.array([1.0, 2.0])
"""How far one of the six numbers is moved, in action units (0.25 rad); halved whenever nothing was better."""
FINE = 2
"""A robot that walks is moved by so many times halved sizes, 0.06 and 0.12 rad."""
ROUNDS = 7
FIRST_ROUNDS = 3
"""After these the adapters are compared, and the best one's search goes on alone."""
FINE_ROUNDS = 3
TRIAL_STEPS = 400
STANDING = 0.5
"""A model that stays up and earns less than this part of what a step can give stands still."""


@dataclass(frozen=True)
class Posture:
    """Where a search stands."""

    numbers: np.ndarray  # [J / 2] offsets of front hip, thigh, calf, hind hip, thigh, calf, in action units
    offset: np.ndarray  # [J] the same of all joints
    before: float  # return of a trial without the offset
    after: float  # and with it
    env_steps: int
    halved: int  # how often the next moves are halved

    def words(self, task: WalkingTask) -> str:
        """The offsets for a person."""
        names = [f"{pair} {joint}" for pair in ("front", "hind") for joint in task.robot.joints_of_a_leg]
        scale = task.config.action_scale_rad
        moved = [f"{n} {x * scale:+.2f}" for n, x in zip(names, self.numbers, strict=True) if x]
        return ", ".join(moved) + " rad" if moved else "no offset"


def stands_still(mean_return: float, mean_length: float, task: WalkingTask) -> bool:
    """Whether episodes last, but earn so little that the robot cannot be moving as commanded."""
    return mean_length > task.max_steps / 2 and mean_return < STANDING * task.most_reward * mean_length


def leave_standing(
    model: Vintix,
    task_name: str,
    task: WalkingTask,
    make_actor: Callable[[Vintix], Actor],
    init_map: str,
    seed: int,
    progress: Progress,
) -> tuple[Vintix, dict[str, Any]]:
    """The model with the adapter, its own or a copy of another robot's, and the stance that earn most.

    Args:
        model: stands still; its task has a group of its own.
        make_actor: makes a model, with a cold context, act in the task's environments.
        init_map: how other robots' adapters are copied, see `vintix_fast.acting_config.MAPS`.
        seed: of the starts.

    Returns:
        The model, and what to record of the search.
    """
    started = time.perf_counter()
    search = functools.partial(find_posture, task)
    adapters = _adapters(model, task_name, task.robot, init_map)
    found = {
        whose: search(functools.partial(make_actor, m), seed, rounds=FIRST_ROUNDS) for whose, m in adapters.items()
    }
    for whose, so_far in found.items():
        progress.say(f"{whose}: return of a trial {so_far.before:.2f}, {so_far.after:.2f} with {so_far.words(task)}")
    whose = max(found, key=lambda whose: found[whose].after)
    model = adapters[whose]
    rest = ROUNDS - FIRST_ROUNDS
    posture = search(lambda: make_actor(model), seed + FIRST_ROUNDS, rounds=rest, start=found[whose])
    move_posture(model, task_name, posture.offset, task.config.action_scale_rad * posture.offset)
    steps = sum(other.env_steps for name, other in found.items() if name != whose) + posture.env_steps
    progress.say(f"Going on with {whose}, {posture.words(task)}: {posture.after:.2f} ({steps} steps tried)")
    seconds = time.perf_counter() - started
    record = {"posture": posture.offset.tolist(), "posture_env_steps": steps, "posture_seconds": seconds}
    return model, {"adapter": whose} | record


def refine_stance(
    model: Vintix,
    task_name: str,
    task: WalkingTask,
    make_actor: Callable[[Vintix], Actor],
    progress: Progress,
) -> dict[str, Any]:
    """Move the stance of a model that walks to where it earns most, in place; returns what to record of the search.

    Arguments are those of `leave_standing`.
    """
    started = time.perf_counter()
    found = find_posture(task, lambda: make_actor(model), 0, FINE_ROUNDS, fine=True)
    move_posture(model, task_name, found.offset, task.config.action_scale_rad * found.offset)
    progress.say(
        f"Stance: return of a trial {found.before:.2f}, {found.after:.2f} with {found.words(task)} "
        f"({found.env_steps} steps tried)"
    )
    seconds = time.perf_counter() - started
    return {"posture": found.offset.tolist(), "posture_env_steps": found.env_steps, "posture_seconds": seconds}


def same_sizes(one: TaskInfo, other: TaskInfo) -> bool:
    """Whether two tasks observe and act in as many numbers."""
    return (one.observation_dim, one.action_dim) == (other.observation_dim, other.action_dim)


def _adapters(model: Vintix, task_name: str, robot: Robot, init_map: str) -> dict[str, Vintix]:
    """The model as it is, and with a copy of the adapter of each other robot that it knows, by whose it is."""
    adapters = {"its own adapter": model}
    for other in robots_of(model.tasks):
        source = find_task(other, model.tasks)
        if source in (None, task_name) or not same_sizes(model.tasks[source], model.tasks[task_name]):
            continue
        try:
            joints = joint_map(robot, other, init_map)
        except UsageError:  # joints that the map cannot relate
            continue
        group, candidate = model.tasks[task_name].group_name, copy.deepcopy(model)
        candidate.remove_task(task_name)
        add_group(candidate, task_name, group, source, joints)
        adapters[f"{other.name}'s adapter"] = candidate
    return adapters


def find_posture(
    task: WalkingTask,
    make_actor: Callable[[], Actor],
    seed: int,
    rounds: int = ROUNDS,
    start: Posture | None = None,
    fine: bool = False,
) -> Posture:
    """The offset of all actions with which a model earns most until it falls, in `TRIAL_STEPS` steps at most.

    Args:
        task: the environments; each tries one offset at a time, from randomised starts.
        make_actor: the model, with a cold context, acting in them.
        seed: of the starts, where they are randomised.
        rounds: of trials.
        start: an earlier search to go on with; none: no offset.
        fine: by small moves, for a robot that walks; all from the same start, since others would hide what they pay.
    """
    directions = mirrored(task.robot)  # [J / 2, J]
    numbers, halved, steps, before, after = np.zeros(len(directions)), FINE * fine, 0, math.nan, math.nan
    if start is not None:
        numbers, halved, steps, before = start.numbers, start.halved, start.env_steps, start.before
    for turn in range(rounds):
        sizes = SIZES / 2**halved
        moves = [sign * size * unit for unit in np.eye(len(numbers)) for size in sizes for sign in (1.0, -1.0)]
        tried = numbers + np.array([np.zeros_like(numbers), *moves])  # [K, J / 2], the best so far first
        returns, more = _try(task, make_actor, tried @ directions, seed + turn, not fine)
        best = int(returns.argmax())
        numbers, after, steps, halved = tried[best], float(returns[best]), steps + more, halved + (best == 0)
        before = float(returns[0]) if turn == 0 and start is None else before
    return Posture(numbers, numbers @ directions, before, after, steps, halved)


def mirrored(robot: Robot) -> np.ndarray:
    """What moves front and hind hips, thighs and calves alike on both sides: [J / 2, J] of -1, 0 and +1.

    A rotation's mirror image in the plane between the sides turns about (-x, y, -z).
    """
    axes = robot.joint_axes.reshape(len(LEGS), -1, 3)  # FR, FL, RR, RL
    directions = np.zeros((2, axes.shape[1], *axes.shape[:2]))  # pair, joint, leg, joint
    for pair in range(2):
        right, left = 2 * pair, 2 * pair + 1
        for joint in range(axes.shape[1]):
            image = axes[left, joint] * (-1.0, 1.0, -1.0)
            directions[pair, joint, left, joint] = 1.0
            directions[pair, joint, right, joint] = np.sign(image @ axes[right, joint])
    return directions.reshape(-1, robot.joint_axes.shape[0])


def _try(
    task: WalkingTask, make_actor: Callable[[], Actor], offsets: np.ndarray, seed: int, random_starts: bool
) -> tuple[np.ndarray, int]:
    """Mean return of a trial with each of ``offsets`` [K, J], and the environment steps that this took."""
    steps, returns = min(TRIAL_STEPS, task.max_steps), []
    for first in range(0, len(offsets), task.num_envs):
        some = offsets[first : first + task.num_envs]
        whose = np.arange(task.num_envs) % len(some)  # environment -> offset
        shifted = torch.as_tensor(some[whose], dtype=torch.float32, device=task.device)
        found = collect(
            task, Shifted(make_actor(), shifted, task), seed=seed, random_starts=random_starts, steps_per_env=steps,
            keep=True,
        )  # fmt: skip
        first_episodes = [history.reward[slice(*history.episodes()[0])].sum() for history in found.histories]
        returns += [np.array(first_episodes)[whose == index].mean() for index in range(len(some))]
    return np.array(returns), steps * task.num_envs * -(-len(offsets) // task.num_envs)


class Shifted(Actor):
    """An actor whose actions are moved by an offset of which it knows nothing.

    Args:
        actor: is shown joint positions without what the offset moved them by, and its own actions as it gave them.
        offset: [N, J], in action units.
        task: what an action unit moves, and where an observation has the joint positions.
    """

    def __init__(self, actor: Actor, offset: torch.Tensor, task: WalkingTask) -> None:
        self._actor, self._offset = actor, offset
        self._moved_rad, self._joint_pos = task.config.action_scale_rad * offset, task.layout.joint_pos

    def reset(self, mask: torch.Tensor | None = None) -> None:
        self._actor.reset(mask)

    def act(self, observation: torch.Tensor, step_num: torch.Tensor) -> torch.Tensor:
        return self._actor.act(self._seen(observation), step_num) + self._offset

    def observe(self, action: torch.Tensor, reward: torch.Tensor) -> None:
        self._actor.observe(action - self._offset, reward)

    def begin(
        self, observation: torch.Tensor, step_num: torch.Tensor, standardised: torch.Tensor | None = None
    ) -> None:
        self._actor.begin(self._seen(observation), step_num)

    def finish(self) -> torch.Tensor:
        return self._actor.finish() + self._offset

    def _seen(self, observation: torch.Tensor) -> torch.Tensor:
        observation = observation.clone()
        observation[:, self._joint_pos] -= self._moved_rad
        return observation
