"""The commands on what the public code's decoder-only fine-tuning leaves: a task that has statistics and no more."""

from pathlib import Path

import pytest
import torch
from commands import invoke, last_json
from fakes import FakeSimulator

from vintix_fast.model import load_checkpoint

ADDED = Path(__file__).parents[1] / "golden" / "vintix_tiny_add_task"
INFERRED = "minicheetah_walking_ad: group quadruped_locomotion, 33 observations, 12 actions"


@pytest.fixture(autouse=True)
def fake_simulator(monkeypatch):
    monkeypatch.setattr("vintix_fast.world.simulators.Simulator", FakeSimulator)


def test_inspect_tells_what_was_inferred():
    facts = last_json(invoke("inspect", ADDED, "--json"))
    assert facts["sound"] is True and len(facts["notes"]) == 1 and INFERRED in facts["notes"][0]
    assert facts["tasks"]["minicheetah_walking_ad"] == "group quadruped_locomotion, 33 observations, 12 actions"
    assert list(facts["groups"]) == ["quadruped_locomotion"]
    result = invoke("inspect", ADDED)
    assert result.exit_code == 0 and INFERRED in result.stdout


def test_eval_acts_as_the_added_task(tmp_path, monkeypatch):
    from vintix_fast import evaluation as module

    tasks, make = [], module.make_policy
    monkeypatch.setattr(module, "make_policy", lambda *args, **options: tasks.append(args[1]) or make(*args, **options))
    words = ("-r", "minicheetah", "--vintix-path", ADDED, "--num-envs", 2, "--max-steps", 9)
    result = invoke("eval", *words, "--output", tmp_path / "out", "--json", columns=300)
    summary = last_json(result)
    assert summary["robot"] == "minicheetah" and summary["episodes"] == 2 and tasks == ["minicheetah_walking_ad"]
    assert INFERRED in result.stderr


def test_adapt_gives_it_a_group_of_its_own_and_leaves_the_other_robot_alone(tmp_path):
    words = (
        "--num-envs", 2, "--num-improvement-loops", 1, "--episodes-per-loop", 2, "--max-steps-per-episode", 9,
        "--finetune-steps-per-loop", 2, "--context-len", 32, "--batch-size", 2, "--critic-updates", 2,
        "--gate-episodes", 2, "--no-bf16",
    )  # fmt: skip
    paths = ("--pretrained-path", ADDED, "--robot-type", "minicheetah", "--output-dir", tmp_path / "run")
    result = invoke("adapt", *paths, *words, "--json", columns=300)
    assert last_json(result)["last_model"] == str(tmp_path / "run/models/loop_01")
    assert INFERRED in result.stderr
    assert "minicheetah shares the group quadruped_locomotion in the checkpoint: adapting a copy of it" in result.stderr
    before, after = load_checkpoint(ADDED), load_checkpoint(tmp_path / "run/models/loop_01", say=pytest.fail)
    groups = {name: info.group_name for name, info in after.tasks.items()}
    assert groups == {"go2_walking_ad": "quadruped_locomotion", "minicheetah_walking_ad": "minicheetah_locomotion"}
    assert after.tasks["go2_walking_ad"] == before.tasks["go2_walking_ad"]
    left = after.state_dict()
    assert all(torch.equal(value, left[name]) for name, value in before.state_dict().items())
