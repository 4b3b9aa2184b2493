"""A run's output directory: what is written where, what is done already, and where a resumed run goes on.

Every file is written beside its final name and renamed, so that whatever exists is whole.  ``state.json`` is written
last in each loop; a loop that it does not count is done again, from its collection if that was finished.  Knows
nothing about models' insides or the simulator.
"""

from __future__ import annotations

import fcntl
import importlib.metadata
import json
import math
import os
import platform
import shutil
from pathlib import Path
from typing import Any, Self

from vintix_fast.config import AdaptConfig
from vintix_fast.errors import InputFileError, UsageError, VintixFastError, cause, disk_fault
from vintix_fast.run_config import RunConfig

PACKAGES = ("vintix-fast", "torch", "genesis-world", "h5py", "numpy", "triton")
OPTIONS_FILE = "config.json"


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


def save_tensors(path: Path, content: dict[str, Any]) -> None:
    """Write tensors and plain values beside a file's final name, sync and rename; ``torch.load`` reads it safely.

    Raises:
        VintixFastError: the disk refuses; names the file and the cause.
    """
    import torch

    beside = path.with_name(path.name + ".tmp")
    try:
        with open(beside, "wb") as file:
            torch.save(content, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
    except (OSError, RuntimeError) as error:
        raise VintixFastError(f"cannot write {path}: {disk_fault(error)}") from error


def load_tensors(path: Path, device: str = "cpu", remedy: str = "") -> dict[str, Any]:
    """What `save_tensors` wrote.

    Raises:
        InputFileError: the file is missing or broken; ``remedy`` ends the message.
    """
    import pickle

    import torch

    try:
        content = torch.load(path, map_location=device, weights_only=True)
        if not isinstance(content, dict):
            raise ValueError(f"holds a {type(content).__name__}")
    except pickle.UnpicklingError as error:
        raise InputFileError(f"{path} is broken (holds something other than tensors); {remedy}") from error
    except (OSError, ValueError, RuntimeError, EOFError) as error:
        raise InputFileError(f"{path} is broken ({cause(error)}); {remedy}") from error
    return content


def check_writable(path: Path) -> None:
    """Raise unless ``path`` is, or can be made, a directory to write in.  Makes nothing.

    Raises:
        UsageError: it, or what it lies in, is no directory.
        VintixFastError: no permission.
    """
    existing = path
    while not os.path.lexists(existing):
        existing = existing.parent
    if not existing.is_dir():
        raise UsageError(f"--output-dir {path}: {existing} is not a directory; choose another path")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise VintixFastError(f"--output-dir {path}: no permission to write in {existing}; choose another path")


class RunDirectory:
    """The output directory of a command: made, resumed or overwritten, and never another's.

    As a context, it keeps other processes out from `begin` on.

    Args:
        config: the run's options.
        entries: glob patterns of what a run makes, in the order in which --overwrite deletes it.  ``config.json``, by
            which a run is known, comes after them.
    """

    def __init__(self, config: RunConfig, entries: tuple[str, ...]) -> None:
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
        used = path.is_dir() and any(path.iterdir())
        if used:
            os.close(self._locked())
        if config.resume:
            if not self._holds_run():
                raise UsageError(
                    f"--resume: {path} holds no run of `{config.command}` to go on with (no config.json with its "
                    "options); leave the option out to begin one"
                )
            options = self._read(OPTIONS_FILE, ("options",))["options"]
            differences = config.changed_options(options)
            if differences:
                raise UsageError(
                    f"--resume: {path} was begun with other options ({'; '.join(differences)}). Give the same, or "
                    "another --output-dir"
                )
            self.config = config.settled(options)
        elif used and not self._holds_run():
            raise UsageError(
                f"--output-dir {path} is not empty and holds no run of `vintix-fast {config.command}`, so it is left "
                "alone; give a new or an empty directory"
            )
        elif used and not config.overwrite:
            raise UsageError(f"--output-dir {path} holds a run: --resume goes on with it, --overwrite replaces it")
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
        options = {"command": self.config.command, "options": self.config.to_json(), "versions": versions()}
        write_json(self.path / OPTIONS_FILE, options)

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
            found = self._read(OPTIONS_FILE, ("options",))
            return isinstance(found["options"], dict) and found.get("command", "adapt") == self.config.command
        except InputFileError:
            return False

    def _read(self, name: str, keys: tuple[str, ...]) -> dict[str, Any]:
        """A JSON object of this directory that has at least ``keys``."""
        try:
            content = json.loads((self.path / name).read_text(encoding="utf-8"))
            if not isinstance(content, dict) or not set(keys) <= set(content):
                raise ValueError(f"not a JSON object with {', '.join(keys)}")
        except (OSError, ValueError) as error:
            raise InputFileError(f"{self.path / name} is broken ({error}); --overwrite begins the run anew") from error
        return content


class Run(RunDirectory):
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
        return self._read("state.json", ("loops_done", "rows", "best", "improver"))

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
        return self._read(str(file.relative_to(self.path)), ("collection",))

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
