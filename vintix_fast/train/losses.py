"""What fine-tuning descends: the error of the adapter's actions on windows, of whole models or of the decoder alone.

A loss comes with what draws its windows, on the CPU, so that a step is about a few numbers only.  Knows nothing about
optimisers, nor about where targets come from.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np
import torch

from vintix_fast.config import FinetuneConfig
from vintix_fast.data.windows import Batch, Windows
from vintix_fast.model import Vintix
from vintix_fast.service.upload import upload
from vintix_fast.train import compiled
from vintix_fast.train.frozen import frozen, hidden_states
from vintix_fast.train.graph import compiles, of_any_size, one_graph


def action_loss(
    model: Vintix, task_name: str, batch: Batch, transformer: torch.nn.Module | None = None
) -> torch.Tensor:
    """Weighted mean over the tokens of the squared action error, averaged over the action's dimensions.

    Args:
        transformer: in the model's place, see `frozen`; None: the model's.
    """
    hidden = _hidden(model, task_name, batch, transformer or model.transformer)
    return weighted_error(model.act(task_name, hidden), batch.target, batch.weight)


def _hidden(model: Vintix, task_name: str, batch: Batch, transformer: torch.nn.Module) -> torch.Tensor:
    # On a CPU the encoders are float32: torch's layer norm would sum its gradients in bfloat16, and they cost nothing.
    with torch.autocast("cpu", enabled=False):
        token = model.encode(task_name, batch.observation, batch.prev_action, batch.prev_reward, batch.step_num)
    return transformer(token, batch.first)


def weighted_error(action: torch.Tensor, target: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """action, target [..., A], weight [...] -> scalar."""
    error = (action.float() - target).square().mean(dim=-1)
    return (error * weight).sum() / weight.sum().clamp_min(1e-8)


Drawn = tuple[torch.Tensor | None, ...]
"""What a step is about, on the CPU; on CUDA always of the same shapes."""
Draw = Callable[..., Drawn]
"""Of a random generator, and whether of what is held out."""
Loss = Callable[..., torch.Tensor]
"""Of what was drawn, once that is where the model is."""


def adapter_loss(model: Vintix, task_name: str, windows: Windows, config: FinetuneConfig) -> tuple[Draw, Loss]:
    transformer = frozen(model.transformer, bool(config.bf16))
    one_shape = model.device.type == "cuda"
    as_graph = bool(config.bf16) and compiles(config.compile, model.device)

    def draw(rng: np.random.Generator, held_out: bool = False) -> Drawn:
        token, first = windows.lay_out(config.batch_size, rng, pack=True, full_size=one_shape, held_out=held_out)
        if as_graph and not one_shape:
            return of_any_size(token, 0, 1), of_any_size(first, 0, 1)
        return token, first if one_shape or first.any() else None

    core_loss = _core_loss(model, task_name, config)
    loss = functools.partial(loss_of_windows, model, task_name, transformer, core_loss, windows)
    if as_graph:
        for column in windows.columns:
            of_any_size(column, 0)
        example = [upload(x, model.device) for x in draw(np.random.default_rng(0)) if x is not None]
        with autocast(config, model.device):
            return draw, one_graph(loss, example, required=config.compile == "on")
    return draw, loss


def loss_of_windows(
    model: Vintix, task_name: str, transformer: torch.nn.Module, core_loss: compiled.DecoderLoss | None,
    windows: Windows, token: torch.Tensor, first: torch.Tensor | None,
) -> torch.Tensor:  # fmt: skip
    """The loss of what `Windows.lay_out` gave; no object but its arguments, so that it can be compiled once."""
    batch = windows.gather(token, first)
    if core_loss is None:
        return action_loss(model, task_name, batch, transformer)
    hidden = _hidden(model, task_name, batch, transformer).flatten(0, 1)
    return core_loss(hidden, batch.target.flatten(0, 1), batch.weight.flatten())


def decoder_loss(model: Vintix, task_name: str, windows: Windows, config: FinetuneConfig) -> tuple[Draw, Loss]:
    """The decoder sees constants: the transformer runs once over everything."""
    hidden = hidden_states(model, task_name, windows, bool(config.bf16))
    one_shape = model.device.type == "cuda"

    def draw(rng: np.random.Generator, held_out: bool = False) -> Drawn:
        rows = windows.rows(config.batch_size, rng, held_out)
        missing = config.batch_size * windows.window_len - len(rows) if one_shape else 0
        return (torch.nn.functional.pad(rows, (0, missing), value=-1),)

    core_loss = _core_loss(model, task_name, config)
    if core_loss is not None:
        hidden = hidden.bfloat16()

    def loss(rows: torch.Tensor) -> torch.Tensor:
        if core_loss is not None:
            return core_loss(hidden, windows.target, windows.weight, rows)
        weight = windows.weight[rows] * (rows >= 0)  # -1 is a transition too
        return weighted_error(model.act(task_name, hidden[rows]), windows.target[rows], weight)

    return draw, loss


def _core_loss(model: Vintix, task_name: str, config: FinetuneConfig) -> compiled.DecoderLoss | None:
    """Of the decoder's actions, where the compiled core computes it."""
    decoder = model.head.acs_decoders[model.tasks[task_name].group_name].layers
    if not config.bf16 or not compiled.fits_decoder(decoder):
        return None
    return compiled.DecoderLoss(decoder, *model.action_units(task_name))


def autocast(config: FinetuneConfig, device: torch.device) -> torch.autocast:
    # A graph cannot hold what was cast before it was captured.
    return torch.autocast(device.type, torch.bfloat16, enabled=bool(config.bf16), cache_enabled=device.type != "cuda")
