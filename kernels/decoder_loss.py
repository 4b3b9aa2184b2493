"""The action decoder's loss and gradient in one compiled pass: bfloat16, on CPUs that multiply it.

Checks what the compiled kernel (``csrc/decoder_loss.hpp``) takes on trust, and gives it to autograd.  Its plain
reference is the decoder itself, under autocast, and a weighted squared error.

Sizes: F features, A actions.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vintix_fast import _core


def supported(decoder: nn.Sequential) -> bool:
    """Whether the kernel runs here, for a decoder of this structure on this device."""
    linear, activations = list(decoder[::2]), list(decoder[1::2])
    if not _core.DecoderLoss.supported() or len(decoder) < 3 or len(decoder) % 2 == 0:
        return False
    if not all(isinstance(layer, nn.Linear) and layer.bias is not None for layer in linear):
        return False
    if not all(isinstance(activation, nn.LeakyReLU) for activation in activations):
        return False
    slopes, width = {activation.negative_slope for activation in activations}, linear[0].in_features
    return (
        all(layer.weight.shape == (width, width) for layer in linear[:-1])
        and width % _core.DecoderLoss.COLUMNS == 0
        and linear[-1].out_features <= _core.DecoderLoss.ACTIONS
        and len(slopes) == 1
        and slopes.pop() > 0.0  # the sign of what an activation function gives must be that of what it got
        and all(p.dtype == torch.float32 and p.device.type == "cpu" and p.is_contiguous() for p in decoder.parameters())
    )


class DecoderLoss:
    """The weighted mean of a decoder's squared error, as a function of its parameters and of what it decodes.

    Args:
        decoder: `supported`; linear layers and leaky ReLUs in turn. Its parameters are read at every call.
        scale, shift: [A]; an action is scale * what the decoder gives + shift.

    Raises:
        ValueError: the decoder is not supported, or a shape is not as above.
    """

    def __init__(self, decoder: nn.Sequential, scale: Tensor, shift: Tensor) -> None:
        if not supported(decoder):
            raise ValueError("DecoderLoss: the kernel does not compute this decoder here")
        self._linear: list[nn.Linear] = list(decoder[::2])
        self._width, self._actions = self._linear[0].in_features, self._linear[-1].out_features
        _check("scale", scale, (self._actions,))
        _check("shift", shift, (self._actions,))
        self._units = {"scale": scale.detach().contiguous(), "shift": shift.detach().contiguous()}
        self._kernel = _core.DecoderLoss(
            layers=len(self._linear) - 1, width=self._width, actions=self._actions, slope=decoder[1].negative_slope,
            threads=torch.get_num_threads(),
        )  # fmt: skip

    def __call__(self, hidden: Tensor, target: Tensor, weight: Tensor, rows: Tensor | None = None) -> Tensor:
        """The loss, a float32 scalar.

        Args:
            hidden: [tokens, F] bfloat16.
            target: [tokens, A] float32.
            weight: [tokens] float32, >= 0.
            rows: [n] int64, n >= 1, the tokens that count; without, all do, and ``hidden`` gets a gradient too.

        Raises:
            ValueError: a shape or type is not as above, or ``rows`` points outside.
        """
        tokens = len(hidden)
        _check("hidden", hidden, (tokens, self._width), torch.bfloat16)
        _check("target", target, (tokens, self._actions))
        _check("weight", weight, (tokens,))
        if rows is None:
            rows = torch.arange(tokens)
        elif rows.dim() != 1 or rows.dtype != torch.int64 or not len(rows) or hidden.requires_grad:
            raise ValueError(f"DecoderLoss: rows must be [n] int64 of constants, not {list(rows.shape)} {rows.dtype}")
        elif int(rows.min()) < 0 or int(rows.max()) >= tokens:
            raise ValueError("DecoderLoss: rows point outside of the tokens")
        weights, biases = ([getattr(layer, name) for layer in self._linear] for name in ("weight", "bias"))
        return _DecoderLoss.apply(self, rows.contiguous(), target, weight, hidden, *weights, *biases)

    def _run(self, rows, hidden, target, weight, parameters) -> tuple[float, Tensor | None, list[Tensor]]:
        """The loss and its gradients."""
        grad_hidden = torch.empty_like(hidden) if hidden.requires_grad else None
        grads = [torch.empty_like(parameter) for parameter in parameters]
        given = self._units | {"chosen": rows, "hidden": hidden, "target": target, "weight": weight}
        given = {name: tensor.contiguous() for name, tensor in given.items()}
        read, written = ([tensor.data_ptr() for tensor in tensors] for tensors in (parameters, grads))
        layers = len(self._linear)
        loss = self._kernel.run(
            tokens=len(rows), **{name: tensor.data_ptr() for name, tensor in given.items()},
            matrices=read[:layers], biases=read[layers:], grad_matrices=written[:layers], grad_biases=written[layers:],
            grad_hidden=0 if grad_hidden is None else grad_hidden.data_ptr(),
        )  # fmt: skip
        return loss, grad_hidden, grads


def _check(name: str, tensor: Tensor, shape: tuple[int, ...], dtype: torch.dtype = torch.float32) -> None:
    if tensor.shape != shape or tensor.dtype != dtype or tensor.device.type != "cpu":
        raise ValueError(
            f"DecoderLoss: {name} must be {shape} {dtype} on the CPU, not {tuple(tensor.shape)} {tensor.dtype}"
        )


class _DecoderLoss(torch.autograd.Function):
    @staticmethod
    def forward(ctx, task, rows, target, weight, hidden, *parameters):
        loss, *grads = task._run(rows, hidden, target, weight, parameters)
        ctx.save_for_backward(grads[0], *grads[1])
        return torch.tensor(loss)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad_loss):
        grads = [grad if grad is None else grad * grad_loss for grad in ctx.saved_tensors]
        return None, None, None, None, *grads
