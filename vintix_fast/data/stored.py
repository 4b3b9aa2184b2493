"""What lies behind a name in an HDF5 file: in the file itself, as many rows as claimed, and no more than it can hold.

HDF5 makes rows that nobody wrote, unpacks what was packed, and follows links and datasets into other files; a file from
a stranger, or a damaged one, must not.  Knows nothing about trajectories.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from vintix_fast.service.errors import InputFileError, shown
from vintix_fast.service.files import most_bytes

NUMBERS = "biuf"
"""NumPy's kinds of them."""


def entry(parent: h5py.Group, name: str, path: Path) -> Any:
    """The group or dataset called ``name``, or None; InputFileError where it lies elsewhere than in the file."""
    link = parent.get(name, getlink=True)
    found = parent.get(name) if isinstance(link, h5py.HardLink) else None
    what = None
    if isinstance(link, h5py.SoftLink | h5py.ExternalLink):
        what = f"a link to {link.path!r}" + (f" of {link.filename!r}" if isinstance(link, h5py.ExternalLink) else "")
    elif isinstance(found, h5py.Dataset) and found.external:
        what = f"stored in {found.external[0][0]!r}"
    elif isinstance(found, h5py.Dataset) and found.is_virtual:
        what = f"a view of {found.virtual_sources()[0].file_name!r}"
    if what is not None:
        where = f"{parent.name.rstrip('/')}/{name}".lstrip("/")
        raise InputFileError(f"{path}: {where!r} is {what}, and only data in the file itself is read. Copy it there.")
    return found


def check_stored(datasets: list[tuple[h5py.Dataset, int]], path: Path) -> None:
    """Raise InputFileError unless so many rows of each dataset are numbers that are in the file.

    Args:
        datasets: each with the rows that are wanted.
        path: the file.
    """
    total = 0
    for dataset, rows in datasets:
        if dataset.dtype.kind not in NUMBERS:
            raise InputFileError(f"{path}: {dataset.name[1:]!r} holds {dataset.dtype}, not numbers. Collect it again.")
        row_bytes = math.prod(dataset.shape[1:]) * dataset.dtype.itemsize
        if dataset.chunks is None:
            unpacked, stored = rows * row_bytes, dataset.id.get_storage_size() >= rows * row_bytes
        else:
            wanted = (rows, *dataset.shape[1:])
            count = math.prod(-(-size // chunk) for size, chunk in zip(wanted, dataset.chunks, strict=True))
            unpacked = count * math.prod(dataset.chunks) * dataset.dtype.itemsize
            stored = dataset.id.get_num_chunks() >= count
        if not stored:
            raise InputFileError(
                f"{path}: {dataset.name[1:]!r} claims {rows} rows that were never written. Copy or collect it again."
            )
        total += unpacked
    if total > most_bytes(path):
        raise InputFileError(
            f"{path}: a file of {path.stat().st_size} bytes that would unpack to {total}; copy or collect it again."
        )


def whole_numbers(file: h5py.File, name: str, path: Path) -> list[int]:
    """An attribute of the file that lists numbers from 0 on; empty where there is none."""
    values = np.atleast_1d(file.attrs.get(name, np.array([], int)))
    if values.ndim != 1 or values.dtype.kind not in "iu" or (values < 0).any():
        raise InputFileError(f"{path}: attribute {name} is {shown(values)}, not a list of counts. Collect it again.")
    return values.tolist()
