"""What a run's directory holds, read for a report: finished or not, of this version or an older one.

Reads JSON and looks for files; everything but the options may be missing.  Knows nothing about models' insides,
simulation or how a report looks.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vintix_fast.outdir import OPTIONS_FILE
from vintix_fast.rundir import is_checkpoint, read_rows
from vintix_fast.service.bundled import bundled_models
from vintix_fast.service.errors import InputFileError, shown
from vintix_fast.service.files import read_json
from vintix_fast.world.robot import load_robot
from vintix_fast.world.task_config import TaskConfig

EXPERT_MAX_STEPS = 1000
"""The time limit of the episodes whose returns the bundled models' cards tell."""


@dataclass(frozen=True)
class RunRecord:
    """A run of `adapt` as it lies on disk."""

    path: Path
    options: dict[str, Any]
    robot_type: str
    """The robot's name, or the file that the run keeps of it, or else the one that it was begun with."""
    task: TaskConfig
    versions: dict[str, str]
    rows: list[dict[str, Any]]
    """One for each finished loop, as in metrics.jsonl."""
    collections: dict[int, list[dict[str, Any]]]
    """Episodes of each finished collection, by its number from 0."""
    best_loop: int | None
    """The loop whose model is ``models/best``; None where no gate has chosen one."""

    @property
    def loops_done(self) -> int:
        return max((row["loop"] for row in self.rows), default=0)

    @property
    def finished(self) -> bool:
        """All loops are done, or one reached the return at which the run was to stop."""
        target, best = self.options.get("target_return"), self.best
        reached = target is not None and best is not None and best["eval_return"] >= target
        return reached or self.loops_done >= self.options.get("num_improvement_loops", 1)

    @property
    def measured(self) -> list[dict[str, Any]]:
        """Rows with an evaluation."""
        return [row for row in self.rows if row.get("eval_return") is not None]

    @property
    def best(self) -> dict[str, Any] | None:
        """The row of the model that the gate holds for the best."""
        return next((row for row in self.measured if row["loop"] == self.best_loop), None)

    @property
    def zero_shot(self) -> dict[str, Any] | None:
        """The row of the initial policy."""
        return next((row for row in self.measured if row["loop"] == 0), None)

    @property
    def initial_model(self) -> Path | None:
        return self._model("initial")

    @property
    def final_model(self) -> Path | None:
        """The best model, or the last loop's where no gate has chosen; None where it would be the initial one."""
        if self.best_loop is not None:
            return self._model("best") if self.best_loop > 0 else None
        found = (path for path in (self.path / "models").glob("loop_*") if path.name[5:].isdecimal())
        return max(filter(is_checkpoint, found), key=lambda path: int(path.name[5:]), default=None)

    def _model(self, name: str) -> Path | None:
        path = self.path / "models" / name
        return path if is_checkpoint(path) else None

    def total(self, key: str) -> float:
        """Sum of a number over all rows."""
        return sum(row.get(key) or 0 for row in self.rows)


def read_run(path: Path) -> RunRecord:
    """Read what ``adapt`` has left in ``path`` so far.

    Raises:
        InputFileError: there is no such directory, or no run of `adapt` in it, or its numbers are broken.
    """
    remedy = "give the --output-dir of a `vintix-fast adapt`"
    if not path.is_dir():
        kind = "is a file, not a directory" if path.exists() else "does not exist"
        raise InputFileError(f"{path} {kind}; {remedy}")
    found = _json(path / OPTIONS_FILE) or {}
    if not isinstance(found.get("options"), dict):
        raise InputFileError(f"{path} holds no run (no {OPTIONS_FILE} with a run's options); {remedy}")
    command = found.get("command", "adapt")
    if command != "adapt" or not isinstance(found["options"].get("robot_type"), str):
        raise InputFileError(f"{path} holds a run of `vintix-fast {command}`, not of adapt; {remedy}")
    for key in ("target_return", "num_improvement_loops", "max_steps_per_episode"):
        if not isinstance(value := found["options"].get(key), int | float | None):
            raise InputFileError(
                f"{path / OPTIONS_FILE} is broken ({key} must be a number, got {shown(value)}); {remedy}"
            )
    best = (_json(path / "state.json") or {}).get("best")
    loop = best.get("loop") if isinstance(best, dict) else None
    return RunRecord(
        path=path,
        options=found["options"],
        robot_type=_robot_type(path, found),
        task=_task(path, found, remedy),
        versions=found.get("versions") or {},
        rows=read_rows(path),
        collections=_collections(path),
        best_loop=loop if type(loop) is int else None,
    )


def _robot_type(path: Path, found: dict[str, Any]) -> str:
    robot = found.get("robot")
    kept = robot.get("file") if isinstance(robot, dict) else None
    if isinstance(kept, str) and (path / kept).is_file():
        return str(path / kept)
    return found["options"]["robot_type"]


def _task(path: Path, found: dict[str, Any], remedy: str) -> TaskConfig:
    try:
        return TaskConfig.from_json(found.get("task") or {})
    except InputFileError as error:
        raise InputFileError(f"{path / OPTIONS_FILE} is broken ({error}); {remedy}") from error


def _json(path: Path) -> dict[str, Any] | None:
    """A JSON file's object, or None: what is missing or half written is left out of a report."""
    try:
        return read_json(path, "")
    except InputFileError:
        return None


def _collections(path: Path) -> dict[int, list[dict[str, Any]]]:
    found = {}
    for folder in path.glob("loop_[0-9]*"):
        episodes = (_json(folder / f"{folder.name}.json") or {}).get("episodes")
        if isinstance(episodes, list) and episodes and all(map(_is_episode, episodes)):
            found[int(folder.name[5:])] = episodes
    return dict(sorted(found.items()))


def _is_episode(content: Any) -> bool:
    numbers = [content.get(key) for key in ("env", "number", "return_")] if isinstance(content, dict) else [None]
    return all(isinstance(number, int | float) for number in numbers)


def expert_return(robot_type: str, max_steps: int) -> float | None:
    """The mean return at which a bundled robot's own expert walks, or None if that is unknown.

    The bundled models that were pretrained on the robot imitate its expert; their cards tell their returns, which are
    within 0.02 of it, and hold for episodes of 1000 steps from randomised starts only.
    """
    if robot_type.lower().endswith(".toml") or max_steps != EXPERT_MAX_STEPS:
        return None
    robot = load_robot(robot_type).name
    # Those made for other worlds lose a little in this one.
    measured = [card["returns"].get(robot) for card in bundled_models().values() if "made_for" not in card]
    seen = [found["mean_return"] for found in measured if found and found["seen"]]
    return sum(seen) / len(seen) if seen else None
