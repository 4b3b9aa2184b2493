"""A twin action-value critic fitted to the policy's own transitions, and the small steps up its gradient.

An instrument: it lives beside the loop and is thrown away at the end; the result is an ordinary checkpoint.  Expected
SARSA (van Seijen et al. 2009): the next action is what the policy meant to do, plus a little noise; clipped by nothing,
averaged over two target networks.  The minimum of the twins (Fujimoto et al. 2018, arXiv 1802.09477) is what actions
climb, so that they do not climb into one network's error.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from vintix_fast.data import History
from vintix_fast.data.windows import Targets
from vintix_fast.errors import VintixFastError

REPORT_EVERY = 20


@dataclass(frozen=True)
class CriticConfig:
    """How the critic is fitted and how far actions move.

    ``step`` is how far targets move from the noise-free action: root mean square over the action's dimensions, in
    action units (0.25 rad).
    """

    updates: int = 2000
    batch_size: int = 512
    hidden: int = 256
    lr: float = 5e-4
    gamma: float = 0.98
    n_steps: int = 5
    """Rewards before the bootstrap: a fall's news must travel back tens of steps within one loop's updates."""
    polyak: float = 0.01
    next_action_noise: float = 0.05
    reward_scale: float = 50.0
    """Rewards are a step's share of a second (dt = 0.02 s); this makes them per second."""
    reward_bonus: float = 0.5
    """Added to each scaled reward, so that staying up is worth more than falling even when walking badly."""
    step: float = 0.4
    gradient_steps: int = 4
    step_decay: float = 0.5
    """What ``step`` is multiplied by when the gate undoes a loop."""


def _q_network(inputs: int, hidden: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(inputs, hidden), nn.LayerNorm(hidden), nn.ELU(),
        nn.Linear(hidden, hidden), nn.LayerNorm(hidden), nn.ELU(),
        nn.Linear(hidden, 1),
    )  # fmt: skip


class TwinQ(nn.Module):
    """Two action values of (state [B, S], action [B, A]) -> [2, B]."""

    def __init__(self, state_dim: int, action_dim: int, hidden: int) -> None:
        super().__init__()
        self.q1 = _q_network(state_dim + action_dim, hidden)
        self.q2 = _q_network(state_dim + action_dim, hidden)

    def forward(self, state: torch.Tensor, action: torch.Tensor) -> torch.Tensor:
        both = torch.cat([state, action], dim=-1)
        return torch.stack([self.q1(both).squeeze(-1), self.q2(both).squeeze(-1)])


@dataclass(frozen=True)
class Transitions:
    """Everything that was collected, flat: M starts of n-step returns."""

    state: torch.Tensor  # [M, O + A]: observation and the action before it, which the latency makes part of the state
    action: torch.Tensor  # [M, A] executed
    reward: torch.Tensor  # [M] discounted sum of the rewards up to the bootstrap
    next_state: torch.Tensor  # [M, O + A] where the return is bootstrapped
    next_mean_action: torch.Tensor  # [M, A] what the policy meant to do there
    discount: torch.Tensor  # [M] of the bootstrap; 0 where the robot fell before it


def states(history: History) -> np.ndarray:
    """Observation and last action of each step, [n, O + A]; the last action is 0 at an episode's start."""
    last = np.roll(history.action, 1, axis=0)
    last[history.step_num == 0] = 0.0
    return np.concatenate([history.observation, last], axis=1)


def transitions(histories: list[History], config: CriticConfig, device: torch.device | str = "cpu") -> Transitions:
    """Flatten histories into n-step returns that never leave their episode.

    A fall ends a return without a bootstrap.  At a time-out, a simulation failure or the end of a stream the step's
    successor is unknown, so that returns are bootstrapped at the last step itself.
    """
    parts = []
    for h in histories:
        index, reward = np.arange(len(h)), config.reward_scale * h.reward + config.reward_bonus
        fell = h.extras["terminated"].astype(bool) & ~h.extras["failed"].astype(bool)
        end = np.zeros(len(h), dtype=np.int64)  # where the bootstrap may be at the latest
        for first, stop in h.episodes():
            end[first:stop] = stop if fell[stop - 1] else stop - 1
        length = np.minimum(config.n_steps, end - index)
        total, factor = np.zeros(len(h), np.float32), 1.0
        for k in range(config.n_steps):
            inside = length > k
            total[inside] += factor * reward[index[inside] + k]
            factor *= config.gamma
        bootstrap = np.minimum(index + length, len(h) - 1)
        fallen = (index + length == end) & fell[np.maximum(end - 1, 0)] & (end > 0)
        discount = np.where(fallen, 0.0, config.gamma**length).astype(np.float32)
        state, mean, keep = states(h), h.extras["mean_action"], length > 0
        parts.append([column[keep] for column in (state, h.action, total, state[bootstrap], mean[bootstrap], discount)])
    if not any(len(part[0]) for part in parts):
        raise VintixFastError(
            "no step of any episode has a successor to learn from; are episodes one step long, or did all of them fail?"
        )
    return Transitions(*(torch.from_numpy(np.concatenate(column)).to(device) for column in zip(*parts, strict=True)))


