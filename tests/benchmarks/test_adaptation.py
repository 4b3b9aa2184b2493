"""The adaptation study: its choice of models, going on after a stop, its table, and how rivals begin."""

import csv
import importlib
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from fakes import ACTIONS, OBSERVATIONS, FakeSimulator
from runs import SMALL, read_rows

from vintix_fast.config import CriticConfig
from vintix_fast.improve import make_improver
from vintix_fast.policy.expert import expert_network
from vintix_fast.service.files import save_tensors, write_json
from vintix_fast.world.layout import QUADRUPED
from vintix_fast.world.robot import joint_signs, load_robot

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
adaptation = importlib.import_module("adaptation")
rivals = importlib.import_module("adaptation_rivals")
Spec = adaptation.Spec
ROBOT = "minicheetah"


def row(loop, steps, accepted=None, **more):
    return {"loop": loop, "total_env_steps": steps} | ({} if accepted is None else {"accepted": accepted}) | more


GATED = [row(0, 0, True), row(1, 50_000, True), row(2, 109_000, False), row(3, 159_000, True), row(4, 209_000, False)]


@pytest.mark.parametrize(
    ("rows", "limit", "loop"),
    [
        (GATED, 0, 0),
        (GATED, 10_000, 0),
        (GATED, 50_000, 1),  # a limit is inclusive
        (GATED, 100_000, 1),  # loop 2 is within the slack, but was undone
        (GATED, 144_000, 1),
        (GATED, 145_000, 3),  # 159,000 is within a tenth of it
        (GATED, 250_000, 3),
        ([row(1, 50_000), row(2, 100_000), row(3, 150_000)], 100_000, 2),  # no gate: the last
        ([row(1, 50_000), row(2, 100_000)], 10_000, 0),
    ],
)
def test_the_model_of_a_limit_is_what_the_run_held_by_then(rows, limit, loop):
    assert adaptation.best_loop(rows, limit) == loop


def test_every_specs_options_make_a_run_of_its_own():
    configs = [adaptation.config_of(spec, Path("out")) for spec in adaptation.SPECS]
    folders = {}
    for config in configs:
        assert folders.setdefault(config.output_dir, config.to_json()) == config.to_json()
        assert config.reference_robot != config.robot_type
        assert config.pretrained_path.name == f"without-{config.robot_type.removesuffix('-primitive')}"
    shared = sum(not spec.options and spec.study != "main" for spec in adaptation.SPECS)
    assert len(folders) == len(configs) - shared and shared > 0


@pytest.mark.parametrize("arguments", [["--study", "none"], ["--robot", "spot"], ["--seed", "99"]])
def test_what_there_is_not_is_refused(arguments, capsys):
    with pytest.raises(SystemExit):
        adaptation.main(arguments)
    assert "invalid choice" in capsys.readouterr().err


# -- running it --------------------------------------------------------------------------------------------------------


class Stopping(FakeSimulator):
    """Is interrupted in a certain step of those with ``envs`` environments: 3 adapt, 4 do PPO, 5 measure."""

    envs, left = 0, 0

    def step(self, joint_target_rad):
        if self.num_envs == Stopping.envs:
            Stopping.left -= 1
            if Stopping.left == 0:
                raise KeyboardInterrupt
        return super().step(joint_target_rad)


@pytest.fixture
def study(tmp_path, tiny_checkpoint, monkeypatch):
    """Four tiny runs; returns a function that does, in a folder of this name, what there is to do."""
    common = SMALL | {"pretrained_path": tiny_checkpoint, "min_steps_per_loop": 0}
    specs = (
        Spec("main", ROBOT, "default", 5, {}, (0, 60, 800)),
        Spec("ablations", ROBOT, "no gate", 5, {"gate": False, "gate_episodes": None}, (60,)),
        Spec("rivals", ROBOT, "from scratch", 5, {"num_improvement_loops": 2}, (60,)),
        Spec("rivals", ROBOT, "PPO from expert", 5, {"num_improvement_loops": 2}, (0, 32, 64)),
    )
    monkeypatch.setattr(adaptation, "SPECS", specs)
    monkeypatch.setattr(adaptation, "COMMON", {k: v for k, v in common.items() if k != "robot_type"})
    monkeypatch.setattr(adaptation, "EVALUATION", {"num_envs": 5, "max_steps": 12, "seed": 5})
    monkeypatch.setattr(adaptation, "Simulator", Stopping)
    monkeypatch.setattr(rivals, "PPO", rivals.PPO | {"num_envs": 4, "steps_per_iteration": 4})
    monkeypatch.setattr(rivals, "REGRESSION", rivals.REGRESSION | {"steps": 3})
    monkeypatch.setattr("vintix_fast.adaptation.write_curve", lambda path, rows: path.touch())
    for name, value in {"FINE_ROUNDS": 1, "TRIAL_STEPS": 2}.items():  # most of such a run's steps
        monkeypatch.setattr(f"vintix_fast.improve.posture.{name}", value)
    experts = tmp_path / "experts"
    (experts / "go2").mkdir(parents=True)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        save_tensors(experts / "go2/expert.pth", expert_network([8]).state_dict())
    write_json(experts / "go2/expert.json", {"robot": "go2", "hidden_dims": [8]})

    def run(name, *more, stop=(0, 0)):
        Stopping.envs, Stopping.left = stop
        where = ["--output-dir", str(tmp_path / name), "--csv", str(tmp_path / f"{name}.csv")]
        return adaptation.main([*where, "--experts", str(experts), "--robot", ROBOT, *more])

    return run


