"""From the host to a device, without the host waiting for what the device is doing."""

from __future__ import annotations

import torch


def upload(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """A tensor on the CPU -> on ``device``, where work enqueued from here on finds it."""
    # From memory that is not pinned, CUDA copies only after everything enqueued before.
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor
