"""How fast trajectories reach the disk: the C++ writer, h5py writing the same file, and a plain file of the same size.

All three end on disk (fsync).  The writer's caller only waits while its queue is full; the other two write in the
caller's own time.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from vintix_fast.data import open_writer
from vintix_fast.data.schema import BLOCK_LEN, FIELDS

FLUSH_EVERY = 100
"""Steps; the writer's own default."""
CHUNK_LEN = 250
"""Rows in a chunk, as the writer makes them."""
REPEATS = 3

Step = dict[str, np.ndarray]


def made_steps(num_envs: int, steps: int) -> Iterator[Step]:
    """``steps`` steps of all environments, drawn from 16 random ones."""
    rng = np.random.default_rng(0)
    drawn = [
        {name: rng.integers(0, 100, (num_envs, *shape)).astype(dtype) for name, (shape, dtype) in FIELDS.items()}
        for _ in range(16)
    ]
    for step in range(steps):
        yield drawn[step % len(drawn)]


def write_with_core(path: Path, num_envs: int, steps: int) -> dict[str, Any]:
    """Append as fast as the writer takes steps; returns what it took and the writer's statistics."""
    active = np.ones(num_envs, bool)
    started = time.perf_counter()
    with open_writer(path, num_envs, {}) as writer:
        for step in made_steps(num_envs, steps):
            writer.append(step, active)
        appended = time.perf_counter()
    seconds = time.perf_counter() - started
    return {"seconds": seconds, "append_seconds": appended - started, "stats": writer.stats}


def write_with_h5py(path: Path, num_envs: int, steps: int) -> float:
    """The same layout, written between two steps and flushed every `FLUSH_EVERY` steps; returns seconds."""
    waiting = {name: np.empty((num_envs, FLUSH_EVERY, *shape), dtype) for name, (shape, dtype) in FIELDS.items()}
    open_blocks: dict[int, dict[str, h5py.Dataset]] = {}
    started = time.perf_counter()
    with h5py.File(path, "w") as file:
        for at, step in enumerate(made_steps(num_envs, steps)):
            count = at % FLUSH_EVERY + 1
            for name, rows in step.items():
                waiting[name][:, count - 1] = rows
            if count == FLUSH_EVERY or at == steps - 1:
                first = at + 1 - count
                for env in range(num_envs):
                    if first % BLOCK_LEN == 0:
                        open_blocks[env] = _new_block(file, env, first, steps)
                    for name, dataset in open_blocks[env].items():
                        dataset.resize(first % BLOCK_LEN + count, axis=0)
                        dataset[-count:] = waiting[name][env, :count]
                file.flush()
        file.attrs["closed_cleanly"] = 1
        file.attrs["stream_env"] = np.arange(num_envs)
        file.attrs["stream_length"] = np.full(num_envs, steps)
    _sync(path)
    return time.perf_counter() - started


def _new_block(file: h5py.File, env: int, first: int, steps: int) -> dict[str, h5py.Dataset]:
    """Empty datasets for an environment's rows from ``first`` on; `BLOCK_LEN` is a multiple of `FLUSH_EVERY`."""
    begin, end = env * steps + first, env * steps + min(first + BLOCK_LEN, steps)
    group = file.create_group(f"{begin}-{end - 1}")
    return {
        name: group.create_dataset(name, (0, *shape), dtype, maxshape=(BLOCK_LEN, *shape), chunks=(CHUNK_LEN, *shape))
        for name, (shape, dtype) in FIELDS.items()
    }


def write_plain(path: Path, num_envs: int, steps: int) -> float:
    """The same arrays one after another, without any format; returns seconds."""
    started = time.perf_counter()
    with open(path, "wb") as file:
        for step in made_steps(num_envs, steps):
            for rows in step.values():
                file.write(rows)
    _sync(path)
    return time.perf_counter() - started


def _sync(path: Path) -> None:
    with open(path, "rb+") as file:
        os.fsync(file.fileno())


def measure(folder: Path, num_envs: int = 64, steps: int = 2000) -> dict[str, Any]:
    """MB/s (10^6 bytes) of the three in ``folder``, best of `REPEATS` in turn, and how the writer's queue stood."""
    row_bytes = sum(int(np.prod(shape)) * dtype.itemsize for shape, dtype in FIELDS.values())
    num_bytes = row_bytes * num_envs * steps
    core, h5, plain = [], [], []
    for _ in range(REPEATS):
        core.append(write_with_core(folder / "core.h5", num_envs, steps))
        h5.append(write_with_h5py(folder / "h5py.h5", num_envs, steps))
        plain.append(write_plain(folder / "plain.bin", num_envs, steps))
        for name in ("core.h5", "h5py.h5", "plain.bin"):
            (folder / name).unlink()
    best = min(core, key=lambda run: run["seconds"])
    return {
        "num_envs": num_envs,
        "steps": steps,
        "megabytes": num_bytes / 1e6,
        "core_mb_per_s": num_bytes / best["seconds"] / 1e6,
        "h5py_mb_per_s": num_bytes / min(h5) / 1e6,
        "plain_file_mb_per_s": num_bytes / min(plain) / 1e6,
        "append_us_per_step": 1e6 * best["append_seconds"] / steps,
        "h5py_us_per_step": 1e6 * min(h5) / steps,
        "plain_file_us_per_step": 1e6 * min(plain) / steps,
        **{name: best["stats"][name] for name in ("queue_capacity", "max_queue_depth", "waits", "wait_seconds")},
    }
