"""Commands in other worlds than the default: what is built, recorded, resumed, evaluated and shown."""

import csv
import json

import numpy as np
import pytest
import torch
from fakes import OBSERVATIONS, FakeSimulator, make_history
from runs import assert_same_run, read_rows, run_small, small_config

from vintix_fast import evaluation
from vintix_fast.adaptation import adapt
from vintix_fast.config import AdaptConfig
from vintix_fast.data import read_trajectories
from vintix_fast.eval_config import EvalConfig
from vintix_fast.improve.critic import Critic, states, transitions
from vintix_fast.pretrain.config import DistilConfig, ExpertConfig
from vintix_fast.service.errors import UsageError
from vintix_fast.world.robot import load_robot
from vintix_fast.world.task import WalkingTask
from vintix_fast.world.task_config import DEFAULT_TASK

VARY = "payload_kg=0:5, motor.any_leg=0.5"
COLUMNS = ["payload_kg", "motor.any_leg", "motor.any_leg.which"]
PLAIN_PLOT = "vintix_fast.adaptation.write_curve"


@pytest.fixture(autouse=True)
def plots_are_empty(monkeypatch):
    monkeypatch.setattr(PLAIN_PLOT, lambda path, rows: path.touch())


@pytest.fixture
def task_file(tmp_path):
    (tmp_path / "task.toml").write_text(
        "latency_steps = 2\n[command]\nforward_m_s = [0.2, 0.8]\n[vary]\nfriction = 0.5"
    )
    return tmp_path / "task.toml"


# -- options -----------------------------------------------------------------------------------------------------------


def test_every_command_that_acts_takes_a_task_and_what_varies(task_file, tmp_path):
    common = {"output_dir": tmp_path / "out", "robot_type": "go2", "task": task_file}
    needed = {
        AdaptConfig: {},
        EvalConfig: {"vintix_path": tmp_path},
        ExpertConfig: {},
        DistilConfig: {"expert": tmp_path},
    }
    for config, more in needed.items():
        made = config.from_options(**common, **more)
        assert made.task.latency_steps == 2 and str(made.task.vary) == "friction=0.5"
        assert str(config.from_options(**common, **more, vary=VARY).task.vary) == VARY  # in place of the file's
        plain = config.from_options(**{k: v for k, v in common.items() if k != "task"}, **more)
        assert plain.task == DEFAULT_TASK


def test_a_mass_that_varies_has_no_other(tmp_path):
    with pytest.raises(UsageError, match="--base-mass 8 has no effect where base_mass_kg varies"):
        EvalConfig(tmp_path, "go2", base_mass=8.0, vary="base_mass_kg=5:9")


def test_a_record_says_what_the_world_was_only_where_it_was_another(tmp_path, task_file):
    plain = AdaptConfig(robot_type="go2", output_dir=tmp_path)
    assert {"task", "vary"}.isdisjoint(plain.to_json())
    other = plain.with_options(vary=VARY, task=task_file)
    record = json.loads(json.dumps(other.to_json()))
    assert record["vary"] == VARY and record["task"]["command_spread"] == pytest.approx([0.3, 0.0, 0.0])
    assert AdaptConfig.from_options(**record) == other and other.changed_options(record) == []
    assert [text.split(" was ")[0] for text in plain.changed_options(record)] == ["--task", "--vary"]


@pytest.mark.parametrize("command", ["adapt", "eval"])
def test_a_scene_is_built_with_room_for_what_varies(command, tmp_path, tiny_checkpoint, monkeypatch):
    built = []

    def build(robot, num_envs, device, say, vary):
        built.append(str(vary))
        return FakeSimulator(robot, num_envs, device, say, vary)

    monkeypatch.setattr("vintix_fast.world.simulators.Simulator", build)
    for vary in (None, VARY):
        if command == "adapt":
            options = {"vary": vary} if vary else {}
            adapt(small_config(tmp_path / f"run{vary is None}", tiny_checkpoint, num_improvement_loops=1, **options))
        else:
            evaluation.evaluate(EvalConfig(tiny_checkpoint, "go2", num_envs=2, max_steps=4, vary=vary))
    assert built == ["", VARY]


# -- adapt -------------------------------------------------------------------------------------------------------------


