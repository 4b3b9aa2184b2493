"""The policy on the CPU through the compiled core, which decodes on other processors while the simulator steps.

Data flows Vintix -> arrays by name -> `vintix_fast._core.PolicyDecoder`, which copies them: a policy acts as
the model did when it was made.  Knows nothing about tasks, files or training.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from vintix_fast._core import PolicyDecoder
from vintix_fast.acting_config import DEFAULT_CACHE_DTYPE, DEFAULT_DROPPED_MASS
from vintix_fast.model import Vintix
from vintix_fast.model.config import OWNER_TOKEN_ORDER
from vintix_fast.model.transformer import Attention
from vintix_fast.policy.policy import Actor
from vintix_fast.service.errors import UsageError


def decoder_weights(model: Vintix, task_name: str) -> dict[str, np.ndarray]:
    """The tensors that act for a task, float32, by the names that the compiled core knows them by."""
    info = model.tasks[task_name]
    group = info.group_name
    prefixes = {
        f"encoder.obs_encoders.{group}.layers.": "observation_encoder.",
        f"encoder.acs_encoders.{group}.layers.": "action_encoder.",
        f"encoder.rews_encoders.{group}.layers.": "reward_encoder.",
        f"head.acs_decoders.{group}.layers.": "action_decoder.",
        "encoder.trans_ep_pos_emb.weight": "step_embedding",
        "transformer.": "",
    }
    found: dict[str, torch.Tensor | tuple[float, ...]] = {}
    for name, value in model.state_dict().items():
        for prefix, ours in prefixes.items():
            if name.startswith(prefix):
                found[ours + name.removeprefix(prefix)] = value
    found["first_action"] = model.encoder.prev_acs_padding[0].detach()
    found["first_reward"] = model.encoder.prev_rew_padding[0].detach()
    if model.config.norm_obs:
        found |= {"observation_mean": info.obs_mean, "observation_std": info.obs_std}
    if model.config.norm_acs:
        found |= {"action_mean": info.acs_mean, "action_std": info.acs_std}
    return {name: np.ascontiguousarray(value, np.float32) for name, value in found.items()}


def decoder_settings(model: Vintix, task_name: str, context_len: int, dropped_mass: float) -> dict[str, Any]:
    """What else than tensors shapes a step, by the names of `PolicyDecoder`'s arguments; see `CompiledPolicy`."""
    config, transformer = model.config, model.transformer
    if not 0.0 <= dropped_mass < 1.0:
        raise UsageError(f"dropped_mass is {dropped_mass}; it must be from 0 to below 1")
    half = dropped_mass / 2  # for old tokens, and for values whose scores were computed
    return {
        "parallel_residual": config.parallel_residual,
        "action_first": config.token_order == OWNER_TOKEN_ORDER,
        "reward_scale": model.tasks[task_name].reward_scale,
        "slopes": transformer.slopes,
        "score_bounds": [part.score_bound() for part in transformer.modules() if isinstance(part, Attention)],
        "spans": transformer.spans(context_len, half),
        "dropped_mass": half,
    }


class CompiledPolicy(Actor):
    """The model acting in N environments that step together.

    Differs from `vintix_fast.policy.Policy`, its plain reference, by rounding and by what attention leaves unread.

    Args:
        model: its weights are copied.
        task_name: whose group and statistics to act with.
        num_envs: N.
        context_len: tokens (steps) of history that the model attends to.
        cache_dtype: "float32" or "int8", how keys and values are stored. int8 has one scale for each token's key, and
            one for its value, in every head; it also rounds queries, and in every 16 tokens the softmax's weights,
            to 8 bits, and sums whole numbers.
        dropped_mass: in every head the tokens that are left out weigh at most this, relative to the softmax's sum: half
            of it old tokens, by a bound that holds for any input (see `Transformer.spans`), half of it values whose
            scores were computed. Rounding comes on top.
        threads: who decode, the caller in `finish` included; None for as many as torch uses.
        implementation: "avx512", "avx2" or "portable"; None for the widest that the processor has.

    Raises:
        UsageError: ``dropped_mass`` is not from 0 to below 1.
        ValueError: another argument is out of range.
    """

    def __init__(
        self,
        model: Vintix,
        task_name: str,
        num_envs: int,
        context_len: int,
        *,
        cache_dtype: str = DEFAULT_CACHE_DTYPE,
        dropped_mass: float = DEFAULT_DROPPED_MASS,
        threads: int | None = None,
        implementation: str | None = None,
    ) -> None:
        info = model.tasks[task_name]
        self.decoder = PolicyDecoder(
            decoder_weights(model, task_name),
            num_envs=num_envs,
            **decoder_settings(model, task_name, context_len, dropped_mass),
            cache_dtype=cache_dtype,
            threads=threads or torch.get_num_threads(),
            implementation=implementation or "",
        )
        # What the model is shown beside the next observation.
        self._last_action = np.zeros((num_envs, info.action_dim), np.float32)
        self._last_reward = np.zeros(num_envs, np.float32)

    def reset(self, mask: torch.Tensor | None = None) -> None:
        self.decoder.reset(None if mask is None else np.ascontiguousarray(mask, bool))

    def begin(
        self, observation: torch.Tensor, step_num: torch.Tensor, standardised: torch.Tensor | None = None
    ) -> None:
        self.decoder.begin(
            np.ascontiguousarray(observation, np.float32), self._last_action, self._last_reward,
            np.ascontiguousarray(step_num, np.int32),
        )  # fmt: skip

    def finish(self) -> torch.Tensor:
        return torch.from_numpy(self.decoder.finish())

    def act(self, observation: torch.Tensor, step_num: torch.Tensor) -> torch.Tensor:
        self.begin(observation, step_num)
        return self.finish()

    def observe(self, action: torch.Tensor, reward: torch.Tensor) -> None:
        self._last_action[:] = action
        self._last_reward[:] = reward
