"""Measure a model on a robot: returns and lengths of whole episodes, without exploration noise."""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from vintix_fast.acting_config import AUDITION
from vintix_fast.audition import candidates, hold_audition
from vintix_fast.eval_config import EvalConfig
from vintix_fast.model import Vintix, fingerprint, load_checkpoint
from vintix_fast.model.new_group import add_target, check_sizes, task_of
from vintix_fast.policy import Actor, cache_bytes, make_policy
from vintix_fast.rollout import Episode, collect, standard_error
from vintix_fast.service.device import check_device
from vintix_fast.service.errors import InputFileError, UsageError
from vintix_fast.service.files import check_writable, versions, write_json, write_text
from vintix_fast.service.memory import check_memory
from vintix_fast.service.progress import Progress
from vintix_fast.world.robot import Robot, load_robot
from vintix_fast.world.simulators import make_simulator
from vintix_fast.world.task import Simulation, WalkingTask


@dataclass(frozen=True)
class Evaluation:
    """What an evaluation found; returns are sums of rewards over an episode."""

    robot: str
    episodes: list[Episode]
    env_steps: int
    seconds: float
    varied: tuple[str, ...] = ()
    """Names of what differs between episodes."""

    @property
    def returns(self) -> list[float]:
        return [e.return_ for e in self.episodes]

    @property
    def lengths(self) -> list[int]:
        return [e.length for e in self.episodes]

    @property
    def mean_return(self) -> float:
        return float(np.mean(self.returns))

    @property
    def mean_length(self) -> float:
        return float(np.mean(self.lengths))

    def by_number(self) -> list[list[Episode]]:
        """Every environment's first episode, every second one, and so on."""
        return [[e for e in self.episodes if e.number == n] for n in sorted({e.number for e in self.episodes})]

    def gate_metrics(self) -> dict[str, Any]:
        """A loop's metrics of its evaluation; ``eval_warm_return`` only where environments had several episodes."""
        cold, warm = ([e.return_ for e in self.episodes if (e.number > 0) == later] for later in (False, True))
        return {
            "eval_return": self.mean_return,
            "eval_std_return": float(np.std(self.returns)),
            "eval_standard_error": standard_error(self.returns),
            "eval_cold_return": float(np.mean(cold)),
            **({"eval_warm_return": float(np.mean(warm))} if warm else {}),
            "eval_length": self.mean_length,
            "eval_env_steps": self.env_steps,
            "eval_seconds": self.seconds,
        }

    def summary(self) -> dict[str, Any]:
        """The numbers, as ``eval --json`` prints them; standard deviations are the population's."""
        by_number = [[e.return_ for e in episodes] for episodes in self.by_number()]
        return {
            "robot": self.robot,
            "mean_return": self.mean_return,
            "std_return": float(np.std(self.returns)),
            "standard_error": standard_error(self.returns),
            "mean_episode_length": self.mean_length,
            "std_episode_length": float(np.std(self.lengths)),
            "episodes": len(self.episodes),
            "terminated": sum(e.terminated for e in self.episodes),
            "failed": sum(e.failed for e in self.episodes),
            "returns_by_episode_number": [float(np.mean(returns)) for returns in by_number],
            "standard_errors_by_episode_number": [standard_error(returns) for returns in by_number],
            "env_steps": self.env_steps,
            "env_steps_per_s": self.env_steps / self.seconds,
        }


def task_for(model: Vintix, robot: Robot) -> str:
    """The checkpoint's task for this robot; raises InputFileError where it has none."""
    task = task_of(model, robot)
    if task is None:
        raise InputFileError(
            f"the checkpoint has no group for {robot.name}; it has the tasks {', '.join(model.tasks)}. "
            "`vintix-fast adapt` makes one; `vintix-fast eval --reference-robot` evaluates a copy of another robot's"
        )
    check_sizes(task, model.tasks[task], robot.layout)
    return task


def check_context_len(context_len: int | None, model: Vintix) -> int:
    """The context to act with; raises UsageError if the model was made for a shorter one."""
    longest = model.config.context_len
    if context_len is not None and context_len > longest:
        raise UsageError(f"--context-len {context_len} is more than the model's {longest}; give at most that")
    return context_len or longest


