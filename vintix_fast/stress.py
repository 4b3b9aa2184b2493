"""What a model does in worlds that differ from the one it was trained in: one row of numbers for each.

Every row runs the same episodes from the same starts, several in a row in one context.  A row is kept as soon as it is
measured, so that an interrupted table goes on where it stopped.  How a table is drawn is `report/stress_table.py`'s.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from vintix_fast.evaluation import check_context_len, task_for
from vintix_fast.kernels.reference import rotate_into_body
from vintix_fast.model import load_checkpoint
from vintix_fast.outdir import ANEW, RunDirectory
from vintix_fast.policy import Actor, cache_bytes, make_policy
from vintix_fast.report.stress_table import write_table
from vintix_fast.rollout import collect
from vintix_fast.service.device import check_device
from vintix_fast.service.errors import Interrupted
from vintix_fast.service.files import read_json, versions, write_json
from vintix_fast.service.interrupt import check_interrupt, stop_on_interrupt
from vintix_fast.service.memory import check_memory
from vintix_fast.service.progress import Progress
from vintix_fast.stress_config import StressConfig
from vintix_fast.world.drawn import check_joints
from vintix_fast.world.simulator import DT_S, Simulator
from vintix_fast.world.task import Simulation, WalkingTask
from vintix_fast.world.variation import Variation

TABLE_FILE, FILES = "stress.json", ("stress.json", "stress.csv", "stress_seconds.csv", "stress.png")
SECONDS = (0.0, 1.0, 2.0, 5.0, 10.0, 20.0, 40.0, 80.0, math.inf)
"""Where the context's age is cut."""
SLOWEST = 0.05
"""Commands below are no speed to compare with."""


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


class Meter:
    """Takes what a rollout writes, and adds speeds: by episode's number and by the context's age.

    Args:
        task: whose simulator and commands are read as each step arrives.
        episodes: numbers of episodes, at most.
    """

    def __init__(self, task: WalkingTask, episodes: int) -> None:
        self._task = task
        shape = task.num_envs
        # Sums of reward, steps, and what each has of (speed, yaw rate) over the commanded one; with falls at the end.
        self.by_second = np.zeros((shape, len(SECONDS) - 1, 5))
        self.by_episode = np.zeros((shape, episodes, 5))
        self._age, self._number = np.zeros(shape, int), np.zeros(shape, int)
        self._envs = np.arange(shape)

    def append(self, arrays: dict[str, np.ndarray], active: np.ndarray) -> None:
        done = (arrays["terminated"] | arrays["truncated"]).astype(bool)
        ratio = self._ratios()
        speed_counts = active & ~done  # the state of an episode that is over is gone
        row = np.zeros((len(active), 5))
        row[:, 0], row[:, 1] = arrays["reward"], 1.0
        row[:, 2:4] = np.where(speed_counts[:, None], ratio, 0.0)
        row[:, 4] = speed_counts
        row *= active[:, None]
        cut = np.searchsorted(SECONDS, self._age * DT_S, side="right") - 1
        self.by_second[self._envs, cut] += row
        number = np.minimum(self._number, self.by_episode.shape[1] - 1)
        self.by_episode[self._envs, number] += row
        self._age += active
        self._number += active & done

    def _ratios(self) -> np.ndarray:
        """[N, 2]: speed along the command over its speed, yaw rate over the commanded; NaN where none is asked for."""
        state, command = self._task.simulator.state(), self._task.command
        velocity = rotate_into_body(state.base_quat, state.base_lin_vel_m_s)[:, :2]
        yaw = rotate_into_body(state.base_quat, state.base_ang_vel_rad_s)[:, 2]
        asked = command[:, :2].norm(dim=1)
        speed = (velocity * command[:, :2]).sum(dim=1) / asked.square()
        speed = torch.where(asked >= SLOWEST, speed, torch.nan)
        turning = torch.where(command[:, 2].abs() >= SLOWEST, yaw / command[:, 2], torch.nan)
        return torch.stack([speed, turning], dim=1).cpu().numpy()


def _mean(values: np.ndarray) -> tuple[float | None, float | None]:
    """Mean over environments and its standard error; None where there is none."""
    values = values[np.isfinite(values)]
    if not len(values):
        return None, None
    return float(values.mean()), float(values.std() / math.sqrt(len(values) - 1)) if len(values) > 1 else None


