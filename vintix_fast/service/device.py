"""What computes: whether a device is there, and what it is good at."""

from __future__ import annotations

import torch

from vintix_fast import _core
from vintix_fast.service.errors import UsageError


def check_device(device: str) -> None:
    """Raise UsageError if the device is not there."""
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise UsageError(f"--device {device}: torch finds no CUDA device here; use --device cpu")


def multiplies_bf16(device: torch.device | str) -> bool:
    """Whether the device has instructions for bfloat16, without which float32 is faster."""
    if torch.device(device).type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return _core.cpu_features()["bfloat16"]
