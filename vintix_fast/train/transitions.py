"""What was collected, as the critic sees it: starts of n-step returns that never leave their episode.

Data flows histories -> flat tensors.  Knows nothing about networks or about the policy that collected.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from vintix_fast.data import History
from vintix_fast.errors import VintixFastError


@dataclass(frozen=True)
class Transitions:
    """Everything that was collected, flat: M starts of n-step returns."""

    state: torch.Tensor  # [M, O + A]: observation and the action before it, which the latency makes part of the state
    action: torch.Tensor  # [M, A] executed
    reward: torch.Tensor  # [M] discounted sum of the rewards up to the bootstrap
    next_state: torch.Tensor  # [M, O + A] where the return is bootstrapped
    next_mean_action: torch.Tensor  # [M, A] what the policy meant to do there
    discount: torch.Tensor  # [M] of the bootstrap; 0 where the robot fell before it


def states(history: History) -> np.ndarray:
    """Observation and last action of each step, [n, O + A]; the last action is 0 at an episode's start."""
    last = np.roll(history.action, 1, axis=0)
    last[history.step_num == 0] = 0.0
    return np.concatenate([history.observation, last], axis=1)


def transitions(histories: list[History], config, device: torch.device | str = "cpu") -> Transitions:
    """Flatten histories into n-step returns that never leave their episode.

    A fall ends a return without a bootstrap.  At a time-out, a simulation failure or the end of a stream the step's
    successor is unknown, so that returns are bootstrapped at the last step itself.
    """
    parts = []
    for h in histories:
        index, reward = np.arange(len(h)), config.reward_scale * h.reward + config.reward_bonus
        fell = h.extras["terminated"].astype(bool) & ~h.extras["failed"].astype(bool)
        end = np.zeros(len(h), dtype=np.int64)  # where the bootstrap may be at the latest
        for first, stop in h.episodes():
            end[first:stop] = stop if fell[stop - 1] else stop - 1
        length = np.minimum(config.n_steps, end - index)
        total, factor = np.zeros(len(h), np.float32), 1.0
        for k in range(config.n_steps):
            inside = length > k
            total[inside] += factor * reward[index[inside] + k]
            factor *= config.gamma
        bootstrap = np.minimum(index + length, len(h) - 1)
        fallen = (index + length == end) & fell[np.maximum(end - 1, 0)] & (end > 0)
        discount = np.where(fallen, 0.0, config.gamma**length).astype(np.float32)
        state, mean, keep = states(h), h.extras["mean_action"], length > 0
        parts.append([column[keep] for column in (state, h.action, total, state[bootstrap], mean[bootstrap], discount)])
    if not any(len(part[0]) for part in parts):
        raise VintixFastError(
            "no step of any episode has a successor to learn from; are episodes one step long, or did all of them fail?"
        )
    return Transitions(*(torch.from_numpy(np.concatenate(column)).to(device) for column in zip(*parts, strict=True)))
