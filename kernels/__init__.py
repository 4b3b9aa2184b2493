"""Kernels, each with a plain reference; `attend` runs whichever belongs to the tensors' device."""

from __future__ import annotations

import torch

from vintix_fast.kernels import reference


def attend(q: torch.Tensor, *others) -> torch.Tensor:
    """Attention of one new token [N, H, D] over a ring; takes what `reference.attend` takes."""
    if q.device.type == "cuda":
        from vintix_fast.kernels import decode_attention  # triton is not installed everywhere

        return decode_attention.attend(q, *others)
    return reference.attend(q, *others)