def read_csv(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def without_clock(rows):
    return [{k: v for k, v in row.items() if k != "seconds"} for row in rows]


def test_a_study_leaves_a_table_and_is_not_done_twice(study, tmp_path, monkeypatch, capsys):
    assert study("out") == 0
    table = read_csv(tmp_path / "out.csv")
    assert [(r["variant"], int(r["limit"])) for r in table] == [
        ("default", 0), ("default", 60), ("default", 800), ("no gate", 60), ("from scratch", 60),
        ("PPO from expert", 0), ("PPO from expert", 32), ("PPO from expert", 64),
    ]  # fmt: skip
    rows = read_rows(tmp_path / "out/minicheetah/default/seed-5")
    assert [int(r["env_steps"]) for r in table[:3:2]] == [0, rows[-1]["total_env_steps"]]
    tried = ("eval_env_steps", "posture_env_steps")
    assert int(table[2]["eval_env_steps"]) == sum(r.get(key, 0) for r in rows for key in tried)
    spent = sum(
        r.get(key, 0) for r in rows for key in ("posture_seconds", "collect_seconds", "train_seconds", "eval_seconds")
    )
    assert float(table[2]["seconds"]) == pytest.approx(spent, abs=1e-3)
    found = json.loads((tmp_path / "out/minicheetah/default/seed-5/measured/initial.json").read_text())
    assert float(table[0]["mean_return"]) == pytest.approx(found["mean_return"], abs=1e-3)
    assert found["episodes"] == 5 and found["mean_episode_length"] <= 12
    assert [int(r["env_steps"]) for r in table[-3:]] == [0, 32, 64]
    assert len({r["mean_return"] for r in table[-3:]}) == 3  # PPO changed the policy
    said = capsys.readouterr().out
    assert "| minicheetah | default | " in said and " of 1 seed" in said and "main: default, seed 5: " in said

    def build(*arguments):
        raise AssertionError("there is nothing left to simulate")

    monkeypatch.setattr(adaptation, "Simulator", build)
    before = (tmp_path / "out.csv").read_text()
    for more in ((), ("--table",)):
        assert study("out", *more) == 0
        assert (tmp_path / "out.csv").read_text() == before
    capsys.readouterr()
    assert study("out", "--list", "--study", "rivals") == 0
    assert capsys.readouterr().out.splitlines() == [
        "minicheetah, rivals: from scratch, seed 5: done, 1 of 1 models measured",
        "minicheetah, rivals: PPO from expert, seed 5: done, 3 of 3 models measured",
    ]


@pytest.mark.parametrize(
    ("stop", "left_in"),
    [
        ((3, 60), "main: default, seed 5: begun"),
        ((3, 230), "rivals: from scratch, seed 5: begun"),
        ((4, 12), "rivals: PPO from expert, seed 5: begun"),
        ((5, 20), "rivals: PPO from expert, seed 5: done, 0 of 3 models measured"),
    ],
)
def test_a_stopped_study_goes_on(study, tmp_path, stop, left_in, capsys):
    assert study("stopped", stop=stop) == 130
    assert "goes on" in capsys.readouterr().err
    assert study("stopped", "--list") == 0
    assert left_in in capsys.readouterr().out
    assert study("stopped") == 0
    assert study("unbroken") == 0
    tables = [without_clock(read_csv(tmp_path / f"{name}.csv")) for name in ("stopped", "unbroken")]
    assert tables[0] == tables[1] and len(tables[0]) == 8


def test_a_run_begun_with_other_options_is_refused_and_the_others_are_done(study, tmp_path, monkeypatch, capsys):
    assert study("out", "--study", "main") == 0
    monkeypatch.setattr(adaptation, "COMMON", adaptation.COMMON | {"lr": 2e-3})
    assert study("out", "--study", "main", "ablations") == 1
    assert "begun with other options (--lr was 0.001, now 0.002)" in capsys.readouterr().err
    assert {r["variant"] for r in read_csv(tmp_path / "out.csv")} == {"no gate"}


def test_without_an_expert_its_rival_is_left_out_and_the_command_is_told(study, tmp_path, capsys):
    assert study("out", "--study", "rivals", "--experts", str(tmp_path / "nowhere")) == 0
    assert "vintix-fast expert --robot-type go2 --output-dir " in capsys.readouterr().out
    assert {r["variant"] for r in read_csv(tmp_path / "out.csv")} == {"from scratch"}


def test_the_same_model_is_measured_once(study, monkeypatch):
    extra = Spec("ablations", ROBOT, "other seed", 6, {"gate": True}, (0,))
    monkeypatch.setattr(adaptation, "SPECS", (adaptation.SPECS[0], extra))
    measured = []
    evaluate = adaptation.evaluate
    monkeypatch.setattr(adaptation, "evaluate", lambda c, **kw: measured.append(c.vintix_path) or evaluate(c, **kw))
    assert study("out") == 0
    assert [path.name for path in measured].count("initial") == 1


# -- rivals ------------------------------------------------------------------------------------------------------------


def test_a_converted_expert_acts_as_the_original_on_mirrored_observations():
    sign = joint_signs(load_robot(ROBOT), load_robot("go2"))
    assert (sign < 0).any()
    network = expert_network([16, 8])
    observation, last_action = torch.randn(5, OBSERVATIONS), torch.randn(5, ACTIONS)
    turned = torch.from_numpy(sign)
    mirrored = observation * torch.as_tensor(QUADRUPED.extended(np.diag(sign)).diagonal().copy(), dtype=torch.float32)
    with torch.no_grad():
        expected = turned * network(torch.cat([observation, last_action], dim=1))
        acted = rivals.converted(network, sign)(torch.cat([mirrored, turned * last_action], dim=1))
    torch.testing.assert_close(acted, expected)


def test_standardising_is_folded_into_the_first_layer():
    network, x = expert_network([16]), 3.0 * torch.randn(5, OBSERVATIONS + ACTIONS)
    mean, std = torch.randn(OBSERVATIONS + ACTIONS), 0.1 + torch.rand(OBSERVATIONS + ACTIONS)
    with torch.no_grad():
        expected, folded = network((x - mean) / std), rivals.standardised(network, mean, std)(x)
    torch.testing.assert_close(folded, expected, atol=1e-5, rtol=1e-4)


def test_a_network_is_regressed_towards_the_targets_that_count():
    made = importlib.import_module("fakes").make_history([400, 400])
    weight = np.repeat(np.float32([1.0, 0.0]), 400)
    action = np.repeat(np.float32([[0.3], [5.0]]), 400, axis=0) * np.ones((1, ACTIONS), np.float32)
    targets = rivals.Targets(action, weight)
    network = rivals.regressed(
        expert_network([16]),
        [made],
        [targets],
        torch.zeros(OBSERVATIONS + ACTIONS),
        torch.ones(OBSERVATIONS + ACTIONS),
        seed=1,
    )
    with torch.no_grad():
        found = network(torch.from_numpy(rivals.sensed(made))[:400])
    assert (found - 0.3).abs().mean() < 0.05


def test_a_runs_operator_is_what_its_spec_says(monkeypatch, tmp_path):
    improvers = []

    def adapt(config, improver, simulator):
        improvers.append(improver or make_improver(config.improve))

    monkeypatch.setattr(adaptation, "adapt", adapt)
    for variant, options in (
        ("one", {"critic_updates": 7, "improve.critic.gamma": 0.5}),
        ("other", {"critic_updates": 7, "improvement_step": 0.3}),
        ("clone", {"improver": "clone"}), ("awr", {}), ("topk", {}),
    ):  # fmt: skip
        spec = Spec("critics", ROBOT, variant, 5, {"gate": False} | options, (50_000,))
        adaptation.run_spec(spec, tmp_path, lambda num_envs: None, tmp_path)
    kinds = ("CriticImprover", "CriticImprover", "CloneImprover", "AwrImprover", "TopKImprover")
    assert tuple(type(improver).__name__ for improver in improvers) == kinds
    assert [i.config.critic for i in improvers[:2]] == [CriticConfig(updates=7, gamma=0.5), CriticConfig(updates=7)]
    assert [i.config.step for i in improvers[:2]] == [0.2, 0.3]
