"""A run's output directory: what is written where, what is done already, and where a resumed run goes on.

Every file is written beside its final name and renamed, so that whatever exists is whole.  ``state.json`` is written
last in each loop; a loop that it does not count is done again, from its collection if that was finished.  Knows
nothing about models' insides or the simulator.
"""

from __future__ import annotations

import fcntl
import json
import math
import os
import shutil
from pathlib import Path
from typing import Any, Generic, Self, TypeVar

from vintix_fast.config import AdaptConfig
from vintix_fast.run_config import RunConfig
from vintix_fast.service.errors import InputFileError, UsageError, VintixFastError, shown
from vintix_fast.service.files import check_writable, read_json, versions, write_json, write_text

OPTIONS_FILE = "config.json"
ANEW = "--overwrite begins the run anew"
_NUMBERS = (
    *(
        "accepted",
        "kept_share",
        "episodes",
        "env_steps",
        "total_env_steps",
        "failures",
        "mean_return",
        "standard_error",
    ),
    *("mean_length", "loss", "eval_return", "eval_standard_error", "eval_length", "collect_seconds", "train_seconds"),
)
"""What is computed with of a row of metrics."""


Config = TypeVar("Config", bound=RunConfig)


class RunDirectory(Generic[Config]):
    """The output directory of a command: made, resumed or overwritten, and never another's.

    As a context, it keeps other processes out from `begin` on.

    Args:
        config: the run's options.
        entries: glob patterns of what a run makes, in the order in which --overwrite deletes it.  ``config.json``, by
            which a run is known, comes after them.
    """

    def __init__(self, config: Config, entries: tuple[str, ...]) -> None:
        self.config, self.path, self._patterns = config, config.output_dir, (*entries, OPTIONS_FILE)
        self._lock: int | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def check(self) -> None:
        """Raise before anything is written if this directory cannot be used as asked; settle a resumed run's options.

        Raises:
            UsageError: it is in use and neither --resume nor --overwrite was given, or by a process that still runs, or
                the options differ from those of the run to resume, or --overwrite would delete what is no run, or what
                this run reads.
            InputFileError: the options of the run to resume are broken.
            VintixFastError: it cannot be written to.
        """
        path, config = self.path, self.config
        check_writable(path)
        # A directory in use is locked for a moment, to see that no other process has it.
        used = path.is_dir() and any(path.iterdir())
        if used:
            os.close(self._locked())
        # A resumed run must be the same run: its options decide what "go on" means.
        if config.resume:
            if not self._holds_run():
                raise UsageError(
                    f"--resume: {path} holds no run of `{config.command}` to go on with (no config.json with its "
                    "options); leave the option out to begin one"
                )
            options = self._read(OPTIONS_FILE, {"options": dict})["options"]
            differences = config.changed_options(options)
            if differences:
                raise UsageError(
                    f"--resume: {path} was begun with other options ({'; '.join(differences)}). Give the same, or "
                    "another --output-dir"
                )
            self.config = config.settled(options)
        # Whatever is not a run of this command is not ours to delete.
        elif used and not self._holds_run():
            raise UsageError(
                f"--output-dir {path} is not empty and holds no run of `vintix-fast {config.command}`, so it is left "
                "alone; give a new or an empty directory"
            )
        elif used and not config.overwrite:
            raise UsageError(f"--output-dir {path} holds a run: --resume goes on with it, --overwrite replaces it")
        # Nor is what this very run is to read.
        elif used:
            for option, given in config.input_paths().items():
                if given.resolve().is_relative_to(path.resolve()):
                    raise UsageError(
                        f"--overwrite would delete {option}, which lies in --output-dir {path}; give another "
                        "--output-dir"
                    )

    def begin(self) -> None:
        """Make the directory, and write down the options.

        Of an earlier run to overwrite only what a run makes is deleted, so that a user's own files beside it stay.

        Raises:
            UsageError: another process writes there.
            VintixFastError: the disk refuses.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock = self._locked()
            for entry in () if self.config.resume else self._entries():
                if entry.is_dir() and not entry.is_symlink():
                    shutil.rmtree(entry)
                else:
                    entry.unlink()
        except OSError as error:
            raise VintixFastError(f"--output-dir {self.path}: {error}") from error
        record = {"command": self.config.command, "options": self.config.to_json(), "versions": versions()}
        if (task := getattr(self.config, "task", None)) is not None:
            record["task"] = task.to_json()
        write_json(self.path / OPTIONS_FILE, record)

    def _entries(self) -> list[Path]:
        """What a run made here, in the order of deletion."""
        return [found for pattern in self._patterns for found in self.path.glob(pattern)]

    def _locked(self) -> int:
        """A handle on the directory, of which only one process has one; closing it gives the directory back."""
        handle = os.open(self.path, os.O_RDONLY)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(handle)
            raise UsageError(
                f"--output-dir {self.path}: another process writes there now; wait for its end or stop it, or give "
                "another --output-dir"
            ) from None
        except OSError:  # a file system without locks
            pass
        return handle

    def _holds_run(self) -> bool:
        """Whether `begin` was here before; a checkpoint, or another tool's directory, may have a config.json too."""
        try:
            found = self._read(OPTIONS_FILE, {"options": dict})
            return found.get("command", "adapt") == self.config.command
        except InputFileError:
            return False

    def _read(self, name: str, keys: dict[str, Any]) -> dict[str, Any]:
        """A JSON object of this directory that has at least ``keys``, of these types."""
        return read_json(self.path / name, ANEW, keys)


