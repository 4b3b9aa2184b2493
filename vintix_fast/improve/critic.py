"""A twin critic: the value of deviating from what the policy meant to do, fitted to its own transitions.

An instrument: it lives beside the loop and is thrown away at the end; the result is an ordinary checkpoint.  Expected
SARSA (van Seijen et al. 2009): the next action is what the policy meant to do, plus a little noise; clipped by nothing,
averaged over two target networks.  What is done with its values is `operators.py`'s.

Data flows histories -> `transitions`, starts of n-step returns that never leave their episode -> `Critic`.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from vintix_fast.config import CriticConfig
from vintix_fast.data import History
from vintix_fast.data.schema import VARIATION
from vintix_fast.improve.twins import TwinQ
from vintix_fast.service.device import multiplies_bf16
from vintix_fast.service.errors import VintixFastError
from vintix_fast.service.interrupt import check_interrupt
from vintix_fast.service.upload import upload
from vintix_fast.train.captured import Captured

REPORT_EVERY = 20
SMALLEST_STD = 1e-2
"""A dimension that never varied (the command) must not be divided by its deviation."""


@dataclass(frozen=True)
class Transitions:
    """Everything that was collected, flat: M starts of n-step returns."""

    state: torch.Tensor  # [M, S], see `states`
    deviation: torch.Tensor  # [M, A] of the executed action from what the policy meant to do
    reward: torch.Tensor  # [M] discounted sum of the rewards up to the bootstrap
    next_state: torch.Tensor  # [M, S] where the return is bootstrapped
    discount: torch.Tensor  # [M] of the bootstrap; 0 where the robot fell before it


def states(history: History) -> np.ndarray:
    """What a critic is told of each step, [n, S = O + 2 A]: observation, last action, what the policy meant to do now.

    Where robots differ, also how, [n, S + values]: the critic is thrown away, and the policy is not told.

    The last action, 0 at an episode's start, is part of the state because of the task's latency.  What the policy meant
    to do is, because it depends on its whole context: among equal observations it tells of what they hide, such as the
    speed.  Without it a critic would blame an action for the situation in which it was chosen (confounding); given it,
    whatever is left of the executed action is exploration noise, which depends on nothing.
    """
    last = np.roll(history.action, 1, axis=0)
    last[history.step_num == 0] = 0.0
    parts = [history.observation, last, history.extras["mean_action"]]
    if VARIATION in history.extras:
        parts.append(history.extras[VARIATION])
    return np.concatenate(parts, axis=1)


def transitions(histories: list[History], config: Any, device: torch.device | str = "cpu") -> Transitions:
    """Flatten histories into n-step returns that never leave their episode.

    A fall ends a return without a bootstrap.  At a time-out, a simulation failure or the end of a stream the step's
    successor is unknown, so that returns are bootstrapped at the last step itself.

    Args:
        histories: with the extras ``mean_action``, ``terminated`` and ``failed``.
        config: has `CriticConfig`'s ``gamma``, ``n_steps``, ``reward_scale``, ``reward_bonus``.
        device: where the tensors go.

    Raises:
        VintixFastError: no step has a successor to learn from.
    """
    parts = []
    for h in histories:
        index, reward = np.arange(len(h)), config.reward_scale * h.reward + config.reward_bonus
        fell = h.extras["terminated"].astype(bool) & ~h.extras["failed"].astype(bool)
        end = np.zeros(len(h), dtype=np.int64)  # where the bootstrap may be at the latest
        for first, stop in h.episodes():
            end[first:stop] = stop if fell[stop - 1] else stop - 1
        # Discounted rewards of n steps, or of as many as there are up to there.
        length = np.minimum(config.n_steps, end - index)
        total, factor = np.zeros(len(h), np.float32), 1.0
        for k in range(config.n_steps):
            inside = length > k
            total[inside] += factor * reward[index[inside] + k]
            factor *= config.gamma
        # A return that ends in a fall has no value after it; a start without a successor teaches nothing.
        bootstrap = np.minimum(index + length, len(h) - 1)
        fallen = (index + length == end) & fell[np.maximum(end - 1, 0)] & (end > 0)
        discount = np.where(fallen, 0.0, config.gamma**length).astype(np.float32)
        state, deviation, keep = states(h), h.action - h.extras["mean_action"], length > 0
        parts.append([column[keep] for column in (state, deviation, total, state[bootstrap], discount)])
    if not any(len(part[0]) for part in parts):
        raise VintixFastError(
            "no step of any episode has a successor to learn from; are episodes one step long, or did all of them fail?"
        )
    return Transitions(*(torch.from_numpy(np.concatenate(column)).to(device) for column in zip(*parts, strict=True)))


class Critic:
    """Values of what was collected.

    Args:
        data: to learn from.
        seed: of the networks and the batches.
        on_step: called now and then with the number of updates done and the loss; may raise to stop.
    """

    def __init__(
        self, data: Transitions, config: CriticConfig, seed: int, on_step: Callable[[int, float], None]
    ) -> None:
        self._mean, self._std = data.state.mean(dim=0), data.state.std(dim=0, unbiased=False).clamp_min(SMALLEST_STD)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            # On CUDA the products are a small part of a step.
            bf16 = data.state.device.type == "cpu" and multiplies_bf16("cpu")
            sizes = data.state.shape[1], data.deviation.shape[1], config.hidden
            self._twins = TwinQ(*sizes, bf16).to(data.state.device)
        self.loss = self._fit(data, config, torch.Generator().manual_seed(seed), on_step)

    def values(self, state: torch.Tensor, deviation: torch.Tensor) -> torch.Tensor:
        """The smaller of the twins' values [B] of deviations [B, A] in states [B, S] (arXiv 1802.09477)."""
        return self._twins(self._normalise(state), deviation).amin(dim=0)

    def gradient(self, state: torch.Tensor, deviation: torch.Tensor) -> torch.Tensor:
        """Of the values, [B, A]."""
        deviation = deviation.detach().requires_grad_(True)
        (gradient,) = torch.autograd.grad(self.values(state, deviation).sum(), deviation)
        return gradient

    def states(self, history: History) -> torch.Tensor:
        """A history's states [n, S], where the critic lives."""
        return torch.from_numpy(states(history)).to(self._mean.device)

    def _normalise(self, state: torch.Tensor) -> torch.Tensor:
        return (state - self._mean) / self._std

    def _fit(
        self, data: Transitions, config: CriticConfig, generator: torch.Generator, on_step: Callable[[int, float], None]
    ) -> float:
        """Returns the mean loss of the last updates."""
        # The target networks follow slowly, so that values are not learnt from their own latest errors.
        target = copy.deepcopy(self._twins).requires_grad_(False)
        # One matrix, so that a batch is taken in one go.
        columns = self._normalise(data.state), self._normalise(data.next_state), data.deviation
        sizes = [column.shape[1] for column in columns]
        everything = torch.cat([*columns, data.reward[:, None], data.discount[:, None]], dim=1)
        device, losses = everything.device, []
        on_cuda = device.type == "cuda"
        optimiser = torch.optim.AdamW(
            self._twins.parameters(), lr=config.lr, weight_decay=0.0, fused=True, capturable=on_cuda
        )

        def take_step(rows: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
            state, next_state, deviation, reward, discount = everything[rows].split([*sizes, 1, 1], dim=1)
            # Expected SARSA: the next action is the policy's own, a deviation of little noise.
            with torch.no_grad():
                next_value = target(next_state, config.next_action_noise * noise).mean(dim=0)
                value = reward[:, 0] + discount[:, 0] * next_value
            # Both twins are fitted to one value, so that they differ by their initial weights alone.
            loss = (self._twins(state, deviation) - value).square().mean()
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(self._twins.parameters(), 10.0)
            optimiser.step()
            with torch.no_grad():
                torch._foreach_lerp_(list(target.parameters()), list(self._twins.parameters()), config.polyak)
            return loss.detach()

        # A step is hundreds of launches on CUDA: a graph of them.  Losses are read back only now and then.
        run = Captured(take_step) if on_cuda else take_step
        for update in range(config.updates_for(len(everything))):
            check_interrupt()
            rows = torch.randint(len(everything), (config.batch_size,), generator=generator)
            noise = torch.randn(config.batch_size, data.deviation.shape[1], generator=generator)
            losses.append(run(upload(rows, device), upload(noise, device)))
            if update % REPORT_EVERY == REPORT_EVERY - 1:
                on_step(update + 1, float(losses[-1]))
        return float(torch.stack(losses[-200:]).mean())
