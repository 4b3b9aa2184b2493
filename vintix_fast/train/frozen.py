"""The transformer as fine-tuning sees it: constant, in evaluation mode, and in bfloat16 where that is faster.

A copy, so that the model keeps its float32 weights.  Nothing here is trained, so only gradients of tokens are computed,
and attention runs in a compiled kernel that knows no others (``vintix_fast/kernels/causal_attention.py``).
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from vintix_fast.kernels import causal_attention as kernel
from vintix_fast.model.transformer import Attention, Transformer


def frozen(transformer: Transformer, bf16: bool) -> Transformer:
    """A constant copy of ``transformer``.

    Args:
        bf16: multiply matrices, and hand tokens on, in bfloat16; norms compute in float32.
    """
    constant = copy.deepcopy(transformer).eval().requires_grad_(False)
    if not bf16:
        return constant
    for module in constant.modules():
        if isinstance(module, nn.Linear):
            module.to(torch.bfloat16)
    for block in constant.blocks:
        if _fits_kernel(block.attention):
            block.attention = KernelAttention(block.attention, constant.slopes)
    return constant


def _fits_kernel(attention: Attention) -> bool:
    on_cpu = attention.in_proj.weight.device.type == "cpu"
    return on_cpu and attention.normalize_qk and kernel.supported(attention.head_dim, attention.score_bound())


class KernelAttention(nn.Module):
    """`Attention` with constant weights, in the compiled kernel."""

    def __init__(self, attention: Attention, slopes: list[float]) -> None:
        super().__init__()
        self._attention, self._slopes = attention, torch.tensor(slopes)

    def score_bound(self) -> float:
        return self._attention.score_bound()

    def forward(self, x: Tensor, windows: list[int], first: Tensor | None = None) -> Tensor:
        """x [N, T, F] bfloat16 -> [N, T, F]; ``windows`` are for others: the kernel sees what it need not read."""
        attention = self._attention
        qkv = attention.in_proj(x).unflatten(-1, (3, attention.heads, attention.head_dim))
        out = kernel.causal_attention(qkv, self._slopes, attention.q_norm, attention.k_norm, first)
        return attention.out_proj(out.flatten(2))
