"""``vintix-fast doctor``: is everything here that a run needs, and what to do if not."""

from __future__ import annotations

import ctypes
import importlib.metadata
import importlib.util
import platform
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import typer

from vintix_fast.cli.common import PlainJson, print_json, result_console

Check = tuple[bool, str]
ABSENT = "not installed"
EGL = "libEGL.so.1"
EGL_VENDORS = (Path("/usr/share/glvnd/egl_vendor.d"), Path("/etc/glvnd/egl_vendor.d"))


def doctor(json: PlainJson = False) -> None:
    """Check the installation, and say what to do about what is missing."""
    checks: dict[str, Callable[[], Check]] = {
        "python": lambda: (True, platform.python_version()),
        "torch": _torch,
        "CUDA": _cuda,
        "triton": partial(_package, "triton", "triton", f"{ABSENT}; needed only on a CUDA device: pip install triton"),
        "Genesis": partial(_package, "genesis", "genesis-world", f"{ABSENT}: pip install genesis-world", needed=True),
        "EGL": _egl,
        "kernel cache": _kernel_cache,
        "experts": _experts,
        "compiled core and HDF5": _core,
        "reports": _reports,
        "robot files": _robots,
        "bundled checkpoints": _checkpoints,
    }
    results, out = {}, result_console(json)
    for name, check in checks.items():
        try:
            results[name] = check()
        except Exception as error:  # a broken installation can raise anything, and saying so is this command's job
            results[name] = (False, f"{type(error).__name__}: {error}")
        good, text = results[name]
        out.print(f"[{'green' if good else 'bold red'}]{'ok  ' if good else 'FAIL'}[/] {name}: ", end="")
        out.print(text, markup=False, highlight=False, soft_wrap=True)
    if json:
        print_json({name: {"ok": good, "detail": text} for name, (good, text) in results.items()})
    if not all(good for good, _ in results.values()):
        raise typer.Exit(1)


def _torch() -> Check:
    import torch

    return True, f"{torch.__version__}, {torch.get_num_threads()} threads"


def _cuda() -> Check:
    import torch

    return True, torch.cuda.get_device_name() if torch.cuda.is_available() else "no device (runs on the CPU)"


def _package(module: str, distribution: str, absent: str, needed: bool = False) -> Check:
    """Whether a package is there, with its version."""
    found = importlib.util.find_spec(module) is not None
    return found or not needed, importlib.metadata.version(distribution) if found else absent


def _egl() -> Check:
    from vintix_fast.world.simulator import DRAWING_REMEDY

    if sys.platform != "linux":
        return True, "not needed on this system"
    try:
        ctypes.CDLL(EGL)
    except OSError as error:
        return False, f"{error}. {DRAWING_REMEDY}"
    vendors = [path.stem for folder in EGL_VENDORS for path in sorted(folder.glob("*.json"))]
    if not vendors:
        return False, f"no driver in {' or '.join(map(str, EGL_VENDORS))}. {DRAWING_REMEDY}"
    return True, ", ".join(vendors)


def _kernel_cache() -> Check:
    from vintix_fast.service.kernel_cache import has_kernels, kernel_cache_dir

    folder = kernel_cache_dir()
    return True, f"{folder}" if has_kernels(folder) else f"{folder} is empty: the first run compiles for 1 to 3 minutes"


def _core() -> Check:
    try:
        from vintix_fast.data import open_writer
    except ImportError as error:
        return False, f"{error}. Rebuild: pip install --force-reinstall --no-deps ."
    import h5py
    import numpy as np

    from vintix_fast._core import cpu_features
    from vintix_fast.data.schema import FIELDS

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "check.h5"
        step = {name: np.zeros((1, *shape), dtype) for name, (shape, dtype) in FIELDS.items()}
        with open_writer(path, 1, {}) as writer:
            writer.append(step, np.ones(1, bool))
        with h5py.File(path) as file:
            written = list(file)
    features = cpu_features()
    plain = "plain torch (the kernel needs a processor with AVX-512 and its bfloat16 products, and GCC 11 or newer)"
    trainer = "a compiled kernel in bfloat16" if features["bfloat16_kernels"] else plain
    return written == ["0-0"], (
        f"a test file was written and read (h5py's HDF5 {h5py.version.hdf5_version}); "
        f"the policy decodes with {features['decoders'][0]}; fine-tuning attends with {trainer}"
    )


def _reports() -> Check:
    packages = ("tensorboard", "matplotlib", "jinja2", "av")
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    if missing:
        return False, f"{', '.join(missing)} not installed: pip install {' '.join(missing)}"
    return True, ", ".join(f"{name} {importlib.metadata.version(name)}" for name in packages)


def _robots() -> Check:
    from vintix_fast.service.errors import InputFileError
    from vintix_fast.world.robot import load_robot, robot_names

    found, absent = [], []
    for name in robot_names():
        try:
            found.append(load_robot(name).name)
        except InputFileError as error:
            absent.append(f"{name}: {str(error).rpartition(': ')[2]}")
    return True, ", ".join(found) + (f" (not here: {'; '.join(absent)})" if absent else "")


def _checkpoints() -> Check:
    from vintix_fast.model import load_checkpoint
    from vintix_fast.service.bundled import bundled_models

    return True, ", ".join(
        f"{name} ({len(load_checkpoint(card['path']).groups)} robots)" for name, card in bundled_models().items()
    )


def _experts() -> Check:
    absent = f"{ABSENT}; needed only by `expert`: pip install 'vintix-fast[pretrain]'"
    good, text = _package("rsl_rl", "rsl-rl-lib", absent)
    return good, f"rsl-rl-lib {text}"
