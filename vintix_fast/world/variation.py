"""What differs from the nominal robot, as data: a payload, weak motors, a locked joint, noise; and how users spell it.

Owns the table of what can vary, `KINDS`.  A variation is a list of names, each with a value or a range, for the whole
robot or for some joints: ``payload_kg=0:5, motor.FR=0.5, locked.any_calf=1``.  `drawn.py` draws the values,
`genesis_variation.py` gives a robot the body, `disturbances.py` does the rest.  Knows nothing about tensors or Genesis.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Self

from vintix_fast.service.errors import UsageError


@dataclass(frozen=True)
class Kind:
    """What a value may be."""

    least: float
    most: float
    meaning: str
    of_joints: bool = False
    chance: bool = False
    """The value is the share of episodes in which it is so."""
    whole: bool = False
    needs: str | None = None
    """Without effect unless this varies too."""
    own: float | None = 0.0
    """Of a robot in which it does not vary; None where that is the robot file's affair."""


PUSH_EVERY_S = 2.0
"""Where nobody says."""
KINDS = {
    "payload_kg": Kind(0.0, 100.0, "mass that is fixed to the base"),
    "payload_x_m": Kind(-2.0, 2.0, "its place, from the base link's origin, forward", needs="payload_kg"),
    "payload_y_m": Kind(-2.0, 2.0, "to the left", needs="payload_kg"),
    "payload_z_m": Kind(-2.0, 2.0, "upwards", needs="payload_kg"),
    "base_mass_kg": Kind(0.01, 500.0, "mass of the base link, instead of its own", own=None),
    "com_x_m": Kind(-1.0, 1.0, "how far the base's centre of mass is moved forward"),
    "com_y_m": Kind(-1.0, 1.0, "to the left"),
    "com_z_m": Kind(-1.0, 1.0, "upwards"),
    "friction": Kind(0.01, 5.0, "coefficient between the robot and the ground", own=1.0),
    "motor": Kind(0.0, 10.0, "strength: torques and their limits times this", of_joints=True, own=1.0),
    "kp": Kind(0.0, 10.0, "position gain times this", of_joints=True, own=1.0),
    "kd": Kind(0.0, 10.0, "speed gain times this", of_joints=True, own=1.0),
    "joint_range": Kind(0.001, 1.0, "range of motion around the default pose, of the whole", of_joints=True, own=1.0),
    "locked": Kind(0.0, 1.0, "share of episodes in which the joint is stuck at its default", True, chance=True),
    "limp": Kind(0.0, 1.0, "share of episodes in which the joint has no torque", True, chance=True),
    "latency_steps": Kind(0, 50, "further steps until an action is executed", whole=True),
    "noise_joint_rad": Kind(0.0, 10.0, "standard deviation of sensed joint positions"),
    "noise_joint_rad_s": Kind(0.0, 100.0, "of sensed joint speeds"),
    "noise_gyro_rad_s": Kind(0.0, 100.0, "of the sensed turning of the base"),
    "noise_gravity": Kind(0.0, 10.0, "of the sensed direction of gravity, a unit vector"),
    "push_m_s": Kind(0.0, 10.0, "sideways jump of the base's speed, in a random direction"),
    "push_every_s": Kind(0.02, 1000.0, "time from push to push", needs="push_m_s", own=PUSH_EVERY_S),
}
"""By the names that users give them."""
REDRAW, REDRAW_S = "redraw_episodes", "redraw_s"


@dataclass(frozen=True)
class Varied:
    """One thing that varies, uniformly from ``low`` to ``high``; of a chance both are the chance."""

    name: str
    where: str
    """Joints: "" for all, a leg (FR), a kind of joint (calf), a joint (FR_calf, or its name in the robot file), or
    any_leg, any_joint, any_calf: one of these, drawn too."""
    low: float
    high: float

    @property
    def key(self) -> str:
        return f"{self.name}.{self.where}" if self.where else self.name

    @property
    def drawn(self) -> bool:
        """Whether episodes differ in it."""
        if KINDS[self.name].chance:
            return 0.0 < self.low < 1.0 or self.where.startswith("any_")
        return self.low != self.high or self.where.startswith("any_")

    def __str__(self) -> str:
        return f"{self.key}={self.low:.12g}" + (f":{self.high:.12g}" if self.low != self.high else "")


