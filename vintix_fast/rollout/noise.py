"""Exploration noise: AR(1) in time, a ladder of strengths over the environments.

One strength for all environments is either too little to learn from or enough to make every robot fall; a ladder has
both the careful and the bold.
"""

from __future__ import annotations

import torch

SMALLEST_SIGMA = 0.03
CORRELATION = 0.7
"""Correlation of one step's noise with the next one's."""


def ladder(num_envs: int, largest: float) -> torch.Tensor:
    """Standard deviations [N] in action units: a fifth of the environments 0, the rest log-spaced up to ``largest``."""
    sigma = torch.zeros(num_envs)
    quiet = num_envs // 5
    if largest > 0.0:
        smallest = min(SMALLEST_SIGMA, largest)
        steps = torch.linspace(0.0, 1.0, num_envs - quiet) if num_envs - quiet > 1 else torch.ones(1)
        sigma[quiet:] = smallest * (largest / smallest) ** steps
    return sigma


class LadderNoise:
    """Adds noise, stationary, with standard deviation ``sigma`` of each environment.

    x' = c x + sqrt(1 - c^2) sigma e with e standard normal: an AR(1) process of variance sigma^2.
    """

    def __init__(self, sigma: torch.Tensor, action_dim: int, seed: int) -> None:
        self._sigma = sigma[:, None]
        self._generator = torch.Generator().manual_seed(seed)
        self._noise = self._sigma * torch.randn(len(sigma), action_dim, generator=self._generator)

    def apply(self, action: torch.Tensor) -> torch.Tensor:
        """The policy's action [N, A] -> the one to execute."""
        return action + self._next().to(action.device)

    def _next(self) -> torch.Tensor:
        noise = self._noise
        fresh = self._sigma * torch.randn(noise.shape, generator=self._generator)
        self._noise = CORRELATION * noise + (1.0 - CORRELATION**2) ** 0.5 * fresh
        return noise
