"""Reading and writing checkpoint directories: ``model.pth``, ``metadata.json``, ``config.json``.

``model.safetensors`` may stand in the place of ``model.pth``.  Owns the files and every way in which they can be
broken.  What the keys mean is ``config.py``'s, the tensors' names are the modules'.  Files may come from strangers:
nothing in them is ever executed.
"""

from __future__ import annotations

import dataclasses
import io
import json
import math
import os
import shutil
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from vintix_fast.model.config import LARGEST, TOKEN_ORDERS, ModelConfig, TaskInfo
from vintix_fast.model.inferred import complete_tasks, without_prefixes
from vintix_fast.model.vintix import Vintix
from vintix_fast.service.archive import load_archive, load_safetensors
from vintix_fast.service.errors import InputFileError, UsageError, VintixFastError, cause, disk_fault
from vintix_fast.service.files import most_bytes, read_json

MODEL_FILE, METADATA_FILE, CONFIG_FILE = "model.pth", "metadata.json", "config.json"
FILES = (MODEL_FILE, METADATA_FILE, CONFIG_FILE)
SAFETENSORS_FILE = "model.safetensors"
WEIGHTS_FILES = {"pth": MODEL_FILE, "safetensors": SAFETENSORS_FILE}
"""By format."""
_NAMES_SHOWN = 4
_RESTORE = "restore it from the original"


def load_checkpoint(
    path: str | os.PathLike[str],
    device: torch.device | str = "cpu",
    token_order: str | None = None,
    say: Callable[[str], None] = lambda text: None,
) -> Vintix:
    """Read a checkpoint directory.

    Args:
        path: directory with ``model.pth`` or ``model.safetensors``, ``metadata.json`` and ``config.json``; where both
            are, the former is read.
        device: where the model goes.
        token_order: overrides ``config.json``'s; files of other tools do not say it, and then it is
            "action-reward-observation".
        say: told in one line what the files do not say and was read off the tensors, if anything.

    Returns:
        The model in eval mode, in float32 whatever the file's precision.

    Raises:
        InputFileError: something is missing or broken; the message names the file, the fault and the remedy.
        UsageError: ``token_order`` is unknown.
    """
    directory = Path(path)
    if token_order is not None and token_order not in TOKEN_ORDERS:
        raise UsageError(f"token_order must be one of {', '.join(TOKEN_ORDERS)}; got {token_order!r}")
    if not directory.is_dir():
        what = "is a file, not a directory" if directory.exists() else "does not exist"
        raise InputFileError(f"checkpoint {directory} {what}; give the directory that holds {', '.join(FILES)}")
    weights = weights_file(directory) or directory / MODEL_FILE
    absent = [name for name in (weights.name, METADATA_FILE, CONFIG_FILE) if not (directory / name).is_file()]
    if absent:
        raise InputFileError(f"checkpoint {directory} lacks {', '.join(absent)}; copy all of {', '.join(FILES)} there")

    config = _read_config(directory / CONFIG_FILE, token_order)
    state, renamed = _read_state(weights)
    tasks, completed = _read_tasks(directory / METADATA_FILE, state)
    if renamed or completed:
        say(f"Checkpoint {directory}: inferred from its tensors: {'; '.join(renamed + completed)}")
    _check_names(weights, state, _expected_shapes(weights, config, tasks, state))
    state = _sound_values(weights, state)
    with torch.random.fork_rng(devices=[]):  # random initial values are overwritten; leave the caller's seed alone
        model = Vintix(config, tasks)
    model.load_state_dict(state)
    return model.to(device).eval()


def weights_file(directory: Path) -> Path | None:
    """The file that holds a checkpoint's weights, or None where there is none."""
    return next((directory / name for name in WEIGHTS_FILES.values() if (directory / name).is_file()), None)


