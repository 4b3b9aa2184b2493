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
    """The weighted mean of a decoder's squared error over chosen transitions, as a function of its parameters.

    Args:
        decoder: `supported`; linear layers and leaky ReLUs in turn. Its parameters are read at every call.
        hidden: [transitions, F], constant, as all that follow; kept in bfloat16, they in float32.
        target: [transitions, A].
        weight: [transitions], >= 0.
        scale, shift: [A]; an action is scale * what the decoder gives + shift.

    Raises:
        ValueError: the decoder is not supported, or a shape is not as above.
    """

    def __init__(
        self, decoder: nn.Sequential, hidden: Tensor, target: Tensor, weight: Tensor, scale: Tensor, shift: Tensor
    ) -> None:
        if not supported(decoder):
            raise ValueError("DecoderLoss: the kernel does not compute this decoder here")
        self._linear: list[nn.Linear] = list(decoder[::2])
        n, width, actions = len(hidden), self._linear[0].in_features, self._linear[-1].out_features
        given = {"hidden": hidden, "target": target, "weight": weight, "scale": scale, "shift": shift}
        shapes = [(n, width), (n, actions), (n,), (actions,), (actions,)]
        for (name, tensor), shape in zip(given.items(), shapes, strict=True):
            if tensor.shape != shape or tensor.device.type != "cpu":
                raise ValueError(f"DecoderLoss: {name} must be {shape} on the CPU, not {tuple(tensor.shape)}")
        self._constants = {
            name: tensor.detach().to(torch.bfloat16 if name == "hidden" else torch.float32).contiguous()
            for name, tensor in given.items()
        }
        self._kernel = _core.DecoderLoss(
            layers=len(self._linear) - 1, width=width, actions=actions, slope=decoder[1].negative_slope,
            threads=torch.get_num_threads(),
        )  # fmt: skip

    def __call__(self, rows: Tensor) -> Tensor:
        """rows [n] int64, positions of transitions, n >= 1 -> the loss, a float32 scalar.

        Raises:
            ValueError: ``rows`` is of another shape or type, or points outside.
        """
        if rows.dim() != 1 or rows.dtype != torch.int64 or not len(rows):
            raise ValueError(f"DecoderLoss: rows must be [n] int64, not {list(rows.shape)} {rows.dtype}")
        if int(rows.min()) < 0 or int(rows.max()) >= len(self._constants["hidden"]):
            raise ValueError("DecoderLoss: rows point outside of the transitions")
        weights, biases = ([getattr(layer, name) for layer in self._linear] for name in ("weight", "bias"))
        return _DecoderLoss.apply(self, rows.contiguous(), *weights, *biases)

    def _run(self, rows: Tensor, parameters: tuple[Tensor, ...]) -> tuple[float, list[Tensor]]:
        grads = [torch.empty_like(parameter) for parameter in parameters]
        addresses = {name: tensor.data_ptr() for name, tensor in self._constants.items()}
        read, written = ([tensor.data_ptr() for tensor in tensors] for tensors in (parameters, grads))
        layers = len(self._linear)
        loss = self._kernel.run(
            tokens=len(rows), chosen=rows.data_ptr(), **addresses, matrices=read[:layers], biases=read[layers:],
            grad_matrices=written[:layers], grad_biases=written[layers:],
        )  # fmt: skip
        return loss, grads


class _DecoderLoss(torch.autograd.Function):
    @staticmethod
    def forward(ctx, task, rows, *parameters):
        loss, grads = task._run(rows, parameters)
        ctx.save_for_backward(*grads)
        return torch.tensor(loss)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad_loss):
        return None, None, *(grad * grad_loss for grad in ctx.saved_tensors)
