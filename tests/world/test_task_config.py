"""A task as data and an observation's layout: defaults, records and back, what cannot be."""

import dataclasses
import json
import math

import pytest
from fakes import FakeSimulator

from vintix_fast.service.errors import InputFileError, UsageError
from vintix_fast.world.layout import QUADRUPED, ObservationLayout
from vintix_fast.world.simulator import DT_S
from vintix_fast.world.task import WalkingTask
from vintix_fast.world.task_config import DEFAULT_TASK, RewardWeights, StartNoise, TaskConfig


def test_the_default_is_the_original_environments_task():
    assert dataclasses.asdict(DEFAULT_TASK.reward) == {
        "tracking_lin_vel": 1.0, "tracking_ang_vel": 0.2, "lin_vel_z": -1.0, "base_height": -50.0,
        "action_rate": -0.005, "similar_to_default": -0.1,
    }  # fmt: skip
    assert DEFAULT_TASK.to_json() == {
        "command": [0.5, 0.0, 0.0], "reward": dataclasses.asdict(RewardWeights()), "tracking_sigma": 0.25,
        "max_tilt_rad": math.radians(10.0), "action_scale_rad": 0.25, "action_clip": 100.0, "latency_steps": 1,
        "start_noise": {"joints_rad": 0.1, "tilt_rad": math.radians(5.0), "position_m": 0.1},
    }  # fmt: skip


def test_a_record_gives_the_same_task():
    odd = TaskConfig(
        command=(0.1, -0.2, 1 / 3), reward=RewardWeights(base_height=-1 / 7), start_noise=StartNoise(tilt_rad=0.0),
        latency_steps=2,
    )  # fmt: skip
    for task in (DEFAULT_TASK, odd):
        assert TaskConfig.from_json(json.loads(json.dumps(task.to_json()))) == task
    assert TaskConfig.from_json({}) == DEFAULT_TASK
    assert hash(odd) != hash(DEFAULT_TASK)


@pytest.mark.parametrize(
    "record", [{"comand": [0, 0, 0]}, {"reward": {"speed": 1.0}}, {"reward": 1.0}, {"max_tilt_rad": "wide"}], ids=str
)
def test_a_record_of_no_task_is_refused(record):
    with pytest.raises(InputFileError, match="not a task's record"):
        TaskConfig.from_json(record)


@pytest.mark.parametrize(
    "change",
    [
        {"command": (0.5, 0.0)}, {"command": (math.nan, 0.0, 0.0)}, {"tracking_sigma": 0.0}, {"max_tilt_rad": 1.6},
        {"action_scale_rad": -0.25}, {"action_clip": 0.0}, {"latency_steps": -1}, {"latency_steps": 0.5},
        {"reward": RewardWeights(action_rate=math.inf)}, {"start_noise": StartNoise(joints_rad=-0.1)},
    ],
    ids=str,
)  # fmt: skip
def test_tasks_that_cannot_be(change):
    with pytest.raises(UsageError, match=next(iter(change)).split("_")[0]):
        TaskConfig(**change)


def test_most_reward(go2):
    assert WalkingTask(FakeSimulator(go2, 1), go2).most_reward == (1.0 + 0.2) * DT_S
    task = TaskConfig(reward=RewardWeights(tracking_lin_vel=2.0, tracking_ang_vel=-1.0))
    assert task.most_reward_per_s == 2.0


def test_the_layout_says_where_things_are(go2):
    places = [QUADRUPED.ang_vel, QUADRUPED.gravity, QUADRUPED.command, QUADRUPED.joint_pos, QUADRUPED.joint_vel]
    assert [n for place in places for n in range(QUADRUPED.size)[place]] == list(range(33))
    assert ObservationLayout(8).size == 25 and ObservationLayout(8).joint_vel == slice(17, 25)
    assert WalkingTask(FakeSimulator(go2, 1), go2).layout == QUADRUPED
