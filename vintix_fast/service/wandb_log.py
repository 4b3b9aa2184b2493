"""A run's numbers for Weights & Biases: the scalars that TensorBoard shows, over environment steps.

Who the user is, and whether to stay offline, are that library's matters: ``wandb login``, WANDB_MODE=offline.
"""

from __future__ import annotations

from typing import Any, Self

import wandb
from rich.console import Console

from vintix_fast.run_config import RunConfig
from vintix_fast.service.console import ConsoleProgress
from vintix_fast.service.errors import VintixFastError, cause
from vintix_fast.service.files import read_json, write_json
from vintix_fast.service.metrics import scalars

RUN_FILE = "wandb.json"
"""In the output directory: the run's name at W&B, under which a resumed one goes on."""


class WandbProgress(ConsoleProgress):
    """Tells the console what happens, and a run of W&B each loop's numbers; a context that ends that run.

    Args:
        console: see `ConsoleProgress`.
        project: at W&B.
        config: the run's options.

    Raises:
        VintixFastError: W&B refuses, as it does where nobody is logged in.
    """

    def __init__(self, console: Console, project: str, config: RunConfig) -> None:
        super().__init__(console)
        self._file = config.output_dir / RUN_FILE
        earlier = {}
        if config.resume and self._file.is_file():
            earlier = read_json(self._file, "delete it, and W&B begins a new run", {"id": str})
        try:
            self._run = wandb.init(
                project=project, name=config.output_dir.name, config=config.to_json(), job_type=config.command,
                id=earlier.get("id"), resume="allow" if earlier else None,
                settings=wandb.Settings(console="off", silent=True, save_code=False, disable_git=True),
            )  # fmt: skip
        except (wandb.Error, OSError) as error:
            raise VintixFastError(f"W&B: {cause(error)}; `wandb login`, or set WANDB_MODE=offline") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        self._run.finish(exit_code=int(error is not None))

    def on_loop(self, row: dict[str, Any]) -> None:
        super().on_loop(row)
        write_json(self._file, {"id": self._run.id, "project": self._run.project})
        self._run.log(scalars(row), step=row["total_env_steps"])
