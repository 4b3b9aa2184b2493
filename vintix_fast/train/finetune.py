"""Fine-tune one group's encoders and decoder by next-action prediction; the rest of the model is constant.

Data flows windows -> model -> weighted squared error -> AdamW.  Knows nothing about where targets come from, nor how
the constant transformer is computed (``frozen.py``).  How long it lasts and how large its steps are depends on what was
measured so far and on nothing else, so that a resumed training decides as an unbroken one.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import astuple, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vintix_fast.config import FinetuneConfig
from vintix_fast.data.windows import Windows
from vintix_fast.model import Vintix, freeze_all_but_group
from vintix_fast.service.device import multiplies_bf16
from vintix_fast.service.errors import InputFileError, Interrupted, VintixFastError, cause
from vintix_fast.service.files import load_tensors, save_tensors
from vintix_fast.service.interrupt import check_interrupt
from vintix_fast.service.memory import keep_freed_memory
from vintix_fast.service.regions import region
from vintix_fast.service.upload import upload
from vintix_fast.train.captured import Captured
from vintix_fast.train.graph import compiles
from vintix_fast.train.losses import Drawn, Loss, adapter_loss, autocast, decoder_loss

SAVE_EVERY_S = 60.0
HELD_OUT_BATCHES = 3
CHECK_EVERY = 20
"""Steps between two measurements of the loss of what is held out."""
SMALL_GAIN = 0.02
"""Two checks that lowered that loss by less than this part of the first one's: little is left to learn."""
COOLING_STEPS = 20
"""Then so many steps more, ever smaller ones."""


@dataclass(frozen=True)
class TrainingStep:
    """What one optimiser step gave."""

    step: int
    loss: float
    grad_norm: float
    lr: float
    held_out: float | None = None
    """Loss of what is held out, where it was measured before this step."""


def cooling_from(held_out: list[float], most: int) -> int:
    """The step from which on the learning rate falls to the end, `COOLING_STEPS` later.

    Args:
        held_out: losses of what is held out, before every `CHECK_EVERY`-th step from the first.
        most: steps that a training may take.
    """
    for check in range(3, len(held_out)):
        if held_out[check - 2] - held_out[check] < SMALL_GAIN * held_out[0]:
            return min(check * CHECK_EVERY, max(0, most - COOLING_STEPS))
    return max(0, most - COOLING_STEPS)


