"""``vintix-fast sweep``: robots x settings x seeds, on one machine or a Ray cluster."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from typer import Argument, Option

from vintix_fast.cli.common import Json, console, progress, show, takes
from vintix_fast.run_config import MAIN
from vintix_fast.sweep.config import SweepConfig, read_sweep

Where = Annotated[
    Path | None,
    Option(help="where trials and table go", show_default="runs/<name of FILE>", rich_help_panel=MAIN),
]


@takes(SweepConfig, only=("resume", "overwrite"))
def sweep(
    file: Annotated[Path, Argument(help="TOML: robots, seeds, \\[adapt], \\[settings.NAME], \\[eval], cores, gpus")],
    output_dir: Where = None,
    json: Json = False,
    **options: Any,
) -> Any:
    """Adapt to every robot with every setting and seed, evaluate, and make one table of all.

    Each trial is a directory as `adapt` leaves it. RAY_ADDRESS names a Ray cluster; one machine needs none.
    """
    config = read_sweep(file, output_dir=output_dir or Path("runs") / file.stem, **options)

    from vintix_fast.sweep.sweep import sweep as run
    from vintix_fast.sweep.table import MARKDOWN, PLOT

    rows = run(config, progress=progress())
    show(console, (config.output_dir / MARKDOWN).read_text())
    show(console, f"Table: {config.output_dir / MARKDOWN}\nPlot: {config.output_dir / PLOT}")
    return {"trials": rows}
