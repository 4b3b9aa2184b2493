"""The table of other worlds, in a fake simulator: its numbers by hand, its files, and how it goes on."""

import csv
import json

import numpy as np
import pytest
import torch
from fakes import ACTIONS, FakeSimulator
from typer.testing import CliRunner

from vintix_fast import stress as stress_module
from vintix_fast.cli import app
from vintix_fast.policy.policy import Actor
from vintix_fast.service.errors import Interrupted, UsageError
from vintix_fast.stress import Forgetful, stress
from vintix_fast.stress_config import STANDARD, StressConfig
from vintix_fast.world.robot import load_robot
from vintix_fast.world.variation import Variation

WORLDS = "payload_kg=5; latency_steps=1; noise_joint_rad=0.1"


def config(checkpoint, out, **options):
    options = {"worlds": WORLDS, "num_envs": 3, "max_steps": 60, "episodes_per_env": 2, "robot_type": "go2"} | options
    return StressConfig.from_options(vintix_path=checkpoint, output_dir=out, **options)


def fake(fall_after=(10, 60, 120)):
    return FakeSimulator(load_robot("go2"), 3, fall_after=fall_after)


def test_a_row_for_each_world_with_numbers_by_episode_and_second(tmp_path, tiny_checkpoint):
    result = stress(config(tiny_checkpoint, tmp_path / "t"), simulator=fake())
    assert [row["vary"] for row in result["worlds"]] == [text for text in ("", *WORLDS.split("; "))]
    for row in result["worlds"]:
        assert row["survival"] == pytest.approx(1 / 3) and row["length"] == pytest.approx((10 + 60 + 60) / 3)
        assert row["env_steps"] == 2 * (10 + 60 + 60) and [part["episode"] for part in row["by_episode"]] == [1, 2]
        assert row["return"] == pytest.approx(np.mean([part["return"] for part in row["by_episode"]]))
        assert row["return_error"] > 0 and row["survival_error"] == pytest.approx(np.std([0, 0, 1]) / 2**0.5)
        first, second, third = row["by_second"]
        assert [first["from_s"], second["from_s"], third["to_s"]] == [0.0, 1.0, 5.0]
        # The first environment is done after 20 steps: 0.4 s.
        assert [part["environments"] for part in row["by_second"]] == [3, 2, 2]
    plain, loaded, late, noisy = result["worlds"]
    assert plain["return"] == loaded["return"]  # of a robot that is made of arithmetic
    assert plain["return"] != late["return"] and plain["return"] != noisy["return"]


def test_speed_is_told_over_the_commanded_one(tmp_path, tiny_checkpoint):
    class Walking(FakeSimulator):
        def _move(self, target):
            super()._move(target)
            self.lin[:] = torch.tensor([0.4, 3.0, 0.0])

    simulator = Walking(load_robot("go2"), 3, fall_after=(999,) * 3)
    (plain,) = stress(config(tiny_checkpoint, tmp_path / "t", worlds=";"), simulator=simulator)["worlds"]
    # Measured in every step but an episode's last, of which the state is gone.
    assert plain["speed_ratio"] == pytest.approx(0.8, abs=1e-5) and plain["yaw_ratio"] is None
    assert [part["speed_ratio"] for part in plain["by_second"]] == pytest.approx([0.8] * 3, abs=1e-5)


def test_files(tmp_path, tiny_checkpoint):
    result = stress(config(tiny_checkpoint, tmp_path / "t"), simulator=fake())
    out = tmp_path / "t"
    assert json.loads((out / "stress.json").read_text()) == result
    rows = list(csv.DictReader((out / "stress.csv").read_text().splitlines()))
    assert [row["episode"] for row in rows[:3]] == ["all", "1", "2"] and len(rows) == 12
    assert float(rows[3]["return"]) == result["worlds"][1]["return"] and rows[3]["world"] == "payload_kg=5"
    assert len(list(csv.DictReader((out / "stress_seconds.csv").read_text().splitlines()))) == 12
    assert (out / "stress.png").read_bytes().startswith(b"\x89PNG")


