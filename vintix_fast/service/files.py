"""Files that are whole or not there: written beside their final names, synced, renamed.  Knows nothing about runs."""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import os
import platform
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

from vintix_fast.service.errors import InputFileError, UsageError, VintixFastError, cause, disk_fault

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


def _write(path: Path, write: Callable[[IO[bytes]], Any]) -> None:
    """Write a file beside its final name, sync it and rename it; raises VintixFastError where the disk refuses."""
    beside = path.with_name(path.name + ".tmp")
    try:
        with open(beside, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
    except (OSError, RuntimeError) as error:
        with contextlib.suppress(OSError):
            beside.unlink()
        raise VintixFastError(f"cannot write {path}: {disk_fault(error)}") from error


def write_bytes(path: Path, content: bytes) -> None:
    _write(path, lambda file: file.write(content))


def write_text(path: Path, text: str) -> None:
    write_bytes(path, text.encode(errors="backslashreplace"))  # a path need not be UTF-8


def write_json(path: Path, content: Any) -> None:
    write_text(path, json.dumps(content, indent=1) + "\n")


def save_tensors(path: Path, content: dict[str, Any]) -> None:
    """Write tensors and plain values, so that ``torch.load`` reads them safely."""
    import torch

    _write(path, lambda file: torch.save(content, file))


def load_tensors(path: Path, device: str = "cpu", remedy: str = "") -> dict[str, Any]:
    """What `save_tensors` wrote; raises InputFileError, whose message ``remedy`` ends, if it is missing or broken."""
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
    """Raise unless ``path`` is, or can be made, a directory to write in.  Makes nothing."""
    try:
        os.fspath(path).encode()
    except UnicodeEncodeError:  # TensorBoard's writer and HDF5 take text
        raise UsageError(f"--output-dir {ascii(str(path))} is not UTF-8; choose another path") from None
    existing = path
    while not os.path.lexists(existing):
        existing = existing.parent
    if not existing.is_dir():
        raise UsageError(f"--output-dir {path}: {existing} is not a directory; choose another path")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise VintixFastError(f"--output-dir {path}: no permission to write in {existing}; choose another path")
