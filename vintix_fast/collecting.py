"""A loop's collection: episodes of the current policy with exploration, and starts practised beside them.

Data flows task and policy -> rollouts -> trajectories.h5 and its summary, which is written last: where it lies, the
collection is whole.  Knows nothing about what is learnt of it.
"""

from __future__ import annotations

import importlib.metadata
from typing import Any

import numpy as np
import torch

from vintix_fast.config import AdaptConfig
from vintix_fast.data import History, joined, open_writer
from vintix_fast.learning import seed_for
from vintix_fast.policy import Actor
from vintix_fast.rollout import Collection, Noise, StepWriter, collect, ladder
from vintix_fast.rundir import Run
from vintix_fast.service.files import versions, write_json
from vintix_fast.service.progress import Progress
from vintix_fast.world.task import WalkingTask

START_STEPS, STARTS = 25, 8
"""Beside its episodes a collection may have so many starts of each environment, of so many steps: half a second."""
LONG = 10
"""Episodes so many times longer than these starts have few of them."""


def collect_loop(
    run: Run[AdaptConfig], index: int, task: WalkingTask, policy: Actor, about: dict[str, Any], progress: Progress
) -> tuple[list[History], dict[str, Any]]:
    """The ``index``-th collection of a run, from 0, and its metrics.

    Args:
        policy: acts in the task's environments, with a cold context.
        about: the model's task, for the summary: its name, its sizes.
    """
    # Each environment explores with a strength of its own, a fifth of them not at all.
    config, settings, n, joints = run.config, run.config.collect, task.num_envs, task.layout.num_joints
    sigma = ladder(n, settings.noise) if settings.noise_ladder else torch.full((n,), settings.noise)
    noise = Noise(sigma, joints, seed_for(config, index, "noise")) if settings.noise else None
    # The writer puts steps into the file while the next ones are simulated.
    attributes: dict[str, Any] = {"robot": task.robot.name, "task_name": about["task_name"], "seed": config.seed}
    attributes |= {"loop": index, "task": task.config.to_json()} | versions()
    if config.simulator == "mujoco":
        attributes |= {"simulator": "mujoco", "mujoco": importlib.metadata.version("mujoco")}
    run.data_dir(index).mkdir(exist_ok=True)
    what = f"loop {index + 1}: collecting"
    with (
        progress.rollout(what, settings.episodes_per_loop, config.max_steps_per_episode),
        open_writer(run.trajectories(index), n, attributes, layout=task.layout, varied=task.varied_columns) as writer,
    ):
        practised = _practise_starts(run, index, task, policy, sigma, writer)
        collection = collect(
            task, policy, settings.episodes_per_loop, seed=seed_for(config, index, "starts"),
            random_starts=settings.random_starts, min_steps=config.min_steps, noise=noise, writer=writer, keep=True,
            on_step=progress.on_rollout_step,
        )  # fmt: skip
    waited = {"writer_waits": writer.stats["waits"], "writer_wait_seconds": writer.stats["wait_seconds"]}
    metrics = collection.metrics() | waited
    metrics["env_steps"] += sum(practice.env_steps for practice in practised)
    metrics["collect_seconds"] += sum(practice.seconds for practice in practised)
    metrics["env_steps_per_s"] = metrics["env_steps"] / metrics["collect_seconds"]
    if practised:
        starts = [episode for practice in practised for episode in practice.episodes]
        metrics["fallen_starts"] = float(np.mean([start.terminated for start in starts]))
    record = about | {"collection": metrics, "episodes": [episode.to_json() for episode in collection.episodes]}
    write_json(run.collection_file(index), record | {"versions": versions()})
    return joined([practice.histories for practice in practised] + [collection.histories]), metrics


def _practise_starts(
    run: Run[AdaptConfig], index: int, task: WalkingTask, policy: Actor, sigma: torch.Tensor, writer: StepWriter
) -> list[Collection]:
    """Only how episodes begin, from a cold context, many times, of a robot that walks and still falls now and then.

    Where it does it is mostly as it is put down, and of that long episodes tell little.  One whose episodes are
    short has starts enough, and one that never falls learns nothing of them.
    """
    config = run.config
    falls_now_and_then = LONG * START_STEPS <= run.current_row.get("eval_length", 0) < task.max_steps
    if not falls_now_and_then or not config.collect.random_starts or config.improve.improver == "clone":
        return []
    short = WalkingTask(task.simulator, task.robot, START_STEPS, task_config=config.task)
    practised = []
    for seed in range(seed_for(config, index, "practice"), seed_for(config, index, "practice") + STARTS):
        noise = Noise(sigma, task.layout.num_joints, seed) if config.collect.noise else None
        rest: dict[str, Any] = {"noise": noise, "writer": writer, "keep": True}
        practised.append(collect(short, policy, task.num_envs, seed=seed, random_starts=True, **rest))
    return practised
