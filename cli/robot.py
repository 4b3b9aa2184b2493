"""``vintix-fast robot``: a robot file from a URDF or MJCF."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich import box
from rich.table import Table

from vintix_fast.cli.common import check_file, console, show
from vintix_fast.service.errors import UsageError


def robot(
    file: Annotated[Path, typer.Argument(help="a quadruped's URDF or MJCF; an SRDF beside it may give its stance")],
    output: Annotated[
        Path | None, typer.Option(help="the robot file to write; a picture goes beside it", show_default="NAME.toml")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="replace an earlier one")] = False,
) -> None:
    """Write a robot file for a quadruped: legs, stance, gains and heights from its URDF or MJCF.

    A comment beside each value says where it comes from.  The stance is checked and drawn.
    """
    output = output or Path(f"{file.stem}.toml")
    if output.suffix != ".toml":
        raise UsageError(f"--output is {output}; a robot file's name ends in .toml")
    if output.exists() and not overwrite:
        raise UsageError(f"{output} exists; --overwrite replaces it, --output gives another name")
    check_file("--output", output)

    from vintix_fast.world.make_robot import make_robot

    stance = make_robot(file, output)
    table = Table(box=box.SIMPLE_HEAD)
    for title in ("check", "found", "remedy"):
        table.add_column(title)
    for check in stance.checks:
        table.add_row(check.name, check.value, "" if check.sound else f"[red]{check.remedy}[/]")
    console.print(table)
    show(console, f"Robot file: {output}\nPicture: {output.with_suffix('.png')}")
    show(console, f"Next: vintix-fast adapt --robot-type {output} --output-dir OUT")