@dataclass(frozen=True)
class Variation:
    """What varies, and how often it is drawn: anew after ``redraw_episodes`` episodes of an environment; 0: never.

    Within an episode too, after each ``redraw_s`` seconds of it; None: never.  False where nothing varies.

    Raises:
        UsageError: a name that nothing has, a value that cannot be, or one without effect.
    """

    entries: tuple[Varied, ...] = ()
    redraw_episodes: int = 1
    redraw_s: float | None = None

    def __post_init__(self) -> None:
        keys = [entry.key for entry in self.entries]
        for entry in self.entries:
            _check(entry)
            if keys.count(entry.key) > 1:
                raise UsageError(f"--vary names {entry.key} twice; give it once")
            needed = KINDS[entry.name].needs
            if needed is not None and needed not in keys:
                raise UsageError(f"--vary {entry} has no effect without {needed}; give that too, or leave this out")
        if type(self.redraw_episodes) is not int or self.redraw_episodes < 0:
            raise UsageError(f"--vary {REDRAW}={self.redraw_episodes} must be a whole number from 0 on")
        if self.redraw_episodes != 1 and not any(entry.drawn for entry in self.entries):
            raise UsageError(f"--vary {REDRAW}={self.redraw_episodes} has no effect, since nothing is drawn; leave it")
        if self.redraw_s is not None:
            if not 0.0 < self.redraw_s < math.inf:
                raise UsageError(f"--vary {REDRAW_S}={self.redraw_s} must be a time above 0")
            if self.redraw_episodes != 1:
                raise UsageError(f"--vary {REDRAW_S} draws within each episode; leave {REDRAW} out")
            if not any(entry.drawn for entry in self.entries):
                raise UsageError(f"--vary {REDRAW_S}={self.redraw_s:g} has no effect, since nothing is drawn; leave it")

    def __bool__(self) -> bool:
        return bool(self.entries)

    def __str__(self) -> str:
        redraw = [f"{REDRAW}={self.redraw_episodes}"] if self.redraw_episodes != 1 else []
        redraw += [f"{REDRAW_S}={self.redraw_s:.12g}"] if self.redraw_s is not None else []
        return ", ".join([*map(str, self.entries), *redraw])

    def to_json(self) -> str:
        """As `parse` reads it."""
        return str(self)

    @classmethod
    def parse(cls, text: str) -> Self:
        """Of ``name=value, name.joints=low:high``.

        Raises:
            UsageError: see the class.
        """
        pairs: list[tuple[str, Any]] = []
        for part in filter(None, (part.strip() for part in text.split(","))):
            key, equals, value = (word.strip() for word in part.partition("="))
            if not equals:
                raise UsageError(f"--vary {part!r} is not NAME=VALUE or NAME=LOW:HIGH, such as payload_kg=0:5")
            pairs.append((key, [_number(key, word) for word in value.split(":")]))
        return cls._of(pairs)

    @classmethod
    def from_table(cls, table: Mapping[str, Any]) -> Self:
        """Of a task file's table ``vary``: values, or lists of lowest and highest.

        Raises:
            UsageError: see the class.
        """
        return cls._of(list(_flat(table)))

    @classmethod
    def _of(cls, pairs: list[tuple[str, Any]]) -> Self:
        entries, redraw, redraw_s = [], 1, None
        for key, value in pairs:
            span = value if isinstance(value, list) else [value]
            if len(span) not in (1, 2) or not all(map(_is_number, span)):
                raise UsageError(f"--vary {key} is {value!r}; it must be a number, or lowest and highest")
            name, _, where = key.partition(".")
            if key == REDRAW and len(span) == 1 and float(span[0]).is_integer():
                redraw = int(span[0])
            elif key == REDRAW_S and len(span) == 1:
                redraw_s = float(span[0])
            elif name not in KINDS:
                raise UsageError(f"--vary {key} is not known; known are {', '.join([*KINDS, REDRAW, REDRAW_S])}")
            else:
                entries.append(Varied(name, where, float(span[0]), float(span[-1])))
        return cls(tuple(entries), redraw, redraw_s)


NO_VARIATION = Variation()


def _flat(table: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    """TOML reads ``motor.FR = 0.5`` as a table in a table."""
    for key, value in table.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{above}{key}.")
        else:
            yield f"{above}{key}", value


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and not abs(value) > sys.float_info.max


def _number(key: str, word: str) -> float:
    try:
        return float(word)
    except ValueError:
        raise UsageError(f"--vary {key}: {word!r} is not a number; give a value, or LOW:HIGH") from None


def _check(entry: Varied) -> None:
    kind = KINDS[entry.name]
    if entry.where and not kind.of_joints:
        raise UsageError(f"--vary {entry.key}: {entry.name} is of the whole robot; leave .{entry.where} out")
    if kind.chance and not entry.where:
        raise UsageError(f"--vary {entry}: say which joint, such as {entry.name}.FR_calf or {entry.name}.any_joint")
    if kind.chance and entry.low != entry.high:
        raise UsageError(f"--vary {entry}: a share of episodes is one number, such as 1 for all")
    for value in (entry.low, entry.high):
        if not (math.isfinite(value) and kind.least <= value <= kind.most):
            raise UsageError(f"--vary {entry}: {entry.name} must be from {kind.least:g} to {kind.most:g}")
        if kind.whole and value != int(value):
            raise UsageError(f"--vary {entry}: {entry.name} must be a whole number")
    if entry.low > entry.high:
        raise UsageError(f"--vary {entry}: the lowest value comes first")
