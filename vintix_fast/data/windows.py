"""Training windows cut from histories, padded and masked, never across two environments' streams.

Data flows histories + targets -> flat arrays -> batches [B, L, ...].  Knows nothing about files or the model.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch

from vintix_fast.data.trajectories import History
from vintix_fast.service.errors import VintixFastError


@dataclass(frozen=True)
class Targets:
    """What a history's policy should have done, step by step, and how much each step counts."""

    action: np.ndarray  # [n, A] float32
    weight: np.ndarray  # [n] float32, >= 0


@dataclass(frozen=True)
class Batch:
    """R rows of L tokens, a window or several in each; slots that no window fills are zeros and have weight 0.

    Attention must not cross from one window of a row to the next: ``first`` tells where each token's begins (a slot
    that no window fills is one of its own). It is None where every row is one window and full.
    """

    observation: torch.Tensor  # [R, L, O]
    prev_action: torch.Tensor  # [R, L, A]
    prev_reward: torch.Tensor  # [R, L]
    step_num: torch.Tensor  # [R, L]
    target: torch.Tensor  # [R, L, A]
    weight: torch.Tensor  # [R, L]
    first: torch.Tensor | None = None  # [R, L] int32

    def told(self, reward: float, rows: np.ndarray | None = None) -> Batch:
        """The same, but in these rows (bool [R]; None: all) every step is told one reward in place of its last one."""
        mask = torch.from_numpy(np.ones(len(self.weight), bool) if rows is None else rows)[:, None]
        return replace(self, prev_reward=torch.where(mask.to(self.weight.device), reward, self.prev_reward))


