"""What a model does in worlds that differ from the one it was trained in, and under commands: a row of numbers each.

Every row runs the same episodes from the same starts, several in a row in one context.  A row is kept as soon as it is
measured, so that an interrupted table goes on where it stopped.  How a table is drawn is `report/stress_table.py`'s,
what is measured in a step `stress_meter.py`'s.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from vintix_fast.evaluation import check_context_len, task_measured
from vintix_fast.model import load_checkpoint
from vintix_fast.outdir import ANEW, RunDirectory
from vintix_fast.policy import Actor, cache_bytes, make_policy
from vintix_fast.policy.expert import CARD_FILE, ExpertPolicy, load_expert, told_of, trained_in
from vintix_fast.report.stress_table import COMMANDED, write_table
from vintix_fast.rollout import Collection, Episode, collect
from vintix_fast.service.device import check_device
from vintix_fast.service.errors import UsageError
from vintix_fast.service.files import read_json, versions, write_json
from vintix_fast.service.interrupt import check_interrupt, stop_on_interrupt, told_to_resume
from vintix_fast.service.memory import check_memory
from vintix_fast.service.progress import Progress
from vintix_fast.stress_config import StressConfig
from vintix_fast.stress_meter import SECONDS, Meter, rates, with_errors
from vintix_fast.world.drawn import check_joints
from vintix_fast.world.privileged import Privileged
from vintix_fast.world.robot import Robot
from vintix_fast.world.simulator import DT_S, Simulator
from vintix_fast.world.task import Simulation, WalkingTask
from vintix_fast.world.task_config import TaskConfig
from vintix_fast.world.variation import Variation

TABLE_FILE = "stress.json"
FILES = (TABLE_FILE, "stress.csv", "stress_seconds.csv", "stress.png", "stress_commands.csv", "stress_commands.png")


class Forgetful(Actor):
    """An actor that is left without its context every so many steps."""

    def __init__(self, actor: Actor, steps: int) -> None:
        self._actor, self._every, self._steps = actor, steps, 0

    @property
    def statistics(self) -> tuple[torch.Tensor, torch.Tensor] | None:
        return self._actor.statistics

    def reset(self, mask: torch.Tensor | None = None) -> None:
        self._steps = 0
        self._actor.reset(mask)

    def act(self, observation: torch.Tensor, step_num: torch.Tensor) -> torch.Tensor:
        self.begin(observation, step_num)
        return self.finish()

    def begin(
        self, observation: torch.Tensor, step_num: torch.Tensor, standardised: torch.Tensor | None = None
    ) -> None:
        if self._steps and self._steps % self._every == 0:
            self._actor.reset()
        self._steps += 1
        self._actor.begin(observation, step_num, standardised)

    def finish(self) -> torch.Tensor:
        return self._actor.finish()

    def observe(self, action: torch.Tensor, reward: torch.Tensor) -> None:
        self._actor.observe(action, reward)


def _walked(task: WalkingTask, policy: Actor, config: StressConfig, progress: Progress) -> tuple[Collection, Meter]:
    """All episodes of a row, and what was measured in their steps."""
    meter, total = Meter(task, config.episodes_per_env), config.num_envs * config.episodes_per_env
    found = collect(
        task, policy, total, seed=config.seed, random_starts=True, writer=meter, on_step=progress.on_rollout_step
    )
    return found, meter


def measure_world(task: WalkingTask, policy: Actor, config: StressConfig, progress: Progress) -> dict[str, Any]:
    """One row: all episodes in one world."""
    found, meter = _walked(task, policy, config, progress)

    def account(episodes: list[Episode], sums: np.ndarray) -> dict[str, Any]:
        row = with_errors(_by_environment(episodes, task.num_envs))
        row["length"] = float(np.mean([e.length for e in episodes]))
        return row | {k: v for k, v in rates(sums).items() if k != "environments"}

    numbers = range(config.episodes_per_env)
    cuts = zip(SECONDS[:-1], SECONDS[1:], strict=True)
    seconds = [
        {"from_s": low, "to_s": None if math.isinf(high) else high, **rates(meter.by_second[:, i])}
        for i, (low, high) in enumerate(cuts)
    ]
    return {
        "vary": str(task.config.vary),
        **account(found.episodes, meter.by_episode.sum(axis=1)),
        "env_steps": found.env_steps,
        "by_episode": [
            {"episode": n + 1, **account([e for e in found.episodes if e.number == n], meter.by_episode[:, n])}
            for n in numbers
        ],
        "by_second": [row for row in seconds if row["environments"]],
    }


def measure_command(task: WalkingTask, policy: Actor, config: StressConfig, progress: Progress) -> dict[str, Any]:
    """One row: all episodes under one command, which is the task's."""
    found, meter = _walked(task, policy, config, progress)
    measured = {f"measured_{name}": meter.mean_speeds[:, i] for i, name in enumerate(COMMANDED)}
    command = dict(zip(COMMANDED, task.config.command, strict=True))
    return command | with_errors(_by_environment(found.episodes, task.num_envs) | measured)


