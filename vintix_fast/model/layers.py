"""The small parts around and inside the transformer: encoders, action decoder, norms, MLPs, ALiBi's slopes.

Owns the module structure that gives tensors their names in ``model.pth``.  Knows nothing about sequences, attention
or files.  Every module here acts on the last dimension, so leading dimensions are free.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Generic, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vintix_fast.model.config import STATISTICS, ModelConfig, TaskInfo

NORM_EPS = 1e-5
MAX_EPISODE_STEPS = 10_000  # rows of the step embedding; later steps share the last row


def alibi_slopes(heads: int) -> list[float]:
    """ALiBi's slope for each head (arXiv 2108.12409, section 3 and footnote on other head counts).

    For H a power of two: 2^(-8/H), 2^(-16/H), ...  Otherwise the slopes of the next smaller power of two P, then
    every second slope of 2P until there are H.
    """
    power = 2 ** int(math.log2(heads))
    slopes = [2 ** (-8 * (i + 1) / power) for i in range(power)]
    finer = [2 ** (-4 * (i + 1) / power) for i in range(0, 2 * power, 2)]
    return slopes + finer[: heads - power]


Part = TypeVar("Part", bound=nn.Module)


class PartList(nn.ModuleList, Generic[Part]):
    """`nn.ModuleList` of modules of one type."""

    if TYPE_CHECKING:

        def __iter__(self) -> Iterator[Part]: ...


class Layers(nn.Module):
    """A chain of modules whose tensors are called ``layers.<index>.*`` in a checkpoint."""

    def __init__(self, *layers: nn.Module):
        super().__init__()
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        """[..., in] -> [..., out]."""
        return self.layers(x)

    def linear(self, index: int) -> nn.Linear:
        """One of the chain, which must be linear."""
        layer = self.layers[index]
        assert isinstance(layer, nn.Linear)
        return layer


class ByGroup(nn.ModuleDict):
    """`nn.ModuleDict` of each group's `Layers`."""

    if TYPE_CHECKING:

        def __getitem__(self, key: str) -> Layers: ...


def vector_encoder(in_dim: int, emb_dim: int) -> Layers:
    """Encoder of an observation or action: [..., in_dim] -> [..., emb_dim]."""
    return Layers(
        nn.Linear(in_dim, emb_dim),
        nn.LeakyReLU(0.01),
        nn.LayerNorm(emb_dim, eps=NORM_EPS),
        nn.Linear(emb_dim, emb_dim),
        nn.LeakyReLU(0.01),
        nn.LayerNorm(emb_dim, eps=NORM_EPS),
    )


def reward_encoder(emb_dim: int) -> Layers:
    """Encoder of the scaled reward: [..., 1] -> [..., emb_dim]."""
    return Layers(nn.Linear(1, emb_dim), nn.LeakyReLU(0.01))


def action_decoder(hidden_dim: int, action_dim: int) -> Layers:
    """Decoder of a hidden state into an action: [..., hidden_dim] -> [..., action_dim]."""
    hidden = [m for _ in range(3) for m in (nn.Linear(hidden_dim, hidden_dim), nn.LeakyReLU(0.01))]
    return Layers(*hidden, nn.Linear(hidden_dim, action_dim))


class Encoder(nn.Module):
    """Each group's observation, action and reward encoders, and the vectors that all groups share."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.obs_encoders, self.acs_encoders, self.rews_encoders = ByGroup(), ByGroup(), ByGroup()
        # Stand-ins for "there was no previous step" at the first step of an episode.
        self.prev_acs_padding = nn.Parameter(torch.randn(1, config.action_emb_dim))
        self.prev_rew_padding = nn.Parameter(torch.randn(1, config.reward_emb_dim))
        if config.inner_ep_pos_enc:
            self.trans_ep_pos_emb = nn.Embedding(MAX_EPISODE_STEPS, config.hidden_dim)


class Head(nn.Module):
    """Each group's action decoder."""

    def __init__(self) -> None:
        super().__init__()
        self.acs_decoders = ByGroup()


class TaskStatistics(nn.Module):
    """A task's normalisation constants on the model's device.

    They belong to ``metadata.json``, hence non-persistent: a checkpoint has no tensors of these names.
    """

    obs_mean: Tensor
    obs_std: Tensor
    acs_mean: Tensor
    acs_std: Tensor

    def __init__(self, info: TaskInfo):
        super().__init__()
        self.reward_scale = info.reward_scale
        for name in STATISTICS:
            self.register_buffer(name, torch.tensor(getattr(info, name), dtype=torch.float32), persistent=False)


class RMSNorm(nn.Module):
    """x * rsqrt(mean(x^2) + eps) * weight over the last dimension (arXiv 1910.07467, epsilon inside the root)."""

    def __init__(self, dim: int):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        """[..., dim] -> [..., dim], in x's type; computed in float32."""
        wide = x.float()
        return (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + NORM_EPS) * self.weight).to(x.dtype)


def make_norm(config: ModelConfig) -> nn.Module:
    """The norm of ``config.norm_class`` over ``hidden_dim``."""
    if config.norm_class == "RMSNorm":
        return RMSNorm(config.hidden_dim)
    return nn.LayerNorm(config.hidden_dim, eps=NORM_EPS)


class GptNeoxMLP(nn.Module):
    """proj(gelu(fc(x)))."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.fc = nn.Linear(config.hidden_dim, config.intermediate_size, bias=config.bias)
        self.proj = nn.Linear(config.intermediate_size, config.hidden_dim, bias=config.bias)

    def forward(self, x: Tensor) -> Tensor:
        """[..., hidden_dim] -> [..., hidden_dim]."""
        return self.proj(F.gelu(self.fc(x)))


class LLaMAMLP(nn.Module):
    """proj(silu(fc_1(x)) * fc_2(x)), the gated form of arXiv 2002.05202."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.fc_1 = nn.Linear(config.hidden_dim, config.intermediate_size, bias=config.bias)
        self.fc_2 = nn.Linear(config.hidden_dim, config.intermediate_size, bias=config.bias)
        self.proj = nn.Linear(config.intermediate_size, config.hidden_dim, bias=config.bias)

    def forward(self, x: Tensor) -> Tensor:
        """[..., hidden_dim] -> [..., hidden_dim]."""
        return self.proj(F.silu(self.fc_1(x)) * self.fc_2(x))


def make_mlp(config: ModelConfig) -> nn.Module:
    """The MLP of ``config.mlp_class``."""
    return LLaMAMLP(config) if config.mlp_class == "LLaMAMLP" else GptNeoxMLP(config)
