"""The output directory of `adapt` and `improve`: what is written where, what is done, and where a run goes on.

Every file is written beside its final name and renamed, so that whatever exists is whole.  ``state.json`` is written
last in each loop; a loop that it does not count is done again, from its collection if that was finished.  What every
command's directory has is `outdir.py`'s.  Knows nothing about models' insides or the simulator.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from vintix_fast.outdir import ANEW, Config, RunDirectory
from vintix_fast.service.errors import InputFileError, shown
from vintix_fast.service.files import parse_json, write_json, write_text

METRICS_FILE = "metrics.jsonl"

_NUMBERS = (
    *("accepted", "kept_share", "episodes", "env_steps", "total_env_steps", "failures", "mean_return"),
    *("standard_error", "mean_length", "loss", "eval_return", "eval_standard_error", "eval_length"),
    *("collect_seconds", "train_seconds"),
)
"""What is computed with of a row of metrics."""


def checked_row(row: Any, where: object, remedy: str) -> dict[str, Any]:
    """A row of metrics as it was read from ``where``; InputFileError where it has no loop, or a text for a number."""
    if not isinstance(row, dict) or type(row.get("loop")) is not int:
        raise InputFileError(f"{where} is broken (a row must have the number of its loop, got {shown(row)}); {remedy}")
    for key in _NUMBERS:
        if not isinstance(row.get(key), int | float | None):
            raise InputFileError(f"{where} is broken ({key} must be a number, got {shown(row[key])}); {remedy}")
    return row


def read_rows(run: Path) -> list[dict[str, Any]]:
    """The rows of a run's metrics.jsonl, one for each finished loop; none where it is missing.

    Raises:
        InputFileError: a line is broken.
    """
    file = run / METRICS_FILE
    rows = []
    lines = file.read_text(encoding="utf-8", errors="replace").splitlines() if file.exists() else []
    for number, line in enumerate(lines, start=1):
        remedy = "`vintix-fast adapt --resume` writes the file anew"
        where = f"{file}, line {number}"
        rows.append(checked_row(parse_json(line, where, remedy), where, remedy))
    return rows


def loop_seconds(row: dict[str, Any]) -> float:
    """What a loop took by its row: the search for a stance, collecting, training with its critic, the gate."""
    return sum(row.get(f"{part}_seconds") or 0.0 for part in ("posture", "collect", "train", "eval"))


class Run(RunDirectory[Config]):
    """The output directory of `adapt`, and of `improve`, whose collections are a robot's logs.

    ``rows`` holds one dict of numbers for each finished loop (row 0: the initial policy, where it was measured).
    """

    def __init__(self, config: Config) -> None:
        collections = ("loop_[0-9][0-9]", "loop_[0-9][0-9][0-9]")
        files = ("state.json", METRICS_FILE, "audition.json", "curve.png")
        made = (*files, "report", "tensorboard", *collections, "models")
        inside = [f"{c}/{name}" for c in collections for name in ("loop_*.json", "training.pth", "trajectories*.h5")]
        models = [f"models/{name}" for name in ("initial", "best", "next", *collections)]
        super().__init__(config, made, (*inside, *models))
        self.loops_done = 0
        self.rows: list[dict[str, Any]] = []
        self.best: dict[str, Any] | None = None
        self.improver_state: dict[str, Any] = {}

    def check(self) -> None:
        """See `RunDirectory.check`; a run to resume must have its state, and the model to go on from."""
        super().check()
        if self.config.resume:
            self._take_over()
            if self.rows and not any(map(is_checkpoint, self.current_copies)):
                missing = " and ".join(str(path) for path in self.current_copies)
                raise InputFileError(
                    f"{missing}: no model.pth there, and the run cannot go on without; put it back, or --overwrite "
                    "begins the run anew"
                )

    def begin(self) -> None:
        """See `RunDirectory.begin`; takes over what an interrupted run left."""
        super().begin()
        if self.config.resume:
            self._take_over()
            if self.rows:
                self._write_metrics()

    def _take_over(self) -> None:
        if (state := self._state()) is not None:
            self.loops_done, self.rows, self.best = state["loops_done"], state["rows"], state["best"]
            self.improver_state = state["improver"]

    def _state(self) -> dict[str, Any] | None:
        """What the last finished loop left, or None before the first."""
        if not (self.path / "state.json").is_file():
            return None
        keys = {"loops_done": int, "rows": list, "best": dict | None, "improver": dict}
        state, path = self._read("state.json", keys), self.path / "state.json"
        for row in state["rows"]:
            checked_row(row, path, ANEW)
        best = state["best"]
        if best is not None and not (isinstance(best.get("return"), float) and best.get("loop") in range(10**6)):
            raise InputFileError(f"{path} is broken (best must have loop and return, got {shown(best)}); {ANEW}")
        if state["loops_done"] < 0:
            raise InputFileError(f"{path} is broken (loops_done is {state['loops_done']}); {ANEW}")
        return state

    # -- where things are --------------------------------------------------------------------------------------------

    def model_dir(self, loop: int) -> Path:
        """The model after ``loop`` loops; 0: the initial one."""
        return self.path / "models" / ("initial" if loop == 0 else f"loop_{loop:02d}")

    @property
    def best_dir(self) -> Path:
        return self.path / "models" / "best"

    @property
    def audition_file(self) -> Path:
        """What an audition found, where one was held."""
        return self.path / "audition.json"

    def audition_metrics(self) -> dict[str, Any]:
        """What row 0 says of the audition."""
        if not self.audition_file.is_file():
            return {}
        return {"audition_env_steps": self._read(self.audition_file.name, {"env_steps": int})["env_steps"]}

    def data_dir(self, collection: int) -> Path:
        """Folder of the ``collection``-th collection, from 0."""
        return self.path / f"loop_{collection:02d}"

    def trajectories(self, collection: int) -> Path:
        return self.data_dir(collection) / "trajectories.h5"

    def collection_file(self, collection: int) -> Path:
        return self.data_dir(collection) / f"loop_{collection:02d}.json"

    def training_state(self, collection: int) -> Path:
        """Where fine-tuning on the ``collection``-th collection goes on from; there only while it is not finished."""
        return self.data_dir(collection) / "training.pth"

    def collected(self, collection: int) -> dict[str, Any] | None:
        """The summary of a finished collection, or None."""
        file = self.collection_file(collection)
        if not (file.is_file() and self.trajectories(collection).is_file()):
            return None
        found = self._read(str(file.relative_to(self.path)), {"collection": dict})
        checked_row({"loop": 0} | found["collection"], file, ANEW)
        return found

    @property
    def best_return(self) -> float:
        """Of the best model's evaluation; before any, less than every other."""
        return self.best["return"] if self.best else -math.inf

    @property
    def current_loop(self) -> int:
        """Whose model the next loop starts from: the best loop's so far where a gate decides, else the latest's.

        It made the collections from this number on.
        """
        return self.best["loop"] if self.best else self.loops_done

    @property
    def current_row(self) -> dict[str, Any]:
        """That loop's row; empty before there is one."""
        return next((row for row in self.rows if row["loop"] == self.current_loop), {})

    @property
    def current_dir(self) -> Path:
        """The model that the next loop starts from."""
        return self.model_dir(self.current_loop)

    @property
    def current_copies(self) -> tuple[Path, ...]:
        """Where that model lies; the best one lies in two places."""
        return (self.current_dir, self.best_dir) if self.best else (self.current_dir,)

    # -- progress ----------------------------------------------------------------------------------------------------

    def finish_loop(self, row: dict[str, Any], improver_state: dict[str, Any]) -> None:
        """Count a loop as done."""
        self.rows.append(row)
        self.loops_done = row["loop"]
        self.improver_state = improver_state
        self._write_metrics()
        self.write_state()

    def write_state(self) -> None:
        """What `check` and `begin` of a resumed run take over."""
        state = {"loops_done": self.loops_done, "best": self.best, "improver": self.improver_state, "rows": self.rows}
        write_json(self.path / "state.json", state)

    def _write_metrics(self) -> None:
        write_text(self.path / METRICS_FILE, "".join(json.dumps(row) + "\n" for row in self.rows))

    def total(self, key: str) -> float:
        """Sum of a number over all finished loops."""
        return sum(row.get(key, 0) or 0 for row in self.rows)


def is_checkpoint(path: Path) -> bool:
    """Whether a model lies there; its directory is made as a whole."""
    return (path / "model.pth").is_file()
