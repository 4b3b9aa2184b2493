"""Memory: whether a run's environments fit, said before anything is built; and keeping what was freed.

Knows nothing about models or Genesis: bytes are handed in.
"""

from __future__ import annotations

import ctypes
from pathlib import Path

import torch

from vintix_fast.service.errors import UsageError

SIMULATOR_BYTES_PER_ENV = 800_000
"""go2's arrays in Genesis 1.4.5: 404 MB of 500 environments, of which 0.76 MB each are in use while they stand. go1 and
a1 take as much, Mini Cheetah 0.45 MB: three quarters are what the contacts that may be need in the solver."""
KEPT_BYTES = 1 << 30
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # mallopt(3)
LARGEST_MMAP_THRESHOLD = 32 << 20
CGROUP = Path("/sys/fs/cgroup")
"""Where control groups are mounted; those of version 1 have one folder for each resource, ours is ``memory``."""
OWN_GROUPS = Path("/proc/self/cgroup")
VERSIONS = {  # limit, use, the line of memory.stat on what the kernel drops when memory runs short
    2: ("memory.max", "memory.current", "inactive_file"),
    1: ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
}


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
    """What the limits of this process' control group and of those above it leave; None without a limit."""
    try:
        lines = OWN_GROUPS.read_text().splitlines()
    except OSError:
        lines = []
    paths = {2: "/", 1: "/"}  # where a container's own group is mounted
    for line in lines:  # number:resources:path
        _, resources, path = line.split(":", 2)
        if not resources or "memory" in resources.split(","):
            paths[1 if resources else 2] = path
    known = []
    for version, path in paths.items():
        root = CGROUP if version == 2 else CGROUP / "memory"
        group = root / path.strip("/")
        if ".." in group.parts:  # of a process that was moved into a group beside its namespace's
            group = root
        for folder in (group, *group.parents):
            known.append(_free_in_group(folder, version))
            if folder == root:
                break
    return min((free for free in known if free is not None), default=None)


def _free_in_group(folder: Path, version: int) -> int | None:
    """What one control group's limit leaves; None without a limit."""
    limit_file, use_file, droppable = VERSIONS[version]
    try:
        limit, used = ((folder / name).read_text().strip() for name in (limit_file, use_file))
        stat = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
        return None if limit == "max" else max(0, int(limit) - int(used) + int(stat.get(droppable, 0)))
    except (OSError, ValueError):
        return None


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
