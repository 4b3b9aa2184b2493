"""Whole runs of a model that stands still, in a fake simulator: it gets a stance from which it walks."""

import signal
from pathlib import Path

import numpy as np
import pytest
from fakes import ACTIONS, StandingSimulator
from runs import GROUP, SMALL, TASK, assert_same_run, read_rows, read_state, run_small, script_evaluations

from vintix_fast.data import read_trajectories
from vintix_fast.model import load_checkpoint
from vintix_fast.service.errors import Interrupted
from vintix_fast.service.progress import Progress

ADDED = Path(__file__).parent / "golden" / "vintix_tiny_add_task"
STANDING = {"simulator": StandingSimulator, "num_envs": 5}
SEARCH = "looking for a stance"


class Listener(Progress):
    """Keeps what is said, and stops a run when a line holds ``at``, or at the next step after that."""

    def __init__(self, at=None, next_step=False):
        self.said, self.at, self.next_step, self.part = [], at, next_step, ""

    def say(self, text):
        self.said.append(text)
        if self.at is not None and self.at in text:
            if not self.next_step:
                raise KeyboardInterrupt
            signal.raise_signal(signal.SIGINT)  # heard by every step of a search

    def rollout(self, what, num_episodes, max_steps):
        self.part = what
        return super().rollout(what, num_episodes, max_steps)

    def training(self, what, steps):
        self.part = what
        return super().training(what, steps)

    def on_training_step(self, step, loss):
        super().on_training_step(step, loss)
        if self.part == self.at:
            raise KeyboardInterrupt


@pytest.fixture(autouse=True)
def plots_are_empty(monkeypatch):
    """Half of a small run's time is its plot; test_adapt.py makes a real one."""
    monkeypatch.setattr("vintix_fast.adaptation.write_curve", lambda path, rows: path.touch())


@pytest.fixture(scope="module")
def finished(tmp_path_factory, tiny_checkpoint):
    """A run that nothing disturbed, and what it said; not to be written to."""
    out, listener = tmp_path_factory.mktemp("finished") / "run", Listener()
    result = run_small(out, tiny_checkpoint, progress=listener, **STANDING)
    return out, result, listener.said


def test_a_model_that_stands_still_walks_after_the_first_loop(finished):
    out, result, said = finished
    initial, first, second = result.rows
    assert first["eval_return"] > 2 * initial["eval_return"]
    assert sum(SEARCH in line for line in said) == 1 and not any("posture" in key for key in initial)
    assert "adapter" in first and "adapter" not in second  # it walks by then
    assert f"return {initial['eval_return']:.2f}" in next(line for line in said if SEARCH in line)


def test_the_stance_and_what_finding_it_took_are_recorded(finished):
    out, _, _ = finished
    first = read_rows(out)[1]
    offset = np.array(first["posture"])
    assert offset.shape == (ACTIONS,) and (0.5 < offset[[1, 4]]).all() and (offset[[7, 10]] < 0.0).all()
    assert first["adapter"] in ("its own adapter", "go1's adapter", "go2's adapter")
    assert first["posture_env_steps"] > 1000 and first["posture_seconds"] > 0
    steps = (first["env_steps"], first["eval_env_steps"], first["posture_env_steps"])
    assert first["total_env_steps"] == read_rows(out)[0]["total_env_steps"] + sum(steps)


def test_what_is_collected_is_around_the_new_stance(finished):
    out, _, _ = finished
    first = read_rows(out)[1]
    meant = np.concatenate(
        [h.extras["mean_action"] for h in read_trajectories(out / "loop_00/trajectories.h5").histories]
    )
    model = load_checkpoint(out / "models/loop_01")
    assert model.tasks[TASK].group_name == GROUP
    thighs = [1, 4, 7, 10]
    np.testing.assert_allclose(meant.mean(axis=0)[thighs], np.array(first["posture"])[thighs], atol=0.8)


def test_no_other_robots_tensors_change(finished, tiny_checkpoint):
    before, after = read_state(tiny_checkpoint), read_state(finished[0] / "models/loop_02")
    assert all(before[name].numpy().tobytes() == after[name].numpy().tobytes() for name in before)
    assert all(f".{GROUP}." in name for name in after.keys() - before.keys())


@pytest.mark.parametrize(
    ("at", "next_step"),
    [("its own adapter", False), (SEARCH, True), ("loop 1: fine-tuning", False)],
    ids=["between two adapters", "in a search", "in the training after it"],
)
def test_a_stopped_run_goes_on_as_if_nothing_had_happened(finished, tmp_path, tiny_checkpoint, at, next_step):
    out = tmp_path / "run"
    with pytest.raises(Interrupted, match="--resume"):
        run_small(out, tiny_checkpoint, progress=Listener(at, next_step), **STANDING)
    result = run_small(out, tiny_checkpoint, resume=True, **STANDING)
    assert_same_run(out, finished[0])
    assert result.rows == read_rows(out) and "posture" in result.rows[1]


def test_the_new_stance_is_kept_alone_where_fine_tuning_spoils_it(monkeypatch, tmp_path, tiny_checkpoint):
    most = 0.02 * 1.2 * SMALL["max_steps_per_episode"]
    found = [0.3 * most, *[0.0] * 3, 0.7 * most, 0.0]  # standing; three shares; the stance; another one
    script_evaluations(monkeypatch, found, length=SMALL["max_steps_per_episode"])
    first = run_small(tmp_path / "run", tiny_checkpoint, num_improvement_loops=1, **STANDING).rows[1]
    assert "adapter" in first and any(first["posture"])
    assert first["accepted"] and first["kept_share"] == 0.0 and first["eval_return"] == pytest.approx(0.7 * most)


def test_without_the_gate_nobody_knows_that_it_stands(tmp_path, tiny_checkpoint):
    listener = Listener()
    result = run_small(
        tmp_path / "run", tiny_checkpoint, gate=False, num_improvement_loops=1, progress=listener, **STANDING
    )
    assert "posture" not in result.rows[0] and not any(SEARCH in line for line in listener.said)


def test_the_stance_of_a_shared_group_stays_as_it_is_and_is_said(tmp_path):
    listener = Listener()
    result = run_small(tmp_path / "run", ADDED, group="shared", num_improvement_loops=1, progress=listener, **STANDING)
    assert "posture" not in result.rows[1]
    assert any("stands still" in line and "go2_walking_ad would change too" in line for line in listener.said)