class CriticImprover:
    """Targets = the noise-free action, moved a trusted distance up the critic's gradient.

    Args:
        observation_dim, action_dim: of the robot.
        config: see `CriticConfig`.
        device: where the critic lives.
    """

    def __init__(
        self, observation_dim: int, action_dim: int, config: CriticConfig | None = None, device: str = "cpu"
    ) -> None:
        self.config, self.device = config or CriticConfig(), device
        self.step = self.config.step
        self._dims = (observation_dim + action_dim, action_dim)
        self._critic: TwinQ | None = None
        self._scale: tuple[torch.Tensor, torch.Tensor] | None = None
        self.last_loss = float("nan")

    def targets(
        self, histories: list[History], replay: list[History], seed: int, on_step: Callable[[int, float], None]
    ) -> list[Targets]:
        self._fit(transitions(replay, self.config, self.device), seed, on_step)
        return [Targets(self._climb(h), np.ones(len(h), np.float32)) for h in histories]

    def judge(self, accepted: bool) -> None:
        if not accepted:
            self.step *= self.config.step_decay

    def _normalise(self, state: torch.Tensor) -> torch.Tensor:
        mean, std = self._scale
        return (state - mean) / std

    def _fit(self, data: Transitions, seed: int, on_step: Callable[[int, float], None]) -> None:
        cfg = self.config
        generator = torch.Generator().manual_seed(seed)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self._critic = TwinQ(*self._dims, cfg.hidden).to(self.device)
        # A dimension that never varied (the command) must not be divided by its deviation.
        self._scale = (data.state.mean(dim=0), data.state.std(dim=0, unbiased=False).clamp_min(1e-2))
        target = copy.deepcopy(self._critic).requires_grad_(False)
        optimiser = torch.optim.AdamW(self._critic.parameters(), lr=cfg.lr, weight_decay=0.0)
        state, next_state = self._normalise(data.state), self._normalise(data.next_state)
        losses = []
        for update in range(cfg.updates):
            rows = torch.randint(len(state), (cfg.batch_size,), generator=generator).to(self.device)
            noise = torch.randn(cfg.batch_size, self._dims[1], generator=generator).to(self.device)
            next_action = data.next_mean_action[rows] + cfg.next_action_noise * noise
            with torch.no_grad():
                next_value = target(next_state[rows], next_action).mean(dim=0)
                value = data.reward[rows] + data.discount[rows] * next_value
            predicted = self._critic(state[rows], data.action[rows])
            loss = (predicted - value).square().mean()
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(self._critic.parameters(), 10.0)
            optimiser.step()
            with torch.no_grad():
                torch._foreach_lerp_(list(target.parameters()), list(self._critic.parameters()), cfg.polyak)
            losses.append(loss.detach())
            if update % REPORT_EVERY == REPORT_EVERY - 1:
                on_step(update + 1, float(losses[-1]))
        self.last_loss = float(torch.stack(losses[-200:]).mean())

    def _climb(self, history: History) -> np.ndarray:
        """The noise-free actions [n, A], moved by ``gradient_steps`` normalised gradient steps of the smaller value."""
        cfg = self.config
        state = self._normalise(torch.from_numpy(states(history)).to(self.device))
        action = torch.from_numpy(history.extras["mean_action"]).to(self.device).clone()
        for _ in range(cfg.gradient_steps):
            action.requires_grad_(True)
            value = self._critic(state, action).amin(dim=0).sum()
            (gradient,) = torch.autograd.grad(value, action)
            direction = gradient / gradient.square().mean(dim=-1, keepdim=True).sqrt().clamp_min(1e-8)
            action = (action + (self.step / cfg.gradient_steps) * direction).detach()
        return action.cpu().numpy()

    def numbers(self) -> dict[str, Any]:
        return {"critic_loss": self.last_loss, "improvement_step": self.step}

    def state_dict(self) -> dict[str, Any]:
        return {"step": self.step}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.step = float(state.get("step", self.step))
