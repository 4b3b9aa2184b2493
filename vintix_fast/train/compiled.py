"""What fine-tuning computes in the compiled core: causal attention, and the action decoder's loss, both in bfloat16.

Hands tensors to `vintix_fast._core`, which checks their shapes and types, and gives both to autograd.  Each has a plain
reference in torch: `vintix_fast.model.transformer.Attention`; and the decoder itself, under autocast, with a weighted
squared error.  Where the processor or the compiler lacks the instructions, or sizes do not fit, those run instead.

Sizes: N windows, T tokens, H heads, D = head_dim, F features, A actions.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from vintix_fast import _core

DROPPED_MASS = 1e-2
"""Most of a softmax's sum that may be left out; the rollout's default.  The forward pass keeps to it by a bound that
real scores stay far below, the backward pass by the weights themselves."""
LARGEST_SCORE = 40.0
"""The core subtracts no maximum: 2048 weights of exp(40) and their products are far from float32's largest."""


def _array(tensor: Tensor) -> np.ndarray:
    """The same memory as the core takes it; bfloat16, which numpy lacks, as its bits."""
    tensor = tensor.detach()
    return (tensor.view(torch.uint16) if tensor.dtype == torch.bfloat16 else tensor).numpy()


def _compiled_here() -> bool:
    return _core.cpu_features()["bfloat16_kernels"]


# -- causal attention --------------------------------------------------------------------------------------------------


def fits_attention(head_dim: int, score_bound: float) -> bool:
    """Whether `causal_attention` runs here, for heads of this size with scores (before ALiBi) within this bound."""
    return _compiled_here() and head_dim % 32 == 0 and score_bound <= LARGEST_SCORE


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
        q_norm, k_norm: over D; float32 and frozen, for their weights get no gradient.
        first: [N, T] int32: the token at which each token's history begins; None: token 0.
        dropped_mass: most of a softmax's sum that may be left out, unread in the forward pass or in the backward pass.

    Returns:
        [N, T, H, D] bfloat16.

    Raises:
        ValueError, TypeError: a shape or type is not as above, or a norm is not frozen.
    """
    norms = (q_norm.weight, q_norm.bias, k_norm.weight, k_norm.bias)
    if any(weight.requires_grad for weight in norms):
        raise ValueError("causal_attention: the norms must be frozen")
    return _CausalAttention.apply(qkv.contiguous(), slopes, norms, q_norm.eps, first, dropped_mass)


_used: list[Tensor] = []
"""Memory for weights, to be used again: fresh memory of this size costs tens of thousands of page faults a step."""


def _memory(size: int) -> Tensor:
    """At least ``size`` bfloat16 numbers, aligned to 64 bytes."""
    while _used:
        if (memory := _used.pop()).numel() >= size:
            return memory
    return torch.empty(size, dtype=torch.bfloat16)


class _CausalAttention(torch.autograd.Function):
    @staticmethod
    def forward(ctx, qkv, slopes, norms, norm_eps, first, dropped_mass):
        ctx.task = task = _core.CausalAttention(
            *map(_array, (qkv, slopes, *norms)), first=None if first is None else _array(first.contiguous()),
            norm_eps=norm_eps, dropped_mass=dropped_mass, threads=torch.get_num_threads(),
        )  # fmt: skip
        n, t, _, heads, dim = qkv.shape
        out = torch.empty(n, t, heads, dim, dtype=torch.bfloat16)
        sums = torch.empty(n, heads, t)
        stops = torch.empty(n, heads, task.tiles, dtype=torch.int32)
        ctx.weights = _memory(task.weights_size) if ctx.needs_input_grad[0] else None
        weights = None if ctx.weights is None else _array(ctx.weights)
        task.forward(_array(out), _array(sums), _array(stops), weights)
        ctx.save_for_backward(qkv, out, sums, stops)
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad_out):
        if ctx.weights is None:
            raise RuntimeError("causal_attention: its backward pass can be taken only once")
        qkv, out, sums, stops = ctx.saved_tensors
        grad_qkv = torch.empty_like(qkv)
        ctx.task.backward(*map(_array, (out, sums, stops, ctx.weights, grad_out.contiguous(), grad_qkv)))
        _used.append(ctx.weights)
        ctx.task = ctx.weights = None
        return grad_qkv, *[None] * 5


# -- the action decoder's loss -----------------------------------------------------------------------------------------


def _layers(decoder: nn.Sequential) -> tuple[list[nn.Linear], list[float]]:
    """The linear layers in every other place, and the slopes of the leaky ReLUs in those between."""
    layers = list(decoder)
    linear = [layer for layer in layers[::2] if isinstance(layer, nn.Linear)]
    return linear, [layer.negative_slope for layer in layers[1::2] if isinstance(layer, nn.LeakyReLU)]


def fits_decoder(decoder: nn.Sequential) -> bool:
    """Whether `DecoderLoss` runs here, for a decoder of this structure on this device."""
    linear, slopes = _layers(decoder)
    if not _compiled_here() or len(linear) < 2 or len(decoder) != len(linear) + len(slopes):
        return False
    width = linear[0].in_features
    return (
        len(linear) == len(slopes) + 1
        and all(layer.bias is not None for layer in linear)
        and all(layer.weight.shape == (width, width) for layer in linear[:-1])
        and width % _core.DecoderLoss.COLUMNS == 0
        and linear[-1].out_features <= _core.DecoderLoss.ACTIONS
        and len(set(slopes)) == 1
        and slopes[0] > 0.0  # the sign of what an activation function gives must be that of what it got
        and all(p.dtype == torch.float32 and p.device.type == "cpu" and p.is_contiguous() for p in decoder.parameters())
    )


class DecoderLoss:
    """The weighted mean of a decoder's squared error, as a function of its parameters and of what it decodes.

    Args:
        decoder: see `fits_decoder`; linear layers and leaky ReLUs in turn. Its parameters are read at every call.
        scale, shift: [A]; an action is scale * what the decoder gives + shift.

    Raises:
        ValueError: the decoder does not fit.
    """

    def __init__(self, decoder: nn.Sequential, scale: Tensor, shift: Tensor) -> None:
        if not fits_decoder(decoder):
            raise ValueError("DecoderLoss: the compiled core does not compute this decoder here")
        self._linear, slopes = _layers(decoder)
        self._units = {"scale": _array(scale.contiguous()), "shift": _array(shift.contiguous())}
        self._core = _core.DecoderLoss(
            layers=len(self._linear) - 1, width=self._linear[0].in_features, actions=self._linear[-1].out_features,
            slope=slopes[0], threads=torch.get_num_threads(),
        )  # fmt: skip

    def __call__(self, hidden: Tensor, target: Tensor, weight: Tensor, rows: Tensor | None = None) -> Tensor:
        """The loss, a float32 scalar.

        Args:
            hidden: [tokens, F] bfloat16.
            target: [tokens, A] float32.
            weight: [tokens] float32, >= 0.
            rows: [n] int64, n >= 1, the tokens that count; without, all do, and ``hidden`` gets a gradient too.

        Raises:
            ValueError, TypeError: a shape or type is not as above, or ``rows`` points outside.
        """
        if rows is None:
            rows = torch.arange(len(hidden))
        elif hidden.requires_grad:
            raise ValueError("DecoderLoss: rows must be of constants; hidden wants a gradient")
        constants = {"rows": rows, "target": target, "weight": weight}
        given = self._units | {name: _array(tensor.contiguous()) for name, tensor in constants.items()}
        parameters = [parameter for layer in self._linear for parameter in (layer.weight, layer.bias)]
        return _DecoderLoss.apply(self._core, given, hidden, *parameters)


class _DecoderLoss(torch.autograd.Function):
    @staticmethod
    def forward(ctx, core, given, hidden, *parameters):
        grad_hidden = torch.empty(hidden.shape, dtype=hidden.dtype) if ctx.needs_input_grad[2] else None
        grads = [torch.empty_like(parameter) for parameter in parameters]
        loss = core.run(
            **given, hidden=_array(hidden.contiguous()), parameters=[*map(_array, parameters)],
            grads=[*map(_array, grads)], grad_hidden=None if grad_hidden is None else _array(grad_hidden),
        )  # fmt: skip
        ctx.save_for_backward(grad_hidden, *grads)
        return torch.tensor(loss)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad_loss):
        return None, None, *(grad if grad is None else grad * grad_loss for grad in ctx.saved_tensors)
