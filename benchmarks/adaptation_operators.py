"""Improvement operators that `adaptation.py` measures beside the product's: they imitate what went well.

- `AwrImprover` imitates what was done, the more the better a critic finds it.
- `TopKImprover` imitates the best episodes.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from vintix_fast.data import History
from vintix_fast.data.windows import Targets
from vintix_fast.improve import Critic, Improver
from vintix_fast.improve.critic import transitions
from vintix_fast.improve.operators import OnStep

TEMPERATURE = 1.0
"""Of the advantages, in their own standard deviations: smaller imitates fewer steps."""
LARGEST_WEIGHT = 20.0
TOP = 0.2
"""Share of the episodes that count as the best, rounded up."""


class TopKImprover(Improver):
    """Behaviour cloning of the best episodes only (filtered, or percentile, behaviour cloning).

    The steps of the other episodes have no weight.
    """

    fraction = TOP

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


class AwrImprover(Improver):
    """Advantage-weighted regression (arXiv 1910.00177), with a critic's advantages as in AWAC (arXiv 2006.09359).

    A step's weight is exp(A / temperature), A = Q(s, executed) - Q(s, noise-free) over its standard deviation.
    """

    temperature, largest_weight, last_loss = TEMPERATURE, LARGEST_WEIGHT, float("nan")

    def targets(self, histories: list[History], replay: list[History], seed: int, on_step: OnStep) -> list[Targets]:
        settings = self.config.critic
        critic = Critic(transitions(replay, settings, self.device), settings, seed, on_step)
        self.last_loss = critic.loss
        advantages = [_advantage(critic, h) for h in histories]
        deviation = max(float(np.concatenate(advantages).std()), 1e-8)
        weights = [np.exp(np.minimum(a / deviation / self.temperature, 50.0)) for a in advantages]
        return [
            Targets(h.action, np.minimum(w, self.largest_weight).astype(np.float32))
            for h, w in zip(histories, weights, strict=True)
        ]

    def metrics(self) -> dict[str, Any]:
        return {"critic_loss": self.last_loss}


def _advantage(critic: Critic, history: History) -> np.ndarray:
    state = critic.states(history)
    deviation = torch.from_numpy(history.action - history.extras["mean_action"]).to(state.device)
    with torch.no_grad():
        values = critic.values(state, deviation) - critic.values(state, torch.zeros_like(deviation))
    return values.cpu().numpy()


OPERATORS: dict[str, type[Improver]] = {"awr": AwrImprover, "topk": TopKImprover}
"""By the study's variants."""
