"""A run's output directory: what is written where, what is done already, and where a resumed run goes on.

Every file is written beside its final name and renamed, so that whatever exists is whole.  ``state.json`` is written
last in each loop; a loop that it does not count is done again, from its collection if that was finished.  Knows
nothing about models' insides or the simulator.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from vintix_fast.config import AdaptConfig, changed_options
from vintix_fast.errors import InputFileError, UsageError, VintixFastError

PACKAGES = ("vintix-fast", "torch", "genesis-world", "h5py", "numpy", "triton")


def versions() -> dict[str, str]:
    """Versions of what a result depends on."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def write_text(path: Path, text: str) -> None:
    """Write a file beside its final name, sync it and rename it.

    Raises:
        VintixFastError: the disk refuses; names the file and the cause.
    """
    beside = path.with_name(path.name + ".tmp")
    try:
        with open(beside, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
    except OSError as error:
        raise VintixFastError(f"cannot write {path}: {error.strerror}") from error


def write_json(path: Path, content: Any) -> None:
    write_text(path, json.dumps(content, indent=1) + "\n")


class Run:
    """The output directory of `adapt`.

    ``rows`` holds one dict of numbers for each finished loop (row 0: the initial policy, where it was measured).
    """

    def __init__(self, config: AdaptConfig) -> None:
        self.config, self.path = config, config.output_dir
        self.loops_done = 0
        self.rows: list[dict[str, Any]] = []
        self.best: dict[str, Any] | None = None
        self.improver_state: dict[str, Any] = {}

    # -- beginning ---------------------------------------------------------------------------------------------------

    def check(self) -> None:
        """Raise before anything is written if this directory cannot be used as asked.

        Raises:
            UsageError: it is in use and neither --resume nor --overwrite was given, or the options differ from those
                of the run to resume, or --overwrite would delete what is no run.
            VintixFastError: it cannot be written to.
        """
        path, config = self.path, self.config
        used = path.exists() and (not path.is_dir() or any(path.iterdir()))
        if used and not path.is_dir():
            raise UsageError(f"--output-dir {path} is a file; give a directory")
        if config.resume:
            if not (path / "config.json").is_file():
                raise UsageError(f"--resume: {path} holds no run to go on with; leave the option out to begin one")
            differences = changed_options(self._read("config.json").get("options", {}), config)
            if differences:
                raise UsageError(
                    f"--resume: {path} was begun with other options ({'; '.join(differences)}). Give the same, or "
                    "another --output-dir"
                )
        elif used and not config.overwrite:
            raise UsageError(
                f"--output-dir {path} is not empty: --resume goes on with its run, --overwrite replaces it"
            )
        elif used and not (path / "config.json").is_file():
            raise UsageError(f"--overwrite: {path} holds no run of vintix-fast, so it is left alone; choose another")
        parent = path
        while not parent.exists():
            parent = parent.parent
        if not os.access(parent, os.W_OK | os.X_OK):
            raise VintixFastError(f"--output-dir {path}: no permission to write in {parent}")

    def begin(self) -> None:
        """Make the directory, or read what an interrupted run left."""
        if self.config.resume:
            if (self.path / "state.json").is_file():
                state = self._read("state.json")
                self.loops_done, self.rows, self.best = state["loops_done"], state["rows"], state["best"]
                self.improver_state = state["improver"]
        elif self.path.exists():
            shutil.rmtree(self.path)
        try:
            (self.path / "models").mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise VintixFastError(f"--output-dir {self.path}: {error.strerror}") from error
        write_json(self.path / "config.json", {"options": self.config.to_json(), "versions": versions()})

    def _read(self, name: str) -> dict[str, Any]:
        try:
            return json.loads((self.path / name).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise InputFileError(f"{self.path / name} is broken ({error}); --overwrite begins the run anew") from error

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

    def collected(self, collection: int) -> dict[str, Any] | None:
        """The summary of a finished collection, or None."""
        file = self.collection_file(collection)
        if not (file.is_file() and self.trajectories(collection).is_file()):
            return None
        return json.loads(file.read_text(encoding="utf-8"))

    @property
    def current_dir(self) -> Path:
        """The model that the next loop starts from: the best so far where a gate decides, else the latest."""
        return self.model_dir(self.best["loop"] if self.best else self.loops_done)

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


def remove_partial(paths: Iterable[Path]) -> None:
    """Delete what an interrupted collection left."""
    for path in paths:
        path.unlink(missing_ok=True)
