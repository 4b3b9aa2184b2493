"""Small adaptation runs in the fake simulator, and what two runs must share to be the same."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from fakes import FakeSimulator

from vintix_fast.adaptation import AdaptResult, adapt
from vintix_fast.config import AdaptConfig
from vintix_fast.data import read_trajectories
from vintix_fast.evaluation import Evaluation
from vintix_fast.options import without_effect
from vintix_fast.policy import make_policy
from vintix_fast.rollout import Episode
from vintix_fast.service.progress import Progress
from vintix_fast.world.robot import load_robot

TASK, GROUP = "minicheetah_walking_ad", "minicheetah_locomotion"
SMALL = dict(
    robot_type="minicheetah", num_improvement_loops=2, episodes_per_loop=4, finetune_steps_per_loop=5,
    max_steps_per_episode=14, context_len=32, batch_size=2, lr=1e-3, num_envs=3, critic_updates=2, gate_episodes=3,
    min_steps_per_loop=0, bf16=False, cache_dtype="float32",
)  # fmt: skip
MEASURED = ("seconds", "_per_s", "writer_waits")
"""Ends of the names of numbers that no two runs share."""


def small_config(out: Path, checkpoint: Path, **options) -> AdaptConfig:
    options = SMALL | options
    useless = set(without_effect(AdaptConfig, options)) & SMALL.keys()
    options = {name: value for name, value in options.items() if name not in useless}
    return AdaptConfig.from_options(output_dir=out, pretrained_path=checkpoint, **options)


def run_small(
    out: Path,
    checkpoint: Path,
    *,
    progress: Progress | None = None,
    simulator: type[FakeSimulator] = FakeSimulator,
    fall_after=(),
    faults=None,
    **options,
) -> AdaptResult:
    """Adapt in a fake simulator; options are those of `AdaptConfig.from_options`, over ``SMALL``."""
    config = small_config(out, checkpoint, **options)
    simulator = simulator(load_robot(config.robot_type), config.envs, fall_after=fall_after, faults=faults)
    return adapt(config, simulator=simulator, progress=progress)


def read_state(model_dir: Path) -> dict[str, torch.Tensor]:
    return torch.load(model_dir / "model.pth", weights_only=True)


def read_rows(out: Path) -> list[dict]:
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def comparable(row: dict) -> dict:
    return {key: value for key, value in row.items() if not key.endswith(MEASURED)}


def tree(out: Path) -> set[str]:
    """All files, by their path below ``out``; TensorBoard's have names of their own."""
    files = (path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file())
    return {name for name in files if not name.startswith("tensorboard/")}


def assert_same_model(left: Path, right: Path) -> None:
    a, b = read_state(left), read_state(right)
    assert a.keys() == b.keys()
    assert [name for name in a if a[name].numpy().tobytes() != b[name].numpy().tobytes()] == []
    for name in ("metadata.json", "config.json"):
        assert (left / name).read_text() == (right / name).read_text()


def assert_same_run(left: Path, right: Path) -> None:
    """Bit for bit, but for the clock."""
    assert tree(left) == tree(right)
    for name in sorted(tree(left)):
        if name.endswith("model.pth"):
            assert_same_model((left / name).parent, (right / name).parent)
        if name.endswith(".h5"):
            a, b = read_trajectories(left / name), read_trajectories(right / name)
            assert a.attributes == b.attributes and len(a.histories) == len(b.histories)
            for x, y in zip(a.histories, b.histories, strict=True):
                for field in ("observation", "action", "reward", "step_num"):
                    np.testing.assert_array_equal(getattr(x, field), getattr(y, field), err_msg=f"{name} {field}")
                for field in x.extras.keys() | y.extras.keys():
                    np.testing.assert_array_equal(x.extras[field], y.extras[field], err_msg=f"{name} {field}")
    assert list(map(comparable, read_rows(left))) == list(map(comparable, read_rows(right)))
    states = [json.loads((out / "state.json").read_text()) for out in (left, right)]
    assert states[0]["best"] == states[1]["best"] and states[0]["improver"] == states[1]["improver"]


def script_evaluations(monkeypatch, returns: list[float], length: int = 7) -> None:
    """Evaluations find these mean returns, one after another: of two episodes, so with a standard error of 0.5."""
    left = list(returns)

    def measure(task, policy, num_episodes, seed, random_starts, progress):
        mean = left.pop(0)
        episodes = [
            Episode(env, 0, mean + by, length=length, terminated=True, failed=False)
            for env, by in ((0, -0.5), (1, 0.5))
        ]
        return Evaluation(task.robot.name, episodes, env_steps=14, seconds=1.0)

    monkeypatch.setattr("vintix_fast.adaptation.measure", measure)


ENGINE_OPTIONS = {"engine": "auto", "cache_dtype": "float32", "dropped_mass": 0.25}
"""All of them other than what a policy has by itself."""


def spy_on_policies(monkeypatch, *modules: str) -> list[dict]:
    """The options with which these modules make their policies."""
    seen = []

    def make(*args, **options):
        seen.append(options)
        return make_policy(*args, **options)

    for module in modules:
        monkeypatch.setattr(f"vintix_fast.{module}.make_policy", make)
    return seen
