"""Measuring a model: what is counted, and what is written."""

import csv
import importlib
import json

import numpy as np
import pytest
from fakes import FakeSimulator, save_tiny
from runs import ENGINE_OPTIONS, spy_on_policies

from vintix_fast.config import EvalConfig
from vintix_fast.errors import InputFileError, UsageError
from vintix_fast.robots import load_robot

evaluate_module = importlib.import_module("vintix_fast.evaluate")  # the package's attribute is the function


def run(checkpoint, robot="go2", fall_after=(6, 9, 40), **options):
    options = {"num_envs": 3, "max_steps": 12, "episodes_per_env": 2} | options
    config = EvalConfig(vintix_path=checkpoint, robot_type=robot, **options)
    simulator = FakeSimulator(load_robot(robot), config.num_envs, fall_after=fall_after)
    return evaluate_module.evaluate(config, simulator=simulator)


def test_every_environment_runs_its_episodes(tiny_checkpoint):
    evaluation = run(tiny_checkpoint)
    summary = evaluation.summary()
    assert summary["episodes"] == 6 and summary["env_steps"] == 2 * (6 + 9 + 12)
    assert summary["terminated"] == 4 and summary["failed"] == 0 and summary["robot"] == "go2"
    lengths = [6, 9, 12] * 2
    assert summary["mean_episode_length"] == 9 and summary["std_episode_length"] == pytest.approx(np.std(lengths))
    returns = {(e.env, e.number): e.return_ for e in evaluation.episodes}
    assert summary["mean_return"] == pytest.approx(np.mean(list(returns.values())))
    by_number = [np.mean([returns[env, number] for env in range(3)]) for number in range(2)]
    assert summary["returns_by_episode_number"] == pytest.approx(by_number)


def test_an_evaluation_can_be_repeated(tiny_checkpoint):
    returns = [[e.return_ for e in run(tiny_checkpoint, random_starts=True, seed=seed).episodes] for seed in (1, 1, 2)]
    assert returns[0] == returns[1] != returns[2]


def test_the_context_changes_what_the_model_does(tiny_checkpoint):
    long, short = (run(tiny_checkpoint, context_len=n).mean_return for n in (None, 1))
    assert long != short


def test_files(tiny_checkpoint, tmp_path):
    out = tmp_path / "new/eval"
    evaluation = run(tiny_checkpoint, output_dir=out)
    written = json.loads((out / "eval.json").read_text())
    assert written.items() >= evaluation.summary().items()
    assert written["options"]["num_envs"] == 3 and "torch" in written["versions"]
    with open(out / "eval.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(int(r["env"]), int(r["episode_number"])) for r in rows] == [(e, n) for e in range(3) for n in range(2)]
    assert [int(r["length"]) for r in rows] == [6, 6, 9, 9, 12, 12]
    assert [int(r["terminated"]) for r in rows] == [1, 1, 1, 1, 0, 0]
    assert np.mean([float(r["return"]) for r in rows]) == pytest.approx(evaluation.mean_return)


def test_the_policy_has_the_engine_that_was_asked_for(tiny_checkpoint, tmp_path, monkeypatch):
    seen = spy_on_policies(monkeypatch, "evaluate")
    run(tiny_checkpoint, **ENGINE_OPTIONS)
    run(tiny_checkpoint, engine="torch", output_dir=tmp_path)
    plain = {"engine": "torch", "cache_dtype": "float32", "dropped_mass": 0.0}
    assert seen == [ENGINE_OPTIONS, plain]
    assert json.loads((tmp_path / "eval.json").read_text())["options"].items() >= plain.items()


def test_an_earlier_evaluation_is_replaced_only_on_request(tiny_checkpoint, tmp_path):
    run(tiny_checkpoint, output_dir=tmp_path)
    before = (tmp_path / "eval.json").read_text()
    with pytest.raises(UsageError, match="--overwrite"):
        run(tiny_checkpoint, output_dir=tmp_path, episodes_per_env=1)
    assert (tmp_path / "eval.json").read_text() == before
    run(tiny_checkpoint, output_dir=tmp_path, episodes_per_env=1, overwrite=True)
    assert json.loads((tmp_path / "eval.json").read_text())["episodes"] == 3


def test_a_robot_without_a_group_is_an_error_that_says_how_to_make_one(tiny_checkpoint):
    with pytest.raises(InputFileError, match="a1.*go2_walking_ad, go1_walking_ad.*vintix-fast adapt"):
        run(tiny_checkpoint, robot="a1")


def test_the_only_shared_group_serves_any_robot(tmp_path):
    checkpoint = save_tiny(tmp_path / "single", {"anything": "quadruped_locomotion"})
    assert run(checkpoint, robot="a1").robot == "a1"


def test_a_context_longer_than_the_models_is_refused(tiny_checkpoint):
    with pytest.raises(UsageError, match="--context-len 65.*64"):
        run(tiny_checkpoint, context_len=65)


def test_without_a_simulator_one_is_built(tiny_checkpoint, monkeypatch):
    built = []

    def build(robot, num_envs, device, say):
        built.append((robot.name, num_envs, device))
        return FakeSimulator(robot, num_envs)

    monkeypatch.setattr(evaluate_module, "Simulator", build)
    evaluate_module.evaluate(EvalConfig(tiny_checkpoint, "go1", num_envs=2, max_steps=3))
    assert built == [("go1", 2, "cpu")]
