"""What a sweep found: a row for each trial, a table of robots and settings, a plot."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from vintix_fast.report.record import read_run
from vintix_fast.rollout import standard_error
from vintix_fast.rundir import loop_seconds
from vintix_fast.service.console import plus_minus
from vintix_fast.service.files import read_json, write_csv, write_text
from vintix_fast.service.metrics import new_figure, save_figure
from vintix_fast.sweep.config import Trial

TRIALS, TABLE, MARKDOWN, PLOT = TABLES = ("trials.csv", "table.csv", "table.md", "table.png")
REMEDY = "delete its directory, and --resume evaluates it again"


def read_trial(trial: Trial) -> dict[str, Any]:
    """The numbers of a finished trial.

    Its return and standard error are of the evaluation's episodes, its minutes those of collecting, training and the
    gate, its steps all that it took; weights: the SHA-256 of the best model's ``model.pth``.
    """
    keys = {"mean_return": float, "standard_error": float | None, "terminated": int, "episodes": int, "options": dict}
    found = read_json(trial.eval_file, REMEDY, keys)
    rows = read_run(trial.adapt.output_dir).rows
    model = Path(found["options"]["vintix_path"])
    return {
        "robot": trial.robot,
        "setting": trial.setting,
        "seed": trial.adapt.seed,
        "return": found["mean_return"],
        "standard_error": found["standard_error"],
        "fell": found["terminated"],
        "episodes": found["episodes"],
        "minutes": sum(map(loop_seconds, rows)) / 60,
        "total_env_steps": rows[-1]["total_env_steps"],
        "weights": hashlib.sha256((model / "model.pth").read_bytes()).hexdigest(),
    }


def write_tables(folder: Path, rows: list[dict[str, Any]]) -> None:
    """Write every trial's row, the means over seeds as CSV and Markdown, and the plot; nothing without rows."""
    if not rows:
        return
    means = table(rows)
    write_csv(folder / TRIALS, rows[0], rows)
    write_csv(folder / TABLE, means[0], means)
    write_text(folder / MARKDOWN, markdown(means))
    _plot(folder / PLOT, rows)


def table(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A row for each robot and setting: mean, standard error and least of its seeds' returns, means of what they took.

    The standard error is that over seeds; None of one seed.
    """
    means = []
    for robot, setting in dict.fromkeys((row["robot"], row["setting"]) for row in rows):
        group = [row for row in rows if (row["robot"], row["setting"]) == (robot, setting)]
        returns = [row["return"] for row in group]
        means.append({
            "robot": robot,
            "setting": setting,
            "seeds": len(group),
            "return": sum(returns) / len(returns),
            "standard_error": standard_error(returns),
            "worst": min(returns),
            "minutes": sum(row["minutes"] for row in group) / len(group),
            "total_env_steps": round(sum(row["total_env_steps"] for row in group) / len(group)),
        })  # fmt: skip
    return means


def markdown(means: list[dict[str, Any]]) -> str:
    """The table of `table` as Markdown."""
    head = "| robot | setting | seeds | return, mean ± s.e. | worst seed | minutes | total_env_steps |"
    lines = [head, "|---" * (head.count("|") - 1) + "|"]
    for row in means:
        mean = plus_minus(row["return"], row["standard_error"])
        lines.append(
            f"| {row['robot']} | {row['setting']} | {row['seeds']} | {mean} | {row['worst']:.2f} | "
            f"{row['minutes']:.1f} | {row['total_env_steps']:,} |"
        )
    return "\n".join(lines) + "\n"


def _plot(path: Path, rows: list[dict[str, Any]]) -> None:
    """A point for each trial, and a bar of mean and standard error beside those of a robot and setting."""
    means = table(rows)
    robots, settings = (list(dict.fromkeys(row[key] for row in rows)) for key in ("robot", "setting"))
    figure, axes = new_figure(size_in=(max(5.0, 1.5 + 1.1 * len(robots)), 4.5))
    for number, setting in enumerate(settings):
        shift, color = 0.6 * ((number + 0.5) / len(settings) - 0.5), f"C{number}"
        mine = [row for row in rows if row["setting"] == setting]
        at = [robots.index(row["robot"]) + shift for row in mine]
        axes.plot(at, [row["return"] for row in mine], "o", color=color, alpha=0.5, markersize=4)
        mean = [row for row in means if row["setting"] == setting]
        axes.errorbar(
            [robots.index(row["robot"]) + shift + 0.05 for row in mean], [row["return"] for row in mean],
            [row["standard_error"] or 0.0 for row in mean], fmt="_", color=color, capsize=3, label=setting or None,
        )  # fmt: skip
    axes.set_xticks(range(len(robots)), robots)
    axes.set_ylabel("return of an episode; points are seeds")
    axes.grid(axis="y", alpha=0.3)
    if settings != [""]:
        figure.legend(loc="outside lower center", ncols=3, fontsize="small", frameon=False)
    save_figure(figure, path)
