"""Fine-tune one group's encoders and decoder by next-action prediction; the rest of the model is constant.

Data flows windows -> model -> weighted squared error -> AdamW.  Knows nothing about where targets come from.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vintix_fast.data.windows import Batch, Windows
from vintix_fast.errors import VintixFastError
from vintix_fast.model import Vintix, freeze_all_but_group
from vintix_fast.model.transformer import Transformer
from vintix_fast.train.frozen import frozen


@dataclass(frozen=True)
class FinetuneConfig:
    """One loop's fine-tuning.  No weight decay: it would pull the copied adapter towards 0."""

    steps: int = 1000
    batch_size: int = 4
    lr: float = 1e-4
    warmup_steps: int = 50
    final_lr_fraction: float = 0.1
    max_grad_norm: float = 1.0
    decoder_only: bool = False
    """Train the action decoder alone, not the encoders."""
    bf16: bool = False
    """Multiply matrices in bfloat16; weights and optimiser stay in float32."""


@dataclass(frozen=True)
class TrainingStep:
    """What one optimiser step gave."""

    step: int
    loss: float
    grad_norm: float
    lr: float


def learning_rate(step: int, config: Any) -> float:
    """Linear warm-up to ``lr``, then cosine decay to ``final_lr_fraction`` of it at the last step.

    Args:
        config: has `FinetuneConfig`'s ``steps``, ``lr``, ``warmup_steps``, ``final_lr_fraction``.
    """
    warmup = min(config.warmup_steps, max(1, config.steps // 10))
    if step < warmup:
        return config.lr * (step + 1) / warmup
    progress = (step - warmup) / max(1, config.steps - 1 - warmup)
    floor = config.final_lr_fraction
    return config.lr * (floor + (1.0 - floor) * 0.5 * (1.0 + math.cos(math.pi * progress)))


def descend(loss: torch.Tensor, optimiser: torch.optim.Optimizer, step: int, config: Any) -> TrainingStep:
    """One optimiser step down the gradient of ``loss``, clipped, at the schedule's learning rate.

    Args:
        config: see `learning_rate`; and ``max_grad_norm``.

    Raises:
        VintixFastError: the loss or its gradient is not finite.
    """
    lr = learning_rate(step, config)
    for group in optimiser.param_groups:
        group["lr"] = lr
    optimiser.zero_grad(set_to_none=True)
    loss.backward()
    parameters = [parameter for group in optimiser.param_groups for parameter in group["params"]]
    grad_norm = torch.nn.utils.clip_grad_norm_(parameters, config.max_grad_norm)
    entry = TrainingStep(step, float(loss.detach()), float(grad_norm), lr)
    if not math.isfinite(entry.loss + entry.grad_norm):
        raise VintixFastError(
            f"training diverged at step {step}: loss {entry.loss}, gradient norm {entry.grad_norm}; "
            f"try a smaller --lr than {config.lr}"
        )
    optimiser.step()
    return entry


def multiplies_bf16(device: torch.device | str) -> bool:
    """Whether the device has instructions for bfloat16, without which float32 is faster."""
    if torch.device(device).type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    try:
        return "avx512_bf16" in Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return False


def action_loss(
    model: Vintix, task_name: str, batch: Batch, transformer: Transformer | None = None, bf16: bool = False
) -> torch.Tensor:
    """Weighted mean over the tokens of the squared action error, averaged over the action's dimensions.

    Args:
        transformer: in the model's place, see `frozen`; None: the model's.
        bf16: multiply matrices in bfloat16.
    """
    with torch.autocast(model.device.type, torch.bfloat16, enabled=bf16):
        token = model.encode(task_name, batch.observation, batch.prev_action, batch.prev_reward, batch.step_num)
    if transformer is None or not bf16:
        with torch.autocast(model.device.type, torch.bfloat16, enabled=bf16):
            hidden = (transformer or model.transformer)(token)
    else:
        hidden = transformer(token.bfloat16())
    with torch.autocast(model.device.type, torch.bfloat16, enabled=bf16):
        predicted = model.act(task_name, hidden)
    error = (predicted.float() - batch.target).square().mean(dim=-1)  # [B, L]
    return (error * batch.weight).sum() / batch.weight.sum().clamp_min(1e-8)


def finetune(
    model: Vintix,
    task_name: str,
    windows: Windows,
    config: FinetuneConfig,
    seed: int,
    on_step: Callable[[TrainingStep], None] = lambda step: None,
) -> list[TrainingStep]:
    """Train the task's group in place.

    Args:
        model: stays in eval mode, so that the frozen transformer has no dropout.
        seed: of the order of windows; the same seed gives the same weights on the same machine.
        on_step: called after every step; may raise to stop.

    Raises:
        VintixFastError: the loss is not finite.
    """
    model.eval()
    group = model.tasks[task_name].group_name
    parameters = freeze_all_but_group(model, group)
    if config.decoder_only:
        parameters = list(model.head.acs_decoders[group].parameters())
        model.encoder.requires_grad_(False)
    optimiser = torch.optim.AdamW(parameters, lr=config.lr, weight_decay=0.0)
    transformer = frozen(model.transformer, config.bf16)
    rng = np.random.default_rng(seed)
    log = []
    for step in range(config.steps):
        batch = windows.batch(config.batch_size, rng)
        loss = action_loss(model, task_name, batch, transformer, config.bf16)
        entry = descend(loss, optimiser, step, config)
        log.append(entry)
        on_step(entry)
    return log