def checked_row(row: Any, where: object, remedy: str) -> dict[str, Any]:
    """A row of metrics as it was read from ``where``; InputFileError where it has no loop, or a text for a number."""
    if not isinstance(row, dict) or type(row.get("loop")) is not int:
        raise InputFileError(f"{where} is broken (a row must have the number of its loop, got {shown(row)}); {remedy}")
    for key in _NUMBERS:
        if not isinstance(row.get(key), int | float | None):
            raise InputFileError(f"{where} is broken ({key} must be a number, got {shown(row[key])}); {remedy}")
    return row


class Run(RunDirectory[AdaptConfig]):
    """The output directory of `adapt`.

    ``rows`` holds one dict of numbers for each finished loop (row 0: the initial policy, where it was measured).
    """

    def __init__(self, config: AdaptConfig) -> None:
        collections = ("loop_[0-9][0-9]", "loop_[0-9][0-9][0-9]")
        made = ("state.json", "metrics.jsonl", "curve.png", "report", "tensorboard", *collections, "models")
        super().__init__(config, made)
        self.loops_done = 0
        self.rows: list[dict[str, Any]] = []
        self.best: dict[str, Any] | None = None
        self.improver_state: dict[str, Any] = {}

    def check(self) -> None:
        """See `RunDirectory.check`; of a run to resume the state is read too."""
        super().check()
        if self.config.resume:
            self._state()

    def begin(self) -> None:
        """See `RunDirectory.begin`; takes over what an interrupted run left."""
        if self.config.resume and (state := self._state()) is not None:
            self.loops_done, self.rows, self.best = state["loops_done"], state["rows"], state["best"]
            self.improver_state = state["improver"]
        super().begin()

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
        return state

    # -- where things are --------------------------------------------------------------------------------------------

    def model_dir(self, loop: int) -> Path:
        """The model after ``loop`` loops; 0: the initial one."""
        return self.path / "models" / ("initial" if loop == 0 else f"loop_{loop:02d}")

    @property
    def best_dir(self) -> Path:
        return self.path / "models" / "best"

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
    def current_dir(self) -> Path:
        """The model that the next loop starts from."""
        return self.model_dir(self.current_loop)

    # -- progress ----------------------------------------------------------------------------------------------------

    def finish_loop(self, row: dict[str, Any], improver_state: dict[str, Any]) -> None:
        """Count a loop as done."""
        self.rows.append(row)
        self.loops_done = row["loop"]
        self.improver_state = improver_state
        write_text(self.path / "metrics.jsonl", "".join(json.dumps(r) + "\n" for r in self.rows))
        write_json(
            self.path / "state.json",
            {"loops_done": self.loops_done, "best": self.best, "improver": improver_state, "rows": self.rows},
        )

    def total(self, key: str) -> float:
        """Sum of a number over all finished loops."""
        return sum(row.get(key, 0) or 0 for row in self.rows)
