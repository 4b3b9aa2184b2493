"""`verify`: one loop of a finished run once more, from the run's files, and whether it gives the same weights.

The loop is repeated in a temporary directory that holds what an interrupted run would have had before it; nothing is
written to the run.  What a loop does is `adaptation.py`'s.
"""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vintix_fast.adaptation import adapt
from vintix_fast.config import AdaptConfig
from vintix_fast.data import read_trajectories
from vintix_fast.improve import make_improver
from vintix_fast.learning import walks
from vintix_fast.model import fingerprint, load_checkpoint
from vintix_fast.options import without_effect
from vintix_fast.outdir import OPTIONS_FILE
from vintix_fast.rundir import Run
from vintix_fast.service.errors import InputFileError, UsageError
from vintix_fast.service.files import read_json, versions
from vintix_fast.service.progress import Progress
from vintix_fast.world.kept_robot import FOLDER as ROBOT_DIR
from vintix_fast.world.task import Simulation

REMEDY = "give the --output-dir of a `vintix-fast adapt`"


@dataclass(frozen=True)
class Verified:
    """What repeating a loop found."""

    loop: int
    recorded: str
    """SHA-256 of the weights that the loop left, see `fingerprint`."""
    repeated: str
    same_collection: bool
    """Whether the repeated collection has the same steps; where not, the weights cannot be the same."""
    other_versions: dict[str, tuple[str, str]]
    """Packages that differ: the run's version and the one here."""

    @property
    def equal(self) -> bool:
        return self.recorded == self.repeated


def verify(
    path: Path, loop: int | None = None, *, simulator: Simulation | None = None, progress: Progress | None = None
) -> Verified:
    """Repeat a loop of the run in ``path``.

    Args:
        path: an `adapt` run's output directory.
        loop: from 1; None for the last one.
        simulator: as in `adapt`.
        progress: told what happens.

    Raises:
        InputFileError: there is no run, or files that the loop needs are missing or broken.
        UsageError: the run has no such loop.
        VintixFastError, Interrupted: as in `adapt`.
    """
    found = read_json(path / OPTIONS_FILE, REMEDY, {"options": dict})
    if found.get("command", "adapt") != "adapt":
        raise InputFileError(f"{path} holds a run of `vintix-fast {found['command']}`; {REMEDY}")
    options = {name: value for name, value in found["options"].items() if name not in AdaptConfig.gone}
    # What an earlier version did that had no option for it.
    ignored = without_effect(AdaptConfig, options)
    options = {name: value for name, value in AdaptConfig.before.items() if name not in ignored} | options
    config = AdaptConfig.from_options(**(options | {"output_dir": path, "resume": True}))
    run = Run(config)
    run.check()
    loop = run.loops_done if loop is None else loop
    if not 1 <= loop <= run.loops_done:
        raise UsageError(f"--loop is {loop}; {path} has {run.loops_done} finished loops, from 1 on")
    row = next(row for row in run.rows if row["loop"] == loop)
    recorded = row.get("weights") or fingerprint(load_checkpoint(run.model_dir(loop)))

    with tempfile.TemporaryDirectory(prefix="vintix-fast-verify-") as folder:
        before = Run(config.with_options(output_dir=Path(folder) / "run", num_improvement_loops=loop))
        _lay_out(run, before, loop)
        adapt(before.config, simulator=simulator, progress=progress)
        repeated = fingerprint(load_checkpoint(before.model_dir(loop)))
        same = _same_steps(run.trajectories(loop - 1), before.trajectories(loop - 1))
    then, now = found.get("versions", {}), versions()
    other = {name: (then[name], now[name]) for name in then.keys() & now.keys() if then[name] != now[name]}
    return Verified(loop, recorded, repeated, same, other)


def _lay_out(run: Run, before: Run, loop: int) -> None:
    """Make of ``before`` what ``run`` was before this loop."""
    before.rows = [row for row in run.rows if row["loop"] < loop]
    before.loops_done = loop - 1
    improver = make_improver(run.config.improve)
    gate = run.config.gate.on
    for row in before.rows:
        if row.get("accepted"):
            before.best = {"loop": row["loop"], "return": row["eval_return"]}
        walking = not gate or walks(before.best_return, run.config.task, run.config.max_steps_per_episode)
        if row["loop"] > 0:
            improver.learn_of(row.get("kept_share", 1.0), walking)
        elif walking:
            improver.begin_walking()
    before.path.mkdir()
    kept = [run.path / name for name in (OPTIONS_FILE, ROBOT_DIR, run.audition_file.name, "tensorboard")]
    for source in (*kept, run.model_dir(0)):
        _copy(source, before.path / source.relative_to(run.path))
    if before.current_loop:
        _copy(_needed(before.current_dir, run, before), before.current_dir)
    if before.best:
        _copy(_needed(before.current_dir, run, before), before.best_dir)
    first = before.current_loop if run.config.improve.replay == "current" else 0
    for collection in range(first, loop - 1):
        _copy(_needed(before.data_dir(collection), run, before), before.data_dir(collection))
    before.improver_state = improver.state_dict()
    if before.rows:
        before.write_state()


def _needed(target: Path, run: Run, before: Run) -> Path:
    """Where the run has what goes to ``target``; InputFileError where it has not."""
    source = run.path / target.relative_to(before.path)
    if not source.exists():
        raise InputFileError(f"{source} is missing, and the loop cannot be repeated without; name another --loop")
    return source


def _copy(source: Path, target: Path) -> None:
    """A file or a folder, if it is there."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        shutil.copytree(source, target)
    elif source.exists():
        shutil.copy(source, target)


def _same_steps(first: Path, second: Path) -> bool:
    if not first.is_file():
        return True  # the run's was deleted: nothing is known
    one, other = (read_trajectories(path).histories for path in (first, second))
    return len(one) == len(other) and all(
        np.array_equal(getattr(a, name), getattr(b, name))
        for a, b in zip(one, other, strict=True)
        for name in ("observation", "action", "reward", "step_num")
    )
