"""The plain way of acting, to compare with: one environment, and for every action the whole history goes through the
model again, with dense attention: scores, softmax and sum written out."""

from __future__ import annotations

import math
import time

import torch

from vintix_fast.model import Vintix
from vintix_fast.model.layers import alibi_slopes
from vintix_fast.model.transformer import Attention
from vintix_fast.task import WalkingTask

WARM_UP = 2


def dense_attention(attention: Attention, x: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """x [T, F], bias [H, T, T] -> [T, F]."""
    q, k, v = attention.in_proj(x).unflatten(-1, (3, attention.heads, attention.head_dim)).permute(1, 2, 0, 3)
    if attention.normalize_qk:
        q, k = attention.q_norm(q), attention.k_norm(k)
    scores = q @ k.transpose(1, 2) / attention.head_dim**0.5 + bias  # q, k, v: [H, T, D]
    return attention.out_proj((scores.softmax(dim=-1) @ v).transpose(0, 1).flatten(1))


def causal_bias(heads: int, length: int, device: torch.device | str = "cpu") -> torch.Tensor:
    """ALiBi's bias and the causal mask, [H, T, T]."""
    step = torch.arange(length, device=device)
    distance = step[:, None] - step[None, :]
    slopes = torch.tensor(alibi_slopes(heads), device=device)[:, None, None]
    return (-slopes * distance).masked_fill(distance < 0, -math.inf)


@torch.inference_mode()
def plain_action(model: Vintix, task_name: str, history: dict[str, torch.Tensor], bias: torch.Tensor) -> torch.Tensor:
    """The action [A] after a history, `Vintix.encode`'s arguments with T rows each; bias: see `causal_bias`."""
    x = model.encode(task_name, **{name: rows[None] for name, rows in history.items()})[0]  # [T, F]
    for block in model.transformer.blocks:
        normed = block.norm1(x)
        x = block._finish(x, normed, dense_attention(block.attention, normed, bias))  # adds the MLP too
    return model.act(task_name, model.transformer.ln_f(x))[-1]


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
