"""What fine-tuning computes in the compiled core: causal attention, and the action decoder's loss, both in bfloat16.

Hands tensors to `vintix_fast._core`, which checks their shapes and types, and makes torch operators of both
(``torch.ops.vintix_fast``), with gradients and with the shapes of their results, so that ``torch.compile`` takes them
into its graph.  Each has a plain reference in torch: `vintix_fast.model.transformer.Attention`; and the decoder itself,
under autocast, with a weighted squared error.  Where the processor or the compiler lacks the instructions, or sizes do
not fit, those run instead.

Sizes: N windows, T tokens, H heads, D = head_dim, F features, A actions.
"""

from __future__ import annotations

import threading
import weakref

import numpy as np
import torch
from torch import Tensor, nn

from vintix_fast import _core

DROPPED_MASS = 1e-2
"""Most of a softmax's sum that may be left out; the rollout's default.  The forward pass keeps to it by a bound that
real scores stay far below, the backward pass by the weights themselves."""
LARGEST_SCORE = 40.0
"""The core subtracts no maximum: 2048 weights of exp(40) and their products are far from float32's largest."""
TILE = 64
"""Queries, and keys, of which the core's attention keeps the weights together; see csrc/causal_attention.hpp."""


def core_array(tensor: Tensor) -> np.ndarray:
    """The same memory as the core takes it; bfloat16, which numpy lacks, as its bits."""
    tensor = tensor.detach()
    return (tensor.view(torch.uint16) if tensor.dtype in (torch.bfloat16, torch.int16) else tensor).numpy()


def compiled_here() -> bool:
    """Whether processor and compiler know what the core's bfloat16 kernels are written in."""
    return _core.cpu_features()["bfloat16_kernels"]


# -- causal attention --------------------------------------------------------------------------------------------------


def fits_attention(head_dim: int, score_bound: float) -> bool:
    """Whether `causal_attention` runs here, for heads of this size with scores (before ALiBi) within this bound."""
    return compiled_here() and head_dim % 32 == 0 and score_bound <= LARGEST_SCORE


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
    norms = [q_norm.weight, q_norm.bias, k_norm.weight, k_norm.bias]
    if any(weight.requires_grad for weight in norms):
        raise ValueError("causal_attention: the norms must be frozen")
    keep = torch.is_grad_enabled() and qkv.requires_grad
    first = None if first is None else first.contiguous()
    return _attention(qkv.contiguous(), slopes, norms, first, q_norm.eps, dropped_mass, keep)[0]


