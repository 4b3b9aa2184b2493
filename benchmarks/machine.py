"""The machine that a benchmark runs on: its clock, its processor, and how fast it reads memory.

That is the ceiling of a decode step, which reads the whole context cache.
"""

from __future__ import annotations

import platform
import time
from pathlib import Path

import torch

BYTES = 512 * 2**20
"""More than processors' caches hold."""
REPEATS = 10


def now(device: torch.device | str) -> float:
    """The time at which everything asked of a GPU is done."""
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def read_bandwidth(device: str = "cpu") -> float:
    """Bytes/s of torch's dot product of two float32 arrays of `BYTES` together, on torch's threads; best of 10.

    Both are read once from end to end and nothing is written.
    """
    left, right = torch.ones(2, BYTES // 8, device=device)
    best = float("inf")
    for _ in range(REPEATS):
        started = time.perf_counter()
        float(torch.dot(left, right))  # reading the number waits for a GPU
        best = min(best, time.perf_counter() - started)
    return BYTES / best


def processor() -> str:
    """The processor's name, where Linux tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())
