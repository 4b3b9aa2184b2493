"""Memory: whether a run's environments fit, said before anything is built; and keeping what was freed.

Knows nothing about models or Genesis: bytes are handed in.
"""

from __future__ import annotations

import ctypes
from pathlib import Path

import torch

from vintix_fast.service.errors import UsageError

SIMULATOR_BYTES_PER_ENV = 200_000
KEPT_BYTES = 1 << 30
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # mallopt(3)
LARGEST_MMAP_THRESHOLD = 32 << 20
CGROUP = Path("/sys/fs/cgroup")
"""Where a container sees the limits of its own control group (version 2)."""


def free_bytes(device: str) -> int | None:
    """Memory that can still be had on ``device``; None where the system does not say."""
    if device.startswith("cuda"):
        return torch.cuda.mem_get_info(torch.device(device))[0]
    known = [free for free in (_free_on_host(), _free_in_container()) if free is not None]
    return min(known, default=None)


def _free_on_host() -> int | None:
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return None
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")), None)


def _free_in_container() -> int | None:
    """What the control group's limit leaves; None without a limit."""
    try:
        limit, used = ((CGROUP / name).read_text().strip() for name in ("memory.max", "memory.current"))
        stat = dict(line.split() for line in (CGROUP / "memory.stat").read_text().splitlines())
    except OSError:
        return None
    # Files that were read or written count as used, but the kernel drops them when memory runs short.
    return None if limit == "max" else max(0, int(limit) - int(used) + int(stat.get("inactive_file", 0)))


def check_memory(num_envs: int, cache_bytes_per_env: int, device: str = "cpu") -> None:
    """Refuse ``num_envs`` environments, each with so much context, if they do not fit and the system says so.

    Raises:
        UsageError: they are more than the free memory.
    """
    free, bytes_per_env = free_bytes(device), cache_bytes_per_env + SIMULATOR_BYTES_PER_ENV
    if free is not None and num_envs * bytes_per_env > free:
        raise UsageError(
            f"--num-envs {num_envs} needs {num_envs * bytes_per_env / 1e9:.1f} GB ({bytes_per_env / 1e6:.1f} MB each), "
            f"but {free / 1e9:.1f} GB are free on {device}; give at most {free // bytes_per_env}, or a shorter "
            "--context-len"
        )


def keep_freed_memory() -> None:
    """Let this process keep up to a gigabyte that it freed, for its next tensors; without glibc, do nothing.

    By default tensors of some megabytes go back to the system at once, and every new one costs a thousand page faults.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_MMAP_THRESHOLD, LARGEST_MMAP_THRESHOLD)
        mallopt(M_TRIM_THRESHOLD, KEPT_BYTES)
