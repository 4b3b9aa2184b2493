"""``vintix-fast models``: the bundled checkpoints."""

from __future__ import annotations

from typing import Any

from rich import box
from rich.table import Table

from vintix_fast.cli.common import PlainJson, result_console
from vintix_fast.service.bundled import BUILTIN_CHECKPOINT, BUILTIN_PREFIX, bundled_models


def models(json: PlainJson = False) -> Any:
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
        cells = (_cell(card["returns"].get(robot)) for robot in robots)
        table.add_row(f"{BUILTIN_PREFIX}{name}", *cells, f"{card['bytes'] / 1e6:.1f}")
    out = result_console(json)
    out.print(table)
    out.print("* never seen: a converted copy of another robot's adapter, not adapted", highlight=False)
    out.print(f"Default: {BUILTIN_PREFIX}{BUILTIN_CHECKPOINT.name}", highlight=False)
    return cards


def _cell(found: dict[str, Any] | None) -> str:
    """What was measured on one robot, if it was."""
    if found is None:
        return ""
    error = found.get("late_standard_error")
    shown = f" ±{error:.2f}".replace("±0", "±") if error else ""
    return f"{found['late_return']:.1f}{shown}{'' if found['seen'] else ' *'}"
