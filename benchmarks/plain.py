"""The plain way, to compare with: attention as scores, softmax and sum written out, and for every action of one
environment the whole history through the model again.

Knows nothing about files or how anything is shown.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from vintix_fast.model import Vintix
from vintix_fast.model.layers import alibi_slopes
from vintix_fast.model.transformer import Attention, Transformer
from vintix_fast.world.task import WalkingTask

WARM_UP = 2


class DenseAttention(nn.Module):
    """`Attention` written out, in place of it; ``bias``: see `causal_bias`."""

    def __init__(self, attention: Attention, bias: Tensor) -> None:
        super().__init__()
        self.attention, self.bias = attention, bias

    def forward(self, x: Tensor, first: Tensor | None = None) -> Tensor:
        """x [N, T, F] -> [N, T, F], of one history a row, padded at its end."""
        q, k, v = (part.transpose(1, 2) for part in self.attention._project(x))  # [N, H, T, D]
        bias = self.bias[:, : x.shape[1], : x.shape[1]].to(x.device)
        score = q @ k.transpose(2, 3) / q.shape[-1] ** 0.5 + bias
        return self.attention.out_proj((score.softmax(dim=-1) @ v).transpose(1, 2).flatten(2))


def causal_bias(heads: int, length: int, device: torch.device | str = "cpu") -> Tensor:
    """ALiBi's bias and the causal mask, [H, T, T]."""
    step = torch.arange(length, device=device)
    distance = step[:, None] - step[None, :]
    slopes = torch.tensor(alibi_slopes(heads), device=device)[:, None, None]
    return (-slopes * distance).masked_fill(distance < 0, -math.inf)


@contextlib.contextmanager
def written_out(transformer: Transformer, bias: Tensor) -> Iterator[None]:
    """A block in which the transformer's attention is `DenseAttention`, of histories no longer than ``bias``."""
    for block in transformer.blocks:
        block.attention = DenseAttention(block.attention, bias)
    try:
        yield
    finally:
        for block in transformer.blocks:
            block.attention = block.attention.attention


@torch.inference_mode()
def plain_action(model: Vintix, task_name: str, history: dict[str, Tensor], bias: Tensor) -> Tensor:
    """The action [A] after a history, `Vintix.encode`'s arguments with T rows each; bias: see `causal_bias`."""
    with written_out(model.transformer, bias):
        return model(task_name, **{name: rows[None] for name, rows in history.items()})[0, -1]


def plain_steps_per_s(model: Vintix, task_name: str, task: WalkingTask, context_len: int, steps: int) -> float:
    """Environment steps/s of the plain way in one environment, with a history of ``context_len`` steps."""
    observation, device = task.reset(), task.device
    history = {
        "observation": observation.repeat(context_len, 1),
        "prev_action": torch.zeros(context_len, model.tasks[task_name].action_dim, device=device),
        "prev_reward": torch.zeros(context_len, device=device),
        "step_num": torch.arange(context_len, device=device),
    }
    bias = causal_bias(model.config.transformer_heads, context_len, device)
    for step in range(WARM_UP + steps):
        if step == WARM_UP:
            started = time.perf_counter()
        action = plain_action(model, task_name, history, bias)[None]
        result = task.step(action)
        latest = (result.observation, action, result.reward, history["step_num"][-1:] + 1)
        for name, row in zip(history, latest, strict=True):
            history[name] = torch.cat([history[name][1:], row])
    return steps / (time.perf_counter() - started)
