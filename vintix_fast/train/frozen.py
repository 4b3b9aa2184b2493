"""The transformer as fine-tuning sees it: constant, in evaluation mode, and in bfloat16 where that is faster.

A copy, so that the model keeps its float32 weights.  Nothing here is trained, so only gradients of tokens are computed.
Causal attention runs in a kernel of the device's own: for CUDA Triton's (``vintix_fast/kernels/causal_attention.py``),
for the CPU the compiled core's (``compiled.py``), which takes bfloat16 alone and knows no other gradients.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from vintix_fast.data.windows import Windows
from vintix_fast.model import Vintix
from vintix_fast.model.transformer import Attention, Transformer, spans_for
from vintix_fast.train import compiled

LONGEST_SPAN = 1 << 30
"""Of a head that sees all of its history."""


def frozen(transformer: Transformer, bf16: bool) -> nn.Module:
    """A constant copy of ``transformer``.

    Args:
        bf16: hold the weights in bfloat16 and hand tokens on in it; norms compute in float32.
    """
    constant = copy.deepcopy(transformer).eval().requires_grad_(False)
    on_cuda = next(transformer.parameters()).device.type == "cuda"
    if not bf16:
        return constant
    for block in constant.blocks:
        attention = block.attention
        assert isinstance(attention, Attention)
        if on_cuda:
            block.add_module("attention", _TritonAttention(attention, constant.slopes))
        elif attention.normalize_qk and compiled.fits_attention(attention.head_dim, attention.score_bound()):
            block.add_module("attention", _CompiledAttention(attention, constant.slopes))
    return _InBfloat16(constant)


class _InBfloat16(nn.Module):
    """A transformer whose tokens stay in bfloat16 from its first layer to its last; autocast would widen them again."""

    def __init__(self, transformer: Transformer) -> None:
        super().__init__()
        self._transformer = transformer
        on_cuda = next(transformer.parameters()).device.type == "cuda"
        for module in transformer.modules():
            # CUDA's layer norm takes weights of the tokens' type alone; it too computes in float32.
            if isinstance(module, nn.Linear) or (on_cuda and isinstance(module, nn.LayerNorm)):
                module.to(torch.bfloat16)

    def forward(self, x: Tensor, first: Tensor | None = None) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            return self._transformer(x.bfloat16(), first)


class _CompiledAttention(nn.Module):
    """`Attention` with constant weights, in the compiled core."""

    def __init__(self, attention: Attention, slopes: list[float]) -> None:
        super().__init__()
        self._attention, self._slopes = attention, torch.tensor(slopes)

    def forward(self, x: Tensor, first: Tensor | None = None) -> Tensor:
        """x [N, T, F] bfloat16 -> [N, T, F]; ``first`` as for `Transformer.forward`."""
        attention = self._attention
        qkv = attention.in_proj(x).unflatten(-1, (3, attention.heads, attention.head_dim))
        out = compiled.causal_attention(qkv, self._slopes, attention.q_norm, attention.k_norm, first)
        return attention.out_proj(out.flatten(2))


class _TritonAttention(nn.Module):
    """`Attention` with constant weights, in the Triton kernel."""

    def __init__(self, attention: Attention, slopes: list[float]) -> None:
        from vintix_fast.kernels import causal_attention  # triton is not installed everywhere

        super().__init__()
        self._attention, self._kernel = attention, causal_attention.causal_attention
        device = attention.in_proj.weight.device
        spans = spans_for(attention.score_bound(), slopes, LONGEST_SPAN, compiled.DROPPED_MASS)
        self._spans = torch.tensor(spans, dtype=torch.int32, device=device)
        self._slopes = torch.tensor(slopes, device=device)

    def forward(self, x: Tensor, first: Tensor | None = None) -> Tensor:
        """x [N, T, F] -> [N, T, F]; ``first`` as for `Transformer.forward`."""
        q, k, v = self._attention._project(x)
        out = self._kernel(q, k, v, self._slopes, self._spans, first)
        return self._attention.out_proj(out.flatten(2))


def hidden_states(model: Vintix, task_name: str, windows: Windows, bf16: bool) -> Tensor:
    """What the decoder sees at every transition of ``windows``: [transitions, F].

    Each is computed with all of its history up to ``windows.window_len`` steps back, and never with less than half of
    that: windows overlap by half, and the later half of each is kept.  It is the context that the policy acts with.
    """
    transformer = frozen(model.transformer, bf16)
    parts = []
    with torch.inference_mode(), torch.autocast(model.device.type, torch.bfloat16, enabled=bf16):
        for batch, keep in windows.sweep():
            token = model.encode(task_name, batch.observation, batch.prev_action, batch.prev_reward, batch.step_num)
            parts.append(transformer(token)[0, keep:])
    return torch.cat(parts)
