"""One format into another: a checkpoint's weights, or recorded episodes as a data set of another library.

The result is written beside its final name and renamed, so that it is whole or not there.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path

from vintix_fast.service.errors import InputFileError, UsageError, VintixFastError
from vintix_fast.service.extras import need

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
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise UsageError(f"--output-dir {out} exists and is not an empty directory; give another")
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
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{out.name}.new-", dir=out.parent) as beside:
            root = Path(beside) / "made"
            root.mkdir()
            if to == "minari":
                from vintix_fast.sharing.minari_set import write_minari as write
            else:
                from vintix_fast.sharing.lerobot_set import write_lerobot as write
            said = write(recordings, root)
            if out.is_dir():
                out.rmdir()
            os.replace(root, out)
    except OSError as error:
        raise VintixFastError(f"cannot write {out}: {error.strerror or error}") from error
    return said.format(os.path.abspath(out))