def measure(
    task: WalkingTask, policy: Actor, num_episodes: int, seed: int, random_starts: bool, progress: Progress
) -> Evaluation:
    """Run ``num_episodes`` episodes without noise, the first of each environment from a cold context."""
    on_step = progress.on_rollout_step
    found = collect(task, policy, num_episodes, seed=seed, random_starts=random_starts, on_step=on_step)
    return Evaluation(task.robot.name, found.episodes, found.env_steps, found.seconds, task.varied_columns)


def task_measured(model: Vintix, robot: Robot, reference_robot: str | None, init_map: str, progress: Progress) -> str:
    """The model's task for the robot: its own, or that of a copy of the reference robot's adapter, which is made here.

    Raises:
        UsageError, InputFileError: see `task_for`, `add_target`.
    """
    if reference_robot is None:
        return task_for(model, robot)
    reference = load_robot(reference_robot)
    return add_target(model, robot, reference, progress.say, init_map=init_map, reinitialize=True)


def evaluate(
    config: EvalConfig, *, simulator: Simulation | None = None, progress: Progress | None = None
) -> Evaluation:
    """Evaluate a checkpoint and, if ``config.output_dir`` is given, write eval.json and eval.csv there.

    Args:
        simulator: for this robot and number of environments; None builds one.
        progress: told what happens; None for silence.

    Raises:
        UsageError, InputFileError: see `EvalConfig`, `load_robot`, `load_checkpoint`; before anything is written.
    """
    progress = progress or Progress()
    check_device(config.engine.device)
    # The robot, and the model's task for it: its own, or a copy of another robot's that is made here.
    robot = load_robot(config.robot_type)
    if config.base_mass is not None:
        robot = replace(robot, base_mass_kg=config.base_mass)
    model = load_checkpoint(config.vintix_path, config.engine.device, config.token_order, progress.say)
    task_name: str | None = None
    if config.reference_robot == AUDITION:
        candidates(model, robot)  # there must be some
    else:
        task_name = task_measured(model, robot, config.reference_robot, config.init_map, progress)
    context_len = check_context_len(config.context_len, model)
    if not config.random_starts:
        progress.say("Fixed starts: every environment would run the same episode, so one environment runs it")
    # What cannot be written, or does not fit into memory, is said before minutes go into the simulator.
    out = config.output_dir
    if out is not None:
        check_writable(out)
        if (out / "eval.json").exists() and not config.overwrite:
            raise UsageError(f"--output-dir {out} already holds an evaluation; --overwrite replaces it")
    check_memory(config.num_envs, cache_bytes(model, context_len, **config.engine.policy_options), config.engine.device)

    # Every environment begins with a cold context; later episodes of it see the earlier ones.
    simulator = simulator or make_simulator(
        config.simulator, robot, config.num_envs, config.engine.device, config.task, progress.say
    )
    task = WalkingTask(simulator, robot, config.max_steps, task_config=config.task)
    if task_name is None:
        task_name = hold_audition(model, task, context_len, config.engine, config.seed, progress.say).task_name
    policy = make_policy(model, task_name, config.num_envs, context_len, **config.engine.policy_options)
    total = config.num_envs * config.episodes_per_env
    with progress.rollout("evaluating", total, config.max_steps):
        evaluation = measure(task, policy, total, config.seed, config.random_starts, progress)
    if out is not None:
        _write(out, evaluation, config, fingerprint(model))
    # The video shows a rollout of its own, from the same starts.
    if config.record is not None:
        from vintix_fast.report.film import film_to  # which needs this file
        from vintix_fast.report.recording import record_actor

        recording = record_actor(policy, simulator, config.seed, progress, config.random_starts, config.task)
        progress.say(film_to(config.record, robot, recording))
    return evaluation


def _write(out: Path, evaluation: Evaluation, config: EvalConfig, weights: str) -> None:
    out.mkdir(parents=True, exist_ok=True)
    table = io.StringIO()
    writer = csv.writer(table)
    writer.writerow(["env", "episode_number", "return", "length", "terminated", "failed", *evaluation.varied])
    for e in sorted(evaluation.episodes, key=lambda e: (e.env, e.number)):
        writer.writerow([e.env, e.number, e.return_, e.length, int(e.terminated), int(e.failed), *e.varied])
    write_text(out / "eval.csv", table.getvalue())
    values = {n: v for n, v in config.options().items() if n != "task" and not (n == "vary" and v is None)}
    options = {k: str(v) if v is not None and not isinstance(v, (int, float)) else v for k, v in values.items()}
    record = {"options": options, "weights": weights, "task": config.task.to_json(), "versions": versions()}
    write_json(out / "eval.json", evaluation.summary() | record)