@torch.library.custom_op("vintix_fast::causal_attention", mutates_args=())
def _attention(
    qkv: Tensor, slopes: Tensor, norms: list[Tensor], first: Tensor | None, eps: float, dropped_mass: float, keep: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The attention, and what its backward pass needs: sums, stops, and, if they are to be kept, weights."""
    task = _attention_task(qkv, slopes, norms, first, eps, dropped_mass)
    n, t, _, heads, dim = qkv.shape
    out = torch.empty(n, t, heads, dim, dtype=torch.bfloat16)
    sums = torch.empty(n, heads, t)
    stops = torch.empty(n, heads, task.tiles, dtype=torch.int32)
    weights = _memory(task.weights_size if keep else 0)
    task.forward(core_array(out), core_array(sums), core_array(stops), core_array(weights) if keep else None)
    return out, sums, stops, weights


def _attention_task(
    qkv: Tensor, slopes: Tensor, norms: list[Tensor], first: Tensor | None, eps: float, dropped_mass: float
) -> _core.CausalAttention:
    return _core.CausalAttention(
        *map(core_array, (qkv, slopes, *norms)), first=None if first is None else core_array(first), norm_eps=eps,
        dropped_mass=dropped_mass, threads=torch.get_num_threads(),
    )  # fmt: skip


_used: list[Tensor] = []
"""Memory for weights, to be used again: fresh memory of this size costs tens of thousands of page faults a step."""


def _memory(size: int) -> Tensor:
    """So many numbers of 16 bits, aligned to 64 bytes.  Their memory is used again when the tensor is gone."""
    memory = torch.empty(0, dtype=torch.int16)
    while _used and memory.numel() < size:
        memory = _used.pop()
    if memory.numel() < size:
        memory = torch.empty(size, dtype=torch.int16)
    lent = memory.numpy()[:size]
    if size:
        weakref.finalize(lent, _used.append, memory).atexit = False
    return torch.from_numpy(lent)


@_attention.register_fake
def _(qkv, slopes, norms, first, eps, dropped_mass, keep):
    n, t, _, heads, dim = qkv.shape
    tiles = (t + TILE - 1) // TILE
    weights = n * heads * (tiles * (tiles + 1) // 2) * TILE * TILE if keep else 0
    return (
        qkv.new_empty(n, t, heads, dim),
        qkv.new_empty(n, heads, t, dtype=torch.float32),
        qkv.new_empty(n, heads, tiles, dtype=torch.int32),
        qkv.new_empty(weights, dtype=torch.int16),
    )


@torch.library.custom_op("vintix_fast::causal_attention_backward", mutates_args=())
def _attention_backward(
    qkv: Tensor, slopes: Tensor, norms: list[Tensor], first: Tensor | None, eps: float, dropped_mass: float,
    out: Tensor, sums: Tensor, stops: Tensor, weights: Tensor, grad_out: Tensor,
) -> Tensor:  # fmt: skip
    grad_qkv = torch.empty_like(qkv)
    task = _attention_task(qkv, slopes, norms, first, eps, dropped_mass)
    task.backward(*map(core_array, (out, sums, stops, weights, grad_out.contiguous(), grad_qkv)))
    return grad_qkv


@_attention_backward.register_fake
def _(qkv, *others):
    return torch.empty_like(qkv)


def _keep_attention(ctx, inputs, output) -> None:
    qkv, slopes, norms, first, eps, dropped_mass, _ = inputs
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(qkv, *output, slopes, first, *norms)
    ctx.constants = eps, dropped_mass


def _differentiate_attention(ctx, grad_out, *_):
    qkv, out, sums, stops, weights, slopes, first, *norms = ctx.saved_tensors
    results = out, sums, stops, weights
    grad_qkv = _attention_backward(qkv, slopes, norms, first, *ctx.constants, *results, grad_out)
    return grad_qkv, None, [None] * len(norms), *[None] * 4


_attention.register_autograd(_differentiate_attention, setup_context=_keep_attention)


# -- the action decoder's loss -----------------------------------------------------------------------------------------


def _layers(decoder: nn.Sequential) -> tuple[list[nn.Linear], list[float]]:
    """The linear layers in every other place, and the slopes of the leaky ReLUs in those between."""
    layers = list(decoder)
    linear = [layer for layer in layers[::2] if isinstance(layer, nn.Linear)]
    return linear, [layer.negative_slope for layer in layers[1::2] if isinstance(layer, nn.LeakyReLU)]


def fits_decoder(decoder: nn.Sequential) -> bool:
    """Whether `DecoderLoss` runs here, for a decoder of this structure on this device."""
    linear, slopes = _layers(decoder)
    if not compiled_here() or len(linear) < 2 or len(decoder) != len(linear) + len(slopes):
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
        self._linear, (self._slope, *_) = _layers(decoder)
        self._units = scale.contiguous(), shift.contiguous()
        actions, width = self._linear[-1].weight.shape
        self._core = _core_for(len(self._linear) - 1, width, actions, self._slope)

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
        wanted = torch.is_grad_enabled() and hidden.requires_grad
        if rows is not None and wanted:
            raise ValueError("DecoderLoss: rows must be of constants; hidden wants a gradient")
        parameters = [parameter for layer in self._linear for parameter in (layer.weight, layer.bias)]
        return _decoder_loss(hidden, target, weight, rows, *self._units, parameters, self._slope, wanted)[0]


_cores: weakref.WeakValueDictionary[tuple, _core.DecoderLoss] = weakref.WeakValueDictionary()
"""By sizes and threads: each keeps memory and threads for as long as a `DecoderLoss` is there."""
_one_call = threading.Lock()
"""A core computes one loss at a time."""


def _core_for(layers: int, width: int, actions: int, slope: float) -> _core.DecoderLoss:
    key = layers, width, actions, slope, torch.get_num_threads()
    core = _cores.get(key)
    if core is None:
        core = _cores[key] = _core.DecoderLoss(
            layers=layers, width=width, actions=actions, slope=slope, threads=torch.get_num_threads()
        )
    return core


@torch.library.custom_op("vintix_fast::decoder_loss", mutates_args=())
def _decoder_loss(
    hidden: Tensor, target: Tensor, weight: Tensor, rows: Tensor | None, scale: Tensor, shift: Tensor,
    parameters: list[Tensor], slope: float, grad_hidden: bool,
) -> list[Tensor]:  # fmt: skip
    """The loss, its gradient by ``hidden``, empty unless it is asked for, and its gradients by the parameters."""
    grads = [torch.empty_like(hidden if grad_hidden else hidden[:0]), *map(torch.empty_like, parameters)]
    actions, width = parameters[-2].shape
    with _one_call:
        loss = _core_for(len(parameters) // 2 - 1, width, actions, slope).run(
            rows=core_array(torch.arange(len(hidden)) if rows is None else rows),
            **{
                name: core_array(tensor.contiguous())
                for name, tensor in (
                    ("hidden", hidden), ("target", target), ("weight", weight), ("scale", scale), ("shift", shift)
                )
            },
            parameters=[*map(core_array, parameters)], grads=[*map(core_array, grads[1:])],
            grad_hidden=core_array(grads[0]) if grad_hidden else None,
        )  # fmt: skip
    return [torch.tensor(loss), *grads]


@_decoder_loss.register_fake
def _(hidden, target, weight, rows, scale, shift, parameters, slope, grad_hidden):
    grads = [torch.empty_like(hidden if grad_hidden else hidden[:0]), *map(torch.empty_like, parameters)]
    return [target.new_empty(()), *grads]


def _keep_gradients(ctx, inputs, output) -> None:
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*output[1:])
    ctx.grad_hidden = inputs[-1]


def _scale_gradients(ctx, grad_results):
    grad_hidden, *grads = (grad * grad_results[0] for grad in ctx.saved_tensors)
    return grad_hidden if ctx.grad_hidden else None, *[None] * 5, grads, None, None


_decoder_loss.register_autograd(_scale_gradients, setup_context=_keep_gradients)
