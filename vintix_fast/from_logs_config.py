"""Options of `improve`: learning from a robot's logs, without a simulator."""

from __future__ import annotations

from dataclasses import MISSING, dataclass
from pathlib import Path
from typing import Any, Self

from vintix_fast.config import (
    DEFAULT_WINDOW,
    LEARNING,
    CriticConfig,
    FinetuneConfig,
    ImproveConfig,
    checkpoint_option,
    token_order_option,
)
from vintix_fast.options import option
from vintix_fast.run_config import MAIN, ROBOTS, RunConfig, device_option, seed_option
from vintix_fast.service.errors import InputFileError, UsageError
from vintix_fast.service.files import read_json
from vintix_fast.world.task_config import TaskConfig
from vintix_fast.world.task_file import task_option

HIDDEN = ("model", "resume", "improver", "finetune_exactly")
"""What no command line gives: the model is an argument, whether the run goes on follows from it, and the rest is the
control's."""


@dataclass(frozen=True)
class FromLogsConfig(RunConfig):
    """One call: what the logs teach; UsageError where a value is out of range, or has no effect beside the others."""

    command = "improve"

    model: Path = checkpoint_option(MISSING, MAIN, "the model that the robot walked with, when the run began")
    data: tuple[Path, ...] = option(
        MISSING, MAIN, "a log of the robot's: a trajectories.h5 of vintix_walk or of a simulator; repeatable",
        recorded=False, may_change=True,
    )  # fmt: skip
    robot_type: str = option(MISSING, MAIN, ROBOTS, short="-r")
    output_dir: Path = option(MISSING, MAIN, "where models and logs go", may_change=True)
    improve: ImproveConfig = ImproveConfig(critic=CriticConfig(steps_for_all=1))  # logs are short, and time is there
    finetune: FinetuneConfig = FinetuneConfig()
    max_steps_per_episode: int = option(1000, MAIN, "a log's return is that of an episode of so many steps", least=1)
    seed: int = seed_option(MAIN)
    device: str = device_option(LEARNING)
    token_order: str | None = token_order_option()
    task: TaskConfig = task_option()

    def _check(self) -> None:
        super()._check()
        if not self.data:
            raise UsageError("--data is missing; give the robot's log, --data trajectories.h5")

    def window_len(self, context_len: int) -> int:
        """``finetune.window_len``, or as long as is enough to learn from."""
        return self.finetune.window_len or min(DEFAULT_WINDOW, context_len)

    @classmethod
    def of_call(cls, model: Path, **given: Any) -> Self:
        """The configuration of a call: of a run to go on with, where ``model`` is an earlier call's directory.

        Args:
            given: the options that the user gave; None counts as not given.

        Raises:
            UsageError: options contradict the run's, or what a new run needs is missing.
            InputFileError: the run's options are broken.
        """
        given = {name: value for name, value in given.items() if value is not None}
        if (begun := _begun(model)) is None:
            if "output_dir" in given and _begun(Path(given["output_dir"])) is not None and not given.get("overwrite"):
                raise UsageError(
                    f"--output-dir {given['output_dir']} holds a run of `vintix-fast improve`: `vintix-fast improve "
                    f"{given['output_dir']} --data LOG` goes on with it, --overwrite replaces it"
                )
            return cls.from_options(model=model, **given)
        if given.get("overwrite"):
            raise UsageError(f"--overwrite has no effect where MODEL is the run {model} itself, which goes on")
        out = Path(given.pop("output_dir", model))
        if out.resolve() != model.resolve():
            raise UsageError(
                f"--output-dir is {out}, but MODEL is the run {model}, which goes on where it is; leave the option "
                f"out, or begin another run with one of its models, such as {model / 'models' / 'best'}"
            )
        config = cls.from_options(**(begun | {"output_dir": model, "resume": True} | given))
        robot = {"robot_type": config.robot_type}  # of which the run's directory knows more than words
        if differences := config.changed_options(begun | robot):
            raise UsageError(f"{model} was begun with other options ({'; '.join(differences)}); leave them out")
        return config


def _begun(path: Path) -> dict[str, Any] | None:
    """The options of the run in a directory, or None where there is none."""
    from vintix_fast.outdir import OPTIONS_FILE  # which imports numpy, and --help must not

    try:
        found = read_json(path / OPTIONS_FILE, "begin another run", {"options": dict, "command": str})
    except InputFileError:
        return None
    return found["options"] if found["command"] == FromLogsConfig.command else None
