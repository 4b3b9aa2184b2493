"""Training windows cut from histories, padded and masked, never across two environments' streams.

Data flows histories + targets -> flat arrays -> batches [B, L, ...].  Knows nothing about files or the model.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from vintix_fast.data.trajectories import History
from vintix_fast.errors import VintixFastError


@dataclass(frozen=True)
class Targets:
    """What a history's policy should have done, step by step, and how much each step counts."""

    action: np.ndarray  # [n, A] float32
    weight: np.ndarray  # [n] float32, >= 0


@dataclass(frozen=True)
class Batch:
    """B windows of L tokens; slots past a window's end are zeros and have weight 0."""

    observation: torch.Tensor  # [B, L, O]
    prev_action: torch.Tensor  # [B, L, A]
    prev_reward: torch.Tensor  # [B, L]
    step_num: torch.Tensor  # [B, L]
    target: torch.Tensor  # [B, L, A]
    weight: torch.Tensor  # [B, L]


class Windows:
    """Random windows of ``window_len`` tokens, or of a whole history where that is shorter.

    A history is drawn with a probability proportional to the sum of its weights, a window in it uniformly.  With equal
    weights every transition is used about equally often; a history whose steps all count for nothing is never drawn.

    Args:
        histories: one continuous stream each.
        targets: for each history.
        window_len: most tokens in a window.
        device: where batches are delivered.

    Raises:
        VintixFastError: there is nothing to train on.
    """

    def __init__(
        self, histories: list[History], targets: list[Targets], window_len: int, device: torch.device | str = "cpu"
    ) -> None:
        columns: list[tuple[np.ndarray, ...]] = []
        for history, target in zip(histories, targets, strict=True):
            prev_action, prev_reward = np.roll(history.action, 1, axis=0), np.roll(history.reward, 1)
            prev_action[:1], prev_reward[:1] = 0.0, 0.0
            # A stream that begins inside an episode lacks its first token's previous action and reward.
            first = int((history.step_num[:1] != 0).any())
            rows = (history.observation, prev_action, prev_reward, history.step_num, target.action, target.weight)
            if len(history.reward) > first:
                columns.append(tuple(column[first:] for column in rows))
        if not columns:
            raise VintixFastError("there is nothing to train on: the histories hold no transitions")
        self.lengths = np.array([len(rows[0]) for rows in columns])
        mass = np.array([rows[5].sum(dtype=np.float64) for rows in columns])
        if not mass.any():
            raise VintixFastError("there is nothing to train on: every step has weight 0")
        self._probability = mass / mass.sum()
        self._offsets = np.concatenate([[0], np.cumsum(self.lengths)[:-1]])
        self._columns = [torch.from_numpy(np.concatenate(column)).to(device) for column in zip(*columns, strict=True)]
        self.window_len = window_len

    def batch(self, batch_size: int, rng: np.random.Generator, window_len: int | None = None) -> Batch:
        """Draw ``batch_size`` windows of at most ``window_len`` (None: this object's) tokens; L is the longest."""
        chosen = rng.choice(len(self.lengths), size=batch_size, p=self._probability)
        lengths = np.minimum(self.lengths[chosen], window_len or self.window_len)
        starts = rng.integers(0, self.lengths[chosen] - lengths + 1)
        slot = np.arange(lengths.max())
        inside = slot < lengths[:, None]  # [B, L]
        rows = np.where(inside, (self._offsets[chosen] + starts)[:, None] + slot, 0)
        device = self._columns[0].device
        index, mask = torch.from_numpy(rows).to(device), torch.from_numpy(inside).to(device)
        gathered = [column[index] for column in self._columns]
        padded = [g * mask.view(*mask.shape, *[1] * (g.dim() - 2)).to(g.dtype) for g in gathered]
        return Batch(*padded)
