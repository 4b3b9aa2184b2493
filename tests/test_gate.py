"""What the gate decides in whole runs in a fake simulator."""

import json

import numpy as np
import pytest
import torch
from runs import SMALL, TASK, assert_same_model, read_state, run_small, script_evaluations

from vintix_fast.data import read_trajectories
from vintix_fast.model import load_checkpoint
from vintix_fast.service.console import summary_table
from vintix_fast.world.task_config import TaskConfig


@pytest.fixture(autouse=True)
def plots_are_empty(monkeypatch):
    """Half of a small run's time is its plot."""
    monkeypatch.setattr("vintix_fast.adaptation.write_curve", lambda path, rows: path.touch())


def acted_by(model_dir, trajectories):
    """Whether a model's own actions are those of a collection."""
    model = load_checkpoint(model_dir)
    history = read_trajectories(trajectories).histories[0]
    n = min(len(history), SMALL["context_len"])
    prev_action, prev_reward = np.zeros_like(history.action), np.zeros_like(history.reward)
    prev_action[1:], prev_reward[1:] = history.action[:-1], history.reward[:-1]
    acted = model.predict_actions(
        history.observation[:n], prev_action[:n], prev_reward[:n], history.step_num[:n], task_name=TASK
    )
    return np.allclose(acted, history.extras["mean_action"][:n], atol=1e-4, rtol=0)


def test_the_gate_undoes_a_worse_loop_and_keeps_the_best(monkeypatch, tmp_path, tiny_checkpoint):
    script_evaluations(monkeypatch, [5.0, 3.0, 4.0, 3.5, 6.0, 5.5, 5.5, 5.5])
    out = tmp_path / "run"
    result = run_small(out, tiny_checkpoint, num_improvement_loops=3)
    assert [row["accepted"] for row in result.rows] == [True, False, True, False]
    assert [row["kept_share"] for row in result.rows] == [1.0, 0.0, 1.0, 0.0]
    assert [row["eval_return"] for row in result.rows] == [5.0, 4.0, 6.0, 5.5]  # of the best share
    assert [row["eval_env_steps"] for row in result.rows] == [14, 42, 14, 42]
    assert_same_model(out / "models/best", out / "models/loop_02")
    models, data = out / "models", "trajectories.h5"
    assert acted_by(models / "initial", out / "loop_00" / data)
    # The second collection was made by the initial policy again, the third by the accepted one.
    assert acted_by(models / "initial", out / "loop_01" / data)
    assert not acted_by(models / "loop_01", out / "loop_01" / data)
    assert acted_by(models / "loop_02", out / "loop_02" / data)
    # A rejected loop makes the next one more careful.
    steps = [row["improvement_step"] for row in result.rows[1:]]
    assert steps[1] / steps[0] < steps[2] / steps[1] < 1


def test_the_steps_become_smaller_once_the_robot_walks(monkeypatch, tmp_path, tiny_checkpoint):
    most = 0.02 * 1.2 * SMALL["max_steps_per_episode"]  # of an episode without any fault
    script_evaluations(monkeypatch, [0.1 * most, 0.5 * most, 0.85 * most, 0.9 * most])
    result = run_small(tmp_path / "run", tiny_checkpoint, num_improvement_loops=3, improvement_step=0.2)
    assert [row["improvement_step"] for row in result.rows[1:]] == pytest.approx([0.2, 0.2, 0.14])


def test_a_step_that_is_too_long_is_shortened(monkeypatch, tmp_path, tiny_checkpoint):
    script_evaluations(monkeypatch, [5.0, 3.0, 3.0, 5.5])
    result = run_small(tmp_path / "quarter", tiny_checkpoint, num_improvement_loops=1)
    assert result.rows[1]["accepted"] and result.rows[1]["kept_share"] == 0.25
    assert_same_model(result.best_model, result.last_model)
    script_evaluations(monkeypatch, [5.0, 5.5])
    whole = run_small(tmp_path / "whole", tiny_checkpoint, num_improvement_loops=1)
    before, quarter, all_ = (
        read_state(path) for path in (tmp_path / "quarter/models/initial", result.best_model, whole.best_model)
    )
    for name, weight in quarter.items():
        torch.testing.assert_close(weight - before[name], 0.25 * (all_[name] - before[name]), atol=1e-6, rtol=1e-3)
    assert any(not torch.equal(quarter[name], before[name]) for name in quarter)


