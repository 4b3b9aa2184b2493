"""The study's table as Markdown."""

from __future__ import annotations

from typing import Any


def markdown(table: list[dict[str, Any]]) -> str:
    """A table for each study."""
    lines = []
    for study in dict.fromkeys(row["study"] for row in table):
        rows = [row for row in table if row["study"] == study]
        limits = sorted({row["limit"] for row in rows})
        lines += [f"## {study}: mean return (that of the worst seed) after so many collected steps", ""]
        lines += [
            "| robot | variant |" + "".join(f" {limit:,} |" for limit in limits),
            "|---" * (2 + len(limits)) + "|",
        ]
        for robot, variant in dict.fromkeys((row["robot"], row["variant"]) for row in rows):
            mine = [row for row in rows if (row["robot"], row["variant"]) == (robot, variant)]
            cells = (cell([row["mean_return"] for row in mine if row["limit"] == limit]) for limit in limits)
            lines.append(f"| {robot} | {variant} | {' | '.join(cells)} |")
        lines.append("")
    return "\n".join(lines)


def cell(returns: list[float]) -> str:
    if not returns:
        return ""
    seeds = f"{len(returns)} seed" + "s" * (len(returns) > 1)
    return f"{sum(returns) / len(returns):.2f} ({min(returns):.2f}) of {seeds}"
