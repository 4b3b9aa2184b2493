"""The simulator's compiled kernels on disk: where they are, and what stopped runs and bad disks left among them.

The library that keeps them, Quadrants, does not recover by itself.  Where its lock was left, nothing is written, and
every run compiles for a minute or more, unsaid.  A kernel that is listed but cannot be read is compiled in every run.
A broken list ends the process.  Knows nothing about scenes; whether the folder can be written is the matter of `home`.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import struct
import time
from collections.abc import Callable
from pathlib import Path

KERNELS = "kernel_compilation_manager"
LOCK_WATCH_S = 4.0
"""A lock whose folder does not change for so long has lost its owner."""
FORMAT_OF = (1, 3)
"""The library's versions, major and minor, whose files `_damaged` knows."""
LIST_HEAD = struct.Struct("<Q3HQQ")  # its own bytes, the library's version, the kernels' bytes, their number
LIST_ENTRY = struct.Struct("<Q65sQ65s3Q")  # a key, twice, each after its length; a size and two times
KERNEL_HEAD = struct.Struct("<4sIQQ")  # "QDC", the processor, the bytes of two parts; they and a SHA-256 in hex follow


def kernel_cache_dir() -> Path:
    """Where the simulator keeps its compiled kernels between runs."""
    explicit = os.environ.get("QD_OFFLINE_CACHE_FILE_PATH")
    if explicit:
        return Path(explicit)
    caches = os.environ.get("XDG_CACHE_HOME")  # as Quadrants does
    return (Path(caches) if caches else Path.home() / ".cache") / "quadrants" / "qdcache"


def has_kernels(folder: Path) -> bool:
    """Whether a run finds compiled kernels there."""
    return (folder / KERNELS / "qdcache.qdb").is_file()


def copy_kernels(source: Path, target: Path) -> None:
    """Fill a cache that is not there yet with what can be read of another, so that the first run need not compile."""
    if not has_kernels(source) or target.exists():
        return
    beside = target.with_name(f"{target.name}.{os.getpid()}")
    with contextlib.suppress(OSError):  # another process was first, or the disk is full: then the first run compiles
        for file in (f for f in source.glob("*/*") if f.suffix != ".lock"):
            (beside / file.parent.name).mkdir(parents=True, exist_ok=True)
            with contextlib.suppress(PermissionError):
                shutil.copyfile(file, beside / file.parent.name / file.name)
        beside.rename(target)


def mend(folder: Path, say: Callable[[str], None]) -> None:
    """Remove what would make every run from this cache compile anew, or crash: a lock without owner, a damaged list.

    To be called before the library is initialised.  Says what it removes, or what cannot be removed.
    """
    try:
        for lock in folder.glob("*/*.lock"):
            if _left_behind(lock):
                lock.unlink(missing_ok=True)
                say(f"Removed {lock}, which a run that was killed had left; until now no run could keep its kernels")
        for listing in folder.glob("*/*.qdb"):
            # Without the lock, so that runs that start together do not wait for each other; twice, since a run may be
            # about to write.
            if _damaged(listing) and not _being_written(listing) and _damaged(listing):
                listing.unlink(missing_ok=True)
                say(f"Removed {listing}: it, or a kernel that it lists, is damaged; this run compiles them anew")
    except OSError as error:
        say(f"The kernel cache {folder} cannot be mended ({error}); set QD_OFFLINE_CACHE_FILE_PATH to another folder")


def _left_behind(lock: Path) -> bool:
    """Whether a lock, a file that its owner deletes, has none any more.

    The owner writes files beside it for as long as the lock is there, some seconds at most.  So the folder is watched:
    its owner may be a process of another container or machine that shares the folder, and no process list or clock
    tells of those.  If a live owner is taken for dead all the same, two runs may write one kernel, and the check of the
    kernels finds that.  The lock that goes is the one that was watched.
    """
    seen = _state(lock)
    end = time.monotonic() + LOCK_WATCH_S
    while seen is not None and time.monotonic() < end:
        time.sleep(0.05)
        now = _state(lock)
        if now != seen:
            seen, end = now, time.monotonic() + LOCK_WATCH_S
    return seen is not None


def _being_written(listing: Path) -> bool:
    lock = listing.with_suffix(".lock")
    return lock.exists() and not _left_behind(lock)


def _state(lock: Path) -> dict[str, tuple[int, int]] | None:
    """What changes while the owner of a lock is at work: the files' times and sizes; None without the lock."""
    found = {}
    for entry in os.scandir(lock.parent):
        with contextlib.suppress(FileNotFoundError):
            status = entry.stat()
            found[entry.name] = status.st_mtime_ns, status.st_size
    return found if lock.name in found else None


def _damaged(listing: Path) -> bool:
    """Whether a list of kernels, or one of the kernels, is not what the library wrote.

    What another version of the library wrote, this one leaves alone.
    """
    data = listing.read_bytes()
    if len(data) < LIST_HEAD.size:
        return True
    length, *version, _, number = LIST_HEAD.unpack_from(data)
    if tuple(version[:2]) != FORMAT_OF:
        return False
    if not length == len(data) == LIST_HEAD.size + number * LIST_ENTRY.size:
        return True
    for size, key, again, same, *_ in LIST_ENTRY.iter_unpack(data[LIST_HEAD.size :]):
        if not (size == again == len(key) and key == same and key.isalnum()):
            return True
        if listing.parent.name == KERNELS and not _sound(listing.with_name(f"{key.decode()}.qdc")):
            return True
    return False


def _sound(kernel: Path) -> bool:
    try:
        data = kernel.read_bytes()
    except FileNotFoundError:
        return False
    if len(data) < KERNEL_HEAD.size + 64:
        return False
    head, _, first, second = KERNEL_HEAD.unpack_from(data)
    end = KERNEL_HEAD.size + first + second
    digest = hashlib.sha256(data[KERNEL_HEAD.size : end]).hexdigest()
    return head == b"QDC\0" and data[end:] == digest.encode()
