"""The critic's two networks, side by side in every product: (state, deviation) -> a value each.

Two hidden layers, each a linear map, a layer norm and an ELU.  In bfloat16 the compiled core does what lies between
two products in one pass (csrc/norm_elu.hpp): in plain torch that was most of the critic's time.  Knows nothing about
what is fitted.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vintix_fast import _core
from vintix_fast.train.compiled import compiled_here, core_array

NETWORKS = 2
NORM_EPS = 1e-5
DEVIATION_SCALE = 3.0
"""Brings exploration noise, up to a third of an action unit, to the size of the network's other inputs."""


class TwinQ(nn.Module):
    """Two values of (state [B, S], deviation [B, A]) -> [2, B].

    Args:
        bf16: multiply the wide layers in bfloat16, on a CPU whose processor has instructions for it. The last one is
            float32: a value's rounding would be a slope.
    """

    def __init__(self, state_dim: int, action_dim: int, hidden: int, bf16: bool = False) -> None:
        super().__init__()
        self._bf16 = bf16
        self._compiled = bf16 and compiled_here() and hidden % _core.NORM_ELU_COLUMNS == 0
        self.hidden_layers = nn.ModuleList([_Layer(state_dim + action_dim, hidden), _Layer(hidden, hidden)])
        self.weight, self.bias = _uniform(hidden, hidden, 1), _uniform(hidden, 1, 1)

    def forward(self, state: Tensor, deviation: Tensor) -> Tensor:
        x = torch.cat([state, DEVIATION_SCALE * deviation], dim=-1)
        x = (x.bfloat16() if self._bf16 else x).expand(NETWORKS, -1, -1)
        for layer in self.hidden_layers:
            x = layer(x, self._compiled)
        return torch.baddbmm(self.bias, x.float(), self.weight).squeeze(-1)


class _Layer(nn.Module):
    """elu(gain * norm(x weight + bias) + shift), with parameters of each network: [2, B, I] -> [2, B, H]."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight, self.bias = _uniform(inputs, inputs, outputs), _uniform(inputs, outputs)
        self.gain = nn.Parameter(torch.ones(NETWORKS, outputs))
        self.shift = nn.Parameter(torch.zeros(NETWORKS, outputs))

    def forward(self, x: Tensor, compiled: bool) -> Tensor:
        product = torch.bmm(x, self.weight.to(x.dtype))
        if compiled:
            return _NormElu.apply(product, self.bias, self.gain, self.shift)
        product = product + self.bias.to(x.dtype)[:, None]
        normed = F.layer_norm(product, product.shape[-1:], eps=NORM_EPS)
        return F.elu(normed * self.gain.to(x.dtype)[:, None] + self.shift.to(x.dtype)[:, None])


def _uniform(inputs: int, *shape: int) -> nn.Parameter:
    """As `nn.Linear` begins, for both networks."""
    most = inputs**-0.5
    return nn.Parameter(torch.empty(NETWORKS, *shape).uniform_(-most, most))


class _NormElu(torch.autograd.Function):
    """What `_Layer` does after its product, in the compiled core."""

    @staticmethod
    def forward(ctx, x: Tensor, bias: Tensor, gain: Tensor, shift: Tensor) -> Tensor:
        ctx.save_for_backward(x, bias, gain, shift)
        out = torch.empty_like(x)
        _core.norm_elu(core_array(x), core_array(bias), core_array(gain), core_array(shift), NORM_EPS, core_array(out))
        return out

    @staticmethod
    def backward(ctx, grad_out: Tensor):
        x, bias, gain, shift = ctx.saved_tensors
        grad_x, grad_bias, grad_gain, grad_shift = (torch.empty_like(tensor) for tensor in ctx.saved_tensors)
        _core.norm_elu_backward(
            core_array(x), core_array(bias), core_array(gain), core_array(shift), NORM_EPS,
            core_array(grad_out.contiguous()), core_array(grad_x), core_array(grad_bias), core_array(grad_gain),
            core_array(grad_shift),
        )  # fmt: skip
        return grad_x, grad_bias, grad_gain, grad_shift
