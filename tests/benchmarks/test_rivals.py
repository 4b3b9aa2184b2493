"""`adapt` beside PPO: when a run passed 20, what the table says of several seeds, and that nothing is run twice."""

import importlib
import json
import os
import sys
import threading
import time
from pathlib import Path

import pytest
from fakes import FakeSimulator
from typer.testing import CliRunner

from vintix_fast.cli import app
from vintix_fast.evaluation import measure
from vintix_fast.policy.expert import ExpertPolicy, load_expert
from vintix_fast.pretrain.config import ExpertConfig
from vintix_fast.pretrain.expert import train_expert
from vintix_fast.service.progress import Progress
from vintix_fast.world.robot import load_robot
from vintix_fast.world.task import WalkingTask

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
rivals = importlib.import_module("rivals")


def points(*returns):
    return [rivals.point(10.0 * (i + 1), 1000 * (i + 1), value) for i, value in enumerate(returns)]


def record(rival="default", seed=5, returns=(1.0, 20.0, 21.0), end=20.5, small=False):
    return {
        "robot": "go2", "seed": seed, "rival": rival, "small": small, "seconds": 120.0, "points": points(*returns),
        "command": f"vintix-fast adapt --seed {seed}", "machine": "2 cores, a processor", "python": "3.11.7",
        "at_the_end": {"mean_return": end, "episodes": 100, "terminated": 0},
    }  # fmt: skip


def rows_of(text):
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("| go2")]


def test_the_table_has_means_over_seeds_and_says_which_runs_did_not_get_there():
    runs = [record(), record(seed=6, returns=(1.0, 2.0, 20.1), end=20.1), record("ppo", returns=(3.0, 19.99), end=19.0)]
    runs.append(record("exact", returns=(20.0,)))
    runs.append(record("exact", seed=6, returns=(19.0,)))
    text = rivals.table(runs)
    adapt, ppo, exact = rows_of(text)
    assert adapt[2:] == ["5, 6", "25 (20 to 30)", "2,500 (2,000 to 3,000)", "2.0", "3,000", "20.30 (20.10)"]
    assert ppo[1] == rivals.NAMES["ppo"] and ppo[3:5] == ["never", "never"]
    assert exact[3] == "10, 1 of 2 runs"
    assert rivals.PUBLISHED in text and "mean nothing" not in text and "On 2 cores, a processor, Python 3.11.7" in text
    assert "mean nothing" in rivals.table([record(small=True)])


def test_an_adapt_run_counts_all_steps_and_holds_its_best_model(tmp_path):
    returns, started = [1.0, 20.5, 19.0], 1000.0
    rows = [{"loop": i, "total_env_steps": 100 * (i + 1), "eval_return": r} for i, r in enumerate(returns)]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for i, name in enumerate(("initial", "loop_01", "loop_02")):
        (tmp_path / "models" / name).mkdir(parents=True)
        (tmp_path / "models" / name / "model.pth").touch()
        os.utime(tmp_path / "models" / name / "model.pth", (0, started + 7 * (i + 1)))
    found = rivals.adapt_points(tmp_path, tmp_path, started, 5, "go2")
    expected = [(7.0, 100, 1.0), (14.0, 200, 20.5), (21.0, 300, 20.5)]  # the last loop was undone
    assert found == [rivals.point(*one) for one in expected]
    assert rivals.passed(found) == found[1]


def test_every_state_that_is_replaced_is_kept(tmp_path):
    file, ended = tmp_path / "training.pth", threading.Event()
    keeper = threading.Thread(target=rivals.keep_states, args=(file, tmp_path / "states", ended))
    keeper.start()
    for i in range(3):
        (tmp_path / "beside").write_text(str(i))
        os.replace(tmp_path / "beside", file)
        end = time.monotonic() + 30
        while i < 2 and not len(list(tmp_path.glob("states/*"))) > i and time.monotonic() < end:
            time.sleep(0.01)
    ended.set()  # the last one is there only now
    keeper.join()
    kept = sorted((tmp_path / "states").iterdir(), key=lambda path: int(path.name))
    assert [path.read_text() for path in kept] == ["0", "1", "2"]


