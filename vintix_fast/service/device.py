"""What computes: whether a device is there, and what it is good at."""

from __future__ import annotations

import os

import torch

from vintix_fast import _core
from vintix_fast.service.errors import UsageError


def check_device(device: str) -> None:
    """Raise UsageError if the device is not there."""
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise UsageError(f"--device {device}: torch finds no CUDA device here; use --device cpu")


def choose_gpu(number: int) -> None:
    """Make a GPU the only one that this process sees, as `cuda`; before anything has used CUDA.

    The simulator takes the first that it sees, whatever torch's current device is.

    Raises:
        UsageError: torch does not see so many.
    """
    found = torch.cuda.device_count()  # does not begin to use CUDA
    if number >= found:
        raise UsageError(
            f"--device is 'cuda:{number}'; it must be one of "
            + ", ".join(["cpu", "cuda", *(f"cuda:{n}" for n in range(found))])
            + f" (torch finds {found} CUDA devices here)"
        )
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    os.environ["CUDA_VISIBLE_DEVICES"] = visible.split(",")[number] if visible else str(number)


def multiplies_bf16(device: torch.device | str) -> bool:
    """Whether the device has instructions for bfloat16, without which float32 is faster."""
    if torch.device(device).type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return _core.cpu_features()["bfloat16"]
