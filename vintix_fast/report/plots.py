"""The pictures of a report: returns, lengths, episodes by their number, joint traces and gait; and of a robot's stance.

Takes a run's record and recordings, writes PNGs.  Knows nothing about files' places or the page.
"""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np

from vintix_fast.report.record import RunRecord
from vintix_fast.report.recording import SHOWN_STEPS, Recording
from vintix_fast.rollout import episodes_per_env
from vintix_fast.service.metrics import new_figure, save_figure
from vintix_fast.world.robot import LEGS, Robot
from vintix_fast.world.simulator import DT_S
from vintix_fast.world.stance import Stance

LEG_COLORS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7")
"""Of Okabe and Ito: told apart by colour-blind readers too."""
BLUE, RED, GREEN, GRAY = "#0072b2", "#d62728", "#2a7f3f", "#7f7f7f"
SHOWN_ENV = 0


def plot_returns(path: Path, run: RunRecord, expert: float | None) -> None:
    """Evaluation return against collected steps; the collections' own returns where no evaluation was made."""
    figure, axes = new_figure(size_in=(8, 4.8))
    _over_steps(axes, run, "return", "return of an episode (sum of rewards)")
    if run.zero_shot:
        zero = run.zero_shot["eval_return"]
        axes.axhline(zero, color=GRAY, linestyle="--", linewidth=1.2, label=f"zero-shot: {zero:.2f}")
    if expert is not None:
        axes.axhline(expert, color=GREEN, linestyle="-.", linewidth=1.2, label=f"own expert: {expert:.2f}")
    _finish(figure, axes, path)


def plot_lengths(path: Path, run: RunRecord) -> None:
    """Evaluation episode length against collected steps."""
    figure, axes = new_figure(size_in=(8, 4.8))
    _over_steps(axes, run, "length", "length of an episode (steps)")
    limit = run.options.get("max_steps_per_episode")
    if limit:
        axes.axhline(limit, color=GREEN, linestyle="-.", linewidth=1.2, label=f"time limit: {limit}")
        axes.set_ylim(0, 1.06 * limit)
    _finish(figure, axes, path)


def _over_steps(axes: Any, run: RunRecord, what: str, label: str) -> None:
    if run.measured:
        _plot_evaluations(axes, run.measured, what)
    collected = [row for row in run.rows if row.get(f"mean_{what}") is not None]
    if collected:
        # A collection was made by the model of the loop before, when the loop's steps were still to come.
        before = {after["loop"]: row["total_env_steps"] for row, after in itertools.pairwise(run.rows)}
        steps = [before.get(row["loop"], 0) for row in collected]
        axes.plot(
            steps, [row[f"mean_{what}"] for row in collected], "s:", color=GRAY, alpha=0.8, markersize=4,
            label="collection, with noise",
        )  # fmt: skip
    axes.set_xlabel("environment steps so far, evaluations and trials counted")
    axes.set_ylabel(label)
    axes.margins(x=0.08)
    axes.xaxis.set_major_formatter(lambda x, _: f"{x:,.0f}")


def _plot_evaluations(axes: Any, rows: list[dict[str, Any]], what: str) -> None:
    """A point for each evaluation, those that the gate rejected crossed out, and for returns the best so far."""
    steps, values = [row["total_env_steps"] for row in rows], [row[f"eval_{what}"] for row in rows]
    spread = np.array([row.get(f"eval_std_{what}") or 0.0 for row in rows])
    kept = np.array([row.get("accepted", True) for row in rows])
    if spread.any():
        axes.errorbar(
            steps, values, spread, fmt="none", ecolor=BLUE, alpha=0.35, capsize=3, label="spread of its episodes"
        )
    axes.plot(steps, values, "o", color=BLUE, label="evaluation, no noise")
    if what == "return" and len(rows) > 1:
        best = np.maximum.accumulate(np.where(kept, values, -np.inf))
        label = f"best so far: {best[-1]:.2f}"
        axes.step(steps, best, where="post", color=BLUE, linewidth=1.8, label=label)
    if not kept.all():
        crossed = np.column_stack([steps, values])[~kept]
        axes.plot(*crossed.T, "x", color=RED, markersize=11, mew=2, label="rejected by the gate")
    for row, x, y in zip(rows, steps, values, strict=True):
        axes.annotate(f"loop {row['loop']}", (x, y), (7, 5), textcoords="offset points", fontsize=8, color="0.3")


def _finish(figure: Any, axes: Any, path: Path) -> None:
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside lower center", ncols=3, fontsize="small", frameon=False)
    save_figure(figure, path)


def returns_by_number(run: RunRecord, collection: int) -> list[tuple[float, float, int]]:
    """Mean, standard deviation and count of a collection's first episodes, its second ones, and so on.

    Of the environments that ran the most: the noise differs between them, so their mix must not change on the way.
    """
    episodes = run.collections[collection]
    total, envs = run.options.get("episodes_per_loop"), max(e["env"] for e in episodes) + 1
    # Where short episodes were run again, each pass began with a cold context.
    share = episodes_per_env(total, envs) if total else [10**9] * envs
    groups: dict[int, list[float]] = {}
    for episode in (e for e in episodes if share[e["env"]] == max(share)):
        groups.setdefault(episode["number"] % max(1, int(share[episode["env"]])), []).append(episode["return_"])
    full = [groups[number] for number in sorted(groups) if len(groups[number]) >= len(groups[0])]
    return [(float(np.mean(values)), float(np.std(values)), len(values)) for values in full]


