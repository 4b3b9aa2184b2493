"""The transformer as fine-tuning sees it: constant, in evaluation mode, and in bfloat16 where that is faster.

A copy, so that the model keeps its float32 weights.  Nothing here is trained, so only gradients of tokens are computed,
and on the CPU attention runs in a compiled kernel that knows no others (``vintix_fast/kernels/causal_attention.py``).
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import astuple

import torch
from torch import Tensor, nn

from vintix_fast.data.windows import Batch, Windows
from vintix_fast.kernels import causal_attention as kernel
from vintix_fast.model import Vintix
from vintix_fast.model.transformer import Attention, Transformer


def frozen(transformer: Transformer, bf16: bool) -> nn.Module:
    """A constant copy of ``transformer``.

    Args:
        bf16: on the CPU, hold the weights in bfloat16 and hand tokens on in it; norms compute in float32.
    """
    constant = copy.deepcopy(transformer).eval().requires_grad_(False)
    if bf16 and next(transformer.parameters()).device.type == "cpu":
        return _InBfloat16(constant)
    return constant


class _InBfloat16(nn.Module):
    """A transformer whose tokens stay in bfloat16 from its first layer to its last; autocast would widen them again."""

    def __init__(self, transformer: Transformer) -> None:
        super().__init__()
        self._transformer = transformer
        for module in transformer.modules():
            if isinstance(module, nn.Linear):
                module.to(torch.bfloat16)
        for block in transformer.blocks:
            if _fits_kernel(block.attention):
                block.attention = _KernelAttention(block.attention, transformer.slopes)

    def forward(self, x: Tensor, first: Tensor | None = None) -> Tensor:
        with torch.autocast("cpu", enabled=False):
            return self._transformer(x.bfloat16(), first)


def _fits_kernel(attention: Attention) -> bool:
    return attention.normalize_qk and kernel.supported(attention.head_dim, attention.score_bound())


class _KernelAttention(nn.Module):
    """`Attention` with constant weights, in the compiled kernel."""

    def __init__(self, attention: Attention, slopes: list[float]) -> None:
        super().__init__()
        self._attention, self._slopes = attention, torch.tensor(slopes)

    def forward(self, x: Tensor, first: Tensor | None = None) -> Tensor:
        """x [N, T, F] bfloat16 -> [N, T, F]; ``first`` as for `Transformer.forward`."""
        attention = self._attention
        qkv = attention.in_proj(x).unflatten(-1, (3, attention.heads, attention.head_dim))
        out = kernel.causal_attention(qkv, self._slopes, attention.q_norm, attention.k_norm, first)
        return attention.out_proj(out.flatten(2))


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


def capture(
    loss: Callable[[Batch], Tensor], model: Vintix, sample: Batch, window_len: int, bf16: bool
) -> Callable[[Batch], Tensor]:
    """``loss``, forward and backward, as CUDA graphs: a step of this model is many small launches.

    Not tried on a device.

    Args:
        sample: as many rows as a batch has at most.
        window_len: no row is longer.
        bf16: multiply matrices in bfloat16.
    """
    rows = len(sample.weight)

    class Step(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.trained = nn.ParameterList(p for p in model.parameters() if p.requires_grad)

        def forward(self, *columns: Tensor) -> Tensor:
            with torch.autocast("cuda", torch.bfloat16, enabled=bf16, cache_enabled=False):
                return loss(Batch(*columns))

    graphed = torch.cuda.make_graphed_callables(Step(), astuple(sample.padded(rows, window_len)))
    return lambda batch: graphed(*astuple(batch.padded(rows, window_len)))
