"""The model acting in N environments, each with a context of its own.

Remembers what the model must be fed at the next step (last action and reward).  Knows nothing about the task or about
files; the collector drives it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch

from vintix_fast.model import ContextCache, Vintix


class Actor(ABC):
    """What a rollout drives: N environments' actions, decided between `begin` and `finish`."""

    @property
    def statistics(self) -> tuple[torch.Tensor, torch.Tensor] | None:
        """Mean and deviation, [O] each, of an actor that gains where observations come standardised by them too."""
        return None

    @abstractmethod
    def reset(self, mask: torch.Tensor | None = None) -> None:
        """Histories start anew where ``mask`` (bool [N]) is true, or all of them."""

    @abstractmethod
    def act(self, observation: torch.Tensor, step_num: torch.Tensor) -> torch.Tensor:
        """The action [N, A] for observation [N, O] at steps step_num [N] of the running episodes."""

    @abstractmethod
    def observe(self, action: torch.Tensor, reward: torch.Tensor) -> None:
        """What was executed, action [N, A], and what came of it, reward [N]."""

    def begin(
        self, observation: torch.Tensor, step_num: torch.Tensor, standardised: torch.Tensor | None = None
    ) -> None:
        """Start to `act`; whoever can do it beside the caller's other work does.

        Args:
            observation, step_num: as for `act`.
            standardised: the same observation by `statistics`, where somebody has made it already.
        """
        self._action = self.act(observation, step_num)

    def finish(self) -> torch.Tensor:
        """The action [N, A] that `begin` asked for."""
        return self._action


class Policy(Actor):
    """One decode step for all environments; the context lives in ring buffers.

    Args:
        model: the model, used in eval mode.
        task_name: whose group and statistics to act with.
        num_envs: environments side by side.
        context_len: tokens (steps) of history that the model attends to.
        dtype: of the cached keys and values, see `ContextCache`.

    Raises:
        UsageError: see `ContextCache`.
    """

    def __init__(
        self, model: Vintix, task_name: str, num_envs: int, context_len: int, dtype: torch.dtype = torch.float32
    ) -> None:
        self.model, self.task_name = model.eval(), task_name
        self._cache = ContextCache(model.config, num_envs, context_len, model.device, dtype)
        self._last_action = torch.zeros(num_envs, model.tasks[task_name].action_dim, device=model.device)
        self._last_reward = torch.zeros(num_envs, device=model.device)

    def reset(self, mask: torch.Tensor | None = None) -> None:
        self._cache.reset(mask)

    def act(self, observation: torch.Tensor, step_num: torch.Tensor) -> torch.Tensor:
        with torch.inference_mode():
            return self.model.decode(
                self.task_name, observation, self._last_action, self._last_reward, step_num, self._cache
            )

    def observe(self, action: torch.Tensor, reward: torch.Tensor) -> None:
        self._last_action.copy_(action)
        self._last_reward.copy_(reward)