def _rates(sums: np.ndarray) -> dict[str, Any]:
    """Of sums [N, 5] as `Meter` has them: reward in a second, and what part of the commanded speeds."""
    with np.errstate(invalid="ignore", divide="ignore"):
        parts = {
            "reward_per_s": sums[:, 0] / (sums[:, 1] * DT_S),
            "speed_ratio": sums[:, 2] / sums[:, 4],
            "yaw_ratio": sums[:, 3] / sums[:, 4],
        }
    found: dict[str, Any] = {"environments": int((sums[:, 1] > 0).sum())}
    for name, values in parts.items():
        found[name], found[f"{name}_error"] = _mean(values)
    return found


def measure_world(task: WalkingTask, policy: Actor, config: StressConfig, progress: Progress) -> dict[str, Any]:
    """One row: all episodes in one world."""
    meter, total = Meter(task, config.episodes_per_env), config.num_envs * config.episodes_per_env
    found = collect(
        task, policy, total, seed=config.seed, random_starts=True, writer=meter, on_step=progress.on_rollout_step
    )

    def account(episodes: list[Any], sums: np.ndarray) -> dict[str, Any]:
        per_env = [[e for e in episodes if e.env == env] for env in range(task.num_envs)]
        returns = np.array([np.mean([e.return_ for e in own]) for own in per_env])
        survived = np.array([np.mean([not e.terminated for e in own]) for own in per_env])
        mean, error = _mean(returns)
        alive, alive_error = _mean(survived)
        lengths = float(np.mean([e.length for e in episodes]))
        rates = _rates(sums)
        return {
            "return": mean, "return_error": error, "survival": alive, "survival_error": alive_error, "length": lengths,
            **{k: v for k, v in rates.items() if k != "environments"},
        }  # fmt: skip

    numbers = range(config.episodes_per_env)
    cuts = zip(SECONDS[:-1], SECONDS[1:], strict=True)
    seconds = [
        {"from_s": low, "to_s": None if math.isinf(high) else high, **_rates(meter.by_second[:, i])}
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


def stress(
    config: StressConfig, *, simulator: Simulation | None = None, progress: Progress | None = None
) -> dict[str, Any]:
    """Measure a checkpoint in each world, and leave the table in ``config.output_dir``; see `FILES`.

    Args:
        config: see `StressConfig`.
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
    model = load_checkpoint(config.vintix_path, config.engine.device, config.token_order, progress.say)
    task_name, context_len = task_for(model, robot), check_context_len(config.context_len, model)
    check_memory(config.num_envs, cache_bytes(model, context_len, **config.engine.policy_options), config.engine.device)
    with directory, stop_on_interrupt(progress.say):
        if simulator is None:
            every = Variation(tuple({entry.key: entry for v in variations for entry in _needed(v)}.values()))
            varied = (every,) if every else ()
            simulator = Simulator(robot, config.num_envs, config.engine.device, progress.say, *varied)
        check_interrupt()
        directory.begin()
        table = directory.path / TABLE_FILE
        rows = read_json(table, ANEW, {"worlds": list})["worlds"] if config.resume and table.is_file() else []
        done = {row.get("vary") for row in rows if isinstance(row, dict)}
        policy = make_policy(model, task_name, config.num_envs, context_len, **config.engine.policy_options)
        actor = Forgetful(policy, max(1, round(config.forget_s / DT_S))) if config.forget_s else policy
        with _told_how_to_go_on():
            for variation in variations:
                if str(variation) in done:
                    continue
                world = replace(config.task, vary=variation)
                task = WalkingTask(simulator, robot, config.max_steps, task_config=world)
                what = f"{robot.name}: {variation or 'plain world'}"
                with progress.rollout(what, config.num_envs * config.episodes_per_env, config.max_steps):
                    rows.append(measure_world(task, actor, config, progress))
                error = rows[-1]["return_error"] or 0.0
                told = f"return {rows[-1]['return']:.2f} ± {error:.2f}, survives {rows[-1]['survival']:.0%}"
                progress.say(f"{variation or 'plain world'}: {told}")
                found = {"robot": robot.name, "model": str(config.vintix_path), "worlds": rows}
                write_json(table, found | {"options": config.to_json(), "versions": versions()})
        result = read_json(table, ANEW, {"worlds": list})
        write_table(directory.path, result)
    return result


def _needed(variation: Variation) -> list[Any]:
    """Entries by which a scene is told that bodies differ; what others need is of no interest to it."""
    return [entry for entry in variation.entries if not entry.name.startswith(("payload_x", "payload_y", "payload_z"))]


@contextlib.contextmanager
def _told_how_to_go_on() -> Iterator[None]:
    try:
        yield
    except (Interrupted, KeyboardInterrupt) as stop:
        raise Interrupted("stopped; the same command with --resume goes on with the next world") from stop
