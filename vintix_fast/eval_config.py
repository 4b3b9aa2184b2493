"""Options of `eval`: a checkpoint measured on a robot."""

from __future__ import annotations

from dataclasses import MISSING, dataclass
from pathlib import Path

from vintix_fast.acting_config import (
    CONTEXT,
    ENGINE,
    EPISODES,
    EngineConfig,
    check_audition,
    check_film,
    check_simulator,
    checkpoint_option,
    copied_map_option,
    copied_option,
    token_order_option,
)
from vintix_fast.options import GIVEN, Options, entries, option
from vintix_fast.run_config import MAIN, MAX_ENVS, ROBOTS, RUN, TIME_LIMIT, seed_option, simulator_option
from vintix_fast.service.errors import UsageError
from vintix_fast.world.task_config import TaskConfig
from vintix_fast.world.task_file import check_world, task_option, vary_option
from vintix_fast.world.variation import Variation


@dataclass(frozen=True)
class EvalConfig(Options):
    """One evaluation: ``episodes_per_env`` episodes in each of ``num_envs`` environments, no exploration noise.

    UsageError where a value is out of range, or has no effect beside the others.
    """

    vintix_path: Path = checkpoint_option(MISSING, MAIN, "checkpoint directory, or builtin:<name>")
    robot_type: str = option(MISSING, MAIN, ROBOTS, short="-r")
    reference_robot: str | None = copied_option()
    init_map: str = copied_map_option()
    num_envs: int = option(100, MAIN, "environments side by side", least=1, most=MAX_ENVS)
    max_steps: int = option(1000, MAIN, TIME_LIMIT, least=1)
    episodes_per_env: int = option(
        1, EPISODES, "successive episodes in each environment; the context is carried over them",
        least=1, also="max-episodes",
    )  # fmt: skip
    context_len: int | None = option(None, EPISODES, CONTEXT, least=1, shown="what the model was made for")
    random_starts: bool = option(
        True, EPISODES,
        "start level and in the default pose, in one environment, instead of moved by up to 0.1 rad, 5 degrees and "
        "0.1 m",
        flag="--fixed-starts",
    )  # fmt: skip
    """False: every environment would run the same episode, so one environment runs it."""
    base_mass: float | None = option(None, EPISODES, "mass of the base link in kg", least=0.01, shown="the robot's own")
    seed: int = seed_option(EPISODES, "seed of the random starts", only_with={"random_starts": GIVEN})
    simulator: str = simulator_option(ENGINE)
    engine: EngineConfig = EngineConfig()
    token_order: str | None = token_order_option()
    output_dir: Path | None = option(
        None, RUN, "for eval.json and eval.csv", shown="eval/<robot>-<date and time>", also="output"
    )
    """None: nothing is written; the command makes up a name."""
    record: Path | None = option(None, RUN, "an .mp4 file for a video of the first six seconds")
    task: TaskConfig = task_option()
    vary: Variation | None = vary_option()
    overwrite: bool = option(
        False, RUN, "replace an earlier evaluation there", flag="--overwrite", only_with={"output_dir": GIVEN}
    )

    def _check(self) -> None:
        check_world(self)
        if not self.random_starts:
            if self.num_envs not in (1, entries(EvalConfig)["num_envs"].default):
                raise UsageError(
                    f"--num-envs {self.num_envs} has no effect with --fixed-starts, which make all environments run "
                    "the same episode; leave one of the two out"
                )
            object.__setattr__(self, "num_envs", 1)
        check_film(self.record)
        if self.base_mass is not None and any(entry.name == "base_mass_kg" for entry in self.task.vary.entries):
            raise UsageError(
                f"--base-mass {self.base_mass:g} has no effect where base_mass_kg varies; leave one of the two out"
            )
        check_audition(self, "init_map")
        check_simulator(self)