def plot_by_episode(path: Path, run: RunRecord) -> None:
    """Return by episode number within an environment, in the first and the last collection."""
    figure, axes = new_figure(size_in=(8, 4.2))
    for collection, color in {min(run.collections): GRAY, max(run.collections): BLUE}.items():  # perhaps the same
        means, stds, counts = (np.array(column) for column in zip(*returns_by_number(run, collection), strict=True))
        numbers = np.arange(1, len(means) + 1)
        axes.plot(numbers, means, "o-", color=color, label=f"collection {collection} ({counts[0]} episodes a point)")
        axes.fill_between(numbers, means - stds, means + stds, color=color, alpha=0.15, linewidth=0)
    axes.set_xticks(numbers)
    axes.set_xlabel("episode of an environment (1: begins without any context)")
    axes.set_ylabel("return of an episode")
    _finish(figure, axes, path)


def plot_traces(path: Path, recordings: dict[str, Recording]) -> None:
    """Two seconds of one robot for each recording: three panels of joints, and which legs stand when."""
    figure, grid = new_figure(
        4, len(recordings), (6.2 * len(recordings), 9.0), sharex=True, sharey="row", squeeze=False
    )
    for column, (title, recording) in zip(grid.T, recordings.items(), strict=True):
        start = len(recording.contact) - SHOWN_STEPS
        seconds = (np.arange(start, len(recording.contact)) + 1) * DT_S
        joints = recording.joint_pos_rad[start:, SHOWN_ENV].reshape(SHOWN_STEPS, len(LEGS), -1)
        for axes, joint, name in zip(column, range(3), ("hip", "thigh", "calf"), strict=False):
            for leg, color in enumerate(LEG_COLORS):
                axes.plot(seconds, joints[:, leg, joint], color=color, linewidth=1.3, label=LEGS[leg])
            axes.set_title(name, loc="left", fontsize=9)
            axes.grid(alpha=0.25)
        _gait_diagram(column[3], seconds, recording.contact[start:, SHOWN_ENV])
        for axes in column:
            for step in (s for s, env in recording.falls if env == SHOWN_ENV and s >= start):
                axes.axvline((step + 1) * DT_S, color=RED, linestyle="--", linewidth=1.2)
            axes.spines[["top", "right"]].set_visible(False)
        column[0].set_title(title, fontsize=12, fontweight="bold")
        column[3].set_xlabel("seconds since the start")
    for axes in grid[:3, 0]:
        axes.set_ylabel("position (rad)")
    figure.legend(*grid[0, 0].get_legend_handles_labels(), loc="outside upper right", ncols=4, frameon=False)
    save_figure(figure, path)


def _gait_diagram(axes: Any, seconds: np.ndarray, contact: np.ndarray) -> None:
    """A row for each leg, black while it stands: contact bool [T, 4] at times [T]."""
    for leg in range(4):
        changes = np.flatnonzero(np.diff(np.concatenate([[0], contact[:, leg].astype(int), [0]])))
        bars = [(seconds[0] + (on - 1) * DT_S, (off - on) * DT_S) for on, off in changes.reshape(-1, 2)]
        axes.broken_barh(bars, (leg - 0.36, 0.72), color="black", linewidth=0)
    axes.set_yticks(range(4), LEGS)
    axes.set_ylim(3.6, -0.6)
    axes.set_xlim(seconds[0] - DT_S, seconds[-1])
    axes.set_title("on the ground", loc="left", fontsize=9)


def draw_stance(path: Path, robot: Robot, stance: Stance) -> None:
    """A robot's stance: legs from the side and from above, feet, support polygon, centre of mass."""
    figure, (side, above) = new_figure(1, 2, (10, 5))
    soles = float(stance.feet[:, 2].min())
    for leg, color, joints, foot in zip(LEGS, LEG_COLORS, stance.joints, stance.feet, strict=True):
        chain = np.vstack([joints, foot])
        for axes, v in ((side, 2), (above, 1)):
            axes.plot(chain[:, 0], chain[:, v], "-", color=color, linewidth=2.5, label=leg)
            axes.plot(joints[:, 0], joints[:, v], "o", color=color, markersize=5)
            axes.plot(foot[0], foot[v], "s", color=color, markersize=8)
    # The base is drawn as the box between the first joints.
    hips = stance.joints[:, 0]
    outline = hips[[0, 1, 3, 2, 0]]
    above.plot(outline[:, 0], outline[:, 1], color="black", linewidth=1)
    side.plot(outline[:, 0], outline[:, 2], color="black", linewidth=3)
    above.fill(*stance.support.T, color="#dddddd", zorder=0, label="support polygon")
    side.axhline(soles, color="black", linewidth=0.8)
    for axes, v in ((side, 2), (above, 1)):
        axes.plot(
            stance.centre_of_mass[0], stance.centre_of_mass[v], "X", color=RED, markersize=11, label="centre of mass"
        )
        axes.set_aspect("equal")
        axes.set_xlabel("forward, m")
        axes.grid(alpha=0.3)
    side.set_ylabel("up, m")
    above.set_ylabel("left, m")
    side.set_title(f"{robot.name} from its right side: o joints, squares feet")
    above.set_title("from above")
    figure.legend(*above.get_legend_handles_labels(), loc="outside lower center", ncols=6, fontsize=8, frameon=False)
    save_figure(figure, path)
