"""What robots are asked to do, as data: commands, the reward's terms and weights, ends, starts, actions, latency.

Owns the tables of reward terms.  Three implementations spell the arithmetic of `RewardWeights`, in this order:
`kernels/reference.py` in torch, `csrc/task.cpp` for a CPU, `kernels/task.py` for a GPU.  A new term is a line here and
one in each of them.  Those of `FurtherWeights` need more of the simulator; `further_reward.py` has them once.  The
default is the walking task that the pretrained models were trained in.  What differs from the nominal robot is a
task's `Variation`.  Knows nothing about tensors or robots; `task_file.py` reads files.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from vintix_fast.service.errors import InputFileError, UsageError
from vintix_fast.world.variation import NO_VARIATION, Variation

MOST_LATENCY = 1000
"""Steps; each is kept."""


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
class FurtherWeights:
    """What each further term of the reward counts, per second; those that other trainers of walking robots have."""

    torque: float = 0.0  # sum of (motor torque)^2, Nm
    joint_acc: float = 0.0  # sum of (change of joint speed in a step / its time)^2, rad/s^2
    foot_air_time: float = 0.0  # of each foot that lands: (seconds in the air - 0.5); 0 while commanded to stand
    stumble: float = 0.0  # 1 while any foot is pushed more than five times as hard sideways as upwards
    alive: float = 0.0  # 1

    @property
    def measured(self) -> bool:
        """Whether a simulator must tell forces or torques for them."""
        return any((self.torque, self.foot_air_time, self.stumble))


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
    command_spread: tuple[float, float, float] = (0.0, 0.0, 0.0)
    """Commands are drawn uniformly within so much of ``command``, either way, for each episode."""
    resample_s: float | None = None
    """They are drawn anew after so much of an episode, too."""
    reward: RewardWeights = field(default_factory=RewardWeights)
    further: FurtherWeights = field(default_factory=FurtherWeights)
    tracking_sigma: float = 0.25
    """How fast the two tracking terms fall with the error."""
    max_tilt_rad: float = math.radians(10.0)
    """Of roll and pitch; a robot beyond it has fallen.  Below a right angle."""
    min_height_m: float | None = None
    """A robot whose base is lower has fallen."""
    time_limit_s: float | None = None
    """An episode ends after so much time, where the command's option does not end it before."""
    start_noise: StartNoise = field(default_factory=StartNoise)
    action_scale_rad: float = 0.25
    """A joint's target is its default plus so much times the action."""
    action_clip: float = 100.0
    """Actions are cut to this size, either way."""
    latency_steps: int = 1
    """An action is executed so many steps after it was decided."""
    vary: Variation = NO_VARIATION
    """What differs from the nominal robot."""

    def __post_init__(self) -> None:
        for name in ("command", "command_spread"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        numbers = (*self.command, *self.command_spread, *self.weights, *dataclasses.astuple(self.further))
        numbers += dataclasses.astuple(self.start_noise)
        checks = {
            "command": len(self.command) == 3,
            "command_spread": len(self.command_spread) == 3 and min(self.command_spread) >= 0.0,
            "resample_s": self.resample_s is None or (0.0 < self.resample_s < math.inf and self.commands_vary),
            "min_height_m": self.min_height_m is None or math.isfinite(self.min_height_m),
            "time_limit_s": self.time_limit_s is None or 0.0 < self.time_limit_s < math.inf,
            "tracking_sigma": 0.0 < self.tracking_sigma < math.inf,
            "max_tilt_rad": 0.0 < self.max_tilt_rad < math.pi / 2,
            "start_noise": min(dataclasses.astuple(self.start_noise)) >= 0.0,
            "action_scale_rad": 0.0 < self.action_scale_rad < math.inf,
            "action_clip": 0.0 < self.action_clip < math.inf,
            "latency_steps": isinstance(self.latency_steps, int) and 0 <= self.latency_steps <= MOST_LATENCY,
        }
        for name, fits in checks.items():
            if not fits:
                raise UsageError(f"a task's {name} cannot be {getattr(self, name)!r}")
        if any(entry.name == "latency_steps" for entry in self.vary.entries) and not self.latency_steps:
            raise UsageError("--vary latency_steps adds to a task's latency_steps, which must be 1 or more then")
        if not all(map(math.isfinite, numbers)):
            raise UsageError(f"a task's command, reward weights and start noise must be finite numbers, got {self}")

    @property
    def weights(self) -> tuple[float, ...]:
        """Of the reward's terms, in the table's order."""
        return dataclasses.astuple(self.reward)

    @property
    def commands_vary(self) -> bool:
        return any(self.command_spread)

    @property
    def episodes_differ(self) -> bool:
        """Whether one episode's returns may be higher than another's by what was drawn for it."""
        return self.commands_vary or any(entry.drawn for entry in self.vary.entries)

    @property
    def most_reward_per_s(self) -> float:
        """What a second can give at most: exactly as commanded, at the height and in the pose that are asked for."""
        return sum(max(weight, 0.0) for weight in (*self.weights, self.further.alive))

    def to_json(self) -> dict[str, Any]:
        """For a record; `from_json` makes the same task of it, to the last bit.

        What was added to tasks since their first records is there only where it is not as by default.
        """
        record = dataclasses.asdict(self) | {"command": list(self.command), "vary": self.vary.to_json()}
        record["command_spread"] = list(self.command_spread)
        same = [name for name in ADDED if getattr(self, name) == getattr(DEFAULT_TASK, name)]
        return {name: value for name, value in record.items() if name not in same}

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> Self:
        """The task of a record; what an older record does not name is as by default.

        Raises:
            InputFileError: a name that no task has, or a value that cannot be.
        """
        try:
            parts: dict[str, Any] = {"reward": RewardWeights, "further": FurtherWeights, "start_noise": StartNoise}
            values = {name: parts[name](**v) if name in parts else v for name, v in record.items()}
            if "vary" in values:
                values["vary"] = Variation.parse(values["vary"])
            return cls(**values)
        except (TypeError, ValueError, OverflowError, AttributeError, UsageError) as error:
            raise InputFileError(f"not a task's record ({error}): {dict(record)}") from error


ADDED = ("command_spread", "resample_s", "further", "min_height_m", "time_limit_s", "vary")
DEFAULT_TASK = TaskConfig()
"""The task that the pretrained models were trained in."""
