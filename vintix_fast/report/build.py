"""A report on a run: which parts are made, in which order, and what happens where one cannot be.

Reads a run's directory and writes ``report/`` in it.  What needs a simulator or a renderer may fail without harm: the
page says why it is missing.  How parts look is `plots.py`'s, `film.py`'s and `page.py`'s.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vintix_fast.report.film import Filmed, film
from vintix_fast.report.page import page_html
from vintix_fast.report.plots import plot_by_episode, plot_lengths, plot_returns, plot_traces, returns_by_number
from vintix_fast.report.record import RunRecord, expert_return, read_run
from vintix_fast.report.recording import NUM_ENVS, STEPS, Recording, record
from vintix_fast.report.strip import Row, write_strip
from vintix_fast.service.errors import Interrupted, VintixFastError
from vintix_fast.service.files import write_text
from vintix_fast.service.progress import Progress
from vintix_fast.world.robot import Robot, load_robot
from vintix_fast.world.simulator import DT_S
from vintix_fast.world.simulators import make_simulator
from vintix_fast.world.task import Simulation

FOLDER = "report"
STRESS = {name: Path("stress") / f"{name}.png" for name in ("stress", "stress_commands")}
"""Where `stress --output-dir OUT/stress` leaves its pictures of a run's model."""
SEED = 5
"""Of the starts: the same for every report, so that reports can be compared."""


@dataclass(frozen=True)
class Report:
    """Where the parts of a report are; ``skipped`` says why a part is missing, by its file's name without the end."""

    html: Path
    pngs: dict[str, Path]
    videos: dict[str, Path]
    skipped: dict[str, str]


def build_report(
    out: Path,
    *,
    rollout: bool = True,
    video: bool = True,
    simulator: Simulation | None = None,
    draw: Callable[[Robot, dict[str, Recording], Path], Filmed] = film,
    progress: Progress | None = None,
) -> Report:
    """Write ``out``/report/report.html and its pictures and videos, in place of an earlier report.

    Args:
        out: output directory of `adapt`, of a finished or an unfinished run.
        rollout: let the model before and after walk, for the traces and the videos.
        video: draw the videos.
        simulator: of the run's robot with any number of environments; None builds one.
        draw: makes the videos.
        progress: told what happens; None for silence.

    Raises:
        InputFileError: ``out`` holds no run; nothing was written then.
        VintixFastError: ``out`` cannot be written to.
    """
    progress = progress or Progress()
    run = read_run(out)
    folder = out / FOLDER
    if not os.access(out, os.W_OK | os.X_OK):
        raise VintixFastError(f"no permission to write in {out}, where the report goes")
    # A part that cannot be made leaves its reason here, and the page says it.
    skipped: dict[str, str] = {}
    robot = _robot(run, skipped)
    expert = expert_return(run.robot_type, run.options.get("max_steps_per_episode", 0)) if robot else None
    folder.mkdir(exist_ok=True)
    for leftover in (*folder.glob("*.tmp"), *folder.glob(".film-????????")):  # of a killed report
        shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()

    # First what needs nothing but the run's numbers, then the rollouts, then what is drawn of them.
    pngs = _plot_numbers(run, expert, folder, skipped)
    pngs |= {name: out / path for name, path in STRESS.items() if (out / path).is_file()}
    recordings, videos = {}, {}
    if robot is not None and rollout:
        recordings = _record(run, robot, simulator, progress, skipped)
    elif not rollout:
        skipped["traces"] = "--no-rollout was given"
    if recordings:
        pngs["traces"] = folder / "traces.png"
        plot_traces(pngs["traces"], recordings)
    if robot is not None and recordings and video:
        progress.say(f"Drawing {' and '.join(recordings)}")
        filmed = draw(robot, recordings, folder)
        videos = filmed.videos
        if filmed.skipped:
            skipped["video"] = filmed.skipped
        # The strip compares: it takes frames of both videos.
        if {"before", "after"} <= videos.keys():
            strip = folder / "before_after.png"
            if reason := write_strip(strip, _strip_rows(run, recordings, videos)):
                skipped["before_after"] = reason
            else:
                pngs["before_after"] = strip
    else:
        skipped["video"] = skipped.get("traces", "--no-video was given")

    # The page is written last, when all that it shows is there.
    _remove_old(folder, {*pngs.values(), *videos.values()})
    gaits = {name: recording.gait() for name, recording in recordings.items()}
    html = folder / "report.html"
    write_text(html, page_html(run, expert=expert, pngs=pngs, videos=videos, skipped=skipped, gaits=gaits))
    return Report(html, pngs, videos, skipped)


