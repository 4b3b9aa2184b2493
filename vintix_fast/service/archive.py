"""Reading what ``torch.save`` or safetensors wrote, from strangers too: damage is found, nothing in it is run.

A damaged part of an archive is known by its checksum, which torch does not compare; safetensors has none.  No more
memory is asked for than a file of such a size can need.  Knows nothing about models.
"""

from __future__ import annotations

import pickle
import zipfile
from pathlib import Path
from typing import IO, Any

import torch

from vintix_fast.service.errors import InputFileError, cause
from vintix_fast.service.files import most_bytes

_MOST_PICKLED = 4 * 2**20
"""Bytes of an archive's ``data.pkl``, which has names and shapes only: some ten thousand tensors."""


def load_archive(path: Path, device: str = "cpu", remedy: str = "") -> Any:
    """The content of a file of ``torch.save``'s; tensors and plain values only.

    Raises:
        InputFileError: it is missing or broken, or unpacks to far more than it should; ``remedy`` ends the message.
    """
    try:
        with open(path, "rb") as file:
            _check(file, path)
            file.seek(0)
            return torch.load(file, map_location=device, weights_only=True)
    except pickle.UnpicklingError:
        fault = (
            "holds something other than tensors, or is damaged; it was not loaded, because reading such a file can run "
            "code in it"
        )
    except OSError as error:
        fault = error.strerror or cause(error)
    except Exception as error:  # a damaged archive surfaces as RuntimeError, EOFError, ValueError, KeyError, ...
        fault = f"truncated or damaged: {cause(error)}"
    raise InputFileError(f"{path} is broken ({fault}); {remedy}")


def load_safetensors(path: Path, remedy: str = "") -> dict[str, torch.Tensor]:
    """The tensors of a file in safetensors' format, by name, on the CPU.

    Raises:
        InputFileError: it is missing or broken; ``remedy`` ends the message.
    """
    import safetensors.torch

    try:
        return safetensors.torch.load(path.read_bytes())
    except OSError as error:
        fault = error.strerror or cause(error)
    except Exception as error:  # of Rust, of a type that torch lacks, of sizes that torch does not take
        fault = f"truncated or damaged: {cause(error)}"
    raise InputFileError(f"{path} is broken ({fault}); {remedy}")


def _check(file: IO[bytes], path: Path) -> None:
    """ValueError if a checksum is wrong, or it would unpack to more than it should.

    Files in torch's oldest format are no archives and have no checksums.
    """
    if not zipfile.is_zipfile(file):
        return
    with zipfile.ZipFile(file) as archive:
        parts = archive.infolist()
        total, pickled = sum(p.file_size for p in parts), [p for p in parts if p.filename.endswith("/data.pkl")]
        if total > most_bytes(path) or any(part.file_size > _MOST_PICKLED for part in pickled):
            raise ValueError(f"a file of {path.stat().st_size} bytes that would unpack to {total}")
        if len({part.filename for part in parts}) < len(parts):
            raise ValueError("a part is there twice")
        if damaged := archive.testzip():
            raise ValueError(f"part {damaged}: its CRC-32 or its head is wrong")