def test_a_tie_is_no_improvement(monkeypatch, tmp_path, tiny_checkpoint):
    script_evaluations(monkeypatch, [5.0] * 4)
    result = run_small(tmp_path / "run", tiny_checkpoint, num_improvement_loops=1)
    assert [row["accepted"] for row in result.rows] == [True, False]
    assert_same_model(result.best_model, tmp_path / "run/models/initial")


def test_without_the_gate_every_loop_goes_on_from_the_last(monkeypatch, tmp_path, tiny_checkpoint):
    script_evaluations(monkeypatch, [])
    out = tmp_path / "run"
    result = run_small(out, tiny_checkpoint, gate=False)
    assert [row["loop"] for row in result.rows] == [1, 2] and not (out / "models/best").exists()
    assert result.best_model == result.last_model == out / "models/loop_02"
    assert acted_by(out / "models/loop_01", out / "loop_01/trajectories.h5")
    assert not acted_by(out / "models/initial", out / "loop_01/trajectories.h5")


def test_single_episodes_have_no_standard_error_and_files_stay_json(tmp_path, tiny_checkpoint):
    out = tmp_path / "run"
    result = run_small(out, tiny_checkpoint, episodes_per_loop=1, gate_episodes=1, num_envs=1, num_improvement_loops=1)
    for row in result.rows:
        assert row.get("standard_error") is None and row.get("eval_standard_error") is None
    summary_table(result.rows)
    files = [out / name for name in ("state.json", "config.json", "loop_00/loop_00.json")]
    for text in [path.read_text() for path in files] + (out / "metrics.jsonl").read_text().splitlines():
        json.loads(text, parse_constant=pytest.fail)  # NaN is not JSON


def test_the_gate_measures_cold_and_warm_contexts_from_the_same_starts(tmp_path, tiny_checkpoint):
    result = run_small(tmp_path / "run", tiny_checkpoint, gate_episodes=6, num_improvement_loops=1)
    for row in result.rows:
        assert row["eval_return"] == pytest.approx((row["eval_cold_return"] + row["eval_warm_return"]) / 2)
        assert row["eval_cold_return"] != row["eval_warm_return"]
    once = run_small(tmp_path / "once", tiny_checkpoint, gate_episodes=3, num_improvement_loops=1)
    assert "eval_warm_return" not in once.rows[0], "an episode each: no context was warm"


def test_a_run_stops_when_it_reaches_the_target_return(monkeypatch, tmp_path, tiny_checkpoint):
    script_evaluations(monkeypatch, [5.0, 6.0, 8.0])
    out = tmp_path / "run"
    result = run_small(out, tiny_checkpoint, target_return=6.0, num_improvement_loops=5)
    assert [row["eval_return"] for row in result.rows] == [5.0, 6.0] and result.best_model == out / "models/best"
    # A resumed run may aim higher.
    result = run_small(out, tiny_checkpoint, target_return=7.0, num_improvement_loops=5, resume=True)
    assert [row["eval_return"] for row in result.rows] == [5.0, 6.0, 8.0]


MOST = 0.02 * 1.2 * SMALL["max_steps_per_episode"]
"""Return of an episode without any fault."""


WHOLE = SMALL["max_steps_per_episode"]


def test_a_loop_that_was_kept_ends_with_a_better_stance(monkeypatch, tmp_path, tiny_checkpoint):
    script_evaluations(monkeypatch, [0.6 * MOST, 0.7 * MOST, 0.9 * MOST, *[0.0] * 3], length=WHOLE)
    out = tmp_path / "run"
    result = run_small(out, tiny_checkpoint, num_improvement_loops=2)
    assert ["posture" in row for row in result.rows] == [False, True, False]
    first = result.rows[1]
    assert first["posture_env_steps"] > 0 and "adapter" not in first and any(first["posture"])
    assert first["eval_return"] == pytest.approx(0.9 * MOST) and first["eval_env_steps"] == 28  # of both evaluations
    assert first["accepted"] and first["kept_share"] == 1.0
    assert_same_model(out / "models/best", out / "models/loop_01")
    assert acted_by(out / "models/loop_01", out / "loop_01/trajectories.h5")


