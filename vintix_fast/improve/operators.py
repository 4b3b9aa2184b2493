"""The improvement operator: from histories to what the policy should have done at each step, and how much it counts.

- `CriticImprover` moves what the policy meant to do a little up the gradient of a critic.  The default.
- `CloneImprover` imitates everything: the slow script's, a fixed point, kept as the control.

Fine-tuning on the targets is the same for all.  Knows nothing about Vintix's weights or about files.  A new operator is
a class of its own: give an object of it to `adapt`, or, for the command line, add it to `OPERATORS` and to
`vintix_fast.config.IMPROVERS`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from vintix_fast.config import ImproveConfig
from vintix_fast.data import History
from vintix_fast.data.windows import Targets
from vintix_fast.improve.critic import Critic, transitions
from vintix_fast.service.errors import InputFileError
from vintix_fast.service.upload import upload

OnStep = Callable[[int, float], None]


class Improver(ABC):
    """Turns histories into training targets; may learn from them.  What is not abstract may be left as it is.

    Args:
        config: what it is given of the run's options; None for the defaults.
        device: where it computes.
    """

    def __init__(self, config: ImproveConfig | None = None, device: torch.device | str = "cpu") -> None:
        self.config, self.device = config or ImproveConfig(), device

    @abstractmethod
    def targets(self, histories: list[History], replay: list[History], seed: int, on_step: OnStep) -> list[Targets]:
        """What the policy should have done.

        Args:
            histories: to make targets for.
            replay: to learn from; holds ``histories`` and perhaps earlier collections.
            seed: of whatever is random.
            on_step: called with the number of updates done and the loss; may raise to stop.

        Returns:
            One `Targets` for each of ``histories``.

        Raises:
            VintixFastError: there is nothing to learn from.
        """

    def learn_of(self, kept: float, walks: bool = True) -> None:  # noqa: B027 - optional
        """Told after each loop how much of its change was kept (without a gate all, 1), and whether the robot walks."""

    def begin_walking(self) -> None:  # noqa: B027 - optional
        """Told before the first loop if the initial policy walks."""

    def metrics(self) -> dict[str, Any]:
        """What to log about the last call of `targets`."""
        return {}

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs, as JSON types."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:  # noqa: B027 - optional
        """Take over a `state_dict`; an empty one changes nothing."""


class CloneImprover(Improver):
    """Behaviour cloning of the executed actions, exactly what the slow script does."""

    def targets(self, histories: list[History], replay: list[History], seed: int, on_step: OnStep) -> list[Targets]:
        return [Targets(h.action, np.ones(len(h), np.float32)) for h in histories]


class CriticImprover(Improver):
    """Targets = the noise-free action, moved a trusted distance up the critic's gradient.

    All steps' gradients are divided by one number, so that what matters little moves little.
    """

    def __init__(self, config: ImproveConfig | None = None, device: torch.device | str = "cpu") -> None:
        super().__init__(config, device)
        self.step, self.last_loss = self.config.step, float("nan")

    def targets(self, histories: list[History], replay: list[History], seed: int, on_step: OnStep) -> list[Targets]:
        settings = self.config.critic
        critic = Critic(transitions(replay, settings, self.device), settings, seed, on_step)
        self.last_loss = critic.loss
        state = torch.cat([critic.states(h) for h in histories])
        generator = torch.Generator().manual_seed(seed)
        deviation = self._climb(critic, state, histories[0].action.shape[1], generator).cpu().numpy()
        moves = np.split(deviation, np.cumsum([len(h) for h in histories])[:-1])
        return [
            Targets(h.extras["mean_action"] + move, np.ones(len(h), np.float32))
            for h, move in zip(histories, moves, strict=True)
        ]

    def _climb(self, critic: Critic, state: torch.Tensor, action_dim: int, generator: torch.Generator) -> torch.Tensor:
        """Deviations [M, A] in states [M, S]: from none, ``gradient_steps`` steps up the value's gradient."""
        cfg = self.config
        deviation = torch.zeros(len(state), action_dim, device=state.device)
        for _ in range(cfg.gradient_steps):
            chunks = zip(state.split(CHUNK), deviation.split(CHUNK), strict=True)
            gradient = torch.cat([self._smooth_gradient(critic, s, a, generator) for s, a in chunks])
            length = gradient.square().mean(dim=1, keepdim=True).sqrt()  # [M, 1]
            longest = cfg.largest_gradient * length.median()
            gradient = gradient * (longest / length.clamp_min(1e-12)).clamp_max(1.0)
            deviation = deviation + (self.step / cfg.gradient_steps) * gradient / length.median().clamp_min(1e-12)
        return deviation

    def _smooth_gradient(
        self, critic: Critic, state: torch.Tensor, deviation: torch.Tensor, generator: torch.Generator
    ) -> torch.Tensor:
        """The value's gradient [M, A], a mean over actions around.

        Smoothing as in evolution strategies, with antithetic pairs (arXiv 1703.03864), but of a known gradient.
        """
        cfg = self.config
        total = torch.zeros_like(deviation)
        for _ in range(cfg.smoothing_pairs):
            aside = upload(cfg.smoothing * torch.randn(deviation.shape, generator=generator), deviation.device)
            total += critic.gradient(state, deviation + aside) + critic.gradient(state, deviation - aside)
        return total / (2 * cfg.smoothing_pairs)

    def learn_of(self, kept: float, walks: bool = True) -> None:
        if kept < 1.0:  # it was too long
            self.step *= self.config.step_decay
        elif walks:
            self.step *= self.config.step_anneal
        else:  # what was lost by an undone loop comes back
            self.step = min(self.config.step, self.step / self.config.step_anneal)

    def begin_walking(self) -> None:
        self.step = self.config.step * self.config.walking_step

    def metrics(self) -> dict[str, Any]:
        return {"critic_loss": self.last_loss, "improvement_step": self.step}

    def state_dict(self) -> dict[str, Any]:
        return {"step": self.step}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        step = state.get("step", self.step)
        if not isinstance(step, int | float):
            raise InputFileError(f"state.json is broken (the improvement step is {step!r}); --overwrite begins anew")
        self.step = float(step)


CHUNK = 8192
"""States whose gradients are held at a time."""

OPERATORS: dict[str, type[Improver]] = {"critic": CriticImprover, "clone": CloneImprover}
"""By the names that a run's options give them."""


def make_improver(config: ImproveConfig, device: torch.device | str = "cpu") -> Improver:
    """The improvement operator that the options name."""
    return OPERATORS[config.improver](config, device)
