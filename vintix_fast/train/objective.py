"""The improvement operator: from histories to what the policy should have done at each step, and how much it counts.

- `CriticImprover` moves what the policy meant to do a little up the gradient of a critic.  The default.
- `AwrImprover` imitates what was done, the more the better the same critic finds it.
- `TopKImprover` imitates the best episodes.
- `CloneImprover` imitates everything: the slow script's, a fixed point, kept as the control.

Fine-tuning on the targets is the same for all.  Knows nothing about Vintix's weights or about files.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from vintix_fast.data import History
from vintix_fast.data.windows import Targets
from vintix_fast.train.critic import Critic, CriticConfig
from vintix_fast.train.transitions import transitions

OnStep = Callable[[int, float], None]


class Improver(ABC):
    """Turns histories into training targets; may learn from them.  What is not abstract may be left as it is."""

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

    def judge(self, accepted: bool, walks: bool = True) -> None:  # noqa: B027 - optional
        """Told after each loop whether its result was kept (without a gate always), and whether the robot walks."""

    def numbers(self) -> dict[str, Any]:
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


class TopKImprover(Improver):
    """Behaviour cloning of the best episodes only (filtered, or percentile, behaviour cloning).

    Args:
        fraction: of the episodes, by return, rounded up; the steps of the others have no weight.
    """

    def __init__(self, fraction: float = 0.2) -> None:
        self.fraction = fraction

    def targets(self, histories: list[History], replay: list[History], seed: int, on_step: OnStep) -> list[Targets]:
        returns = [float(h.reward[a:b].sum()) for h in histories for a, b in h.episodes()]
        threshold = np.sort(returns)[-max(1, int(np.ceil(self.fraction * len(returns))))]
        made = []
        for history in histories:
            weight = np.zeros(len(history), np.float32)
            for first, stop in history.episodes():
                weight[first:stop] = history.reward[first:stop].sum() >= threshold
            made.append(Targets(history.action, weight))
        return made


@dataclass(frozen=True)
class ImproverConfig:
    """What is done with a critic's values.

    ``step`` is how far targets move from the noise-free action, in action units (0.25 rad), as the root mean square
    over the action's dimensions in the step whose gradient is the median one.
    """

    critic: CriticConfig = field(default_factory=CriticConfig)
    step: float = 0.2
    gradient_steps: int = 4
    largest_gradient: float = 2.0
    """Longer gradients count as so many times the median one."""
    step_anneal: float = 0.7
    """What ``step`` is multiplied by after a loop that is kept (without a gate, each) if the robot walks, since smaller
    faults are left.  Otherwise it is divided by it, up to the first step."""
    step_decay: float = 0.5
    """What ``step`` is multiplied by when the gate undoes a loop."""
    temperature: float = 1.0
    """Of the advantages, in their own standard deviations: smaller imitates fewer steps."""
    largest_weight: float = 20.0


class _WithCritic(Improver):
    """Fits a fresh critic in every loop."""

    def __init__(self, config: ImproverConfig | None = None, device: torch.device | str = "cpu") -> None:
        self.config, self.device = config or ImproverConfig(), device
        self.last_loss = float("nan")

    def _fit(self, replay: list[History], seed: int, on_step: OnStep) -> Critic:
        settings = self.config.critic
        critic = Critic(transitions(replay, settings, self.device), settings, seed, on_step)
        self.last_loss = critic.loss
        return critic

    def numbers(self) -> dict[str, Any]:
        return {"critic_loss": self.last_loss}


class AwrImprover(_WithCritic):
    """Advantage-weighted regression (arXiv 1910.00177), with a critic's advantages as in AWAC (arXiv 2006.09359).

    A step's weight is exp(A / temperature), A = Q(s, executed) - Q(s, noise-free) over its standard deviation.
    """

    def targets(self, histories: list[History], replay: list[History], seed: int, on_step: OnStep) -> list[Targets]:
        critic = self._fit(replay, seed, on_step)
        advantages = [self._advantage(critic, h) for h in histories]
        deviation = max(float(np.concatenate(advantages).std()), 1e-8)
        weights = [np.exp(np.minimum(a / deviation / self.config.temperature, 50.0)) for a in advantages]
        return [
            Targets(h.action, np.minimum(w, self.config.largest_weight).astype(np.float32))
            for h, w in zip(histories, weights, strict=True)
        ]

    def _advantage(self, critic: Critic, history: History) -> np.ndarray:
        state = critic.states(history)
        deviation = torch.from_numpy(history.action - history.extras["mean_action"]).to(state.device)
        with torch.no_grad():
            values = critic.values(state, deviation) - critic.values(state, torch.zeros_like(deviation))
        return values.cpu().numpy()


class CriticImprover(_WithCritic):
    """Targets = the noise-free action, moved a trusted distance up the critic's gradient.

    All steps' gradients are divided by one number, so that what matters little moves little.
    """

    def __init__(self, config: ImproverConfig | None = None, device: torch.device | str = "cpu") -> None:
        super().__init__(config, device)
        self.step = self.config.step

    def targets(self, histories: list[History], replay: list[History], seed: int, on_step: OnStep) -> list[Targets]:
        critic = self._fit(replay, seed, on_step)
        state = torch.cat([critic.states(h) for h in histories])
        deviation = self._climb(critic, state, histories[0].action.shape[1]).cpu().numpy()
        moves = np.split(deviation, np.cumsum([len(h) for h in histories])[:-1])
        return [
            Targets(h.extras["mean_action"] + move, np.ones(len(h), np.float32))
            for h, move in zip(histories, moves, strict=True)
        ]

    def _climb(self, critic: Critic, state: torch.Tensor, action_dim: int) -> torch.Tensor:
        """Deviations [M, A] in states [M, S]: from none, ``gradient_steps`` steps up the value's gradient."""
        cfg = self.config
        deviation = torch.zeros(len(state), action_dim, device=state.device)
        for _ in range(cfg.gradient_steps):
            gradient = torch.cat([
                _gradient(critic, s, a) for s, a in zip(state.split(CHUNK), deviation.split(CHUNK), strict=True)
            ])  # fmt: skip
            length = gradient.square().mean(dim=1, keepdim=True).sqrt()  # [M, 1]
            longest = cfg.largest_gradient * length.median()
            gradient = gradient * (longest / length.clamp_min(1e-12)).clamp_max(1.0)
            deviation = deviation + (self.step / cfg.gradient_steps) * gradient / length.median().clamp_min(1e-12)
        return deviation

    def judge(self, accepted: bool, walks: bool = True) -> None:
        if not accepted:
            self.step *= self.config.step_decay
        elif walks:
            self.step *= self.config.step_anneal
        else:  # what was lost by an undone loop comes back
            self.step = min(self.config.step, self.step / self.config.step_anneal)

    def numbers(self) -> dict[str, Any]:
        return super().numbers() | {"improvement_step": self.step}

    def state_dict(self) -> dict[str, Any]:
        return {"step": self.step}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.step = float(state.get("step", self.step))


CHUNK = 8192
"""States whose gradients are held at a time."""


def _gradient(critic: Critic, state: torch.Tensor, deviation: torch.Tensor) -> torch.Tensor:
    deviation = deviation.detach().requires_grad_(True)
    (gradient,) = torch.autograd.grad(critic.values(state, deviation).sum(), deviation)
    return gradient
