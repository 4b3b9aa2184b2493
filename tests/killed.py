"""Killing a process at one of its file events, and what a run that goes on after that shares with one nobody killed.

As a program, `python tests/killed.py FOLDER NUMBER WORDS...` is `vintix-fast WORDS...`, killed
at that event in that folder.  At 0 it is not killed, and says how many there were.
"""

from __future__ import annotations

import filecmp
import os
import re
import signal
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

RENAMED = {"os.rename": "rename", "os.mkdir": "mkdir", "os.remove": "remove", "os.rmdir": "rmdir"}
RANDOM = re.compile(r"(new|old)-\w{8}|(?<=tfevents)\.[\w.-]+(?=\.loop)")
"""What names have that no two runs share."""


class FileEvents:
    """Counts what this process does to files below ``folder``, and kills it right before the ``at``-th.

    Opening to write, syncing, renaming, making and removing; of a file that is synced, half is there then.  They stay
    hooked, so this is for processes that do nothing else.
    """

    def __init__(self, folder: Path, at: int = 0) -> None:
        self.folder, self.at, self.seen = str(folder.absolute()), at, []
        sync = os.fsync

        def half_synced(handle) -> None:
            path = os.readlink(f"/proc/self/fd/{getattr(handle, 'fileno', lambda: handle)()}")
            self.happens("sync", path, lambda: os.truncate(path, os.path.getsize(path) // 2))
            sync(handle)

        os.fsync = half_synced
        sys.addaudithook(self._hook)

    def _hook(self, event: str, args: tuple) -> None:
        if event == "open" and isinstance(args[2], int) and args[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            self.happens("open", args[0])
        elif event in RENAMED:
            path, folder = args[1] if event == "os.rename" else args[0], args[-1]
            if folder != -1:  # of a tree that is removed
                path = os.path.join(os.readlink(f"/proc/self/fd/{folder}"), path)
            self.happens(RENAMED[event], path)

    def happens(self, what: str, path: str | bytes | Path | int = "", before: Callable[[], object] = int) -> None:
        """Another event, of a path below the folder, or of none."""
        if isinstance(path, int):  # a file that is open already
            return
        if path:
            path = os.path.abspath(os.fsdecode(path))
            if not path.startswith(self.folder):
                return
            path = RANDOM.sub("*", os.path.relpath(path, self.folder))
        self.seen.append(f"{what} {path}".strip())
        if len(self.seen) == self.at:
            before()
            os.kill(os.getpid(), signal.SIGKILL)


def forked(run: Callable[[], None], stderr: Path) -> int:
    """Run something in a fork of this process; the signal or exit code that it ended with, as `subprocess` tells it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # other threads are none that the child needs
        pid = os.fork()
    if pid == 0:
        code = 1
        try:
            with open(stderr, "w") as file:
                os.dup2(file.fileno(), 2)
                run()
            code = 0
        except BaseException:
            import traceback

            traceback.print_exc(file=open(stderr, "a"))
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def everything(out: Path) -> set[str]:
    """All that lies below ``out``, folders and hidden files too."""
    return {RANDOM.sub("*", path.relative_to(out).as_posix()) for path in out.rglob("*")}


def scalars(out: Path) -> dict[str, list[tuple[int, float]]]:
    """TensorBoard's numbers by tag, in the order of their steps; those of the clock without their values."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(out / "tensorboard"), {"scalars": 0}).Reload()
    tags = events.Tags()["scalars"]
    clock = {tag for tag in tags if tag.startswith("Perf/")}
    return {tag: sorted((e.step, 0.0 if tag in clock else e.value) for e in events.Scalars(tag)) for tag in tags}


def differences(out: Path, whole: Path) -> list[str]:
    """In what a run differs from a whole one; empty where only the clock's numbers do."""
    from runs import assert_same_run

    found = [f"only one has {name}" for name in sorted(everything(out) ^ everything(whole))]
    for model in sorted(whole.glob("models/*/model.pth")):
        name = model.relative_to(whole)
        if not (out / name).is_file() or not filecmp.cmp(model, out / name, shallow=False):
            found.append(f"{name} differs")
    if not filecmp.cmp(out / "curve.png", whole / "curve.png", shallow=False):
        found.append("curve.png differs")
    if scalars(out) != scalars(whole):
        found.append("TensorBoard differs")
    try:
        assert_same_run(out, whole)
    except AssertionError as error:
        found.append(f"not the same run: {str(error).splitlines()[0]}")
    return found


def main() -> None:
    folder, at, *words = sys.argv[1:]
    from vintix_fast.cli import main as vintix_fast

    events = FileEvents(Path(folder), int(at))
    sys.argv = ["vintix-fast", *words]
    try:
        vintix_fast()
    finally:
        print(f"file events: {len(events.seen)}", file=sys.stderr)


if __name__ == "__main__":
    main()