def test_an_interrupted_table_goes_on_where_it_stopped(tmp_path, tiny_checkpoint, monkeypatch):
    whole = stress(config(tiny_checkpoint, tmp_path / "whole"), simulator=fake())
    measure, left = stress_module.measure_world, [None, None]

    def stop(*args):
        if not left:
            raise Interrupted("Ctrl-C")
        left.pop()
        return measure(*args)

    monkeypatch.setattr(stress_module, "measure_world", stop)
    with pytest.raises(Interrupted, match="--resume goes on with the next world"):
        stress(config(tiny_checkpoint, tmp_path / "t"), simulator=fake())
    assert len(json.loads((tmp_path / "t/stress.json").read_text())["worlds"]) == 2
    left += [None, None]
    again = stress(config(tiny_checkpoint, tmp_path / "t", resume=True), simulator=fake())
    assert again["worlds"] == whole["worlds"] and not left


def test_worlds_that_cannot_be_are_refused_before_anything_is_written(tmp_path, tiny_checkpoint, monkeypatch):
    monkeypatch.setattr(stress_module, "Simulator", lambda *args: pytest.fail("built a scene first"))
    with pytest.raises(UsageError, match="payload is not known"):
        config(tiny_checkpoint, tmp_path / "t", worlds="payload=5")
    with pytest.raises(UsageError, match="no joints of go2"):
        stress(config(tiny_checkpoint, tmp_path / "t", worlds="motor.XX=0.5"))
    (tmp_path / "task.toml").write_text("[vary]\nfriction = 0.5")
    with pytest.raises(UsageError, match="stress has --worlds for that"):
        config(tiny_checkpoint, tmp_path / "t", task=tmp_path / "task.toml")
    assert not (tmp_path / "t").exists()


def test_the_standard_worlds_are_of_any_quadruped(two_joints_a_leg, tmp_path):
    made = StressConfig(tmp_path, "go2", tmp_path).variations(two_joints_a_leg.joints_of_a_leg[-1])
    assert len(made) == len(STANDARD) + 1 and not made[0]
    for variation in made:
        stress_module.check_joints(variation, two_joints_a_leg)


def test_one_scene_has_room_for_all_worlds(tmp_path, tiny_checkpoint, monkeypatch):
    built = []

    def build(robot, num_envs, device, say, *vary):
        built.append(vary)
        return FakeSimulator(robot, num_envs, device, say, *vary)

    monkeypatch.setattr(stress_module, "Simulator", build)
    worlds = "payload_kg=5, payload_z_m=0.1; payload_kg=1; push_m_s=1, push_every_s=1"
    stress(config(tiny_checkpoint, tmp_path / "t", worlds=worlds, max_steps=4))
    ((vary,),) = built
    assert vary


def test_the_control_forgets_every_so_often():
    class Counting(Actor):
        def __init__(self):
            self.resets = []
            self.steps = 0

        def reset(self, mask=None):
            self.resets.append(self.steps)

        def act(self, observation, step_num):
            self.steps += 1
            return torch.zeros(1, ACTIONS)

        def observe(self, action, reward):
            pass

    inner = Counting()
    actor = Forgetful(inner, 3)
    for _ in range(2):
        actor.reset()
        for _ in range(7):
            actor.begin(torch.zeros(1, 33), torch.zeros(1))
            actor.finish()
    assert inner.resets == [0, 3, 6, 7, 10, 13]


def test_the_command(tmp_path, tiny_checkpoint, monkeypatch):
    monkeypatch.setattr(stress_module, "Simulator", FakeSimulator)
    monkeypatch.chdir(tmp_path)
    words = ["stress", str(tiny_checkpoint), "-r", "go2", "--num-envs", "2", "--max-steps", "5", "--worlds", WORLDS]
    result = CliRunner().invoke(app, [*words, "--json"])
    assert result.exit_code == 0, result.output
    made = json.loads(result.stdout.splitlines()[-1])
    (folder,) = (tmp_path / "stress").iterdir()
    assert folder.name.startswith("go2-") and len(made["worlds"]) == 4
    assert Variation.parse(made["worlds"][1]["vary"]) == Variation.parse("payload_kg=5")
