"""``vintix-fast stress``: what a model does in worlds that differ from its own."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from typer import Argument, Option

from vintix_fast.cli.common import Json, console, dated_folder, progress, show, takes
from vintix_fast.run_config import MAIN
from vintix_fast.stress_config import StressConfig

Folder = Annotated[
    Path | None,
    Option(help="where the table goes", rich_help_panel=MAIN, show_default="stress/<robot>-<date and time>"),
]


@takes(StressConfig, but=("vintix_path",))
def stress(
    model: Annotated[Path, Argument(help="checkpoint directory, builtin:<name>, or an expert's directory")],
    output_dir: Folder = None,
    json: Json = False,
    **options: Any,
) -> Any:
    """Measure a model under payloads, weak motors, damage, low friction, pushes, noise and latency.

    Each world's returns, survival and speed, by episode number and by second of context; where --task has ranges of
    commands, measured speeds over commanded ones. --resume goes on.
    """
    output_dir = output_dir or dated_folder("stress", options["robot_type"])
    config = StressConfig.from_options(vintix_path=model, output_dir=output_dir, **options)

    from vintix_fast.report.stress_table import commands_table, terminal_table
    from vintix_fast.stress import stress as run

    result = run(config, progress=progress())
    console.print(terminal_table(result))
    if result.get("commands"):
        console.print(commands_table(result))
    show(console, f"Table: {output_dir / 'stress.json'}, {output_dir / 'stress.csv'}, {output_dir / 'stress.png'}")
    return result
