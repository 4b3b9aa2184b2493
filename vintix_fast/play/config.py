"""Options of `play`: a robot that walks in a window or a page of the browser."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from vintix_fast.acting_config import check_film, checkpoint_option
from vintix_fast.options import Options, option
from vintix_fast.run_config import MAIN, ROBOTS, TIME_LIMIT, seed_option, simulator_option
from vintix_fast.service.errors import UsageError


@dataclass(frozen=True)
class PlayConfig(Options):
    """One robot before somebody's eyes; UsageError where a value is out of range."""

    model: Path | None = checkpoint_option(None, MAIN, "checkpoint directory, builtin:<name>, or a run of adapt")
    robot_type: str | None = option(None, MAIN, ROBOTS, short="-r", shown="the run's")
    policy: str | None = option(
        None, MAIN, "what walks first: a model of the run (initial, loop_01, ...), zero, random, or another checkpoint",
        shown="the run's best, or the model",
    )  # fmt: skip
    simulator: str = simulator_option(MAIN, "mujoco")
    max_steps: int = option(1000, MAIN, TIME_LIMIT, least=1)
    seed: int = seed_option(MAIN, "seed of the random starts")
    page: bool = option(False, MAIN, "a page of the browser, where a window could be opened too", flag="--page")
    host: str | None = option(
        None, MAIN, "show a page, and listen here; 0.0.0.0 lets other machines see it", shown="127.0.0.1"
    )
    port: int | None = option(
        None, MAIN, "show a page, and listen here, or at the next free port", least=1, most=65535, shown="8080"
    )
    seconds: float | None = option(None, MAIN, "stop after so many simulated seconds", least=0.02, shown="Ctrl-C")
    record: Path | None = option(None, MAIN, "an .mp4 file for a video of it all, drawn at the end")

    def _check(self) -> None:
        check_film(self.record)
        if self.model is None and self.policy is None:
            raise UsageError("nothing to watch; give a checkpoint or a run of adapt, or --policy zero or random")
