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


def multiplies_in_tiles() -> bool:
    """Whether the processor has instructions (AMX) with which torch multiplies matrices of bfloat16 in tiles."""
    asked = getattr(torch.cpu, "_is_amx_tile_supported", None)  # earlier versions of torch do not tell
    return asked is not None and asked()