def save_checkpoint(
    model: Vintix, path: str | os.PathLike[str], compact: bool = False, weights_format: str = "pth"
) -> None:
    """Write a checkpoint directory, all of it or nothing.

    Args:
        weights_format: a key of `WEIGHTS_FILES`.
        compact: store bfloat16, deflated: less than half the size, three significant digits.  ``torch.load`` reads it
            as any other, except with ``mmap=True``.

    The files are written and synced in a temporary directory beside ``path``, which is then renamed. An existing
    checkpoint at ``path`` is moved aside first and deleted last, so that one complete copy exists at every moment.

    Raises:
        InputFileError: ``path`` exists and is not a checkpoint; it is left alone.
        VintixFastError: the disk refuses; names the file and the cause.
    """
    target = Path(os.path.abspath(path))
    _refuse_foreign(target)
    try:
        _write(model, target, compact, weights_format)
    except (OSError, RuntimeError) as error:
        raise VintixFastError(f"cannot write the checkpoint {target}: {disk_fault(error)}") from error


def _write(model: Vintix, target: Path, compact: bool, weights_format: str) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=f".{target.name}.new-", dir=target.parent))
    try:
        staging.chmod(0o777 & ~_umask())  # mkdtemp's private mode would survive the rename
        with open(staging / WEIGHTS_FILES[weights_format], "wb") as file:
            state = {name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()}
            if weights_format == "safetensors":
                file.write(safetensors.torch.save(state, {"format": "pt"}))
            else:
                file.write(_compact(state)) if compact else torch.save(state, file)
            _sync(file)
        metadata = {name: info.to_dict() for name, info in model.tasks.items()}
        for name, content in ((METADATA_FILE, metadata), (CONFIG_FILE, model.config.to_dict())):
            with open(staging / name, "w", encoding="utf-8") as file:
                json.dump(content, file, indent=1)
                file.write("\n")
                _sync(file)
        _swap_in(staging, target)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _compact(state: dict[str, Tensor]) -> bytes:
    """The bytes of ``model.pth`` in bfloat16, with the zip archive that torch makes of it deflated."""
    plain, deflated = io.BytesIO(), io.BytesIO()
    torch.save({name: value.bfloat16() for name, value in state.items()}, plain)
    with zipfile.ZipFile(plain) as source, zipfile.ZipFile(deflated, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as to:
        for entry in source.infolist():
            to.writestr(zipfile.ZipInfo(entry.filename), source.read(entry), zipfile.ZIP_DEFLATED, 9)
    return deflated.getvalue()


def _refuse_foreign(target: Path) -> None:
    if not target.exists() and not target.is_symlink():
        return
    if not target.is_dir() or target.is_symlink():
        raise InputFileError(f"cannot save a checkpoint at {target}: it is not a directory; choose another path")
    foreign = sorted(entry.name for entry in target.iterdir() if entry.name not in (*FILES, SAFETENSORS_FILE))
    if foreign:
        raise InputFileError(
            f"will not replace {target}: it holds {', '.join(foreign[:_NAMES_SHOWN])}, which is no part of a "
            "checkpoint; choose another path"
        )


def _swap_in(staging: Path, target: Path) -> None:
    if not target.exists():
        os.rename(staging, target)
        return
    aside = Path(tempfile.mkdtemp(prefix=f".{target.name}.old-", dir=target.parent))
    os.rename(target, aside / target.name)
    try:
        os.rename(staging, target)
    except BaseException:
        os.rename(aside / target.name, target)
        aside.rmdir()
        raise
    shutil.rmtree(aside)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _sync(file: Any) -> None:
    file.flush()
    os.fsync(file.fileno())


def _read_config(path: Path, token_order: str | None) -> ModelConfig:
    data = read_json(path, _RESTORE)
    if token_order is not None:
        data = {**data, "token_order": token_order}
    try:
        return ModelConfig.from_dict(data)
    except InputFileError as error:
        raise InputFileError(f"{path}: {error}") from None


def _read_tasks(path: Path, state: dict[str, Tensor]) -> tuple[dict[str, TaskInfo], list[str]]:
    data = read_json(path, _RESTORE)
    if not data:
        raise InputFileError(f"{path} must hold an object with at least one task; it belongs to the trained model")
    data, completed = complete_tasks(data, state)
    tasks = {}
    for name, entry in data.items():
        try:
            tasks[name] = TaskInfo.from_dict(entry)
        except InputFileError as error:
            raise InputFileError(f"{path}: task {name!r}: {error}") from None
    return tasks, completed


def _read_state(path: Path) -> tuple[dict[str, Tensor], list[str]]:
    """A file's tensors as they are there, on the CPU, and what was done to their names, in words."""
    if path.name == SAFETENSORS_FILE:
        state = load_safetensors(path, "copy it again, or save it anew: safetensors.torch.save_file(...)")
    else:
        state = load_archive(path, remedy="copy it again, or save it anew: torch.save(model.state_dict(), ...)")
    if not isinstance(state, dict) or not all(isinstance(name, str) for name in state):
        raise InputFileError(f"{path} must hold a state dict (tensor names to tensors), got {type(state).__name__}")
    for name, value in state.items():
        if not isinstance(value, Tensor) or value.layout != torch.strided or not value.is_floating_point():
            raise InputFileError(f"{path}: {name} is not a dense floating-point tensor; save model.state_dict() only")
    # Tensors may share memory, or be views that repeat a few numbers.
    total = 4 * sum(value.numel() for value in state.values())
    if total > most_bytes(path):
        raise InputFileError(
            f"{path}: a file of {path.stat().st_size} bytes whose tensors would take {total}; {_RESTORE}"
        )
    try:
        return without_prefixes(state)
    except InputFileError as error:
        raise InputFileError(f"{path}: {error}") from None


def _expected_shapes(
    weights: Path, config: ModelConfig, tasks: dict[str, TaskInfo], state: dict[str, Tensor]
) -> dict[str, torch.Size]:
    """The shapes of the model's tensors.  Nothing is allocated, and no layer built that the weights' file lacks."""
    directory = weights.parent
    layers = len(
        {name.split(".")[2] for name in state if name.startswith("transformer.blocks.") and name.count(".") > 2}
    )
    if layers and config.transformer_depth != layers:
        raise InputFileError(
            f"{directory / CONFIG_FILE}: transformer_depth is {config.transformer_depth}, but {weights} "
            f"has {layers} layers; they must come from the same save"
        )
    try:
        with torch.device("meta"):
            model = Vintix(dataclasses.replace(config, transformer_depth=1), tasks)
    except InputFileError as error:
        raise InputFileError(f"{directory / METADATA_FILE}: {error}") from None
    except (RuntimeError, OverflowError, TypeError) as error:  # products of sizes beyond 64 bits
        raise InputFileError(f"{directory / CONFIG_FILE}: its sizes are beyond any model's ({cause(error)})") from None
    shapes = {}
    for name, value in model.state_dict().items():
        first, of_layer, last = name.partition("transformer.blocks.0.")
        for layer in range(max(layers, 1) if of_layer else 1):
            shapes[f"transformer.blocks.{layer}.{last}" if of_layer else first] = value.shape
    return shapes


def _sound_values(path: Path, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors in float32; raises InputFileError where a value is none that a training gives."""
    tensors = {name: value.float() for name, value in state.items()}
    for name, value in tensors.items():
        largest = float(value.abs().max()) if value.numel() else 0.0
        if not math.isfinite(largest):
            raise InputFileError(f"{path}: {name} holds NaN or infinity; the training diverged, use an earlier file")
        if largest > LARGEST:
            raise InputFileError(
                f"{path}: {name} holds {largest:.3g}, and no robot's weights exceed {LARGEST:g}; it is damaged, or the "
                "training diverged: use an earlier file"
            )
    return tensors


def _check_names(path: Path, state: dict[str, Tensor], expected: dict[str, torch.Size]) -> None:
    missing = [name for name in expected if name not in state]
    unexpected = [name for name in state if name not in expected]
    if missing or unexpected:
        faults = [
            f"{what} {_some(names)}" for what, names in (("lacks", missing), ("has unexpected", unexpected)) if names
        ]
        raise InputFileError(
            f"{path} {' and '.join(faults)}; it must come from the same save as {METADATA_FILE} and {CONFIG_FILE}"
        )
    wrong = [
        f"{name} is {list(state[name].shape)}, expected {list(shape)}"
        for name, shape in expected.items()
        if state[name].shape != shape
    ]
    if wrong:
        raise InputFileError(f"{path} does not fit {CONFIG_FILE} and {METADATA_FILE}: {_some(wrong)}")


def _some(names: list[str]) -> str:
    more = len(names) - _NAMES_SHOWN
    return ", ".join(names[:_NAMES_SHOWN]) + (f" and {more} more" if more > 0 else "")
