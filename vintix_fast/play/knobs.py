"""What a person may do to a walk and with which keys, and which numbers are shown: the same in the page and the window.

Knows nothing about either.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

from vintix_fast.play.walk import Walk
from vintix_fast.world.task_config import TaskConfig

COMMAND = (("forward, m/s", "I", "K"), ("left, m/s", "U", "O"), ("turn, rad/s", "N", "M"))
"""What a robot is asked for, left being more, with keys for more and less; viser's camera has WASD, Q, E and arrows."""
MOST_COMMAND, COMMAND_STEP = 1.0, 0.1
PUSHES = (("left", "J", 1.0), ("right", "L", -1.0))
PUSH_M_S = 0.6
HEAVIER, LIGHTER = "P", "R"
MOST_PAYLOAD = 0.5
"""Of the robot's mass."""
PAYLOAD_KEYS = 5
"""So often is the key pressed from nothing to the heaviest."""
NEXT_POLICY, ANEW = "C", "B"


class Knobs:
    """The numbers that keys move, and what each key does.

    Args:
        walk: what it is done to.
    """

    def __init__(self, walk: Walk) -> None:
        self._walk = walk
        self.command = list(walk.task.config.command)
        self.payload_kg = 0.0
        keys: dict[str, Callable[[], None]] = {}
        for i, (_, more, less) in enumerate(COMMAND):
            for key, by in ((more, COMMAND_STEP), (less, -COMMAND_STEP)):
                keys[key] = functools.partial(self._ask, i, by)
        for _, key, sign in PUSHES:
            keys[key] = functools.partial(walk.push, sign * PUSH_M_S)
        if walk.can_be_loaded:
            for key, sign in ((HEAVIER, 1.0), (LIGHTER, -1.0)):
                keys[key] = functools.partial(self._load, sign * heaviest_kg(walk) / PAYLOAD_KEYS)
        self.keys = keys | {NEXT_POLICY: walk.choose_next, ANEW: walk.restart}

    def _ask(self, which: int, by: float) -> None:
        self.command[which] = moved(self.command[which], by, *command_ends(self._walk, which))
        self._walk.steer(*self.command)

    def _load(self, by_kg: float) -> None:
        self.payload_kg = moved(self.payload_kg, by_kg, 0.0, heaviest_kg(self._walk))
        self._walk.load(self.payload_kg)


def moved(value: float, by: float, low: float, high: float) -> float:
    """A knob's next place, between its ends."""
    return round(min(max(value + by, low), high), 2)


def command_ends(walk: Walk, which: int) -> tuple[float, float]:
    """The least and the most that may be asked for."""
    value = walk.task.config.command[which]
    return min(-MOST_COMMAND, value), max(MOST_COMMAND, value)


def heaviest_kg(walk: Walk) -> float:
    """The most that is put on the base."""
    return round(MOST_PAYLOAD * (walk.robot.mass_kg or 10.0), 1)


def key_help(walk: Walk) -> dict[str, str]:
    """What the keys do, by key."""
    rows = {f"{more} {less}": name.split(",")[0] for name, more, less in COMMAND}
    rows |= {"arrows": "forward, turn", " ".join(key for _, key, _ in PUSHES): "push left, right"}
    if walk.can_be_loaded:
        rows[f"{HEAVIER} {LIGHTER}"] = "payload"
    return rows | {NEXT_POLICY: "next policy", ANEW: "start anew", "mouse": "camera"}


def numbers(walk: Walk, pace: float) -> dict[str, str]:
    """What is shown of a walk as it stands, by name; ``pace``: simulated seconds a second."""
    return {
        "speed": f"{walk.speed_m_s:.2f} m/s",
        "return, this episode": f"{walk.return_:.2f}",
        "step": f"{walk.episode_steps} of {walk.task.max_steps}",
        "return, last episode": "" if walk.last_return is None else f"{walk.last_return:.2f}",
        "falls": str(walk.falls),
        "pace": f"{pace:.1f} x real time",
    }


def known(task: TaskConfig) -> str:
    """What the models know of commands, for a person."""
    parts = []
    for (name, _, _), middle, spread in zip(COMMAND, task.command, task.command_spread, strict=True):
        quantity, unit = name.split(", ")
        span = f"{middle - spread:g} to {middle + spread:g}" if spread else f"{middle:g}"
        parts.append(f"{quantity} {span} {unit}")
    return f"Trained for {', '.join(parts)}. What else is asked for, the models have never seen."