def learning_rate(step: int, config: Any, cooling: int | None = None) -> float:
    """Linear warm-up to ``lr``, then down to ``final_lr_fraction`` of it.

    Args:
        step: from 0.
        config: has `FinetuneConfig`'s ``steps``, ``lr``, ``warmup_steps``, ``final_lr_fraction``.
        cooling: the step at which the fall begins, linear over `COOLING_STEPS`; None: at once, as a cosine that ends
            with the last of ``steps``.
    """
    floor = config.final_lr_fraction
    if cooling is not None:
        warm = min(1.0, (step + 1) / min(config.warmup_steps, CHECK_EVERY))
        fall = min(1.0, max(0, step + 1 - cooling) / COOLING_STEPS)
        return config.lr * warm * (1.0 - (1.0 - floor) * fall)
    warmup = min(config.warmup_steps, max(1, config.steps // 10))
    if step < warmup:
        return config.lr * (step + 1) / warmup
    progress = (step - warmup) / max(1, config.steps - 1 - warmup)
    return config.lr * (floor + (1.0 - floor) * 0.5 * (1.0 + math.cos(math.pi * progress)))


def descend(
    loss: torch.Tensor, optimiser: torch.optim.Optimizer, step: int, config: Any, cooling: int | None = None
) -> TrainingStep:
    """One optimiser step down the gradient of ``loss``, clipped, at the schedule's learning rate.

    Args:
        config: see `learning_rate`; and ``max_grad_norm``.
        cooling: see `learning_rate`.

    Raises:
        VintixFastError: the loss or its gradient is not finite.
    """
    lr = learning_rate(step, config, cooling)
    for group in optimiser.param_groups:
        group["lr"] = lr
    optimiser.zero_grad(set_to_none=True)
    with region("backward"):
        loss.backward()
    parameters = [parameter for group in optimiser.param_groups for parameter in group["params"]]
    grad_norm = torch.nn.utils.clip_grad_norm_(parameters, config.max_grad_norm)
    entry = _finite(TrainingStep(step, float(loss.detach()), float(grad_norm), lr), config)
    with region("optimise"):
        optimiser.step()
    return entry


def _finite(entry: TrainingStep, config: Any) -> TrainingStep:
    if not math.isfinite(entry.loss + entry.grad_norm):
        raise VintixFastError(
            f"training diverged at step {entry.step}: loss {entry.loss}, gradient norm {entry.grad_norm}; "
            f"begin anew (--overwrite, or another --output-dir) with a smaller --lr than {config.lr}"
        )
    return entry


def with_precision(config: FinetuneConfig, device: torch.device | str) -> FinetuneConfig:
    """The configuration with ``bf16`` decided, where it is not, by what the device multiplies."""
    return config if config.bf16 is not None else replace(config, bf16=multiplies_bf16(device))


def finetune(
    model: Vintix,
    task_name: str,
    windows: Windows,
    config: FinetuneConfig,
    seed: int,
    on_step: Callable[[TrainingStep], None] = lambda step: None,
    state_file: Path | None = None,
) -> list[TrainingStep]:
    """Train the task's group in place, until what is held out of ``windows`` gains little more, or ``config.steps``.

    Where nothing is held out all ``config.steps`` are taken.

    Args:
        model: stays in eval mode, so that the frozen transformer has no dropout.
        seed: of the order of windows; the same seed gives the same weights on the same machine.
        on_step: called after every step; may raise to stop.
        state_file: saved once a minute and when the training is stopped; where it exists, training goes on from it, and
            gives what an unbroken one would, bit for bit. The caller deletes it in the end.

    Raises:
        VintixFastError: the loss is not finite, or the disk refuses.
        InputFileError: the state file is broken.
    """
    # Only the group's parameters, or its decoder's, get gradients.
    keep_freed_memory()
    config = with_precision(config, model.device)
    model.eval()
    group = model.tasks[task_name].group_name
    parameters = freeze_all_but_group(model, group)
    if config.train == "decoder":
        parameters = list(model.head.acs_decoders[group].parameters())
        model.encoder.requires_grad_(False)
    # On CUDA the whole step is one graph, and the learning rate a tensor that it reads.
    on_cuda = model.device.type == "cuda"
    lr = torch.tensor(config.lr, device=model.device) if on_cuda else config.lr
    optimiser = torch.optim.AdamW(parameters, lr, weight_decay=0.0, fused=True, capturable=on_cuda)
    log = _go_on(state_file, parameters, optimiser)
    # What is drawn for a step depends on its number alone, so that a resumed training equals an unbroken one.
    make_loss = decoder_loss if config.train == "decoder" else adapter_loss
    draw, loss_of = make_loss(model, task_name, windows, config)
    take_step = (_captured if on_cuda else _eager)(loss_of, optimiser, config, model.device)
    # What is held out tells, every now and then, whether it is time to end.
    until_done = windows.holds_out
    unseen = [draw(np.random.default_rng([seed, n]), True) for n in range(HELD_OUT_BATCHES)] if until_done else []
    held_out = [entry.held_out for entry in log if entry.held_out is not None]

    saved = time.monotonic()
    for step in range(len(log), config.steps):
        cooling = None
        if until_done:
            if step % CHECK_EVERY == 0:
                held_out.append(_mean_loss(loss_of, unseen, config, model.device))
            cooling = cooling_from(held_out, config.steps)
            if step >= cooling + COOLING_STEPS:
                break
        with region("load"):
            drawn = draw(np.random.default_rng([seed, step]))
        measured = held_out[-1] if until_done and step % CHECK_EVERY == 0 else None
        log.append(replace(take_step(step, cooling, drawn), held_out=measured))
        # Whoever stops the training leaves the state that it goes on from.
        try:
            on_step(log[-1])
            check_interrupt()
        except (Interrupted, KeyboardInterrupt):
            _save(state_file, parameters, optimiser, log)
            raise
        if time.monotonic() - saved > SAVE_EVERY_S:
            _save(state_file, parameters, optimiser, log)
            saved = time.monotonic()
    return log


TakeStep = Callable[[int, int | None, Drawn], TrainingStep]
"""Of the step's number, the step from which on the learning rate falls, and what was drawn."""


def _eager(loss_of: Loss, optimiser: torch.optim.Optimizer, config: FinetuneConfig, device: torch.device) -> TakeStep:
    def take_step(step: int, cooling: int | None, drawn: Drawn) -> TrainingStep:
        with region("forward"), autocast(config, device):
            loss = loss_of(*drawn)
        return descend(loss, optimiser, step, config, cooling)

    return take_step


def _mean_loss(loss_of: Loss, batches: list[Drawn], config: FinetuneConfig, device: torch.device) -> float:
    """Of what was drawn, before anything is learnt of it."""
    # A graph compiled for training would be compiled anew without gradients.
    with torch.set_grad_enabled(compiles(config.compile, device)), autocast(config, device):
        losses = [loss_of(*(upload(x, device) if x is not None else None for x in drawn)) for drawn in batches]
        return float(torch.stack(losses).mean())


def _captured(
    loss_of: Loss, optimiser: torch.optim.Optimizer, config: FinetuneConfig, device: torch.device
) -> TakeStep:
    """`_eager` on CUDA, from one graph, which spoils the weights before anybody can see that the loss is not finite."""
    (group,) = optimiser.param_groups

    def descend_once(lr: torch.Tensor, *drawn: torch.Tensor) -> torch.Tensor:
        group["lr"].copy_(lr)
        with autocast(config, device):
            loss = loss_of(*drawn)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        grad_norm = torch.nn.utils.clip_grad_norm_(group["params"], config.max_grad_norm)
        optimiser.step()
        return torch.stack([loss.detach(), grad_norm])

    run = Captured(descend_once)

    def take_step(step: int, cooling: int | None, drawn: Drawn) -> TrainingStep:
        lr = learning_rate(step, config, cooling)
        with region("step"):
            loss, grad_norm = run(*(upload(x, device) for x in (torch.tensor(lr), *drawn) if x is not None)).tolist()
        return _finite(TrainingStep(step, loss, grad_norm, lr), config)

    return take_step


def _save(
    path: Path | None, parameters: list[torch.nn.Parameter], optimiser: torch.optim.Optimizer, log: list[TrainingStep]
) -> None:
    if path is not None:
        steps = [astuple(entry) for entry in log]
        save_tensors(path, {"parameters": parameters, "optimiser": optimiser.state_dict(), "log": steps})


def _go_on(
    path: Path | None, parameters: list[torch.nn.Parameter], optimiser: torch.optim.Optimizer
) -> list[TrainingStep]:
    """Take over what an interrupted training saved, if it did; returns its steps."""
    if path is None or not path.is_file():
        return []
    anew = "delete it, and this loop's fine-tuning begins anew"
    state = load_tensors(path, str(parameters[0].device), anew)
    try:
        with torch.no_grad():
            for parameter, saved in zip(parameters, state["parameters"], strict=True):
                parameter.copy_(saved)
        optimiser.load_state_dict(state["optimiser"])
        return [TrainingStep(*entry) for entry in state["log"]]
    except (ValueError, KeyError, TypeError, RuntimeError) as error:
        raise InputFileError(f"{path} is broken ({cause(error)}); {anew}") from error
