"""Trajectory files of random steps, what should be in them, and children that write them."""

import os
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np

from vintix_fast._core import TrajectoryWriter
from vintix_fast.data.schema import FIELDS, REQUIRED_FIELDS

FIELD_LIST = [(name, shape, dtype.name) for name, (shape, dtype) in FIELDS.items()]
IN_CHILDREN = "import signal, time\nimport pytest\nfrom written_files import *\n"
HANG_S = 60  # far beyond what anything here needs: only a hang takes so long


def make_writer(path, num_envs, **options) -> TrajectoryWriter:
    return TrajectoryWriter(str(path), num_envs, FIELD_LIST, options.pop("attributes_json", {}), **options)


def random_step(rng: np.random.Generator, num_envs: int) -> dict[str, np.ndarray]:
    return {
        name: rng.integers(0, 200, (num_envs, *shape)).astype(dtype)
        if dtype.kind in "iu"
        else rng.standard_normal((num_envs, *shape), dtype)
        for name, (shape, dtype) in FIELDS.items()
    }


def write_random(path, num_envs, num_steps, *, seed=0, active_share=1.0, **options) -> list[list[dict]]:
    """Writes random steps; returns the oracle, the rows of each environment."""
    rng = np.random.default_rng(seed)
    rows = [[] for _ in range(num_envs)]
    with make_writer(path, num_envs, **options) as writer:
        for _ in range(num_steps):
            step = random_step(rng, num_envs)
            active = rng.random(num_envs) < active_share
            writer.append(step, active)
            for env in np.flatnonzero(active):
                rows[env].append({name: values[env].copy() for name, values in step.items()})
            for values in step.values():  # the writer has its own copy by now
                values.fill(0)
    return rows


def read_like_the_public_reader(path) -> dict[str, np.ndarray]:
    with h5py.File(path, "r") as file:
        names = sorted(file.keys(), key=lambda name: int(name.split("-")[0]))
        return {field: np.concatenate([file[name][field][:] for name in names]) for field in FIELDS}


def group_names(path) -> list[str]:
    with h5py.File(path, "r") as file:
        assert all(isinstance(item, h5py.Group) for item in file.values())
        return sorted(file, key=lambda name: int(name.split("-")[0]))


def in_child(code: str, *arguments, **options) -> subprocess.Popen:
    """A Python process that runs code, with this file's helpers and imports at hand."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *filter(None, sys.path)])}
    command = [sys.executable, "-c", IN_CHILDREN + code, *map(str, arguments)]
    return subprocess.Popen(command, env=environment, text=True, stdout=subprocess.PIPE, **options)


def numbered_rows(first: int, count: int) -> dict[str, np.ndarray]:
    """The required fields for transitions first, first + 1, ...: every value tells its transition's number."""
    numbers = np.arange(first, first + count)
    return {
        name: np.broadcast_to(numbers.reshape(-1, *[1] * len(shape)), (count, *shape)).astype(dtype)
        for name, (shape, dtype) in ((name, FIELDS[name]) for name in REQUIRED_FIELDS)
    }


def write_group(file: h5py.File, first: int, count: int, *, surplus: int = 0, name: str | None = None, **changes):
    rows = numbered_rows(first, count)
    if surplus:
        for field in ("proprio_observation", "step_num"):
            rows[field] = np.concatenate([rows[field], np.full_like(rows[field][:surplus], -1)])
    group = file.create_group(name or f"{first}-{first + count - 1}")
    for field, values in (rows | changes).items():
        if values is not None:
            group[field] = values


def foreign_file(path: Path, counts, **options) -> Path:
    with h5py.File(path, "w") as file:
        first = 0
        for count in counts:
            write_group(file, first, count, **options)
            first += count
    return path
