"""The whole model: a step of a robot's history becomes a token, the transformer reads them, a decoder answers.

Owns what the transformer's inputs and outputs mean: normalisation, episode starts, token order, groups.  Knows
nothing about files (``checkpoint.py``), about how groups are added (``adapter.py``) or about the simulator.

Sizes: N windows or environments, T steps, ``obs`` and ``act`` the task's observation and action dimensions.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import torch
from torch import Tensor, nn

from vintix_fast.kernels.reference import standardise
from vintix_fast.model.cache import ContextCache
from vintix_fast.model.config import OWNER_TOKEN_ORDER, ModelConfig, TaskInfo
from vintix_fast.model.layers import (
    MAX_EPISODE_STEPS,
    ByGroup,
    Encoder,
    Head,
    PartList,
    TaskStatistics,
    action_decoder,
    reward_encoder,
    vector_encoder,
)
from vintix_fast.model.transformer import Transformer
from vintix_fast.service.errors import InputFileError, UsageError

Array = np.ndarray | Tensor


class Vintix(nn.Module):
    """An in-context reinforcement-learning model of one or more robots (tasks).

    Every task belongs to a group, and a group has its own encoders and action decoder; the transformer and the
    padding vectors are shared.  What takes the name of a task or a group raises UsageError where there is none such.

    Raises:
        InputFileError: two tasks of one group have different dimensions, or a group's name cannot be used.
    """

    def __init__(self, config: ModelConfig, tasks: Mapping[str, TaskInfo]):
        super().__init__()
        self.config = config
        self.tasks: dict[str, TaskInfo] = {}
        self.encoder = Encoder(config)
        self.transformer = Transformer(config)
        self.head = Head()
        # By position, because a task's name may hold characters that a module's may not.
        self._statistics: PartList[TaskStatistics] = PartList()
        for name, info in tasks.items():
            self.add_task(name, info)

    def add_task(self, name: str, info: TaskInfo) -> None:
        """Register a task, and random parts for its group if the group is new."""
        group = info.group_name
        for other, known in self.tasks.items():
            same_sizes = (known.observation_dim, known.action_dim) == (info.observation_dim, info.action_dim)
            if known.group_name == group and not same_sizes:
                raise InputFileError(f"tasks {other!r} and {name!r} share group {group!r} but differ in dimensions")
        if group not in self.groups:
            if hasattr(nn.ModuleDict(), group):  # of the class, or of every module, as training
                raise InputFileError(f"group_name {group!r} is reserved; choose another name")
            config = self.config
            self.encoder.obs_encoders[group] = vector_encoder(info.observation_dim, config.observation_emb_dim)
            self.encoder.acs_encoders[group] = vector_encoder(info.action_dim, config.action_emb_dim)
            self.encoder.rews_encoders[group] = reward_encoder(config.reward_emb_dim)
            self.head.acs_decoders[group] = action_decoder(config.hidden_dim, info.action_dim)
        self.tasks[name] = info
        self._statistics.append(TaskStatistics(info).to(self.device))

    def remove_task(self, name: str) -> None:
        """Forget a task, and its group if no other task uses it."""
        info, _ = self._task(name)
        del self._statistics[list(self.tasks).index(name)]
        del self.tasks[name]
        group = info.group_name
        if all(other.group_name != group for other in self.tasks.values()):
            for parts in self.parts:
                del parts[group]

    def rename_task(self, old: str, new: str) -> None:
        """Give a task another name; raises UsageError where that is taken."""
        self._task(old)
        if new in self.tasks:
            raise UsageError(f"the model already has a task {new!r}")
        self.tasks = {new if name == old else name: info for name, info in self.tasks.items()}

    def set_task_info(self, name: str, info: TaskInfo) -> None:
        """Replace a task's statistics; its group and sizes stay."""
        self._task(name)
        self._statistics[list(self.tasks).index(name)] = TaskStatistics(info).to(self.device)
        self.tasks[name] = info

    def sharing(self, name: str) -> list[str]:
        """Other tasks that use a task's group."""
        info, _ = self._task(name)
        return [other for other, known in self.tasks.items() if known.group_name == info.group_name and other != name]

    @property
    def groups(self) -> tuple[str, ...]:
        """Names of the groups, in the order they were added."""
        return tuple(self.head.acs_decoders)

    @property
    def parts(self) -> tuple[ByGroup, ByGroup, ByGroup, ByGroup]:
        """Encoders of observation, action and reward, and action decoders, each by group."""
        encoder = self.encoder
        return encoder.obs_encoders, encoder.acs_encoders, encoder.rews_encoders, self.head.acs_decoders

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return self.encoder.prev_acs_padding.device

    def group_parameters(self, group: str) -> Iterator[tuple[str, nn.Parameter]]:
        """Names and parameters of a group's encoders and decoder; the shared padding vectors are not among them."""
        if group not in self.groups:
            raise UsageError(f"unknown group {group!r}; the model has: {', '.join(self.groups)}")
        parts = ("encoder.obs_encoders", "encoder.acs_encoders", "encoder.rews_encoders", "head.acs_decoders")
        prefixes = tuple(f"{part}.{group}." for part in parts)
        return ((name, value) for name, value in self.named_parameters() if name.startswith(prefixes))

    def _task(self, name: str) -> tuple[TaskInfo, TaskStatistics]:
        if name not in self.tasks:
            raise UsageError(f"unknown task {name!r}; the model has: {', '.join(self.tasks)}")
        return self.tasks[name], list(self._statistics)[list(self.tasks).index(name)]

    def encode(
        self,
        task_name: str,
        observation: Tensor,
        prev_action: Tensor,
        prev_reward: Tensor,
        step_num: Tensor,
        standardised: bool = False,
    ) -> Tensor:
        """Make one token of each step.

        Args:
            task_name: whose statistics and encoders to use.
            observation: [N, T, obs], in the robot's units, or ``standardised`` already, see `observation_statistics`.
            prev_action: [N, T, act], the action taken one step earlier; ignored where ``step_num`` is 0.
            prev_reward: [N, T], the reward that action got; ignored where ``step_num`` is 0.
            step_num: [N, T] integers, step within the episode, from 0.

        Returns:
            [N, T, hidden_dim]. T may be absent throughout, as in ``decode``.
        """
        info, statistics = self._task(task_name)
        encoder, group = self.encoder, info.group_name
        if self.config.norm_obs and not standardised:
            observation = standardise(observation, statistics.obs_mean, statistics.obs_std)
        if self.config.norm_acs:
            prev_action = standardise(prev_action, statistics.acs_mean, statistics.acs_std)
        first = (step_num == 0)[..., None]
        o = encoder.obs_encoders[group](observation)
        a = encoder.acs_encoders[group](prev_action)
        a = torch.where(first, encoder.prev_acs_padding[0], a)
        r = encoder.rews_encoders[group](statistics.reward_scale * prev_reward[..., None])
        r = torch.where(first, encoder.prev_rew_padding[0], r)
        order = (a, r, o) if self.config.token_order == OWNER_TOKEN_ORDER else (o, a, r)
        token = torch.cat(order, dim=-1)
        if self.config.inner_ep_pos_enc:
            token = token + encoder.trans_ep_pos_emb(step_num.clamp(max=MAX_EPISODE_STEPS - 1))
        return token

    def act(self, task_name: str, hidden: Tensor) -> Tensor:
        """The transformer's hidden states [..., hidden_dim] -> actions [..., act] in the robot's units."""
        info, statistics = self._task(task_name)
        action = self.head.acs_decoders[info.group_name](hidden)
        # Without the epsilon that `standardise` adds, as in training.
        return action * statistics.acs_std + statistics.acs_mean if self.config.norm_acs else action

    def observation_statistics(self, task_name: str) -> tuple[Tensor, Tensor] | None:
        """Mean and deviation, both [obs], by which `encode` standardises observations; None: it takes them as given."""
        _, statistics = self._task(task_name)
        return (statistics.obs_mean, statistics.obs_std) if self.config.norm_obs else None

    def action_units(self, task_name: str) -> tuple[Tensor, Tensor]:
        """Scale and shift, both [act], with which `act` takes what the decoder gives into the robot's units."""
        info, statistics = self._task(task_name)
        if self.config.norm_acs:
            return statistics.acs_std, statistics.acs_mean
        scale = torch.ones(info.action_dim, device=self.device)
        return scale, torch.zeros_like(scale)

    def forward(
        self, task_name: str, observation: Tensor, prev_action: Tensor, prev_reward: Tensor, step_num: Tensor
    ) -> Tensor:
        """Predict the action [N, T, act] of every step of N windows; arguments as for ``encode``.

        Windows of different lengths are padded at their END: attention is causal, so whatever finite values the pads
        hold, the actions of the real steps before them do not change, and no mask is needed. The caller leaves the
        pads' own actions out of its loss. T may exceed ``config.context_len``, since ALiBi has no fixed length.
        """
        token = self.encode(task_name, observation, prev_action, prev_reward, step_num)
        return self.act(task_name, self.transformer(token))

    @torch.no_grad()
    def decode(
        self,
        task_name: str,
        observation: Tensor,
        prev_action: Tensor,
        prev_reward: Tensor,
        step_num: Tensor,
        cache: ContextCache,
        standardised: bool = False,
    ) -> Tensor:
        """Predict the next action [N, act] of N environments from one new step each and the cached history.

        Equals the last action of ``forward`` over each environment's whole history, to rounding, until the history
        is longer than the cache (see ``ContextCache``). Call it in eval mode; attention dropout is never applied.

        Args:
            task_name: the task of all N environments.
            observation: [N, obs], ``standardised`` or not, as for `encode`.
            prev_action: [N, act].
            prev_reward: [N].
            step_num: [N] integers; an episode may restart at 0 while the history goes on.
            cache: the histories of the N environments; it advances by one step.

        Raises:
            UsageError: N is not the cache's.
        """
        if observation.shape[0] != cache.num_envs:
            raise UsageError(f"got {observation.shape[0]} observations for a cache of {cache.num_envs} environments")
        token = self.encode(task_name, observation, prev_action, prev_reward, step_num, standardised)
        return self.act(task_name, self.transformer.decode(token, cache))

    @torch.no_grad()
    def predict_actions(
        self,
        observation: Array,
        prev_action: Array,
        prev_reward: Array,
        step_num: Array,
        *,
        task_name: str | None = None,
    ) -> Array:
        """Predict the action of every step of one history, in eval mode and without gradients.

        Args:
            observation: [T, obs], NumPy or torch, like the other three.
            prev_action: [T, act].
            prev_reward: [T] or [T, 1].
            step_num: [T] integers from 0.
            task_name: may be left out when the model has only one task.

        Returns:
            [T, act] float32: a NumPy array if ``observation`` is one, else a tensor on ``observation``'s device. T may
            exceed the context the model was trained with.

        Raises:
            UsageError: no task is named but there are several, wrong shapes, or values that are not finite.
        """
        if task_name is None:
            if len(self.tasks) != 1:
                raise UsageError(f"task_name is needed: the model has {', '.join(self.tasks) or 'no tasks'}")
            (task_name,) = self.tasks
        info, _ = self._task(task_name)
        obs, action, reward, step = (
            torch.as_tensor(x, device=self.device) for x in (observation, prev_action, prev_reward, step_num)
        )
        reward = reward[:, 0] if reward.ndim == 2 and reward.shape[1] == 1 else reward
        _check_history(info, obs, action, reward, step)
        was_training = self.training
        self.eval()
        try:
            out = self(task_name, obs.float()[None], action.float()[None], reward.float()[None], step.long()[None])[0]
        finally:
            self.train(was_training)
        return out.to(observation.device) if isinstance(observation, Tensor) else out.cpu().numpy()


def _check_history(info: TaskInfo, observation: Tensor, action: Tensor, reward: Tensor, step_num: Tensor) -> None:
    """Raise UsageError unless the four describe one history of at least one step."""
    steps = observation.shape[0] if observation.ndim else 0
    if steps == 0:
        raise UsageError(f"observation must be [T, {info.observation_dim}] with T >= 1, got {list(observation.shape)}")
    expected = {
        "observation": (observation, [steps, info.observation_dim]),
        "prev_action": (action, [steps, info.action_dim]),
        "prev_reward": (reward, [steps]),
        "step_num": (step_num, [steps]),
    }
    for name, (value, shape) in expected.items():
        if list(value.shape) != shape:
            raise UsageError(f"{name} must have shape {shape}, got {list(value.shape)}")
        if not torch.isfinite(value).all():
            raise UsageError(f"{name} holds values that are not finite (NaN or infinity)")
    if (step_num < 0).any() or (step_num.is_floating_point() and (step_num != step_num.round()).any()):
        raise UsageError(f"step_num must hold integers from 0, got {step_num.min().item()} among them")
