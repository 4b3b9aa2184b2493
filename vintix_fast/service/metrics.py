"""A run's numbers for other tools: TensorBoard events, their scalars for W&B, and the curve of return against steps.

Rows are those of ``metrics.jsonl``; docs/files.md says what each number is.
"""

from __future__ import annotations

import itertools
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vintix_fast.train import TrainingStep

SCALARS = {
    "mean_return": "Train/mean_reward",  # the name that rsl_rl's and Genesis' users look for: return of an episode
    "mean_length": "Train/mean_episode_length",
    "env_steps_per_s": "Perf/collection_fps",
    "collect_seconds": "Perf/collection_time",
    "train_seconds": "Perf/learning_time",
    "eval_return": "Eval/mean_reward",
    "eval_length": "Eval/mean_episode_length",
    "critic_loss": "Loss/critic",
}


def scalars(row: dict[str, Any]) -> dict[str, float]:
    """What is shown of a row over environment steps, by tag."""
    return {tag: row[key] for key, tag in SCALARS.items() if row.get(key) is not None}


def write_tensorboard(folder: Path, row: dict[str, Any], steps: list[TrainingStep]) -> None:
    """Add a loop's events: its numbers over environment steps, its fine-tuning over optimiser steps."""
    from torch.utils.tensorboard import SummaryWriter

    first = (row["loop"] - 1) * len(steps)
    with SummaryWriter(str(folder), filename_suffix=f".loop_{row['loop']:02d}") as writer:
        for tag, value in scalars(row).items():
            writer.add_scalar(tag, value, row["total_env_steps"])
        for step in steps:
            writer.add_scalar("Loss/action", step.loss, first + step.step)
            writer.add_scalar("Loss/grad_norm", step.grad_norm, first + step.step)
            writer.add_scalar("Loss/learning_rate", step.lr, first + step.step)


def settle_tensorboard(folder: Path, rows: list[dict[str, Any]]) -> list[int]:
    """Make a run's events those of its finished loops, each once: remove others, and write anew what is missing.

    What was written anew lacks fine-tuning, of whose steps the rows do not tell.

    Returns:
        The loops whose events were missing.
    """
    missing = _without_events(folder, "loop", rows)
    for row in missing:
        write_tensorboard(folder, row, [])
    return [row["loop"] for row in missing]


def _without_events(folder: Path, key: str, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows, by a number that names their events' file, that have none; files of no row are removed."""
    missing = {row[key]: row for row in rows}
    for file in sorted(folder.glob(f"events.out.tfevents.*.{key}_*")):
        number = file.name.rpartition("_")[2]
        if number.isdecimal() and missing.pop(int(number), None) is None:
            file.unlink()
    return list(missing.values())


def write_curve(path: Path, rows: list[dict[str, Any]]) -> None:
    """Plot return against all environment steps so far, and save it as a PNG."""
    figure, axes = new_figure()
    collected = [r for r in rows if "mean_return" in r]
    if collected:
        # A collection was made by the model of the loop before, when the loop's steps were still to come.
        before = {after["loop"]: row["total_env_steps"] for row, after in itertools.pairwise(rows)}
        steps = [before.get(r["loop"], 0) for r in collected]
        axes.errorbar(
            steps, [r["mean_return"] for r in collected], [r["std_return"] for r in collected],
            fmt="o--", color="tab:gray", capsize=3, label="collection, with exploration noise (spread of episodes)",
        )  # fmt: skip
    measured = [r for r in rows if "eval_return" in r]
    if measured:
        steps = [r["total_env_steps"] for r in measured]
        returns = [r["eval_return"] for r in measured]
        axes.plot(steps, returns, "o-", color="tab:blue", label="evaluation, no noise")
        rejected = [(s, r["eval_return"]) for s, r in zip(steps, measured, strict=True) if not r["accepted"]]
        if rejected:
            axes.plot(*zip(*rejected, strict=True), "x", color="tab:red", markersize=10, label="rejected by the gate")
    axes.set_xlabel("environment steps, evaluations counted")
    axes.set_ylabel("return of an episode")
    _save(figure, path)


def write_learning_history(path: Path, robot: str, rows: list[dict[str, Any]]) -> None:
    """Plot return and length of episodes along noise-distillation histories, and save it as a PNG."""
    figure, axes = new_figure()
    at = [(r["from_step"] + r["to_step"]) / 2 for r in rows]
    axes.plot(at, [r["mean_return"] for r in rows], "o-", color="tab:blue", label="return of an episode")
    lengths = axes.twinx()
    lengths.plot(at, [r["mean_length"] for r in rows], "s--", color="tab:gray", label="length (right)")
    lengths.set_ylabel("steps")
    axes.plot([], [], "s--", color="tab:gray", label="length (right)")
    axes.set_title(robot)
    axes.set_xlabel("step of the history at which the episode begins")
    axes.set_ylabel("return")
    _save(figure, path)


def write_losses(folder: Path, rows: list[dict[str, Any]]) -> None:
    """A pretraining's losses so far: as TensorBoard events, of each row once, and as a PNG."""
    from torch.utils.tensorboard import SummaryWriter

    for row in _without_events(folder / "tensorboard", "step", rows):
        with SummaryWriter(str(folder / "tensorboard"), filename_suffix=f".step_{row['step']:06d}") as writer:
            for key, value in row.items():
                if key != "step":
                    writer.add_scalar(
                        "Perf/tokens_per_s" if key == "tokens_per_s" else f"Loss/{key}", value, row["step"]
                    )
    if not rows:
        return
    figure, axes = new_figure()
    for key in (key for key in rows[-1] if "loss" in key):
        axes.plot([r["step"] for r in rows], [r[key] for r in rows], "o-" if key == "loss" else "--", label=key)
    axes.set_yscale("log")
    axes.set_xlabel("optimiser steps")
    axes.set_ylabel("mean squared action error")
    _save(figure, folder / "loss.png")


def new_figure(rows: int = 1, columns: int = 1, size_in: tuple[float, float] = (7, 4.5), **options: Any) -> tuple:
    """A figure that needs no display, and its axes; ``options`` are those of matplotlib's ``subplots``."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=size_in, layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(rows, columns, **options)


def _save(figure: Any, path: Path) -> None:
    axes = figure.axes[0]
    axes.grid(alpha=0.3)
    options = {"loc": "outside lower center", "ncols": 2, "fontsize": "small", "frameon": False}
    figure.legend(*axes.get_legend_handles_labels(), **options)
    save_figure(figure, path)


def save_figure(figure: Any, path: Path) -> None:
    """Write a PNG beside its final name and rename it."""
    beside = path.with_name(path.name + ".tmp")
    figure.savefig(beside, dpi=120, format="png")
    os.replace(beside, path)
