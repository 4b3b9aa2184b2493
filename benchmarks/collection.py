"""Environment steps a second: the bare simulator, and what the task, the policy and the writer cost on top of it.

A first rollout of one number of environments records a walk: what the robots saw and did.  The simulator alone and the
task alone repeat it, driven by its actions.  The policy's context is filled with it until it is full, and then the
policy walks on by itself, so that no row is measured on a context that is still short.  Only the simulator alone never
places fallen robots anew; where any fall, its row simulates another motion.
"""

from __future__ import annotations

import functools
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from vintix_fast.benchmarks.config import BenchConfig
from vintix_fast.benchmarks.machine import now, read_bandwidth
from vintix_fast.benchmarks.plain import plain_steps_per_s
from vintix_fast.data import open_writer
from vintix_fast.model import Vintix
from vintix_fast.policy import Actor, cache_bytes, make_policy
from vintix_fast.rollout import collect
from vintix_fast.service.regions import recording
from vintix_fast.world.robot import Robot
from vintix_fast.world.simulator import Simulator
from vintix_fast.world.task import WalkingTask

SHORT_CONTEXT = 256
WARM_UP = 5
"""Steps of a rollout before the clock starts."""
DECODES = 20
"""Policy steps in one timing of decoding alone."""
REGIONS = {
    "simulate_fraction": ("simulate",), "task_fraction": ("observe",), "policy_fraction": ("decode", "wait"),
    "write_fraction": ("write",),
}  # fmt: skip
"""What the collector's step is made of: `vintix_fast.rollout.collector`'s regions."""


@dataclass(frozen=True)
class Walk:
    """What happened in a rollout; every field is [T, N, ...]."""

    observation: torch.Tensor
    action: torch.Tensor
    reward: torch.Tensor
    step_num: torch.Tensor


class FullContext:
    """A policy that keeps its history when a rollout begins; but for that it is the policy."""

    def __init__(self, policy: Actor) -> None:
        self._policy = policy

    def reset(self, mask: torch.Tensor | None = None) -> None:
        """Nothing."""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._policy, name)


def measure(
    model: Vintix,
    task_name: str,
    robot: Robot,
    context_len: int,
    config: BenchConfig,
    say: Callable[[str], None] = print,
) -> list[dict[str, Any]]:
    """Measure every number of environments at a context of `SHORT_CONTEXT` and at ``context_len``.

    Args:
        say: told what is done.

    Returns:
        A setting's numbers for each number of environments and context.
    """
    contexts = sorted({min(SHORT_CONTEXT, context_len), context_len})
    plain, settings, bandwidth = {}, [], 0.0
    # The plain way has one environment, whether that is asked for or not.
    only_plain = [1] if config.plain_steps and 1 not in config.num_envs else []
    for num_envs in [*only_plain, *config.num_envs]:
        task = WalkingTask(Simulator(robot, num_envs, config.engine.device, say), robot)
        if num_envs == 1 and config.plain_steps:
            say("the plain way")
            plain = {c: plain_steps_per_s(model, task_name, task, c, config.plain_steps) for c in contexts}
        if num_envs in config.num_envs:
            policy_with = functools.partial(make_policy, model, task_name, num_envs, **config.engine.policy_options)
            # All contexts repeat the same walk.
            walk = record_walk(task, policy_with(contexts[0]), config.steps_of(num_envs))
            for context in contexts:
                say(f"{num_envs} environments, context {context}")
                policy = policy_with(context)
                setting = measure_setting(task, policy, walk, context, config.repeats)
                kept = setting["cache_bytes_per_env"] = cache_bytes(model, context, **config.engine.policy_options)
                if config.engine.kind == "torch":  # it reads all that it keeps
                    setting["read_bytes_per_step"] = num_envs * kept
                settings.append(setting)
                # The machine's best is the ceiling, however busy it was in one setting.
                bandwidth = max(bandwidth, read_bandwidth(config.engine.device))
    # What needs all settings: the ceiling, and the plain way's speed.
    for setting in settings:
        read = setting["read_bytes_per_step"]
        setting["bandwidth_bytes_per_s"] = bandwidth
        setting["decode_bandwidth_fraction"] = read and read / setting["decode_seconds"] / bandwidth
        if plain:
            setting["plain_steps_per_s"] = plain[setting["context_len"]]
            setting["collection_times_plain"] = setting["collection_steps_per_s"] / setting["plain_steps_per_s"]
    return settings


def record_walk(task: WalkingTask, policy: Actor, steps: int) -> Walk:
    """Run the policy from a cold context."""
    histories = collect(task, policy, steps_per_env=steps, seed=0, random_starts=False, keep=True).histories

    def stacked(name: str) -> torch.Tensor:
        rows = [torch.from_numpy(getattr(history, name)) for history in histories]
        return torch.stack(rows, dim=1).to(task.device)

    return Walk(*(stacked(name) for name in Walk.__dataclass_fields__))


