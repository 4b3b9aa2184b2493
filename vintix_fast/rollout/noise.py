"""Exploration noise: AR(1) in time, a ladder of strengths over the environments.

One strength for all environments is either too little to learn from or enough to make every robot fall; a ladder has
both the careful and the bold.
"""

from __future__ import annotations

import numpy as np
import torch

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
        self._block, self._at = self._draw(), 1
        self._noise = self._sigma * self._block[:, 0]

    def apply(self, action: torch.Tensor) -> torch.Tensor:
        """The policy's action [N, A] -> the one to execute."""
        noise = self._noise
        if self._at == BLOCK:
            self._block, self._at = self._draw(), 0
        fresh = self._sigma * self._block[:, self._at]
        self._at += 1
        self._noise = CORRELATION * noise + (1.0 - CORRELATION**2) ** 0.5 * fresh
        return action + noise.to(action.device)

    def _draw(self) -> torch.Tensor:
        """Standard normal numbers [N, BLOCK, A]."""
        shape = (BLOCK, self._action_dim)
        return torch.from_numpy(np.stack([g.standard_normal(shape, dtype=np.float32) for g in self._generators]))
