"""Files that are whole or not there: written beside their final names, synced, renamed; and JSON and TOML read safely.

Every JSON or TOML file that the package reads goes through here.  Knows nothing about runs, models or robots.
"""

from __future__ import annotations

import contextlib
import csv
import importlib.metadata
import io
import json
import math
import os
import platform
import tempfile
import tomllib
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from vintix_fast.service.errors import InputFileError, UsageError, VintixFastError, disk_fault, shown

MOST_DEPTH = 32
"""Lists and objects within each other; what reads a file's content may call itself for each."""
_WORDS = {dict: "an object", list: "a list", str: "a text", bool: "true or false", int: "an integer", float: "a number"}
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


def write_csv(path: Path, columns: Iterable[str], rows: Iterable[Mapping[str, Any]]) -> None:
    """A table with a head; what else a row has is left out."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(columns), extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, text.getvalue())


def read_json(path: Path, remedy: str, keys: Mapping[str, Any] | None = None, what: str = "") -> dict[str, Any]:
    """The JSON object in a file; a byte order mark before it is left out.

    Args:
        path: the file.
        remedy: how the message ends, such as "restore it from the original".
        keys: what the object must have, each with the types that it may be of: ``{"rows": list, "best": dict | None}``.
        what: stands before the path in messages, such as "--config".

    Raises:
        InputFileError: it cannot be read, or is no JSON object with these keys; or it is nested beyond `MOST_DEPTH`, or
            has a key twice, NaN, infinity, or a number that neither float64 nor a 64-bit integer holds.
    """
    named = f"{what} {path}".strip()
    return parse_json(_text(path, named, remedy), named, remedy, keys)


def parse_json(text: str, what: str, remedy: str, keys: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The JSON object in a text, under the rules of `read_json`; ``what`` names the text in messages."""
    try:
        content = json.loads(text, object_pairs_hook=_without_doubles)
        _check_values(content)
        _check_keys(content, keys or {})
    except RecursionError:
        raise InputFileError(f"{what} is broken (nested more than {MOST_DEPTH} deep); {remedy}") from None
    except json.JSONDecodeError as error:
        raise InputFileError(f"{what} is broken (not valid JSON: {error}); {remedy}") from None
    except ValueError as error:
        raise InputFileError(f"{what} is broken ({error}); {remedy}") from None
    return content


def read_toml(path: Path, remedy: str, what: str = "") -> dict[str, Any]:
    """The table in a TOML file, under the rules of `read_json`, whose arguments these are."""
    named = f"{what} {path}".strip()
    try:
        content = tomllib.loads(_text(path, named, remedy))
        _check_values(content)
    except RecursionError:
        raise InputFileError(f"{named} is not valid TOML: nested more than {MOST_DEPTH} deep; {remedy}") from None
    except ValueError as error:  # TOMLDecodeError too
        raise InputFileError(f"{named} is not valid TOML: {error}; {remedy}") from None
    return content


def _text(path: Path, named: str, remedy: str) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise InputFileError(f"cannot read {named}: {error.strerror or error}") from None
    except UnicodeDecodeError as error:
        form = "is not valid TOML" if path.suffix == ".toml" else "is broken"
        raise InputFileError(f"{named} {form} (not UTF-8 text: {error}); {remedy}") from None


def _without_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"the key {next(n for n in names if names.count(n) > 1)!r} is there twice")
    return found


def _check_values(content: Any) -> None:
    """ValueError with a value that no program can be expected to take, and where it is; RecursionError if too deep."""
    level: list[tuple[str, Any]] = [("", content)]
    for _ in range(MOST_DEPTH + 1):
        inner: list[tuple[str, Any]] = []
        for where, value in level:
            if isinstance(value, dict):
                inner += ((f"{where}.{key}", part) for key, part in value.items())
            elif isinstance(value, list):
                inner += ((f"{where}[{index}]", part) for index, part in enumerate(value))
            elif isinstance(value, float) and not math.isfinite(value):
                raise ValueError(f"{where[1:]} is {value}, which is no number")
            elif isinstance(value, int) and not -(2**63) <= value < 2**63:
                raise ValueError(f"{where[1:]} is {shown(value)}, an integer beyond 64 bits")
        if not inner:
            return
        level = inner
    raise RecursionError


def _check_keys(content: Any, keys: Mapping[str, Any]) -> None:
    if not isinstance(content, dict):
        raise ValueError(f"must hold an object, not {shown(content)}")
    missing = [key for key in keys if key not in content]
    if missing:
        raise ValueError(f"lacks {', '.join(missing)}")
    for key, kinds in keys.items():
        value = content[key]
        if not isinstance(value, kinds) or (isinstance(value, bool) and kinds is not bool):
            words = [_WORDS.get(kind, "null") for kind in typing.get_args(kinds) or (kinds,)]
            raise ValueError(f"{key} must be {' or '.join(words)}, got {shown(value)}")


def save_tensors(path: Path, content: dict[str, Any]) -> None:
    """Write tensors and plain values, so that ``torch.load`` reads them safely."""
    import torch

    _write(path, lambda file: torch.save(content, file))


def load_tensors(path: Path, device: str = "cpu", remedy: str = "") -> dict[str, Any]:
    """What `save_tensors` wrote; raises InputFileError, whose message ``remedy`` ends, if it is missing or broken."""
    from vintix_fast.service.archive import load_archive

    content = load_archive(path, device, remedy)
    if not isinstance(content, dict):
        raise InputFileError(f"{path} is broken (holds a {type(content).__name__}, not a dict); {remedy}")
    return content


def most_bytes(path: Path) -> int:
    """What a sound file of numbers unpacks to at most: they can be packed to half their size, constants further."""
    return 64 * 2**20 + 16 * path.stat().st_size


def check_free(path: Path, named: str = "") -> None:
    """Raise UsageError if a directory cannot be made at ``path`` because something is there; an empty one may be."""
    if path.exists() and not (path.is_dir() and not any(path.iterdir())):
        raise UsageError(f"{named} {path}".strip() + " exists and is not an empty directory; give another")


@contextlib.contextmanager
def whole_directory(path: Path) -> Iterator[Path]:
    """A folder to fill, which is renamed to ``path`` at the end, so that it is whole or not there; see `check_free`.

    Raises:
        VintixFastError: the disk refuses.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{path.name}.new-", dir=path.parent) as beside:
            made = Path(beside) / "made"
            made.mkdir()
            yield made
            if path.is_dir():
                path.rmdir()
            os.replace(made, path)
    except OSError as error:
        raise VintixFastError(f"cannot write {path}: {error.strerror or error}") from error


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
