"""A directory that a command fills: made, resumed or overwritten, for one process at a time, and never another's.

Owns ``config.json``, by which a run is known, and the copy of its robot's files, which belong to the run as its models
do.  What else lies there is the command's.  Knows nothing about models or the simulator.
"""

from __future__ import annotations

import fcntl
import os
import shutil
from pathlib import Path, PurePath
from typing import Any, Generic, Self, TypeVar

from vintix_fast.run_config import RunConfig
from vintix_fast.service.errors import InputFileError, UsageError, VintixFastError
from vintix_fast.service.files import check_writable, read_json, versions, write_json
from vintix_fast.world.kept_robot import FOLDER as ROBOT_DIR
from vintix_fast.world.kept_robot import is_robot_record, keep_robot, robot_begun_with, robot_record
from vintix_fast.world.robot import Robot, load_robot

OPTIONS_FILE = "config.json"
ANEW = "--overwrite begins the run anew"
UNFINISHED = ("{}.tmp", ".{}.new-????????", ".{}.old-????????")
"""What a file or directory is called while it is written, and what it replaces; a killed process leaves it."""


Config = TypeVar("Config", bound=RunConfig)


class RunDirectory(Generic[Config]):
    """The output directory of a command: made, resumed or overwritten, and never another's.

    As a context, it keeps other processes out from `begin` on.

    Args:
        config: the run's options.
        entries: glob patterns of what a run makes, in the order in which --overwrite deletes it.  ``config.json``, by
            which a run is known, is always there and replaced as a whole.
        inside: such patterns of what lies in directories among these and is written by itself.
    """

    def __init__(self, config: Config, entries: tuple[str, ...], inside: tuple[str, ...] = ()) -> None:
        self.config, self.path, self._patterns, self._inside = config, config.output_dir, entries, inside
        self._robot: Robot | None = None
        self._lock: int | None = None
        self._begun = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        try:
            # Whatever failed failed for that reason, and whoever did not notice left nothing.
            if self._begun and (error is None or isinstance(error, OSError | VintixFastError)):
                self.check_still_there(error)
        finally:
            if self._lock is not None:
                os.close(self._lock)
            self._lock, self._begun = None, False

    @property
    def robot(self) -> Robot:
        """The one that ``robot_type`` names; of a resumed run the one that it was begun with.  There after `check`."""
        if self._robot is None:
            raise ValueError("check() was not called, or the options name no robot")
        return self._robot

    def check_still_there(self, error: BaseException | None = None) -> None:
        """Raise VintixFastError, because of ``error``, if what `begin` made was removed.

        To be asked before anything is written that makes directories: half of a run would lie there.
        """
        try:
            os.stat(OPTIONS_FILE, dir_fd=self._lock)  # of the directory that is held, whatever its path leads to now
            os.stat(self.path / OPTIONS_FILE)
        except OSError:
            raise VintixFastError(
                f"--output-dir {self.path} was removed or moved while the run wrote there, so the run has ended; begin "
                "it again, or put the directory back and give --resume"
            ) from error

    def check(self) -> None:
        """Raise before anything is written if this directory cannot be used as asked; settle a resumed run's options.

        Raises:
            UsageError: it is in use and neither --resume nor --overwrite was given, or by a process that still runs, or
                the options differ from those of the run to resume, or its robot does, or --overwrite would delete what
                is no run, or what this run reads.
            InputFileError: the options of the run to resume, or its robot, are broken.
            VintixFastError: it cannot be written to.
        """
        check_writable(self.path)
        # A directory in use is locked for a moment, to see that no other process has it.
        if self._used():
            os.close(self._locked())
        self._check_use()
        if (word := getattr(self.config, "robot_type", None)) is not None:
            self._robot = self._robot_of(word)

    def _robot_of(self, word: str) -> Robot:
        """The robot that is asked for; of a run to resume the one that it was begun with."""
        begun_with = self._recorded_robot()
        if begun_with and self.config.resume:
            same_words = self._read(OPTIONS_FILE, {"options": dict})["options"].get("robot_type") == word
            return robot_begun_with(begun_with, self.path, word, same_words)
        robot, folder = load_robot(word), self.path / ROBOT_DIR
        if folder.exists() and "file" in robot_record(robot) and "file" not in begun_with:
            raise UsageError(f"{folder} is in the way: a copy of --robot-type {word} goes there; rename it")
        return robot

    def _check_use(self) -> None:
        path, config, used = self.path, self.config, self._used()
        # A resumed run must be the same run: its options decide what "go on" means.
        if config.resume:
            if not self._holds_run():
                raise UsageError(
                    f"--resume: {path} holds no run of `{config.command}` to go on with (no config.json with its "
                    "options); leave the option out to begin one"
                )
            found = self._read(OPTIONS_FILE, {"options": dict})
            options, robot = found["options"], found.get("robot")
            if robot is not None and not is_robot_record(robot):
                raise InputFileError(f"{path / OPTIONS_FILE} is broken (robot is {robot!r}); {ANEW}")
            if robot is not None:  # which tells more than words
                options = options | {"robot_type": getattr(config, "robot_type", None)}
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
        What a killed run had half written is deleted too.

        Raises:
            UsageError: another process writes there, or has done so since `check`.
            VintixFastError: the disk refuses.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock = self._locked()
            self._check_use()
            for entry in self._leftovers() if self.config.resume else self._leftovers() + self._entries():
                if entry.is_dir() and not entry.is_symlink():
                    shutil.rmtree(entry)
                else:
                    entry.unlink()
        except OSError as error:
            raise VintixFastError(f"--output-dir {self.path}: {error}") from error
        record: dict[str, Any] = {
            "command": self.config.command,
            "options": self.config.to_json(),
            "versions": versions(),
        }
        if (task := getattr(self.config, "task", None)) is not None:
            record["task"] = task.to_json()
        if self._robot is not None:
            record["robot"] = robot_record(self._robot)
        write_json(self.path / OPTIONS_FILE, record)
        self._begun = True
        if (
            self._robot is not None
            and "file" in record["robot"]
            and not (self.path / record["robot"]["file"]).is_file()
        ):
            shutil.rmtree(self.path / ROBOT_DIR, ignore_errors=True)  # what is left of one
            keep_robot(self._robot, self.path / ROBOT_DIR)

    def _entries(self) -> list[Path]:
        """What a run made here, in the order of deletion; a folder that is no robot's copy is the user's."""
        own = (*self._patterns, ROBOT_DIR) if "file" in self._recorded_robot() else self._patterns
        return [found for pattern in own for found in self.path.glob(pattern)]

    def _leftovers(self) -> list[Path]:
        """What killed processes were writing here."""
        names = (*self._patterns, *self._inside, OPTIONS_FILE, ROBOT_DIR)
        beside = [PurePath(name).with_name(form.format(PurePath(name).name)) for name in names for form in UNFINISHED]
        return [found for pattern in beside for found in self.path.glob(str(pattern))]

    def _used(self) -> bool:
        """Whether anything lies here but the beginning of a first ``config.json``."""
        return self.path.is_dir() and any(p.name != UNFINISHED[0].format(OPTIONS_FILE) for p in self.path.iterdir())

    def _recorded_robot(self) -> dict[str, Any]:
        """What ``config.json`` says of the run's robot; empty where it says nothing, as those of earlier versions."""
        found = self._read(OPTIONS_FILE, {}).get("robot", {}) if self._holds_run() else {}
        return found if is_robot_record(found) else {}

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
