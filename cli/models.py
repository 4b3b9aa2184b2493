"""``vintix-fast models``: the bundled checkpoints."""

from __future__ import annotations

from typing import Annotated

from rich import box
from rich.table import Table
from typer import Option

from vintix_fast.cli.common import print_json, reports_errors, result_console
from vintix_fast.model.bundled import BUILTIN_CHECKPOINT, BUILTIN_PREFIX, bundled_models


@reports_errors
def models(json: Annotated[bool, Option("--json", help="print one JSON object last")] = False) -> None:
    """List the bundled checkpoints, with the returns measured on the robots they saw and on the one they did not.

    Give a name to --pretrained-path or --vintix-path.  Each has a card (README.md) in its directory.
    """
    cards = bundled_models()
    table = Table(
        title="Mean return of an episode, from the third one on, ± standard error", box=box.SIMPLE_HEAD, padding=0
    )
    table.add_column("name")
    robots = sorted({robot for card in cards.values() for robot in card["returns"]})
    for title in (*robots, "MB"):
        table.add_column(title, justify="right")
    for name, card in cards.items():
        cells = []
        for robot in robots:
            found = card["returns"].get(robot)
            error = found and found.get("late_standard_error")
            shown = (
                ""
                if found is None
                else f"{found['late_return']:.1f}" + (" ±" + f"{error:.2f}".removeprefix("0") if error else "")
            )
            cells.append(shown + (" *" if found and not found["seen"] else ""))
        table.add_row(f"{BUILTIN_PREFIX}{name}", *cells, f"{card['bytes'] / 1e6:.1f}")
    out = result_console(json)
    out.print(table)
    out.print("* never seen: a converted copy of another robot's adapter, not adapted", highlight=False)
    out.print(f"Default: {BUILTIN_PREFIX}{BUILTIN_CHECKPOINT.name}", highlight=False)
    if json:
        print_json(cards)
