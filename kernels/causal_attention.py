"""Causal attention with ALiBi for training behind frozen norms: bfloat16, on CPUs that multiply it.

Checks what the compiled kernel (``csrc/causal_attention.hpp``) takes on trust, and gives it to autograd.  The kernel
normalises queries and keys itself and returns no gradient for the norms' weights.  Its plain reference is
`vintix_fast.model.transformer.Attention`.

Sizes: N windows, T tokens, H heads, D = head_dim.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vintix_fast import _core

DROPPED_MASS = 1e-2
"""Most of a softmax's sum that may be left out; the rollout's default.  The forward pass keeps to it by a bound that
real scores stay far below, the backward pass by the weights themselves."""
LARGEST_SCORE = 40.0
"""The kernel subtracts no maximum: 2048 weights of exp(40) and their products are far from float32's largest."""


def supported(head_dim: int, score_bound: float) -> bool:
    """Whether the kernel runs here, for heads of this size with scores (before ALiBi) within this bound."""
    return _core.CausalAttention.supported() and head_dim % 32 == 0 and score_bound <= LARGEST_SCORE


def causal_attention(
    qkv: Tensor,
    slopes: Tensor,
    q_norm: nn.LayerNorm,
    k_norm: nn.LayerNorm,
    first: Tensor | None = None,
    dropped_mass: float = DROPPED_MASS,
) -> Tensor:
    """softmax(q_norm(q) . k_norm(k) / sqrt(D) - slope * distance) v over each token and those before it.

    Args:
        qkv: [N, T, 3, H, D] bfloat16 on the CPU.
        slopes: [H] float32, positive.
        q_norm, k_norm: over D; float32 and frozen.
        first: [N, T] int32: the token at which each token's history begins; None: token 0.
        dropped_mass: most of a softmax's sum that may be left out, unread in the forward pass or in the backward pass.

    Returns:
        [N, T, H, D] bfloat16.
    """
    n, t, three, heads, dim = qkv.shape
    weights = (q_norm.weight, q_norm.bias, k_norm.weight, k_norm.bias)
    if three != 3 or qkv.dtype != torch.bfloat16 or qkv.is_cuda or slopes.shape != (heads,):
        raise ValueError(f"causal_attention: qkv {list(qkv.shape)} {qkv.dtype}, slopes {list(slopes.shape)}")
    if any(w.shape != (dim,) or w.dtype != torch.float32 or w.requires_grad for w in weights):
        raise ValueError(f"causal_attention: the norms must be frozen, float32 and over {dim} dimensions")
    if first is not None and (first.shape != (n, t) or first.dtype != torch.int32):
        raise ValueError(f"causal_attention: first must be [{n}, {t}] int32, not {list(first.shape)} {first.dtype}")
    first = None if first is None else first.contiguous()
    return _CausalAttention.apply(qkv.contiguous(), slopes, q_norm.eps, dropped_mass, first, *weights)


class _Pool:
    """Memory for weights, used again: fresh memory of this size costs tens of thousands of page faults a step."""

    def __init__(self) -> None:
        self._free: list[Tensor] = []

    def take(self, size: int) -> Tensor:
        while self._free:
            memory = self._free.pop()
            if memory.numel() >= size:
                return memory
        return torch.empty(size, dtype=torch.bfloat16)

    def give(self, memory: Tensor) -> None:
        self._free.append(memory)


_pool = _Pool()


class _CausalAttention(torch.autograd.Function):
    @staticmethod
    def forward(ctx, qkv, slopes, norm_eps, dropped_mass, first, *norms):
        n, t, _, heads, dim = qkv.shape
        out = torch.empty(n, t, heads, dim, dtype=torch.bfloat16)
        sums = torch.empty(n, heads, t)
        stops = torch.empty(n, heads, -(-t // 64), dtype=torch.int32)
        differentiated = ctx.needs_input_grad[0]
        weights = _pool.take(_core.CausalAttention.weights_size(n, t, heads)) if differentiated else None
        _task(qkv, slopes, norm_eps, dropped_mass, first, norms).forward(
            out=out.data_ptr(), weights=weights.data_ptr() if differentiated else 0, sums=sums.data_ptr(),
            stops=stops.data_ptr(),
        )  # fmt: skip
        ctx.save_for_backward(qkv, slopes, out, sums, stops, *norms)
        ctx.constants = norm_eps, dropped_mass, first
        ctx.weights = weights
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad_out):
        if ctx.weights is None:
            raise RuntimeError("causal_attention: its backward pass can be taken only once")
        qkv, slopes, out, sums, stops, *norms = ctx.saved_tensors
        grad_out, grad_qkv = grad_out.contiguous(), torch.empty_like(qkv)
        _task(qkv, slopes, *ctx.constants, norms).backward(
            out=out.data_ptr(), weights=ctx.weights.data_ptr(), sums=sums.data_ptr(), stops=stops.data_ptr(),
            grad_out=grad_out.data_ptr(), grad_qkv=grad_qkv.data_ptr(),
        )  # fmt: skip
        _pool.give(ctx.weights)
        ctx.weights = None
        return grad_qkv, *[None] * 8


def _task(qkv, slopes, norm_eps, dropped_mass, first, norms) -> _core.CausalAttention:
    n, t, _, heads, dim = qkv.shape
    q_weight, q_bias, k_weight, k_bias = (norm.data_ptr() for norm in norms)
    first_address = 0 if first is None else first.data_ptr()
    return _core.CausalAttention(
        batch=n, length=t, heads=heads, head_dim=dim, qkv=qkv.data_ptr(), first=first_address,
        slopes=slopes.data_ptr(), q_weight=q_weight, q_bias=q_bias, k_weight=k_weight, k_bias=k_bias,
        norm_eps=norm_eps, dropped_mass=dropped_mass, threads=torch.get_num_threads(),
    )  # fmt: skip
