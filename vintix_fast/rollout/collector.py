"""Run a policy for a given number of episodes in N environments, and hand every transition on.

Owns the rollout loop: what the policy is shown, and when.  The books say which environment runs which episode and what
is stored; on CUDA they hear of a step one step late, so that copies wait for nothing that the device has yet to do.
Used by collection (with a writer) and by evaluation (without).  Knows nothing about models, files or training.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from vintix_fast.data.schema import VARIATION
from vintix_fast.policy.policy import Actor
from vintix_fast.rollout.books import Books, Collection, StepWriter
from vintix_fast.rollout.host_copies import HostCopies
from vintix_fast.rollout.noise import ActionNoise
from vintix_fast.service.interrupt import check_interrupt
from vintix_fast.service.regions import region
from vintix_fast.world.task import WalkingTask


def collect(
    task: WalkingTask,
    policy: Actor,
    num_episodes: int = 0,
    *,
    seed: int,
    random_starts: bool,
    min_steps: int = 0,
    steps_per_env: int = 0,
    noise: ActionNoise | None = None,
    writer: StepWriter | None = None,
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
            with a cold context: those that were done early went on unrecorded meanwhile. In its history it follows
            the earlier ones all the same, so that fine-tuning sees those before it.
        steps_per_env: run so many steps in every environment instead, whatever the episodes; the last may be cut.
        noise: makes the executed action of the policy's.
        writer: gets whole steps of all environments.
        keep: keep the transitions in memory as histories.
        on_step: called for every step with the collection so far; may raise to stop. On CUDA the simulator is a step
            further by then.

    Raises:
        Interrupted: the user asked to stop.

    Returns:
        Episodes in the order in which they ended, steps counted while an environment still had an episode to run.
    """
    books = Books(task.num_envs, num_episodes, min_steps, steps_per_env, writer, keep)
    copies = HostCopies(task.device)
    # All contexts begin cold; on a GPU the task may hand out observations as the policy wants them.
    policy.reset()
    task.standardise_by(policy.statistics)
    observation, standardised = task.reset(seed, random_starts), None
    step = 0
    while books.active.any():
        check_interrupt()
        # The policy decides while the simulator executes an earlier action.
        step_num, varied = task.step_num.clone(), None if task.drawn is None else task.drawn.values.clone()
        with region("decode"):
            policy.begin(observation, step_num, standardised)
        with region("simulate"):
            task.begin()
        with region("wait"):
            mean_action = policy.finish()
        # What is executed, and what came of it, is what the policy is shown next.
        action = mean_action if noise is None else noise.apply(mean_action, step)
        with region("observe"):
            result = task.finish(action)
        policy.observe(action, result.reward)

        # The books hear of whole steps on the host, on CUDA of the one before.
        columns = {
            "proprio_observation": observation,
            "action": action,
            "reward": result.reward,
            "step_num": step_num,
            "mean_action": mean_action,
            "terminated": result.terminated.view(torch.uint8),
            "truncated": result.truncated.view(torch.uint8),
            "failed": result.failed.view(torch.uint8),
        }
        for arrived in copies.push(columns if varied is None else columns | {VARIATION: varied}):
            books.enter(arrived)
            on_step(books.collection)
        observation, standardised = result.observation, result.standardised
        step += 1
        # Episodes so short that more are needed: all environments start anew, cold.
        if books.ask_for_more():
            copies.flush()  # where steps arrive late, one more was made: it belongs to no episode
            step = books.steps
            seed += 1
            policy.reset()
            observation, standardised = task.reset(seed, random_starts), None
    return books.close()
