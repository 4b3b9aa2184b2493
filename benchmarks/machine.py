"""How fast this machine reads memory: the ceiling of a decode step, which reads the whole context cache."""

from __future__ import annotations

import time

import torch

BYTES = 512 * 2**20
"""More than processors' caches hold."""
REPEATS = 10


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
