"""Histories of robots as files, and what the tests of training on them share."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
from fakes import ACTIONS, OBSERVATIONS, TINY, make_history

from vintix_fast.data import History, open_writer
from vintix_fast.data.schema import FIELDS
from vintix_fast.pretrain.config import PretrainConfig
from vintix_fast.service.progress import Progress

TINY_MODEL = TINY.to_dict()
NO_DROPOUT = {"attn_dropout": 0.0, "residual_dropout": 0.0}
SMALL = dict(
    model=TINY_MODEL, steps=6, batch_size=4, window_len=8, long_steps=0, lr=3e-3, warmup_steps=2, eval_interval=2,
    eval_batches=1,
)  # fmt: skip
TASKS = {name: f"{name}_walking_ad" for name in ("a1", "go1", "go2", "minicheetah")}


def write_history(path: Path, history: History, **about) -> Path:
    """One history as `distil` leaves it: with the JSON file beside it where ``about`` says something."""
    path.parent.mkdir(parents=True, exist_ok=True)
    columns = {"proprio_observation": history.observation, "action": history.action, "reward": history.reward}
    columns |= {"step_num": history.step_num} | history.extras
    with open_writer(path, 1, {}) as writer:
        for i in range(len(history)):
            rows = {
                name: np.asarray(columns[name][i : i + 1], dtype).reshape(1, *shape)
                for name, (shape, dtype) in FIELDS.items()
            }
            writer.append(rows, np.ones(1, bool))
    if about:
        path.with_suffix(".json").write_text(json.dumps(about))
    return path


def write_robot(folder: Path, robot: str, lengths: Sequence[int] = (24, 17, 30), *, seed: int = 0) -> Path:
    """A directory of one robot's histories, each of two episodes; the expert is a linear function of what is seen."""
    # A fixed matrix, so that every history teaches the same, of few inputs, so that a few steps learn it.
    relation = np.zeros((OBSERVATIONS, ACTIONS), np.float32)
    relation[9:12] = np.random.default_rng(99).normal(0.0, 1.0, (3, ACTIONS))
    for env, length in enumerate(lengths):
        made = make_history([length // 2, length - length // 2], seed=100 * seed + env)
        observation = 2.0 * made.observation
        observation[:, 6:9] = (0.5, 0.0, 0.0)
        expert = observation @ relation
        history = replace(
            made,
            observation=observation,
            action=expert + 0.3 * made.action,
            extras=made.extras | {"mean_action": expert},
        )
        about = {"task_name": TASKS[robot], "observation_shape": {"proprio": [OBSERVATIONS]}, "action_dim": ACTIONS}
        write_history(folder / f"trajectories_env_{env:04d}.h5", history, **about, action_type="continuous")
    return folder


def write_foreign(path: Path, history: History, group_len: int = 10_000, **about) -> Path:
    """One history as the slow pipeline leaves it: large groups with one more observation and step than actions."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        for first in range(0, len(history), group_len):
            last = min(first + group_len, len(history))
            group = file.create_group(f"{first}-{last - 1}")
            group["action"], group["reward"] = history.action[first:last], history.reward[first:last]
            surplus = np.full((1, OBSERVATIONS), -77.0, np.float32)
            group["proprio_observation"] = np.concatenate([history.observation[first:last], surplus])
            group["step_num"] = np.append(history.step_num[first:last], np.int32(-77))
    if about:
        path.with_suffix(".json").write_text(json.dumps(about))
    return path


class Watcher(Progress):
    """Writes down what it is told, and stops a run with ``stop`` when it is told ``at`` (a method's name, a count)."""

    def __init__(self, at: tuple[str, int] = ("", 0), stop: type[BaseException] | BaseException = KeyboardInterrupt):
        super().__init__()
        self.at, self.stop = at, stop
        self.said: list[str] = []
        self.parts: list[str] = []
        self.iterations: list[int] = []
        self.losses: dict[int, float] = {}
        self.rows: list[dict] = []
        self._counts: dict[str, int] = {}

    def _count(self, method: str) -> None:
        self._counts[method] = self._counts.get(method, 0) + 1
        if (method, self._counts[method]) == self.at:
            raise self.stop

    def say(self, text):
        self.said.append(text)

    def rollout(self, what, num_episodes, max_steps):
        self.parts.append(what)
        return super().rollout(what, num_episodes, max_steps)

    def on_rollout_step(self, collection):
        super().on_rollout_step(collection)
        self._count("on_rollout_step")

    def on_training_step(self, step, loss):
        super().on_training_step(step, loss)
        self.losses[step] = loss
        self._count("on_training_step")

    def on_iteration(self, iteration, mean_return, mean_length):
        super().on_iteration(iteration, mean_return, mean_length)
        self.iterations.append(iteration)
        self._count("on_iteration")

    def on_validation(self, row):
        self.rows.append(dict(row))
        self._count("on_validation")


def config(out, data, **options):
    return PretrainConfig(data=data, output_dir=out, **(SMALL | options))


def comparable(rows):
    return [{key: value for key, value in row.items() if key != "tokens_per_s"} for row in rows]