def measure_setting(task: WalkingTask, policy: Actor, walk: Walk, context_len: int, repeats: int) -> dict[str, Any]:
    """Measure one policy, whose context is still empty."""
    fill(policy, walk, context_len)
    # In turn, so that what slows the machine down slows every row.
    runs = [run_rows(task, policy, walk) for _ in range(repeats)]
    num_envs, best = task.num_envs, min(runs, key=lambda run: run["collection"]["seconds"])
    speeds = {f"{row}_steps_per_s": num_envs / min(run[row]["seconds"] for run in runs) for row in best}
    return {
        "num_envs": num_envs,
        "context_len": context_len,
        "steps": len(walk.reward),
        **speeds,
        "collection_of_bare": speeds["collection_steps_per_s"] / speeds["bare_simulator_steps_per_s"],
        "step_seconds": best["collection"]["seconds"],
        **best["collection"]["fractions"],
        "writer_queue_depth": best["collection"]["queue_depth"],
        **min((decode_alone(policy, walk) for _ in range(repeats)), key=lambda run: run["decode_seconds"]),
        "falls": max(run["collection"]["falls"] for run in runs),
    }


def fill(policy: Actor, walk: Walk, context_len: int) -> None:
    """Give every environment a history of ``context_len`` steps: the walk, again and again."""
    for step in range(context_len):
        _replay(policy, walk, step)


def _replay(policy: Actor, walk: Walk, step: int) -> None:
    at = step % len(walk.reward)
    policy.act(walk.observation[at], walk.step_num[at])
    policy.observe(walk.action[at], walk.reward[at])


def run_rows(task: WalkingTask, policy: Actor, walk: Walk) -> dict[str, dict[str, Any]]:
    """Every row once; each has ``seconds``, those of a step of all environments."""
    steps = len(walk.reward)
    rows = {
        "bare_simulator": {"seconds": bare_seconds(task, walk)},
        "task": {"seconds": task_seconds(task, walk)},
        "policy": collect_row(task, policy, steps),
    }
    with tempfile.TemporaryDirectory() as folder:
        with open_writer(Path(folder) / "trajectories.h5", task.num_envs, {}, layout=task.layout) as writer:
            rows["collection"] = collect_row(task, policy, steps, writer)
    return rows


def bare_seconds(task: WalkingTask, walk: Walk) -> float:
    """A step of the simulator alone, on the walk's targets; who falls stays down."""
    default = torch.tensor(task.robot.default_pose_rad, device=task.device)
    idle = torch.zeros_like(walk.action[:1])
    targets = default + task.config.action_scale_rad * torch.cat([idle, walk.action[:-1]])
    task.reset()
    return _timed(task.simulator.step, targets)


def task_seconds(task: WalkingTask, walk: Walk) -> float:
    """A step of simulator and task, on the walk's actions."""
    task.reset()
    return _timed(task.step, walk.action)


def _timed(step: Callable[[torch.Tensor], Any], inputs: torch.Tensor) -> float:
    """Mean seconds of a step on each of inputs [T, ...], the first ones left out."""
    for one in inputs[:WARM_UP]:
        step(one)
    timed = inputs[WARM_UP:].unbind()
    started = now(inputs.device)
    for one in timed:
        step(one)
    return (now(inputs.device) - started) / len(timed)


def collect_row(task: WalkingTask, policy: Actor, steps: int, writer: Any = None) -> dict[str, Any]:
    """The collector's own loop on a full context: seconds of a step, and what they are spent on."""
    times: list[float] = []
    with recording() as recorded:
        collection = collect(
            task, FullContext(policy), steps_per_env=steps, seed=0, random_starts=False, writer=writer,
            on_step=lambda _: times.append(time.perf_counter()),  # a step that has arrived is done
        )  # fmt: skip
    totals = recorded.totals()
    fractions = {
        fraction: sum(totals.get(name, 0.0) for name in names) / collection.seconds
        for fraction, names in REGIONS.items()
    }
    stats = writer.stats if writer else {"wait_seconds": 0.0, "max_queue_depth": 0}
    return {
        "seconds": (times[-1] - times[WARM_UP - 1]) / (steps - WARM_UP),
        "fractions": fractions | {"writer_wait_fraction": stats["wait_seconds"] / collection.seconds},
        "queue_depth": stats["max_queue_depth"],
        "falls": sum(episode.terminated for episode in collection.episodes),
    }


def decode_alone(policy: Actor, walk: Walk) -> dict[str, Any]:
    """One policy step of all environments with nothing beside it: its seconds, and what it read where that is known."""
    decoder, started = getattr(policy, "decoder", None), now(walk.action.device)
    read = None if decoder is None else decoder.bytes_read
    for step in range(DECODES):
        _replay(policy, walk, step)
    seconds = (now(walk.action.device) - started) / DECODES
    per_step = None if decoder is None else (decoder.bytes_read - read) / DECODES
    return {"decode_seconds": seconds, "read_bytes_per_step": per_step}
