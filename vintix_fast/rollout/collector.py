"""Run a policy for a given number of episodes in N environments, and hand every transition on.

Owns the rollout loop: which environment runs which episode, what the policy is shown, what is stored.  Used by
collection (with a writer) and by evaluation (without).  Knows nothing about models, files or training.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch

from vintix_fast.data import History
from vintix_fast.regions import region
from vintix_fast.rollout.policy import Actor
from vintix_fast.task import WalkingTask


@dataclass(frozen=True)
class Episode:
    """One finished episode."""

    env: int
    number: int
    """Which of its environment's episodes, from 0: the length of the context it began with grows with it."""
    return_: float
    length: int
    terminated: bool
    failed: bool


@dataclass
class Collection:
    """What a rollout gave."""

    episodes: list[Episode] = field(default_factory=list)
    histories: list[History] = field(default_factory=list)
    """One for each environment that ran an episode; empty when transitions were not kept."""
    env_steps: int = 0
    """Transitions that belong to an episode."""
    seconds: float = 0.0

    @property
    def mean_return(self) -> float:
        return float(np.mean([e.return_ for e in self.episodes]))

    @property
    def mean_length(self) -> float:
        return float(np.mean([e.length for e in self.episodes]))

    @property
    def failures(self) -> int:
        return sum(e.failed for e in self.episodes)


def episodes_per_env(num_episodes: int, num_envs: int) -> np.ndarray:
    """How many episodes each environment runs, [N]: shared out before any starts.

    Fixing them beforehand is what keeps short episodes from being over-represented: whoever falls early does not run
    more.
    """
    base, extra = divmod(num_episodes, num_envs)
    return np.array([base + (env < extra) for env in range(num_envs)])


def collect(
    task: WalkingTask,
    policy: Actor,
    num_episodes: int = 0,
    *,
    seed: int,
    random_starts: bool,
    min_steps: int = 0,
    steps_per_env: int = 0,
    noise=None,
    writer=None,
    keep: bool = False,
    on_step: Callable[[Collection], None] = lambda collection: None,
) -> Collection:
    """Run exactly ``num_episodes`` complete episodes, and as many again until there are ``min_steps`` steps.

    Args:
        task: the environments.
        policy: who acts.
        num_episodes: over all environments.
        seed: of the starts.
        random_starts: see `WalkingTask.reset`.
        min_steps: where episodes are so short that they give fewer steps, every environment runs its share again,
            with a cold context: those that were done early went on unrecorded meanwhile.
        steps_per_env: run so many steps in every environment instead, whatever the episodes; the last may be cut.
        noise: has `apply(action [N, A]) -> [N, A]`, the policy's action to the executed one; None for none.
        writer: has `append(arrays, active)`; gets whole steps of all environments.
        keep: keep the transitions in memory as histories.
        on_step: called after every step with the collection so far; may raise to stop.

    Returns:
        Episodes in the order in which they ended, steps counted while an environment still had an episode to run.
    """
    share = episodes_per_env(num_episodes, task.num_envs)
    quota = share.copy()
    finished = np.zeros(task.num_envs, dtype=np.int64)
    returns = np.zeros(task.num_envs)
    collection, kept = Collection(), []
    started = time.perf_counter()

    policy.forget()
    observation = task.reset(seed, random_starts)
    steps = 0
    while (active := np.full(task.num_envs, steps < steps_per_env) if steps_per_env else finished < quota).any():
        steps += 1
        step_num = task.step_num.clone()
        with region("decode"):
            policy.begin(observation, step_num)
        with region("simulate"):
            task.advance()  # beside the policy: it executes the previous action
        with region("wait"):
            mean_action = policy.finish()
        action = mean_action if noise is None else noise.apply(mean_action)
        with region("observe"):
            result = task.judge(action)
        policy.remember(action, result.reward)

        step = _to_numpy(observation, action, mean_action, step_num, result)
        if writer is not None:
            with region("write"):
                writer.append(step, active)
        if keep:
            kept.append((step, active))
        observation = result.observation

        returns[active] += step["reward"][active]
        collection.env_steps += int(active.sum())
        for env in np.flatnonzero(active & (step["terminated"] | step["truncated"]).astype(bool)):
            collection.episodes.append(
                Episode(
                    env=int(env),
                    number=int(finished[env]),
                    return_=float(returns[env]),
                    length=int(step["step_num"][env]) + 1,
                    terminated=bool(step["terminated"][env]),
                    failed=bool(step["failed"][env]),
                )
            )
            finished[env] += 1
            returns[env] = 0.0
        if (finished >= quota).all() and collection.env_steps < min_steps:
            quota += share
            seed += 1
            policy.forget()
            observation = task.reset(seed, random_starts)
        collection.seconds = time.perf_counter() - started
        on_step(collection)
    if keep:
        collection.histories = _histories(kept, task.num_envs)
    return collection


def _to_numpy(observation, action, mean_action, step_num, result) -> dict[str, np.ndarray]:
    columns = {
        "proprio_observation": observation,
        "action": action,
        "reward": result.reward,
        "step_num": step_num,
        "mean_action": mean_action,
        "noise": action - mean_action,
        "terminated": result.terminated.to(torch.uint8),
        "truncated": result.truncated.to(torch.uint8),
        "failed": result.failed.to(torch.uint8),
    }
    return {name: np.ascontiguousarray(column.cpu().numpy()) for name, column in columns.items()}


def _histories(kept: list[tuple[dict[str, np.ndarray], np.ndarray]], num_envs: int) -> list[History]:
    active = np.stack([mask for _, mask in kept])  # [T, N]
    columns = {name: np.stack([step[name] for step, _ in kept]) for name in kept[0][0]}  # [T, N, ...]
    histories = []
    for env in range(num_envs):
        rows = {name: column[active[:, env], env] for name, column in columns.items()}
        if len(rows["reward"]):
            histories.append(
                History(
                    observation=rows.pop("proprio_observation"),
                    action=rows.pop("action"),
                    reward=rows.pop("reward"),
                    step_num=rows.pop("step_num"),
                    extras=rows,
                    env=env,
                )
            )
    return histories
