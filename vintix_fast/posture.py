"""Away from standing still: a search for the stance around which a model moves best.

A copied adapter acts around the robot's default pose.  Where that pose presses links against one another (the front
thighs of Mini Cheetah begin inside its body), joints do not follow small changes of their targets: exploration noise
moves nothing, a critic finds no slope, and the model learns to stand.  A constant offset of the actions, seen by the
adapter as no offset at all, frees them.

The search is over six numbers, front and hind hip, thigh and calf, the left legs' mirror image on the right.  Each
environment tries another offset; the best of a round is where the next begins (pattern search, Hooke and Jeeves 1961).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from vintix_fast.model.adapter import BODY_DIMS
from vintix_fast.robots import LEGS, Robot
from vintix_fast.rollout import Actor, collect
from vintix_fast.task import ACTION_SCALE_RAD, MOST_REWARD, WalkingTask

SIZES = (1.0, 2.0)
"""How far one of the six numbers is moved, in action units (0.25 rad); halved once, where nothing was better."""
ROUNDS = 6
TRIAL_STEPS = 300
STANDING = 0.5
"""A model that stays up and earns less than this part of what a step can give stands still."""
JOINTS_OF_A_LEG = ("hip", "thigh", "calf")


@dataclass(frozen=True)
class Posture:
    """What a search found."""

    offset: np.ndarray  # [J] in action units
    words: str  # the offset, for a person
    before: float  # reward of a trial without the offset
    after: float  # and with it
    env_steps: int


def stands_still(mean_return: float, mean_length: float, max_steps: int) -> bool:
    """Whether episodes last, but earn so little that the robot cannot be moving as commanded."""
    return mean_length > max_steps / 2 and mean_return < STANDING * MOST_REWARD * mean_length


def find_posture(
    task: WalkingTask, make_actor: Callable[[], Actor], seed: int, check: Callable[[], None] = lambda: None
) -> Posture:
    """The offset of all actions with which a model earns most in `TRIAL_STEPS` steps from randomised starts.

    Args:
        task: the environments; each tries one offset at a time.
        make_actor: the model, with a cold context, acting in them.
        seed: of the starts.
        check: called for every step; may raise to stop.
    """
    directions = mirrored(task.robot)  # [6, J]
    numbers, sizes, steps, before = np.zeros(len(directions)), SIZES, 0, None
    for turn in range(ROUNDS):
        moves = [sign * size * unit for unit in np.eye(len(numbers)) for size in sizes for sign in (1.0, -1.0)]
        tried = numbers + np.array([np.zeros_like(numbers), *moves])  # [K, 6], what is known so far first
        rewards, more = _try(task, make_actor, tried @ directions, seed + turn, check)
        before, steps, best = rewards[0] if before is None else before, steps + more, int(rewards.argmax())
        numbers = tried[best]
        if best == 0:
            if sizes != SIZES:
                break
            sizes = tuple(size / 2 for size in SIZES)
    return Posture(numbers @ directions, _in_words(numbers), float(before), float(rewards[best]), steps)


def mirrored(robot: Robot) -> np.ndarray:
    """What moves front and hind hips, thighs and calves alike on both sides: [6, J] of -1, 0 and +1.

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
    task: WalkingTask, make_actor: Callable[[], Actor], offsets: np.ndarray, seed: int, check: Callable[[], None]
) -> tuple[np.ndarray, int]:
    """Mean reward of a trial with each of ``offsets`` [K, J], and the environment steps that this took."""
    steps, rewards = min(TRIAL_STEPS, task.max_steps), []
    for first in range(0, len(offsets), task.num_envs):
        some = offsets[first : first + task.num_envs]
        whose = np.arange(task.num_envs) % len(some)  # environment -> offset
        shifted = torch.as_tensor(some[whose], dtype=torch.float32, device=task.device)
        found = collect(
            task, Shifted(make_actor(), shifted), seed=seed, random_starts=True, steps_per_env=steps, keep=True,
            on_step=lambda collection: check(),
        )  # fmt: skip
        earned = np.array([history.reward.sum() for history in found.histories])  # [N]
        rewards += [earned[whose == index].mean() for index in range(len(some))]
    return np.array(rewards), steps * task.num_envs * -(-len(offsets) // task.num_envs)


class Shifted(Actor):
    """An actor whose actions are moved by an offset of which it knows nothing.

    Args:
        actor: is shown joint positions without what the offset moved them by, and its own actions as it gave them.
        offset: [N, J], in action units.
    """

    def __init__(self, actor: Actor, offset: torch.Tensor) -> None:
        self._actor, self._offset = actor, offset

    def forget(self, mask: torch.Tensor | None = None) -> None:
        self._actor.forget(mask)

    def act(self, observation: torch.Tensor, step_num: torch.Tensor) -> torch.Tensor:
        return self._actor.act(self._seen(observation), step_num) + self._offset

    def remember(self, action: torch.Tensor, reward: torch.Tensor) -> None:
        self._actor.remember(action - self._offset, reward)

    def begin(self, observation: torch.Tensor, step_num: torch.Tensor) -> None:
        self._actor.begin(self._seen(observation), step_num)

    def finish(self) -> torch.Tensor:
        return self._actor.finish() + self._offset

    def _seen(self, observation: torch.Tensor) -> torch.Tensor:
        observation = observation.clone()
        observation[:, BODY_DIMS : BODY_DIMS + self._offset.shape[1]] -= ACTION_SCALE_RAD * self._offset
        return observation


def _in_words(numbers: np.ndarray) -> str:
    names = [f"{pair} {joint}" for pair in ("front", "hind") for joint in JOINTS_OF_A_LEG]
    moved = [f"{name} {number * ACTION_SCALE_RAD:+.2f}" for name, number in zip(names, numbers, strict=True) if number]
    return ", ".join(moved) + " rad" if moved else "as it was"
