"""What was collected, as the critic sees it: starts of n-step returns that never leave their episode.

Data flows histories -> flat tensors.  Knows nothing about networks or about the policy that collected.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from vintix_fast.data import History
from vintix_fast.data.schema import VARIATION
from vintix_fast.service.errors import VintixFastError


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
