"""One robot under a policy that can be changed while it walks; what it earns, how fast it goes, what was done to it.

Knows nothing about pages or pictures.  All calls come from one thread.
"""

from __future__ import annotations

import functools
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch

from vintix_fast.kernels.reference import rotate_into_body
from vintix_fast.policy import Actor
from vintix_fast.report.recording import Recording, seen
from vintix_fast.world.mujoco_simulator import MujocoSimulator
from vintix_fast.world.simulator import DT_S, RobotState
from vintix_fast.world.task import Simulation, WalkingTask
from vintix_fast.world.task_config import DEFAULT_TASK, TaskConfig

STEADY = {"zero": False, "random": True}
"""Policies that need no model, and whether they draw at random."""
SPEED_STEPS = 50
"""The speed that is shown is a second's mean: within a stride it goes up and down."""


class Steady(Actor):
    """Gives every joint its default, or a target drawn anew each step, uniformly within an action unit (0.25 rad)."""

    def __init__(self, num_joints: int, random: bool) -> None:
        self._shape, self._size = (1, num_joints), float(random)

    def reset(self, mask: torch.Tensor | None = None) -> None:
        pass

    def act(self, observation: torch.Tensor, step_num: torch.Tensor) -> torch.Tensor:
        return self._size * (2.0 * torch.rand(self._shape) - 1.0)

    def observe(self, action: torch.Tensor, reward: torch.Tensor) -> None:
        pass


class Walk:
    """Episode after episode of one robot.

    Args:
        simulator: of one environment.
        policies: by name, each made when it is first chosen; those of `STEADY` come last, by themselves.
        task_config: what is asked for; where that is a range of commands, its middle until `steer` says otherwise.
        first: the policy to begin with; None: the first.
        max_steps: an episode's time limit.
        seed: of the starts.
        keep: keep what a film needs, for `recording`.
    """

    def __init__(
        self,
        simulator: Simulation,
        policies: Mapping[str, Callable[[], Actor]],
        task_config: TaskConfig = DEFAULT_TASK,
        *,
        first: str | None = None,
        max_steps: int = 1000,
        seed: int = 5,
        keep: bool = False,
    ) -> None:
        self.simulator, self.robot = simulator, simulator.robot
        self.task = WalkingTask(simulator, simulator.robot, max_steps, task_config=task_config)
        self._makers: dict[str, Callable[[], Actor]] = {
            **policies,
            **{name: functools.partial(Steady, self.task.layout.num_joints, how) for name, how in STEADY.items()},
        }
        self._made: dict[str, Actor] = {}
        self.steps, self.falls = 0, 0
        self.return_ = 0.0
        self.last_return: float | None = None
        self._speeds: deque[float] = deque(maxlen=SPEED_STEPS)
        self._kept: list[dict[str, np.ndarray]] | None = [] if keep else None
        self.steer(*task_config.command)
        self._next_seed = seed
        self.restart()
        self.choose(first or next(iter(self._makers)))

    @property
    def names(self) -> list[str]:
        """Of the policies that can be chosen."""
        return list(self._makers)

    @property
    def episode_steps(self) -> int:
        return int(self.task.step_num[0])

    @property
    def speed_m_s(self) -> float:
        """Forward, in the body's frame, over the last second."""
        return sum(self._speeds) / len(self._speeds) if self._speeds else 0.0

    @property
    def can_be_loaded(self) -> bool:
        """Whether the simulator knows payloads that change while it runs."""
        return isinstance(self.simulator, MujocoSimulator)

    def choose(self, name: str) -> None:
        """Go on under another policy, which has no memory of what was before."""
        if name not in self._made:
            self._made[name] = self._makers[name]()
        self._policy, self.name, self._tried = self._made[name], name, self.names.index(name)
        self._policy.reset()

    def choose_next(self) -> None:
        """Go on under the one after this; where that cannot be, under this, and the next call tries one further."""
        self._tried = (self._tried + 1) % len(self.names)
        self.choose(self.names[self._tried])

    def restart(self) -> None:
        """Begin another episode, from another start; the one that was broken off counts for nothing."""
        self._observation = self.task.reset(self._next_seed, random_starts=True)
        self._next_seed += 1
        self.state: RobotState = self.simulator.state()
        self.return_ = 0.0
        self._speeds.clear()

    def steer(self, forward_m_s: float, left_m_s: float, turn_rad_s: float) -> None:
        """Ask for this command from the next step on."""
        self.task.ask(torch.tensor([[forward_m_s, left_m_s, turn_rad_s]]))

    def push(self, speed_m_s: float) -> None:
        """To the robot's left, or right where it is below 0."""
        w, _, _, z = self.state.base_quat[0].tolist()
        yaw = 2.0 * np.arctan2(z, w)
        sideways = torch.tensor([[-speed_m_s * np.sin(yaw), speed_m_s * np.cos(yaw)]], dtype=torch.float32)
        self.simulator.push(torch.ones(1, dtype=torch.bool), sideways)

    def load(self, payload_kg: float) -> None:
        """Put so much on the robot's base."""
        if isinstance(self.simulator, MujocoSimulator):
            self.simulator.load(payload_kg)

    def step(self) -> None:
        """0.02 s."""
        action = self._policy.act(self._observation, self.task.step_num.clone())
        result = self.task.step(action)
        self._policy.observe(action, result.reward)
        self._observation = result.observation
        self.steps += 1
        self.return_ += float(result.reward[0])
        self.state = self.simulator.state()
        self._speeds.append(float(rotate_into_body(self.state.base_quat, self.state.base_lin_vel_m_s)[0, 0]))
        if self._kept is not None:
            self._kept.append(seen(self.simulator) | {"reward": result.reward.numpy().copy()})
        if result.done[0]:
            self.falls += int(result.terminated[0])
            self.last_return, self.return_ = self.return_, 0.0
            self._speeds.clear()

    def recording(self) -> Recording:
        """Of every step so far; falls are not told."""
        kept = self._kept or []
        columns: dict[str, Any] = {name: np.stack([step[name] for step in kept]) for name in kept[0]}
        return Recording(**columns, falls=())

    @property
    def seconds(self) -> float:
        return self.steps * DT_S
