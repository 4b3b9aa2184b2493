"""What `vintix-fast bench` compares is comparable: same walk, same actions, same file."""

import h5py
import numpy as np
import pytest
import torch
from fakes import ACTIONS, OBSERVATIONS, FakeSimulator

from vintix_fast.benchmarks import collection, machine, writer
from vintix_fast.benchmarks.plain import causal_bias, plain_action, plain_steps_per_s
from vintix_fast.data import read_trajectories
from vintix_fast.policy import Policy
from vintix_fast.world.task import WalkingTask

TASK, STEPS = "go2_walking_ad", 12


@pytest.fixture
def task(go2):
    return WalkingTask(FakeSimulator(go2, 3, fall_after=(0, 0, 7)), go2)


@pytest.fixture
def walk(task, tiny):
    return collection.record_walk(task, Policy(tiny, TASK, 3, 8), STEPS)


def test_the_plain_way_acts_as_the_model_does(tiny):
    history = {
        "observation": torch.randn(9, OBSERVATIONS), "prev_action": torch.randn(9, ACTIONS),
        "prev_reward": torch.randn(9), "step_num": torch.arange(9),
    }  # fmt: skip
    plain = plain_action(tiny, TASK, history, causal_bias(2, 9))
    torch.testing.assert_close(plain, tiny.predict_actions(**history, task_name=TASK)[-1], atol=1e-5, rtol=1e-5)


def test_the_plain_way_runs_in_one_environment(tiny, go2):
    task = WalkingTask(FakeSimulator(go2, 1), go2)
    assert plain_steps_per_s(tiny, TASK, task, 6, 3) > 0
    assert int(task.step_num) == 5  # 2 to warm up


def test_the_simulator_alone_and_the_task_alone_repeat_the_walk(task, walk):
    walked = torch.stack(task.simulator.targets)
    for repeat in (lambda: collection.bare_seconds(task, walk), lambda: collection.task_seconds(task, walk)):
        task.simulator.targets.clear()
        assert repeat() > 0
        repeated = torch.stack(task.simulator.targets)
        assert len(repeated) == STEPS
        torch.testing.assert_close(repeated[:7], walked[:7])
        torch.testing.assert_close(repeated[:, :2], walked[:, :2])  # the third fell and stood up again


def test_a_full_context_stays_full_when_rollouts_begin(task, walk, tiny):
    class Remembered(Policy):
        resets, acted = 0, 0

        def reset(self):
            self.resets += 1

        def act(self, observation, step_num):
            self.acted += 1
            return super().act(observation, step_num)

    policy = Remembered(tiny, TASK, 3, 8)
    collection.fill(policy, walk, 20)
    assert policy.acted == 20
    row = collection.collect_row(task, collection.FullContext(policy), STEPS)
    assert (policy.acted, policy.resets) == (20 + STEPS, 0)
    assert row["seconds"] > 0 and row["falls"] == 1 and row["queue_depth"] == 0
    shares = row["fractions"]
    assert shares["writer_wait_fraction"] == shares["write_fraction"] == 0.0
    assert shares["simulate_fraction"] > 0 and sum(shares.values()) <= 1


def test_a_settings_shares_and_speeds_fit_together(task, walk, tiny):
    setting = collection.measure_setting(task, Policy(tiny, TASK, 3, 8), walk, 8, repeats=2)
    rows = ("bare_simulator", "task", "policy", "collection")
    assert all(setting[f"{row}_steps_per_s"] > 0 for row in rows)
    assert setting["collection_steps_per_s"] == pytest.approx(3 / setting["step_seconds"])
    assert (setting["num_envs"], setting["context_len"], setting["steps"], setting["falls"]) == (3, 8, STEPS, 1)
    assert 0 < setting["write_fraction"] < 1 and setting["writer_queue_depth"] >= 1


@pytest.mark.parametrize(("steps", "groups"), [(250, 1), (1120, 2)])
def test_h5py_writes_what_the_writer_writes(tmp_path, steps, groups):
    writer.write_with_core(tmp_path / "core.h5", 2, steps)
    writer.write_with_h5py(tmp_path / "h5py.h5", 2, steps)
    left, right = (read_trajectories(tmp_path / name) for name in ("core.h5", "h5py.h5"))
    assert left.closed_cleanly and right.closed_cleanly
    for a, b in zip(left.histories, right.histories, strict=True):
        assert len(a) == steps and a.env == b.env
        for name in ("observation", "action", "reward", "step_num"):
            np.testing.assert_array_equal(getattr(a, name), getattr(b, name))
        assert a.extras.keys() == b.extras.keys()
    with h5py.File(tmp_path / "core.h5") as core, h5py.File(tmp_path / "h5py.h5") as other:
        assert set(core) == set(other) and len(core) == 2 * groups
        for group in core:
            for name, dataset in core[group].items():
                assert (dataset.chunks, dataset.dtype) == (other[group][name].chunks, other[group][name].dtype)


def test_the_writers_numbers_are_of_the_same_bytes(tmp_path):
    writer.write_plain(tmp_path / "mine.bin", 2, 30)
    numbers = writer.measure(tmp_path, 2, 30)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.bin"]
    assert (tmp_path / "mine.bin").stat().st_size == pytest.approx(1e6 * numbers["megabytes"])
    for way in ("core", "h5py", "plain_file"):
        assert numbers[f"{way}_mb_per_s"] > 0
    assert numbers["max_queue_depth"] <= numbers["queue_capacity"]


def test_bandwidth_is_a_rate(monkeypatch):
    monkeypatch.setattr(machine, "BYTES", 2**20)
    assert 1e6 < machine.read_bandwidth() < 1e15
