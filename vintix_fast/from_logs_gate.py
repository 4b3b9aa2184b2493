"""The next log as a gate: what a model's logs say of it, and whether they show it to be worse than another.

A walk has few episodes, in most of them noise was added, and one fall more or less is worth a whole one.  So what was
walked with much noise counts little, and a model is undone only where its logs are worse than the best model's by more
than the error of the difference.  The best is looked for among all that have logs, so that small declines do not add
up.  Knows nothing about files or models.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from vintix_fast.data import History
from vintix_fast.logs import exploration, parts

QUIET = 0.1
"""Noise in action units with which a step counts half; without, it counts in full."""
RUNG = 500
"""Steps after which a runner's exploration changes."""


@dataclass(frozen=True)
class Estimate:
    """Return of an episode, and its standard error."""

    mean: float
    error: float

    def __str__(self) -> str:
        return f"{self.mean:.2f} ± {self.error:.2f}"

    def worse_than(self, other: Estimate) -> bool:
        """By more than the standard error of the difference."""
        return other.mean - self.mean > math.hypot(self.error, other.error)


def quiet_return(histories: list[History], max_steps: int) -> Estimate:
    """What a model earns in an episode of ``max_steps``, of all its logs; the less noise there was, the more it counts.

    The error is that of a mean over the logs' parts and one episode more, imagined, that earned nothing: some walks
    without a fall do not show that there are none.
    """
    found = [(exploration([h], part), h.reward[part].sum(dtype=np.float64), possible / max_steps)
             for h in histories for part, possible in parts(h, max_steps, RUNG)]  # fmt: skip
    noise, earned, share = np.array(found).T  # share: of an episode
    weight = 1.0 / (1.0 + (noise / QUIET) ** 2)
    mean = (weight @ earned) / (weight @ share)
    squares = np.square(weight * (earned - mean * share)).sum() + mean**2
    return Estimate(float(mean), float(np.sqrt(squares) / (weight @ share + 1.0)))


@dataclass(frozen=True)
class Verdict:
    """What is made of a log."""

    loop: int
    """Whose model to go on from."""
    accepted: bool | None
    """None: nothing was to be decided, of the first model's log, or the best one's once more."""
    words: str


def judge(made_by: int, current: int | None, found: dict[int, Estimate], name: Callable[[int], str]) -> Verdict:
    """Whether to go on from the model that made the newest log, or from the best of the others.

    Args:
        made_by: its loop.
        current: the loop whose model the last call went on from; None: there was none.
        found: of each model that has logs, by loop; of all its logs.
        name: of a loop's model.
    """
    mine = found[made_by]
    if current is None:
        return Verdict(made_by, None, f"{name(made_by)} returned {mine}: what the next walk is to beat")
    best = max(found.keys() - {made_by}, key=lambda loop: (found[loop].mean, loop), default=made_by)
    if mine.worse_than(found[best]):
        words = f"{name(made_by)} returned {mine}, worse than {found[best]} of {name(best)}: back to that, with a "
        return Verdict(best, False, words + "smaller step")
    if made_by == current:
        return Verdict(made_by, None, f"{name(made_by)} once more: it returned {mine} over all its logs")
    how = "better than" if mine.mean > found[best].mean else "not shown to be worse than"
    return Verdict(made_by, True, f"{name(made_by)} returned {mine}, {how} {found[best]} of {name(best)}: kept")
