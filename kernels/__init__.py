"""Kernels, each with a plain reference; `attend` runs whichever belongs to the tensors' device."""

from __future__ import annotations

import torch

from vintix_fast.kernels import reference


def attend(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    ring: reference.Ring,
    slot: torch.Tensor,
    length: torch.Tensor,
    span: torch.Tensor,
    slopes: torch.Tensor,
) -> torch.Tensor:
    """Attention of one new token [N, H, D] over a ring; see `reference.attend` for shapes."""
    if q.device.type == "cuda":
        from vintix_fast.kernels import decode_attention

        return decode_attention.attend(q, k, v, ring, slot, length, span, slopes)
    return reference.attend(q, k, v, ring, slot, length, span, slopes)
