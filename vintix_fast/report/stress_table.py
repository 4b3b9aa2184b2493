"""A table of `stress` as CSV files and pictures; and for a terminal.  Knows nothing about how it was measured."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from rich import box
from rich.table import Table

from vintix_fast.service.console import plus_minus
from vintix_fast.service.files import write_csv
from vintix_fast.service.metrics import new_figure, save_figure

NUMBERS = (
    *("return", "return_error", "survival", "survival_error", "length", "reward_per_s", "reward_per_s_error"),
    *("speed_ratio", "speed_ratio_error", "yaw_ratio", "yaw_ratio_error"),
)
SECONDS_NUMBERS = ("from_s", "to_s", "environments", *NUMBERS[5:])
PLAIN = "plain"
COMMANDED = ("forward_m_s", "lateral_m_s", "yaw_rad_s")
COMMANDS_NUMBERS = (
    *COMMANDED,
    *(f"measured_{name}{end}" for name in COMMANDED for end in ("", "_error")),
    *("return", "return_error", "survival", "survival_error"),
)


def write_table(folder: Path, result: dict[str, Any]) -> None:
    """Write stress.csv, stress_seconds.csv and stress.png of what stress.json says.

    Where it says what came of commands, stress_commands.csv and stress_commands.png too.
    """
    episodes = [
        {"world": row["vary"] or PLAIN, "episode": part.get("episode", "all"), **part}
        for row in result["worlds"]
        for part in (row, *row["by_episode"])
    ]
    seconds = [{"world": row["vary"] or PLAIN, **part} for row in result["worlds"] for part in row["by_second"]]
    write_csv(folder / "stress.csv", ("world", "episode", *NUMBERS), episodes)
    write_csv(folder / "stress_seconds.csv", ("world", *SECONDS_NUMBERS), seconds)
    plot_table(folder / "stress.png", result)
    if commands := result.get("commands"):
        write_csv(folder / "stress_commands.csv", COMMANDS_NUMBERS, commands)
        plot_commands(folder / "stress_commands.png", result)


def plot_table(path: Path, result: dict[str, Any]) -> None:
    """Left: each world's returns by episode number. Right: reward in a second by the context's age."""
    worlds = result["worlds"]
    names = [row["vary"] or PLAIN for row in worlds]
    figure, (left, right) = new_figure(1, 2, (12, 1.2 + 0.36 * len(worlds)), sharey=True)
    count = max(len(row["by_episode"]) for row in worlds)
    at = np.arange(len(worlds))
    for n in range(count):
        parts = [row["by_episode"][n] for row in worlds]
        left.barh(
            at + 0.8 * ((n + 0.5) / count - 0.5), [part["return"] for part in parts], 0.8 / count,
            xerr=[part["return_error"] or 0.0 for part in parts], color="#0072b2", alpha=0.35 + 0.65 * (n + 1) / count,
            error_kw={"linewidth": 0.7}, label=f"episode {n + 1}",
        )  # fmt: skip
    left.set_yticks(at, [name.replace(", ", ",\n") for name in names], fontsize=8)
    left.invert_yaxis()
    left.set_xlabel("return of an episode, mean and standard error")
    figure.legend(loc="outside lower left", ncols=count, fontsize=8, frameon=False)
    cuts = {part["from_s"]: part["to_s"] for row in worlds for part in row["by_second"]}
    rates = np.full((len(worlds), len(cuts)), np.nan)
    for i, row in enumerate(worlds):
        for part in row["by_second"]:
            rates[i, list(cuts).index(part["from_s"])] = part["reward_per_s"]
    right.imshow(rates, aspect="auto", cmap="viridis", vmin=0.0)
    for (i, j), rate in np.ndenumerate(rates):
        if np.isfinite(rate):
            right.text(
                j, i, f"{rate:.2f}", ha="center", va="center", fontsize=7, color="black" if rate > 0.7 else "white"
            )
    labels = [f"{low:g}-{high:g}" if high is not None else f"{low:g}-" for low, high in cuts.items()]
    right.set_xticks(np.arange(len(cuts)), labels)
    right.set_xlabel("seconds of context; reward in a second")
    figure.suptitle(f"{result['robot']}, {Path(result['model']).name}")
    save_figure(figure, path)


def plot_commands(path: Path, result: dict[str, Any]) -> None:
    """For each part of the command that varies, measured over commanded."""
    rows = result["commands"]
    middle = {name: np.median([row[name] for row in rows]) for name in COMMANDED}
    varied = [name for name in COMMANDED if len({row[name] for row in rows}) > 1]
    figure, axes = new_figure(1, len(varied), (4 * len(varied), 4), squeeze=False)
    for axis, name in zip(axes[0], varied, strict=True):
        # The others in their middle, so that one thing is seen at a time.
        own = sorted(
            (row for row in rows if all(row[other] == middle[other] for other in COMMANDED if other != name)),
            key=lambda row: row[name],
        )
        own = [row for row in own if row[f"measured_{name}"] is not None]
        asked = [row[name] for row in own]
        axis.plot(asked, asked, color="0.6", linestyle="--", label="as commanded")
        axis.errorbar(
            asked, [row[f"measured_{name}"] for row in own], [row[f"measured_{name}_error"] or 0.0 for row in own],
            marker="o", color="#0072b2", capsize=3, label="measured",
        )  # fmt: skip
        axis.set_xlabel(f"commanded {unit_of(name)}")
        axis.grid(alpha=0.3)
    axes[0, 0].legend(fontsize=8)
    figure.suptitle(f"{result['robot']}, {Path(result['model']).name}: measured speeds, mean and standard error")
    save_figure(figure, path)


def unit_of(name: str) -> str:
    return name.replace("_m_s", " m/s").replace("_rad_s", " rad/s")


def commands_table(result: dict[str, Any]) -> Table:
    """A line for each command."""
    caption = "commanded → measured after the first second, mean ± standard error"
    table = Table(title=f"{result['robot']} under commands", caption=caption, box=box.SIMPLE_HEAD, padding=0)
    for title in (*map(unit_of, COMMANDED), "return", "survives"):
        table.add_column(title, justify="right")
    for row in result["commands"]:
        cells = []
        for name in COMMANDED:
            measured, error = row[f"measured_{name}"], row[f"measured_{name}_error"]
            found = "-" if measured is None else plus_minus(measured, error)
            cells.append(f"{row[name]:.2f} → {found}".replace("-0.00", "0.00"))
        table.add_row(*cells, f"{row['return']:.2f}", f"{row['survival']:.0%}")
    return table


def terminal_table(result: dict[str, Any]) -> Table:
    """A line for each world."""
    title, caption = f"{result['robot']} in other worlds", "mean ± standard error"
    table = Table(title=title, caption=caption, box=box.SIMPLE_HEAD, padding=0)
    numbers = len(result["worlds"][0]["by_episode"])
    table.add_column("\nworld", overflow="fold")
    for title in ("\nreturn", "\nsurvives", "\nspeed", *(f"episode\n{n + 1}" for n in range(numbers))):
        table.add_column(title, justify="right")
    for row in result["worlds"]:
        speed = "" if row["speed_ratio"] is None else f"{row['speed_ratio']:.0%}"
        by_episode = (f"{part['return']:.2f}" for part in row["by_episode"])
        mean = plus_minus(row["return"], row["return_error"])
        table.add_row(row["vary"] or PLAIN, mean, f"{row['survival']:.0%}", speed, *by_episode)
    return table
