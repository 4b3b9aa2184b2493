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
from vintix_fast.model import load_checkpoint, save_checkpoint
from vintix_fast.model.new_group import add_target
from vintix_fast.policy.expert import ExpertPolicy, expert_network
from vintix_fast.policy.policy import Actor
from vintix_fast.service.errors import Interrupted, UsageError
from vintix_fast.service.files import save_tensors, write_json
from vintix_fast.stress import Forgetful, stress
from vintix_fast.stress_config import STANDARD, StressConfig
from vintix_fast.world.privileged import Privileged
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


def test_a_robot_that_the_model_has_not_seen_gets_a_copy(tmp_path, tiny_checkpoint):
    unseen, copied = load_robot("minicheetah"), load_checkpoint(tiny_checkpoint)
    add_target(copied, unseen, load_robot("go2"), print, init_map="none")
    save_checkpoint(copied, tmp_path / "copied")
    tables = [
        stress(config(model, tmp_path / f"t{number}", robot_type="minicheetah", **options),
               simulator=FakeSimulator(unseen, 3, fall_after=(10, 60, 120)))
        for number, (model, options) in enumerate((
            (tiny_checkpoint, {"reference_robot": "go2", "init_map": "none"}), (tmp_path / "copied", {}),
            (tiny_checkpoint, {"reference_robot": "go2"}),
        ))
    ]  # fmt: skip
    assert tables[0]["worlds"] == tables[1]["worlds"] != tables[2]["worlds"]
    with pytest.raises(UsageError, match="--reference-robot auto tries copies in the plain world alone"):
        config(tiny_checkpoint, tmp_path / "auto", robot_type="minicheetah", reference_robot="auto")


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


# -- commands, and experts ---------------------------------------------------------------------------------------------


RANGES = "[command]\nforward_m_s = [0.0, 1.0]\nyaw_rad_s = [-0.4, 0.4]\nresample_s = 1.0\n"


def test_ranges_of_commands_give_a_table_of_measured_speeds(tmp_path, tiny_checkpoint):
    class Obeying(FakeSimulator):
        """Half as fast as commanded, turning as commanded; env 0 a little slower; none before it has settled."""

        def _move(self, target):
            super()._move(target)
            moving = 100.0 if int(self.age.max()) <= 50 else 0.5 * command[0] - torch.tensor([0.03, 0.0, 0.0])
            self.lin = torch.stack([moving + torch.zeros(3), torch.full((3,), 0.25), torch.zeros(3)], dim=1)
            self.ang = torch.tensor([[0.0, 0.0, command[2]]] * 3)

    (tmp_path / "task.toml").write_text(RANGES)
    options = config(tiny_checkpoint, tmp_path / "t", worlds=";", task=tmp_path / "task.toml")
    simulator, command = Obeying(load_robot("go2"), 3, fall_after=(999,) * 3), (0.0, 0.0, 0.0)
    measure = stress_module.measure_command

    def told(task, *rest):
        nonlocal command
        command = task.config.command
        return measure(task, *rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stress_module, "measure_command", told)
        result = stress(options, simulator=simulator)
    rows = result["commands"]
    asked = [(row["forward_m_s"], row["lateral_m_s"], row["yaw_rad_s"]) for row in rows]
    wanted = [(x, 0, 0) for x in (0, 0.25, 0.5, 0.75, 1)] + [(0.5, 0, y) for y in (-0.4, -0.2, 0.2, 0.4)]
    np.testing.assert_allclose(asked, wanted)
    for row in rows:
        assert row["measured_forward_m_s"] == pytest.approx(0.5 * row["forward_m_s"] - 0.01, abs=1e-5)
        assert row["measured_forward_m_s_error"] == pytest.approx(np.std([0.03, 0, 0]) / 2**0.5, abs=1e-5)
        assert row["measured_lateral_m_s"] == pytest.approx(0.25, abs=1e-5)
        assert row["measured_yaw_rad_s"] == pytest.approx(row["yaw_rad_s"], abs=1e-5)
        assert row["survival"] == 1.0
    out = tmp_path / "t"
    table = list(csv.DictReader((out / "stress_commands.csv").read_text().splitlines()))
    assert [float(row["measured_forward_m_s"]) for row in table] == [row["measured_forward_m_s"] for row in rows]
    assert (out / "stress_commands.png").read_bytes().startswith(b"\x89PNG")
    # What is there is not measured again.
    again = stress(
        config(tiny_checkpoint, out, worlds=";", task=tmp_path / "task.toml", resume=True), simulator=simulator
    )
    assert again["commands"] == rows


def test_one_command_gives_no_such_table(tmp_path, tiny_checkpoint):
    result = stress(config(tiny_checkpoint, tmp_path / "t", worlds=";"), simulator=fake())
    assert "commands" not in result and not list((tmp_path / "t").glob("stress_commands*"))


def test_an_expert_is_measured_as_it_is_told_of_each_world(tmp_path, monkeypatch):
    told, expert = [], tmp_path / "expert"
    write_expert(expert, "payload_kg=0:5, motor.any_leg=0.5:1")
    act = ExpertPolicy.act

    def watched(self, observation, step_num):
        told.append(self._told())
        return act(self, observation, step_num)

    monkeypatch.setattr(ExpertPolicy, "act", watched)
    stress(config(expert, tmp_path / "t", worlds="payload_kg=5; motor.RL=0.5"), simulator=fake())
    values = torch.unique_consecutive(torch.cat(told), dim=0)  # of three worlds
    assert values[:, 0].tolist() == [-1.0, 1.0, -1.0]
    assert values[:, 1:].tolist() == [[1.0] * 12, [1.0] * 12, [1.0] * 9 + [-1.0] * 3]
    for option, value in (("forget_s", 1.0), ("context_len", 5), ("reference_robot", "go1")):
        with pytest.raises(UsageError, match="has no effect: .*expert is an expert"):
            stress(config(expert, tmp_path / "u", **{option: value}), simulator=fake())
    with pytest.raises(UsageError, match="MODEL .* is an expert of go2, not of go1"):
        stress(config(expert, tmp_path / "u", robot_type="go1"), simulator=fake())


def test_an_expert_that_must_know_the_bases_mass_is_refused_where_a_world_does_not_say_it(tmp_path):
    write_expert(tmp_path / "expert", "base_mass_kg=5:9")
    with pytest.raises(UsageError, match="trained with base_mass_kg varied.*give it in --vary"):
        stress(config(tmp_path / "expert", tmp_path / "t", worlds="payload_kg=5"), simulator=fake())
    assert not (tmp_path / "t").exists()


def write_expert(path, told):
    path.mkdir()
    inputs = Privileged(Variation.parse(told), ACTIONS).size
    with torch.random.fork_rng():
        torch.manual_seed(1)
        save_tensors(path / "expert.pth", expert_network([8], told=inputs).state_dict())
    write_json(path / "expert.json", {"robot": "go2", "hidden_dims": [8], "told": told})