class Windows:
    """Random windows of ``window_len`` tokens, or of a whole history where that is shorter.

    A history is drawn with a probability proportional to the sum of its weights, a window in it uniformly.  With equal
    weights every transition is used about equally often; a history whose steps all count for nothing is never drawn.

    Args:
        histories: one continuous stream each.
        targets: for each history.
        window_len: most tokens in a window.
        device: where batches are delivered.
        hold_out: keep every tenth history apart: windows are drawn of it only where that is asked for. Fewer than
            five histories are too few for that.

    Raises:
        VintixFastError: there is nothing to train on.
    """

    def __init__(
        self,
        histories: list[History],
        targets: list[Targets],
        window_len: int,
        device: torch.device | str = "cpu",
        hold_out: bool = False,
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
        # In the middle of each ten, since exploration grows with the history's number.
        held_out = (np.arange(len(mass)) % 10 == 4) & hold_out
        self.holds_out = bool(mass[held_out].any() and mass[~held_out].any())
        """Whether windows can be drawn of what is held out."""
        self._probability = mass / mass.sum()
        if self.holds_out:
            self._held_out = np.where(held_out, mass, 0.0) / mass[held_out].sum()
            self._probability = np.where(held_out, 0.0, mass) / mass[~held_out].sum()
        self._offsets = np.concatenate([[0], np.cumsum(self.lengths)[:-1]])
        self.columns = [torch.from_numpy(np.concatenate(column)).to(device) for column in zip(*columns, strict=True)]
        """Of all transitions, in the order of `Batch`."""
        self.window_len = window_len

    def draw(
        self, batch_size: int, rng: np.random.Generator, window_len: int | None = None, held_out: bool = False
    ) -> tuple[np.ndarray, np.ndarray]:
        """Draw windows: where each begins among all transitions, and its length, both [batch_size]."""
        chosen = rng.choice(len(self.lengths), size=batch_size, p=self._held_out if held_out else self._probability)
        lengths = np.minimum(self.lengths[chosen], window_len or self.window_len)
        return self._offsets[chosen] + rng.integers(0, self.lengths[chosen] - lengths + 1), lengths

    def batch(self, batch_size: int, rng: np.random.Generator, window_len: int | None = None) -> Batch:
        """Draw ``batch_size`` windows of at most ``window_len`` (None: this object's) tokens, each a row."""
        token, first = self.lay_out(batch_size, rng, window_len)
        device = self.columns[0].device
        full = not first.any()
        return self.gather(token.to(device), None if full else first.to(device))

    def lay_out(
        self,
        batch_size: int,
        rng: np.random.Generator,
        window_len: int | None = None,
        pack: bool = False,
        full_size: bool = False,
        held_out: bool = False,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Draw windows as `batch` does, and say which transition fills which slot, on the CPU.

        Args:
            pack: put short windows one after another into a row of at most ``window_len`` tokens; without, each is a
                row. The windows are the same.
            held_out: draw of what is held out.
            full_size: fill up to ``batch_size`` rows of ``window_len`` slots: one shape for every draw.

        Returns:
            Each slot's transition [R, L] int64, -1 where no window fills it; and `Batch.first`.
        """
        capacity = window_len or self.window_len
        starts, lengths = self.draw(batch_size, rng, window_len, held_out)
        row, begin = _pack(lengths, capacity) if pack else (np.arange(batch_size), 0 * lengths)
        shape = (batch_size, capacity) if full_size else (row.max() + 1, int((begin + lengths).max()))
        token = np.full(shape, -1, np.int64)
        first = np.tile(np.arange(shape[1], dtype=np.int32), (shape[0], 1))
        for r, at, start, length in zip(row, begin, starts, lengths, strict=True):
            token[r, at : at + length] = np.arange(start, start + length)
            first[r, at : at + length] = at
        return torch.from_numpy(token), torch.from_numpy(first)

    def gather(self, token: torch.Tensor, first: torch.Tensor | None) -> Batch:
        """The batch of what `lay_out` gave, moved to this object's device; without ``first`` every slot is filled."""
        if first is None:
            return Batch(*(column[token] for column in self.columns))
        filled, token = token >= 0, token.clamp_min(0)
        gathered = [column[token] for column in self.columns]
        kept = (g * filled.view(*filled.shape, *[1] * (g.dim() - 2)).to(g.dtype) for g in gathered)
        return replace(Batch(*kept), first=first)

    def rows(self, batch_size: int, rng: np.random.Generator, held_out: bool = False) -> torch.Tensor:
        """The transitions of ``batch_size`` windows, drawn as for `batch`, one after another: [n] positions."""
        drawn = zip(*self.draw(batch_size, rng, held_out=held_out), strict=True)
        positions = np.concatenate([np.arange(start, start + length) for start, length in drawn])
        return torch.from_numpy(positions)

    def sweep(self) -> Iterator[tuple[Batch, int]]:
        """All transitions in order, in windows that overlap by half.

        Yields:
            A batch of one window, and the position from which on its transitions have not come before.
        """
        half = -(-self.window_len // 2)
        for offset, length in zip(self._offsets, self.lengths, strict=True):
            done = 0
            while done < length:
                begin = max(0, done - half)
                stop = min(begin + self.window_len, length)
                yield Batch(*(column[None, offset + begin : offset + stop] for column in self.columns)), done - begin
                done = stop

    @property
    def target(self) -> torch.Tensor:
        """Of every transition, [transitions, A]."""
        return self.columns[4]

    @property
    def weight(self) -> torch.Tensor:
        """Of every transition, [transitions]."""
        return self.columns[5]


def _pack(lengths: np.ndarray, capacity: int) -> tuple[np.ndarray, np.ndarray]:
    """For each window a row, and where in it the window begins: the longest first, into the first row with room."""
    row, begin = np.zeros_like(lengths), np.zeros_like(lengths)
    used: list[int] = []
    for window in np.argsort(-lengths, kind="stable"):
        row[window] = next((r for r, u in enumerate(used) if u + lengths[window] <= capacity), len(used))
        if row[window] == len(used):
            used.append(0)
        begin[window] = used[row[window]]
        used[row[window]] += lengths[window]
    return row, begin
