"""What a rollout keeps account of: whose turn is whose, the episodes that ended, the transitions to store.

Takes whole steps of all environments, as arrays on the host, in order; knows nothing of where they come from.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from vintix_fast.data import History
from vintix_fast.data.schema import VARIATION
from vintix_fast.service.regions import region


@dataclass(frozen=True)
class Episode:
    """One finished episode."""

    env: int
    number: int
    """Which of its environment's episodes, from 0: the length of the context it began with grows with it, until the
    share is run again."""
    return_: float
    length: int
    terminated: bool
    failed: bool
    varied: tuple[float, ...] = ()
    """What differed from the nominal robot, in its last step."""

    def to_json(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "varied" or value}


@dataclass
class Collection:
    """What a rollout gave."""

    episodes: list[Episode] = field(default_factory=list)
    histories: list[History] = field(default_factory=list)
    """One for each environment that ran an episode; empty when transitions were not kept."""
    env_steps: int = 0
    """Transitions that belong to an episode."""
    seconds: float = 0.0

    @property
    def mean_return(self) -> float:
        return float(np.mean([e.return_ for e in self.episodes]))

    @property
    def mean_length(self) -> float:
        return float(np.mean([e.length for e in self.episodes]))

    def metrics(self) -> dict[str, Any]:
        """A loop's metrics of its collection, with exploration noise."""
        returns = [e.return_ for e in self.episodes]
        return {
            "episodes": len(self.episodes),
            "env_steps": self.env_steps,
            "mean_return": self.mean_return,
            "std_return": float(np.std(returns)),
            "standard_error": standard_error(returns),
            "mean_length": self.mean_length,
            "failures": sum(e.failed for e in self.episodes),
            "collect_seconds": self.seconds,
            "env_steps_per_s": self.env_steps / self.seconds,
        }


def standard_error(values: list[float]) -> float | None:
    """Of the mean of independent ``values``: their standard deviation over sqrt(n - 1); None of a single one."""
    return float(np.std(values) / np.sqrt(len(values) - 1)) if len(values) > 1 else None


def episodes_per_env(num_episodes: int, num_envs: int) -> np.ndarray:
    """How many episodes each environment runs, [N]: shared out before any starts.

    Fixing them beforehand is what keeps short episodes from being over-represented: whoever falls early does not run
    more.  Those that run one more than others lie evenly among them, because exploration grows with the environment's
    number.
    """
    return np.diff(np.arange(num_envs + 1) * num_episodes // num_envs)


class StepWriter(Protocol):
    """Where a rollout's transitions go."""

    def append(self, arrays: dict[str, np.ndarray], active: np.ndarray) -> None:
        """Take one step of all environments; ``active``, bool [N], tells whose transitions belong to an episode."""
        ...


class Books:
    """Which environment runs which of its episodes, and what came of them.

    Args:
        num_envs: N.
        others: see `vintix_fast.rollout.collect`.
    """

    def __init__(
        self,
        num_envs: int,
        num_episodes: int,
        min_steps: int,
        steps_per_env: int,
        writer: StepWriter | None,
        keep: bool,
    ) -> None:
        self.collection, self.steps = Collection(), 0
        self._min_steps, self._steps_per_env = min_steps, steps_per_env
        self._writer, self._keep = writer, keep
        self._kept: list[tuple[dict[str, np.ndarray], np.ndarray]] = []
        self._share = episodes_per_env(num_episodes, num_envs)
        self._quota, self._finished = self._share.copy(), np.zeros(num_envs, dtype=np.int64)
        self._returns = np.zeros(num_envs)
        self._started = time.perf_counter()

    @property
    def active(self) -> np.ndarray:
        """Environments whose next step belongs to an episode: bool [N]."""
        if self._steps_per_env:
            return np.full(len(self._quota), self.steps < self._steps_per_env)
        return self._finished < self._quota

    def enter(self, step: dict[str, np.ndarray]) -> None:
        """Take down one step of all environments; its arrays are on loan."""
        active = self.active
        if self._writer is not None:
            with region("write"):
                self._writer.append(step, active)
        if self._keep:
            self._kept.append(({name: column.copy() for name, column in step.items()}, active))
        self.steps += 1
        self._returns[active] += step["reward"][active]
        self.collection.env_steps += int(active.sum())
        for env in np.flatnonzero(active & (step["terminated"] | step["truncated"]).astype(bool)):
            self.collection.episodes.append(
                Episode(
                    env=int(env),
                    number=int(self._finished[env]),
                    return_=float(self._returns[env]),
                    length=int(step["step_num"][env]) + 1,
                    terminated=bool(step["terminated"][env]),
                    failed=bool(step["failed"][env]),
                    varied=tuple(step[VARIATION][env].tolist()) if VARIATION in step else (),
                )
            )
            self._finished[env] += 1
            self._returns[env] = 0.0
        self.collection.seconds = time.perf_counter() - self._started

    def ask_for_more(self) -> bool:
        """Whether all episodes ended too early; every environment is then to run its share again."""
        more = self.collection.env_steps < self._min_steps and not self.active.any()
        if more:
            self._quota += self._share
        return more

    def close(self) -> Collection:
        """What all steps gave."""
        if self._kept:
            self.collection.histories = _histories(self._kept)
        return self.collection


def _histories(kept: list[tuple[dict[str, np.ndarray], np.ndarray]]) -> list[History]:
    active = np.stack([mask for _, mask in kept])  # [T, N]
    columns = {name: np.stack([step[name] for step, _ in kept]) for name in kept[0][0]}  # [T, N, ...]
    histories = []
    for env in range(active.shape[1]):
        rows = {name: column[active[:, env], env] for name, column in columns.items()}
        if len(rows["reward"]):
            histories.append(History.of_columns(rows, env))
    return histories
