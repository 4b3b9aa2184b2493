"""Environment steps a second: this engine against the plain way, in one run.

The plain way is the slow script's: one environment, and for every action the whole history (``--context-len`` tokens)
goes through the model again, with dense attention (scores, softmax and sum written out).  A second plain figure uses
torch's fused attention instead, which is what this package's own ``predict_actions`` does.

This engine: ``--num-envs`` environments, ring caches full to ``--context-len``, every transition written to HDF5.  All
step the same robot in Genesis.

    python benchmarks/collection.py --num-envs 50

Prints a table and ends with one JSON line.
"""

from __future__ import annotations

import argparse
import functools
import json
import platform
import tempfile
import time
from pathlib import Path
from unittest import mock

import numpy as np
import torch

from vintix_fast.config import BUILTIN_CHECKPOINT
from vintix_fast.data import open_writer
from vintix_fast.evaluate import task_for
from vintix_fast.model import load_checkpoint
from vintix_fast.model.layers import alibi_slopes
from vintix_fast.model.transformer import Attention
from vintix_fast.robots import load_robot
from vintix_fast.rollout import Policy, collect
from vintix_fast.sim import Simulator
from vintix_fast.task import WalkingTask


@functools.lru_cache(maxsize=1)
def dense_bias(heads: int, length: int) -> torch.Tensor:
    """ALiBi and the causal mask, [H, T, T]."""
    distance = torch.arange(length)[:, None] - torch.arange(length)
    bias = -torch.tensor(alibi_slopes(heads))[:, None, None] * distance
    return bias.masked_fill_(distance < 0, -torch.inf)


def dense_attention(attention: Attention, x: torch.Tensor, *_) -> torch.Tensor:
    """What `Attention.forward` computes, written out: x [N, T, F] -> [N, T, F]."""
    q, k, v = (part.transpose(1, 2) for part in attention._project(x))  # [N, H, T, D]
    scores = q @ k.transpose(2, 3) / attention.head_dim**0.5 + dense_bias(attention.heads, x.shape[1])
    return attention.out_proj((scores.softmax(dim=-1) @ v).transpose(1, 2).flatten(2))


def plain_steps_per_s(model, task_name: str, task: WalkingTask, context_len: int, steps: int) -> float:
    """One environment; a history of ``context_len`` tokens is encoded anew for every action."""
    observation = task.reset()
    history = {
        "observation": observation.repeat(context_len, 1), "prev_action": torch.zeros(context_len, 12),
        "prev_reward": torch.zeros(context_len), "step_num": torch.arange(context_len),
    }  # fmt: skip
    started = time.perf_counter()
    for _ in range(steps):
        action = model.predict_actions(**history, task_name=task_name)[-1]
        result = task.step(action[None])
        latest = (result.observation, action[None], result.reward, history["step_num"][-1:] + 1)
        for key, row in zip(history, latest, strict=True):
            history[key] = torch.cat([history[key][1:], row])
    return steps / (time.perf_counter() - started)


class StepClock:
    """Called after every step of all environments; notes the time."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def __call__(self, collection) -> None:
        self.times.append(time.perf_counter())

    def steps_per_s(self, first: int, last: int, num_envs: int) -> float:
        return (last - first) * num_envs / (self.times[last] - self.times[first])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--robot-type", default="go2", help="a robot that the checkpoint walks on, so that none falls")
    parser.add_argument("--num-envs", type=int, default=50)
    parser.add_argument("--context-len", type=int, default=2048)
    parser.add_argument("--plain-steps", type=int, default=20)
    args = parser.parse_args()

    robot = load_robot(args.robot_type)
    model = load_checkpoint(BUILTIN_CHECKPOINT)
    task_name = task_for(model, robot)

    plain_task = WalkingTask(Simulator(robot, 1), robot)
    plain_steps_per_s(model, task_name, plain_task, args.context_len, 2)  # warm-up
    fused = plain_steps_per_s(model, task_name, plain_task, args.context_len, args.plain_steps)
    with mock.patch.object(Attention, "forward", dense_attention):
        plain_steps_per_s(model, task_name, plain_task, args.context_len, 2)
        plain = plain_steps_per_s(model, task_name, plain_task, args.context_len, args.plain_steps)

    simulator = Simulator(robot, args.num_envs)
    pose = torch.tensor(robot.default_pose_rad).expand(args.num_envs, -1)
    WalkingTask(simulator, robot).reset()
    for _ in range(50):
        simulator.step(pose)
    started = time.perf_counter()
    for _ in range(300):
        simulator.step(pose)
    bare = 300 * args.num_envs / (time.perf_counter() - started)

    # Episodes of 1000 steps until the caches are full, and 400 steps more.
    episodes_each = -(-(args.context_len + 400) // 1000)
    task = WalkingTask(simulator, robot)
    policy = Policy(model, task_name, args.num_envs, args.context_len)
    clock = StepClock()
    with tempfile.TemporaryDirectory() as folder:
        with open_writer(Path(folder) / "trajectories.h5", args.num_envs, {}) as writer:
            collect(
                task, policy, args.num_envs * episodes_each, seed=0, random_starts=False, writer=writer, on_step=clock
            )  # fmt: skip
    full = clock.steps_per_s(args.context_len, len(clock.times) - 1, args.num_envs)
    episode = clock.steps_per_s(10, min(999, len(clock.times) - 1), args.num_envs)

    rows = [
        ("plain: 1 environment, re-encoding, dense", plain),
        ("the same with torch's fused attention", fused),
        (f"bare simulator, {args.num_envs} environments", bare),
        ("collection, first episode (context 0 to 1000)", episode),
        (f"collection, context full at {args.context_len}", full),
    ]
    for name, value in rows:
        print(f"{name:48s} {value:10.1f} steps/s {value / plain:8.0f} x plain")
    cpu = next((x for x in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in x), "").split(":")[-1]
    result = {
        "plain_steps_per_s": plain,
        "plain_fused_attention_steps_per_s": fused,
        "bare_simulator_steps_per_s": bare,
        "first_episode_steps_per_s": episode,
        "collection_steps_per_s": full,
        "ratio": full / plain,
        "num_envs": args.num_envs,
        "context_len": args.context_len,
        "writer": writer.stats,
        "cpu": cpu.strip() or platform.processor(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "numpy": np.__version__,
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