def _by_environment(episodes: list[Episode], num_envs: int) -> dict[str, np.ndarray]:
    """Mean return of each environment's episodes, and which part of them it survived, [N] each."""
    per_env = [[e for e in episodes if e.env == env] for env in range(num_envs)]
    return {
        "return": np.array([np.mean([e.return_ for e in own]) for own in per_env]),
        "survival": np.array([np.mean([not e.terminated for e in own]) for own in per_env]),
    }


def stress(
    config: StressConfig, *, simulator: Simulation | None = None, progress: Progress | None = None
) -> dict[str, Any]:
    """Measure a checkpoint, or an expert, in each world, and leave the table in ``config.output_dir``; see `FILES`.

    Where the task's commands are ranges, it is also measured under commands within them, in the plain world.

    Args:
        simulator: of this robot with ``config.num_envs`` environments that may differ; None builds one.
        progress: told what happens; None for silence.

    Returns:
        What ``stress.json`` says.

    Raises:
        UsageError, InputFileError: something in ``config`` does not fit; nothing was written then.
        Interrupted: Ctrl-C; the table can be resumed.
    """
    progress = progress or Progress()
    check_device(config.engine.device)
    directory = RunDirectory(config, FILES)
    directory.check()
    robot = directory.robot
    variations = config.variations(robot.joints_of_a_leg[-1])
    for variation in variations:
        check_joints(variation, robot)
    actor = _actor(config, robot, variations, progress)
    with directory, stop_on_interrupt(progress.say):
        if simulator is None:
            every = Variation(tuple({entry.key: entry for v in variations for entry in _needed(v)}.values()))
            simulator = Simulator(robot, config.num_envs, config.engine.device, progress.say, every)
        check_interrupt()
        directory.begin()
        path = directory.path / TABLE_FILE
        table: dict[str, Any] = {"robot": robot.name, "model": str(config.vintix_path), "worlds": []}
        if config.resume and path.is_file():
            found = read_json(path, ANEW, {"worlds": list})
            table |= {part: found[part] for part in ("worlds", "commands") if part in found}
        with told_to_resume("with the next world"):
            for part, about, name, asked in _rows(config, variations):
                rows = table.setdefault(part, [])
                if any(isinstance(row, dict) and row.items() >= about.items() for row in rows):
                    continue
                task = WalkingTask(simulator, robot, config.max_steps, task_config=asked)
                measure = measure_world if part == "worlds" else measure_command
                episodes = config.num_envs * config.episodes_per_env
                with progress.rollout(f"{robot.name}: {name}", episodes, config.max_steps):
                    row = measure(task, actor(task), config, progress)
                rows.append(row)
                error, survival = row["return_error"] or 0.0, row["survival"]
                progress.say(f"{name}: return {row['return']:.2f} ± {error:.2f}, survives {survival:.0%}")
                write_json(path, table | {"options": config.to_json(), "versions": versions()})
        result = read_json(path, ANEW, {"worlds": list})
        write_table(directory.path, result)
    return result


def _rows(config: StressConfig, variations: list[Variation]) -> Iterator[tuple[str, dict[str, Any], str, TaskConfig]]:
    """Of each row: the table's part, what tells it from others there, its name for a person, and its task."""
    for variation in variations:
        yield "worlds", {"vary": str(variation)}, str(variation or "plain world"), replace(config.task, vary=variation)
    for command in config.commands():
        name = "commanded {:.2f} and {:.2f} m/s, {:.2f} rad/s".format(*command)
        asked = replace(config.task, command=command, command_spread=(0.0, 0.0, 0.0), resample_s=None)
        yield "commands", dict(zip(COMMANDED, command, strict=True)), name, asked


def _actor(
    config: StressConfig, robot: Robot, variations: list[Variation], progress: Progress
) -> Callable[[WalkingTask], Actor]:
    """Who acts in a task: a model, the same in all of them, or an expert, which is told of each."""
    if (config.vintix_path / CARD_FILE).is_file():
        given = {"--context-len": config.context_len, "--forget-s": config.forget_s}
        for name, value in {**given, "--reference-robot": config.reference_robot}.items():
            if value is not None:
                raise UsageError(f"{name} {value} has no effect: {config.vintix_path} is an expert, not a checkpoint")
        network, card = load_expert(config.vintix_path, robot, "MODEL")
        trained = trained_in(card)
        for variation in variations:
            Privileged(trained, robot.layout.num_joints).check(variation)
        return lambda task: ExpertPolicy(network, task.num_envs, task.device, told_of(trained, task))
    engine = config.engine
    model = load_checkpoint(config.vintix_path, engine.device, config.token_order, progress.say)
    task_name = task_measured(model, robot, config.reference_robot, config.init_map, progress)
    context_len = check_context_len(config.context_len, model)
    check_memory(config.num_envs, cache_bytes(model, context_len, **engine.policy_options), engine.device)

    @functools.cache
    def only() -> Actor:
        policy = make_policy(model, task_name, config.num_envs, context_len, **engine.policy_options)
        return Forgetful(policy, max(1, round(config.forget_s / DT_S))) if config.forget_s else policy

    return lambda task: only()


def _needed(variation: Variation) -> list[Any]:
    """Entries by which a scene is told that bodies differ; what others need is of no interest to it."""
    return [entry for entry in variation.entries if not entry.name.startswith(("payload_x", "payload_y", "payload_z"))]
