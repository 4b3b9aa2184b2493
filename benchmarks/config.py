"""What a benchmark of collection is: checked before anything is loaded, so it imports nothing heavy."""

from __future__ import annotations

from dataclasses import dataclass

from vintix_fast.config import EngineOptions, check_options
from vintix_fast.errors import UsageError


@dataclass(frozen=True)
class BenchConfig(EngineOptions):
    """What to measure.

    Raises:
        UsageError: a value is out of range.
    """

    num_envs: tuple[int, ...] = (1, 16, 64, 256)
    steps: int | None = None
    """Of all environments in one timing, the first ones not timed; None: 20,000 transitions, 100 to 1000 steps."""
    repeats: int = 2
    """Every row's best of so many."""
    plain_steps: int = 10
    """Actions of the plain way; 0: leave it out."""
    device: str = "cpu"
    engine: str = "auto"
    cache_dtype: str | None = None
    dropped_mass: float | None = None
    """How the policy acts, as in `vintix_fast.config.AdaptConfig`."""

    def __post_init__(self) -> None:
        if self.steps is not None and not 10 <= self.steps <= 1000:
            raise UsageError(f"--steps is {self.steps}; it must be from 10 to 1000")
        check_options(self, {"repeats": 1, "plain_steps": 0}, {"device": ("cpu", "cuda")})
        self._settle_engine()

    def steps_of(self, num_envs: int) -> int:
        """Steps of one timing with so many environments."""
        return self.steps or min(1000, max(100, 20_000 // num_envs))
