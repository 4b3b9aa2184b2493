"""What robots are asked to do, as data: the command, the reward's terms and weights, ends, starts, actions, latency.

Owns the table of reward terms, `RewardWeights`.  Three implementations spell their arithmetic, in this order:
`kernels/reference.py` in torch, `csrc/task.cpp` for a CPU, `kernels/task.py` for a GPU.  A new term is a line here and
one in each of them.  The default is the walking task that the pretrained models were trained in.  Knows nothing about
tensors, robots or files.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from vintix_fast.service.errors import InputFileError, UsageError


@dataclass(frozen=True)
class RewardWeights:
    """What each term of the reward counts, per second; below 0 a penalty, 0 leaves the term out."""

    tracking_lin_vel: float = 1.0  # exp(-|commanded - actual speed|^2 / sigma), forward and lateral, m/s
    tracking_ang_vel: float = 0.2  # exp(-(commanded - actual yaw rate)^2 / sigma), rad/s
    lin_vel_z: float = -1.0  # (speed upwards)^2, m/s
    base_height: float = -50.0  # (height of the base - the robot's target height)^2, m
    action_rate: float = -0.005  # |this action - the last one|^2
    similar_to_default: float = -0.1  # sum of |joint position - default pose|, rad


@dataclass(frozen=True)
class StartNoise:
    """How far random starts are from the default pose, level and at the origin; uniform in both directions."""

    joints_rad: float = 0.1
    tilt_rad: float = math.radians(5.0)  # roll and pitch
    position_m: float = 0.1  # forward and to the side


@dataclass(frozen=True)
class TaskConfig:
    """A task; the simulator's time step is no part of it.

    Raises:
        UsageError: a value that cannot be.
    """

    command: tuple[float, float, float] = (0.5, 0.0, 0.0)
    """Forward and lateral speed (m/s), yaw rate (rad/s)."""
    reward: RewardWeights = field(default_factory=RewardWeights)
    tracking_sigma: float = 0.25
    """How fast the two tracking terms fall with the error."""
    max_tilt_rad: float = math.radians(10.0)
    """Of roll and pitch; a robot beyond it has fallen.  Below a right angle."""
    start_noise: StartNoise = field(default_factory=StartNoise)
    action_scale_rad: float = 0.25
    """A joint's target is its default plus so much times the action."""
    action_clip: float = 100.0
    """Actions are cut to this size, either way."""
    latency_steps: int = 1
    """An action is executed so many steps after it was decided."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "command", tuple(self.command))
        numbers = (*self.command, *self.weights, *dataclasses.astuple(self.start_noise))
        checks = {
            "command": len(self.command) == 3,
            "tracking_sigma": 0.0 < self.tracking_sigma < math.inf,
            "max_tilt_rad": 0.0 < self.max_tilt_rad < math.pi / 2,
            "start_noise": min(dataclasses.astuple(self.start_noise)) >= 0.0,
            "action_scale_rad": 0.0 < self.action_scale_rad < math.inf,
            "action_clip": 0.0 < self.action_clip < math.inf,
            "latency_steps": isinstance(self.latency_steps, int) and self.latency_steps >= 0,
        }
        for name, fits in checks.items():
            if not fits:
                raise UsageError(f"a task's {name} cannot be {getattr(self, name)!r}")
        if not all(map(math.isfinite, numbers)):
            raise UsageError(f"a task's command, reward weights and start noise must be finite numbers, got {self}")

    @property
    def weights(self) -> tuple[float, ...]:
        """Of the reward's terms, in the table's order."""
        return dataclasses.astuple(self.reward)

    @property
    def most_reward_per_s(self) -> float:
        """What a second can give at most: exactly as commanded, at the height and in the pose that are asked for."""
        return sum(max(weight, 0.0) for weight in self.weights)

    def to_json(self) -> dict[str, Any]:
        """For a record; `from_json` makes the same task of it, to the last bit."""
        return dataclasses.asdict(self) | {"command": list(self.command)}

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> Self:
        """The task of a record; what an older record does not name is as by default.

        Raises:
            InputFileError: a name that no task has, or a value that cannot be.
        """
        try:
            parts = {"reward": RewardWeights, "start_noise": StartNoise}
            return cls(**{name: parts[name](**v) if name in parts else v for name, v in record.items()})
        except (TypeError, UsageError) as error:
            raise InputFileError(f"not a task's record ({error}): {dict(record)}") from error


DEFAULT_TASK = TaskConfig()
"""The task that the pretrained models were trained in."""
