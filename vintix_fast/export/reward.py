"""What the model is told of its last reward, where nothing can measure it.

Vintix reads the reward of its last step beside every observation.  A simulator knows it; a robot in the field senses
neither its speed nor its height.  Owns the three answers and their arithmetic, which `csrc/runner/control.cpp` spells
once more; a test holds the two together.  Knows nothing about files or simulators.
"""

from __future__ import annotations

import torch

from vintix_fast.model import TaskInfo
from vintix_fast.policy import Actor
from vintix_fast.world.layout import ObservationLayout
from vintix_fast.world.simulator import DT_S
from vintix_fast.world.task_config import TaskConfig

KINDS = ("true", "constant", "estimate")
"""true: whoever runs the model measures it; constant: always the same; estimate: `estimated_reward`."""


def constant_reward(info: TaskInfo, task: TaskConfig) -> float:
    """What is said of every step where no other constant is given.

    What the model was told in its pretraining (`PretrainConfig.reward_dropout`), or the most that a step can give.
    """
    return task.most_reward_per_s * DT_S if info.reward_told is None else info.reward_told


def estimated_reward(
    task: TaskConfig, layout: ObservationLayout, observation: torch.Tensor, action: torch.Tensor, before: torch.Tensor
) -> torch.Tensor:
    """The reward [N] of a step as far as a robot senses it.

    Yaw rate, joints and actions give three of the terms exactly.  The others need the base's speed and height; they
    count as on a robot that walks as it was asked to.

    Args:
        observation: [N, O], after the step.
        action: [N, J], what the step decided, clipped; before: the same of the step before, zeros at first.
    """
    weights = task.reward
    yaw_error = task.command[2] - observation[:, 2] / layout.ang_vel_scale
    per_second = (
        weights.tracking_lin_vel
        + weights.tracking_ang_vel * torch.exp(-yaw_error.square() / task.tracking_sigma)
        + weights.action_rate * (before - action).square().sum(dim=1)
        + weights.similar_to_default * observation[:, layout.joint_pos].abs().sum(dim=1)
    )
    return per_second * DT_S


class RewardFed(Actor):
    """A policy that is shown another reward than the true one.

    Args:
        policy: who acts.
        task, layout: what is asked for, and of whom.
        constant: the reward to show always; None: `estimated_reward`.
    """

    def __init__(
        self, policy: Actor, task: TaskConfig, layout: ObservationLayout, constant: float | None = None
    ) -> None:
        self.policy, self.task, self.layout, self.constant = policy, task, layout, constant
        self._last = self._before = torch.zeros(0)

    def reset(self, mask: torch.Tensor | None = None) -> None:
        self.policy.reset(mask)

    def act(self, observation: torch.Tensor, step_num: torch.Tensor) -> torch.Tensor:
        if len(self._last) != len(observation):
            self._last = self._before = torch.zeros(len(observation), self.layout.num_joints)
        # The state in which the last step ended is known only now.
        reward = torch.full((len(observation),), self.constant or 0.0)
        if self.constant is None:
            first = (step_num == 1)[:, None]
            before = torch.where(first, 0.0, self._before)
            reward = estimated_reward(self.task, self.layout, observation, self._last, before)
        self.policy.observe(self._last, reward)
        return self.policy.act(observation, step_num)

    def observe(self, action: torch.Tensor, reward: torch.Tensor) -> None:
        clip = self.task.action_clip
        self._before, self._last = self._last, action.clamp(-clip, clip)
