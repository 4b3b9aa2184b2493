"""A run's numbers for Weights & Biases: the scalars that TensorBoard shows, over environment steps.

Who the user is, and whether to stay offline, are that library's matters: ``wandb login``, WANDB_MODE=offline.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

from vintix_fast.run_config import RunConfig
from vintix_fast.service.errors import VintixFastError, cause
from vintix_fast.service.files import read_json, write_json
from vintix_fast.service.metrics import scalars

RUN_FILE = "wandb.json"
"""In the output directory: the run's name at W&B, under which a resumed one goes on."""


@contextlib.contextmanager
def wandb_run(config: RunConfig, project: str | None) -> Iterator[Callable[[dict[str, Any]], None]]:
    """A run of W&B's, for as long as this lasts: gives what takes each loop's row; without a project it does nothing.

    Raises:
        VintixFastError: W&B refuses, as it does where nobody is logged in.
    """
    if project is None:
        yield lambda row: None
        return
    import wandb

    file, earlier = config.output_dir / RUN_FILE, {}
    if config.resume and file.is_file():
        earlier = read_json(file, "delete it, and W&B begins a new run", {"id": str})
    try:
        run = wandb.init(
            project=project, name=config.output_dir.name, config=config.to_json(), job_type=config.command,
            id=earlier.get("id"), resume="allow" if earlier else None,
            settings=wandb.Settings(console="off", silent=True, save_code=False, disable_git=True),
        )  # fmt: skip
    except (wandb.Error, OSError) as error:
        raise VintixFastError(f"W&B: {cause(error)}; `wandb login`, or set WANDB_MODE=offline") from error

    def log(row: dict[str, Any]) -> None:
        write_json(file, {"id": run.id, "project": run.project})
        run.log(scalars(row), step=row["total_env_steps"])

    try:
        yield log
    except BaseException:
        run.finish(exit_code=1)
        raise
    run.finish()
