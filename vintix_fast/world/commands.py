"""The commands that N robots are to walk by: one for all, or drawn for each episode and again while it lasts.

Owns their random numbers, drawn on the CPU, so that a seed means the same on every device.  Knows no robot.
"""

from __future__ import annotations

import zlib

import torch

from vintix_fast.service.upload import upload
from vintix_fast.world.starts import BLOCK
from vintix_fast.world.task_config import TaskConfig

STRIDE = 17
"""From a command to the episode's next in the block of draws: not the next episode's."""


class Commands:
    """Commands [N, 3]; the k-th of an environment's n-th episode is alike whatever happened before.

    Args:
        config: the range, and when it is drawn from again.
        num_envs: N.
        dt_s: time of a step.
        device: of `values`.
    """

    def __init__(self, config: TaskConfig, num_envs: int, dt_s: float, device: torch.device) -> None:
        self._centre, self._spread = torch.tensor([config.command, config.command_spread], device=device)
        self.values = self._centre.repeat(num_envs, 1)  # [N, 3] forward and lateral m/s, yaw rad/s
        self._every = max(1, round(config.resample_s / dt_s)) if config.resample_s else 0
        self._number = torch.zeros(num_envs, dtype=torch.long, device=device)  # of the running episode
        self._env = torch.arange(num_envs, device=device)

    def seed(self, seed: int) -> None:
        """What is drawn from here on depends on ``seed`` alone."""
        self._number.fill_(-1)
        generator = torch.Generator().manual_seed(seed ^ zlib.crc32(b"commands"))
        share = 2.0 * torch.rand(BLOCK, *self.values.shape, generator=generator) - 1.0
        self._block = upload(share.flatten(0, 1), self.values.device)  # [BLOCK * N, 3]

    def begin(self, mask: torch.Tensor) -> None:
        """Commands of the episodes that begin in ``mask``, bool [N]."""
        self._number += mask
        self._draw(mask, self._number)

    def again(self, step_num: torch.Tensor) -> torch.Tensor | None:
        """New commands where their time has come; where that is, bool [N], None where it never comes.

        Args:
            step_num: [N], steps done in the running episodes.
        """
        if not self._every:
            return None
        mask = (step_num > 0) & (step_num % self._every == 0)
        self._draw(mask, self._number + STRIDE * (step_num // self._every))
        return mask

    def _draw(self, mask: torch.Tensor, turn: torch.Tensor) -> None:
        share = self._block.index_select(0, turn.long() % BLOCK * len(self._env) + self._env)
        torch.where(mask[:, None], self._centre + self._spread * share, self.values, out=self.values)
