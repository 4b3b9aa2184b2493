"""Exploration noise: AR(1) in time, a ladder of strengths over the environments.

One strength for all environments is either too little to learn from or enough to make every robot fall; a ladder has
both the careful and the bold.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
import torch

from vintix_fast.service.upload import upload

SMALLEST_SIGMA = 0.03
CORRELATION = 0.7
"""Correlation of one step's noise with the next one's."""
BLOCK = 256
"""Steps drawn at a time."""


def ladder(num_envs: int, largest: float) -> torch.Tensor:
    """Standard deviations [N] in action units: a fifth of the environments 0, the rest log-spaced up to ``largest``."""
    sigma = torch.zeros(num_envs)
    quiet = num_envs // 5
    if largest > 0.0:
        smallest = min(SMALLEST_SIGMA, largest)
        steps = torch.linspace(0.0, 1.0, num_envs - quiet) if num_envs - quiet > 1 else torch.ones(1)
        sigma[quiet:] = smallest * (largest / smallest) ** steps
    return sigma


class ActionNoise(Protocol):
    """What a rollout makes of the policy's actions."""

    def apply(self, action: torch.Tensor, step: int) -> torch.Tensor:
        """The policy's action [N, A] -> the one to execute, given that ``step`` steps went before."""
        ...


class Noise:
    """Adds noise, stationary, with standard deviation ``sigma`` of each environment.

    x' = c x + sqrt(1 - c^2) sigma e with e standard normal: an AR(1) process of variance sigma^2.

    Args:
        sigma: [N], in action units.
        action_dim: A.
        seed: environment i's e depend on ``seed`` and i alone, not on how many others there are.
    """

    def __init__(self, sigma: torch.Tensor, action_dim: int, seed: int) -> None:
        self._sigma, self._action_dim = sigma[:, None], action_dim
        self._generators = [np.random.default_rng([seed, env]) for env in range(len(sigma))]
        self._blocks_drawn = 0
        self._block, self._last = torch.empty(0), torch.empty(0)

    def apply(self, action: torch.Tensor, step: int) -> torch.Tensor:
        """The policy's action [N, A] -> the one to execute.

        Args:
            step: counted from 0: that of the last call again, or the next one.
        """
        block, at = divmod(step, BLOCK)
        if block == self._blocks_drawn:
            self._block = upload(self._draw(), action.device)
            self._blocks_drawn += 1
        return action + self._block[at]

    def _draw(self) -> torch.Tensor:
        """The next block of the process [BLOCK, N, A]; ``_last`` is its last step [N, A]."""
        shape = (BLOCK, self._action_dim)
        normal = np.stack([g.standard_normal(shape, dtype=np.float32) for g in self._generators], axis=1)
        noise = self._sigma * torch.from_numpy(normal)
        for step, fresh in enumerate(noise):
            if step or self._blocks_drawn:
                fresh.mul_((1.0 - CORRELATION**2) ** 0.5).add_(CORRELATION * self._last)
            self._last = fresh
        return noise
