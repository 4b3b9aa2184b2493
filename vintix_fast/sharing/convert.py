"""One format into another: a checkpoint's weights, or recorded episodes as a data set of another library.

The result is written beside its final name and renamed, so that it is whole or not there.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from vintix_fast.service.errors import InputFileError, UsageError
from vintix_fast.service.extras import need
from vintix_fast.service.files import check_free, whole_directory

MODELS = ("safetensors", "pth")
DATA_SETS = ("minari", "lerobot")


def convert(path: Path, to: str, out: Path, say: Callable[[str], None] = lambda text: None) -> str:
    """Write what ``path`` holds to the directory ``out``, which must not exist or be empty.

    Args:
        path: for `MODELS` a checkpoint directory; for `DATA_SETS` see `read_recordings`.
        to: one of the two's words.
        out: where it goes.
        say: told what was inferred of a checkpoint.

    Returns:
        What was written, in words.

    Raises:
        UsageError: ``out`` is in use, or an extra is missing; before anything is read.
        InputFileError: ``path`` is no such thing, or broken; before anything is written.
        VintixFastError: the disk refuses.
    """
    if to not in MODELS + DATA_SETS:
        raise UsageError(f"--to is {to!r}; it must be one of {', '.join(MODELS + DATA_SETS)}")
    check_free(out, "--output-dir")
    if to in DATA_SETS:
        need(to, f"--to {to}")
        return _convert_recordings(path, to, out)

    from vintix_fast.model import load_checkpoint, save_checkpoint
    from vintix_fast.model.checkpoint import WEIGHTS_FILES

    if path.is_file():
        raise InputFileError(f"{path} is a file; --to {to} takes a checkpoint's directory")
    model = load_checkpoint(path, say=say)
    save_checkpoint(model, out, weights_format=to)
    return f"{WEIGHTS_FILES[to]}, {sum(p.numel() for p in model.parameters())} parameters in float32"


def _convert_recordings(path: Path, to: str, out: Path) -> str:
    from vintix_fast.sharing.episodes import read_recordings

    recordings = read_recordings(path)
    with whole_directory(out) as root:
        if to == "minari":
            from vintix_fast.sharing.minari_set import write_minari as write
        else:
            from vintix_fast.sharing.lerobot_set import write_lerobot as write
        said = write(recordings, root)
    return said.format(os.path.abspath(out))
