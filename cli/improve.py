"""``vintix-fast improve``: learning from a robot's logs, one call between two walks."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from typer import Argument, Option

from vintix_fast.cli.common import Json, console, progress, show, takes
from vintix_fast.from_logs_config import HIDDEN, FromLogsConfig
from vintix_fast.run_config import MAIN, ROBOTS
from vintix_fast.service.bundled import checkpoint_path


@takes(FromLogsConfig, but=HIDDEN)
def improve(
    model: Annotated[str, Argument(help="the model that the robot walked with; then the directory of the last call")],
    robot_type: Annotated[
        str | None, Option("--robot-type", "-r", help=ROBOTS, rich_help_panel=MAIN, show_default="the run's")
    ] = None,
    output_dir: Annotated[
        Path | None,
        Option(help="where models and logs go", rich_help_panel=MAIN, show_default="MODEL, where that is a run"),
    ] = None,
    json: Json = False,
    **options: Any,
) -> Any:
    """Improve a model from a robot's own logs, without a simulator; one call between two walks.

    First `improve MODEL --data walk1.h5 --robot-type R --output-dir OUT`. Walk with OUT/models/next, exploring. Then
    `improve OUT --data walk2.h5`, and so on: each log tells whether its model is kept. OUT/models/best is the kept one.
    """
    config = FromLogsConfig.of_call(checkpoint_path(model), robot_type=robot_type, output_dir=output_dir, **options)
    from vintix_fast.from_logs import improve as run

    found = run(config, progress=progress())
    show(console, f"Best so far: {found.best_model}\nTo walk with next: {found.next_model}")
    return {
        "next_model": str(found.next_model),
        "best_model": str(found.best_model),
        "verdict": found.verdict,
    } | found.row