@pytest.fixture
def done(monkeypatch):
    """What was run, in order; nothing is."""
    ran = []

    def run(out, robot, seed, rival, small):
        if rival == "exact":
            raise KeyboardInterrupt
        ran.append((rival, seed, small))
        return record(rival, seed, small=small)

    monkeypatch.setattr(rivals, "run", run)
    monkeypatch.setattr(rivals, "warm_up", lambda out, kinds: ran.append(kinds))
    return ran


def test_a_stopped_comparison_goes_on_and_nothing_is_run_twice(done, tmp_path, capsys):
    common = ["--output-dir", str(tmp_path)]
    with pytest.raises(KeyboardInterrupt):
        rivals.main([*common, "--seeds", "5", "--rivals", "default", "exact", "ppo"])
    assert done == [{("go2", "default"), ("go2", "exact"), ("go2", "ppo")}, ("default", 5, False)]
    done.clear()
    rivals.main([*common, "--seeds", "5", "6", "--rivals", "default", "ppo"])
    assert done[1:] == [("ppo", 5, False), ("default", 6, False), ("ppo", 6, False)]
    done.clear()
    capsys.readouterr()
    rivals.main([*common, "--table"])
    assert done == [] and len(rows_of(capsys.readouterr().out)) == 2
    assert len(json.loads((tmp_path / "rivals.json").read_text())["runs"]) == 4
    assert (tmp_path / "rivals.png").read_bytes()[:4] == b"\x89PNG" and (tmp_path / "rivals.md").is_file()


def test_small_runs_lie_apart(done, tmp_path):
    rivals.main(["--output-dir", str(tmp_path), "--seeds", "5", "--rivals", "ppo", "--small"])
    assert done == [("ppo", 5, True)] and (tmp_path / "small/go2/ppo/seed-5.json").is_file()
    assert not rivals.record_file(tmp_path, "go2", 5, "ppo").is_file()


@pytest.mark.parametrize("rival", rivals.RIVALS)
def test_commands_are_ones_that_vintix_fast_takes(rival, tmp_path):
    for small in (False, True):
        # No such robot: all options are read before that is found.
        for words in (
            rivals.command(tmp_path, "go2", 5, rival, small),
            rivals.eval_command("builtin:without-go2", tmp_path, "go2", 5, small),
        ):
            told = CliRunner().invoke(app, [*words[1:], "--robot-type", "no-such-robot"])
            assert told.exit_code == 2 and "no-such-robot" in told.output, told.output


def test_states_of_ppo_are_measured_as_what_they_hold(tmp_path, monkeypatch):
    settings = {"iterations": 3, "num_envs": 4, "steps_per_iteration": 4, "hidden_dims": (8,), "eval_episodes": 4}
    config = ExpertConfig(
        robot_type="go2", output_dir=tmp_path / "ppo", save_interval=1, max_steps_per_episode=10, **settings
    )
    states, ended = tmp_path / "states", threading.Event()
    keeper = threading.Thread(target=rivals.keep_states, args=(tmp_path / "ppo/training.pth", states, ended))
    keeper.start()
    try:
        train_expert(config, simulator=FakeSimulator(load_robot("go2"), 4))
    finally:
        ended.set()
        keeper.join()
    monkeypatch.setattr(rivals, "Simulator", FakeSimulator)
    found = rivals.ppo_points(tmp_path / "ppo", states, 0.0, 5, "go2")
    assert [p["env_steps"] for p in found][-1] == 48
    # The last state is the expert itself.
    network, _ = load_expert(tmp_path / "ppo")
    task = WalkingTask(FakeSimulator(load_robot("go2"), rivals.EPISODES), load_robot("go2"), 10)
    expected = measure(task, ExpertPolicy(network, rivals.EPISODES), rivals.EPISODES, 5, True, Progress())
    assert found[-1]["return"] == expected.mean_return
    assert rivals.expert_at_the_end(tmp_path / "ppo", "go2", 5, True)["episodes"] == 4
