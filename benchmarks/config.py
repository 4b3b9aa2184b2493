"""What a benchmark of collection is: checked before anything is loaded, so it imports nothing heavy."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from vintix_fast.acting_config import CONTEXT, EngineConfig, checkpoint_option
from vintix_fast.options import Options, option
from vintix_fast.run_config import MAIN, MAX_ENVS
from vintix_fast.service.bundled import BUILTIN_CHECKPOINT
from vintix_fast.service.errors import UsageError

PARTS = "Parts"


@dataclass(frozen=True)
class BenchConfig(Options):
    """What to measure."""

    num_envs: tuple[int, ...] = option(
        (1, 16, 64, 256), MAIN, "numbers of environments to measure, with commas", least=1, most=MAX_ENVS
    )
    context_len: int | None = option(
        None, MAIN, f"{CONTEXT}; 256 is measured too", least=1, shown="what the model was made for"
    )
    robot_type: str = option("go2", MAIN, "a robot that the checkpoint walks on, so that none falls")
    pretrained_path: Path = checkpoint_option(BUILTIN_CHECKPOINT, MAIN, "checkpoint directory, or builtin:<name>")
    engine: EngineConfig = EngineConfig()
    steps: int | None = option(
        None, MAIN, "steps of all environments in one timing, 10 to 1000",
        least=10, most=1000, shown="20,000 / environments, at least 100",
    )  # fmt: skip
    """The first ones are not timed."""
    repeats: int = option(2, MAIN, "timings of each row; the best counts", least=1)
    plain_steps: int = option(10, PARTS, "actions of the plain way; 0 leaves it out", least=0)
    writer_steps: int = option(2000, PARTS, "steps written to compare with h5py; 0 leaves it out", least=0)

    def _check(self) -> None:
        if not self.num_envs:
            raise UsageError(f"--num-envs is empty; it must be numbers from 1 to {MAX_ENVS}, such as 16,64")
        object.__setattr__(self, "num_envs", tuple(sorted(set(self.num_envs))))

    def steps_of(self, num_envs: int) -> int:
        """Steps of one timing with so many environments."""
        return self.steps or min(1000, max(100, 20_000 // num_envs))