def test_adapt_records_what_varied_and_goes_on_to_the_bit(tmp_path, tiny_checkpoint):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    run_small(whole, tiny_checkpoint, vary=VARY, fall_after=(5, 6, 7))
    run_small(broken, tiny_checkpoint, vary=VARY, fall_after=(5, 6, 7), num_improvement_loops=1)
    run_small(broken, tiny_checkpoint, vary=VARY, fall_after=(5, 6, 7), resume=True)
    (whole / "config.json").unlink(), (broken / "config.json").unlink()
    assert_same_run(whole, broken)

    found = read_trajectories(whole / "loop_00/trajectories.h5")
    assert json.loads(found.attributes["variation"]) == COLUMNS
    assert json.loads(found.attributes["task"])["vary"] == VARY
    episodes = json.loads((whole / "loop_00/loop_00.json").read_text())["episodes"]
    seen = set()
    for history in found.histories:
        assert history.observation.shape[1] == OBSERVATIONS  # the policy is not told
        for number, (start, stop) in enumerate(history.episodes()):
            values = history.extras["variation"][start:stop]
            assert values.shape[1] == 3 and (values == values[0]).all()
            (told,) = [e["varied"] for e in episodes if (e["env"], e["number"]) == (history.env, number)]
            assert told == values[0].tolist()
            seen.add(values[0, 0].item())
    assert len(seen) == len(episodes) and read_rows(whole)[-1]["loop"] == 2


def test_a_run_is_resumed_in_its_own_world(tmp_path, tiny_checkpoint):
    run_small(tmp_path / "run", tiny_checkpoint, vary="payload_kg=1", num_improvement_loops=1)
    with pytest.raises(UsageError, match="--vary was payload_kg=1"):
        run_small(tmp_path / "run", tiny_checkpoint, vary="payload_kg=2", resume=True)


def test_a_plain_run_keeps_nothing_of_it(tmp_path, tiny_checkpoint):
    run_small(tmp_path / "run", tiny_checkpoint, num_improvement_loops=1)
    found = read_trajectories(tmp_path / "run/loop_00/trajectories.h5")
    assert "variation" not in found.attributes and "variation" not in found.histories[0].extras
    assert "varied" not in json.loads((tmp_path / "run/loop_00/loop_00.json").read_text())["episodes"][0]


def test_the_critic_is_told_what_varies(tmp_path):
    history = make_history([6, 5])
    plain = states(history)
    history.extras["variation"] = np.full((11, 2), [3.0, 0.5], np.float32)
    told = states(history)
    assert np.array_equal(told[:, : plain.shape[1]], plain) and (told[:, plain.shape[1] :] == [3.0, 0.5]).all()
    config = AdaptConfig(robot_type="go2", output_dir=tmp_path).improve.critic
    config = type(config)(updates=2)
    critic = Critic(transitions([history], config), config, 0, lambda step, loss: None)
    assert critic.values(critic.states(history), torch.zeros(11, 12)).isfinite().all()


# -- eval and report ---------------------------------------------------------------------------------------------------


def test_eval_tells_each_episodes_world(tmp_path, tiny_checkpoint):
    config = EvalConfig(
        tiny_checkpoint, "go2", num_envs=3, max_steps=4, episodes_per_env=2, vary=VARY, output_dir=tmp_path / "e"
    )
    evaluation.evaluate(config, simulator=FakeSimulator(load_robot("go2"), 3))
    rows = list(csv.DictReader((tmp_path / "e/eval.csv").read_text().splitlines()))
    assert list(rows[0])[-3:] == COLUMNS and len({row["payload_kg"] for row in rows}) == 6
    written = json.loads((tmp_path / "e/eval.json").read_text())
    assert written["options"]["vary"] == written["task"]["vary"] == VARY


def test_a_video_and_a_report_are_of_the_runs_task(tmp_path, tiny_checkpoint, task_file, monkeypatch):
    from vintix_fast.report import build, film, recording

    seen = []

    class Spied(WalkingTask):
        def __init__(self, *args, task_config, **options):
            seen.append(task_config)
            super().__init__(*args, task_config=task_config, **options)

    monkeypatch.setattr(recording, "WalkingTask", Spied)
    monkeypatch.setattr(film, "film", lambda *args, **options: film.Filmed({}, "no EGL"))
    monkeypatch.setattr("vintix_fast.world.simulators.Simulator", FakeSimulator)
    config = EvalConfig(tiny_checkpoint, "go2", num_envs=2, max_steps=4, task=task_file, record=tmp_path / "w.mp4")
    evaluation.evaluate(config, simulator=FakeSimulator(load_robot("go2"), 2))
    run_small(tmp_path / "run", tiny_checkpoint, task=task_file, num_improvement_loops=1)
    (tmp_path / "run/stress").mkdir()
    (tmp_path / "run/stress/stress.png").write_bytes(b"a picture of other worlds")
    made = build.build_report(tmp_path / "run", video=False)
    assert (
        made.pngs["stress"].read_bytes().startswith(b"a picture") and "<h2>Other worlds</h2>" in made.html.read_text()
    )
    assert len(seen) == 3 and all(task == config.task for task in seen)
    assert "0.2 to 0.8 are asked for" in made.html.read_text()