def _robot(run: RunRecord, skipped: dict[str, str]) -> Robot | None:
    """The run's robot, or None where its file is not there any more."""
    try:
        return load_robot(run.robot_type)
    except VintixFastError as error:
        skipped["traces"] = str(error)
        return None


def _plot_numbers(run: RunRecord, expert: float | None, folder: Path, skipped: dict[str, str]) -> dict[str, Path]:
    """The plots that need nothing but the run's numbers."""
    pngs = {}
    if run.rows:
        pngs["returns"], pngs["lengths"] = folder / "returns.png", folder / "lengths.png"
        plot_returns(pngs["returns"], run, expert)
        plot_lengths(pngs["lengths"], run)
    else:
        skipped["returns"] = skipped["lengths"] = "no loop is finished yet"
    if not run.collections:
        skipped["by_episode"] = "no collection is finished yet"
    elif all(len(returns_by_number(run, number)) < 2 for number in (min(run.collections), max(run.collections))):
        skipped["by_episode"] = (
            "every environment ran one episode in a collection, so that all began without context; "
            "fewer --num-envs than --episodes-per-loop give each several"
        )
    else:
        pngs["by_episode"] = folder / "by_episode.png"
        plot_by_episode(pngs["by_episode"], run)
    return pngs


def _record(
    run: RunRecord, robot: Robot, simulator: Simulation | None, progress: Progress, skipped: dict[str, str]
) -> dict[str, Recording]:
    """Recordings of the initial model (before) and of the adapted one (after), as far as they exist."""
    found = {"before": run.initial_model, "after": run.final_model}
    models = {name: path for name, path in found.items() if path is not None}
    if not models:
        skipped["traces"] = f"no model is in {run.path / 'models'} yet"
        return {}
    if "after" not in models:
        skipped["after"] = (
            "no loop was better than the initial policy, so there is nothing to compare it with"
            if run.best_loop == 0
            else "no loop is finished yet"
        )
    try:
        kind = run.options.get("simulator", "genesis")
        simulator = simulator or make_simulator(kind, robot, NUM_ENVS, "cpu", run.task, progress.say)
        context_len = run.options.get("context_len", 2048)
        return {name: record(path, simulator, context_len, SEED, progress, run.task) for name, path in models.items()}
    except Interrupted:
        raise
    except VintixFastError as error:
        skipped["traces"] = str(error)
        return {}


def _strip_rows(run: RunRecord, recordings: dict[str, Recording], videos: dict[str, Path]) -> list[Row]:
    """The picture of before and after: each row ends with the filmed robot's first fall, or with the film."""
    rows = []
    for name, measured in (("before", run.zero_shot), ("after", run.best)):
        recording = recordings[name]
        fall = min((step for step, env in recording.falls if env == 0), default=None)
        last = (STEPS if fall is None else max(1, fall)) - 1  # the step of a fall shows the next start
        walked_m = float(np.linalg.norm(np.diff(recording.base_pos_m[[0, last], 0, :2], axis=0)))
        numbers = f"return {measured['eval_return']:.2f} in {measured['eval_length']:.0f} steps; " if measured else ""
        ends = "" if fall is None else ", then it falls"
        caption = f"{name.capitalize()}: {numbers}here {walked_m:.1f} m in {last * DT_S:.1f} s{ends}"
        rows.append(Row(videos[name], caption, last * DT_S))
    return rows


def _remove_old(folder: Path, made: set[Path]) -> None:
    """Delete an earlier report's parts that this one lacks, so that no old picture is taken for new."""
    pngs = ("returns.png", "lengths.png", "by_episode.png", "traces.png", "before_after.png")
    for name in (*pngs, "before.mp4", "after.mp4"):
        if folder / name not in made:
            (folder / name).unlink(missing_ok=True)