def test_a_stance_that_is_no_better_is_left(monkeypatch, tmp_path, tiny_checkpoint):
    out = tmp_path / "run"
    script_evaluations(monkeypatch, [0.6 * MOST, 0.7 * MOST, 0.65 * MOST], length=WHOLE)
    first = run_small(out, tiny_checkpoint, num_improvement_loops=1).rows[1]
    assert first["accepted"] and first["eval_return"] == pytest.approx(0.7 * MOST) and first["eval_env_steps"] == 28
    assert first["posture_env_steps"] > 0 and not any(first["posture"])
    script_evaluations(monkeypatch, [0.6 * MOST, 0.7 * MOST])
    fallen = run_small(tmp_path / "fallen", tiny_checkpoint, num_improvement_loops=1)
    assert "posture" not in fallen.rows[1]
    assert_same_model(out / "models/loop_01", tmp_path / "fallen/models/loop_01")
    assert_same_model(out / "models/best", out / "models/loop_01")


def test_where_fine_tuning_is_undone_a_better_stance_is_kept_alone(monkeypatch, tmp_path, tiny_checkpoint):
    script_evaluations(monkeypatch, [0.6 * MOST, *[0.0] * 3, 0.7 * MOST], length=WHOLE)
    out = tmp_path / "run"
    first = run_small(out, tiny_checkpoint, num_improvement_loops=1).rows[1]
    assert first["accepted"] and first["kept_share"] == 0.0 and first["eval_return"] == pytest.approx(0.7 * MOST)
    before, after = read_state(out / "models/initial"), read_state(out / "models/best")
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed and all(name.endswith("bias") for name in changed), "a stance is an offset"


def test_a_stance_that_was_undone_is_not_searched_for_again(monkeypatch, tmp_path, tiny_checkpoint):
    found = [0.7 * MOST, *[0.0] * 4, *[0.0] * 3, 0.8 * MOST, 0.9 * MOST]
    script_evaluations(monkeypatch, found, length=WHOLE)
    result = run_small(tmp_path / "run", tiny_checkpoint, num_improvement_loops=3)
    assert [row["accepted"] for row in result.rows[1:]] == [False, False, True]
    assert ["posture" in row for row in result.rows[1:]] == [True, False, True]


def test_a_target_that_is_reached_needs_no_stance(monkeypatch, tmp_path, tiny_checkpoint):
    script_evaluations(monkeypatch, [0.6 * MOST, 0.7 * MOST], length=WHOLE)
    result = run_small(tmp_path / "run", tiny_checkpoint, num_improvement_loops=3, target_return=0.69 * MOST)
    assert len(result.rows) == 2 and "posture" not in result.rows[1]


DRAWN_COMMANDS = TaskConfig(command_spread=(0.2, 0.0, 0.0))


@pytest.mark.parametrize(
    "options", [{"gate": False}, {"improver": "clone"}, {"train": "decoder"}, {"task": DRAWN_COMMANDS}], ids=str
)
def test_where_a_stance_would_change_too_much_or_cannot_be_told_it_stays(
    monkeypatch, tmp_path, tiny_checkpoint, options
):
    script_evaluations(monkeypatch, [0.6 * MOST, 0.7 * MOST], length=SMALL["max_steps_per_episode"])
    result = run_small(tmp_path / "run", tiny_checkpoint, num_improvement_loops=1, **options)
    assert not any("posture" in row for row in result.rows)


def test_one_that_falls_gets_none(monkeypatch, tmp_path, tiny_checkpoint):
    script_evaluations(monkeypatch, [5.0, 4.0, 4.0, 4.0, 5.0, 5.0, 5.0])
    result = run_small(tmp_path / "run", tiny_checkpoint, num_improvement_loops=2)
    assert not any("posture" in row for row in result.rows)
