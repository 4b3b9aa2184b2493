"""What noise distillation makes of an expert's actions: the schedule of its noise, and the noise."""

import numpy as np
import pytest
import torch
from fakes import ACTIONS, FakeSimulator

from vintix_fast.pretrain.config import DistilConfig
from vintix_fast.pretrain.distil import NoiseDistillation, random_share
from vintix_fast.world.robot import load_robot
from vintix_fast.world.task import WalkingTask

SMALL = dict(histories=3, num_envs=3, steps_per_env=30, max_steps_per_episode=12)

# -- the schedule ------------------------------------------------------------------------------------------------------


def test_a_history_begins_with_noise_alone_and_ends_with_the_expert_alone():
    for power in (0.3, 0.5, 1.0, 2.0):
        shares = [random_share(step, 200, power, 0.1) for step in range(200)]
        assert shares[0] == 1.0 and shares[179] > 0.0
        assert shares[180:] == [0.0] * 20
        assert all(later < earlier for earlier, later in zip(shares[:180], shares[1:181], strict=True))


def test_the_schedule_is_that_of_ad_epsilon():
    # (1 - (25 / 100)^0.5)^(1 / 0.5) = 0.5^2
    assert random_share(25, 100, 0.5, 0.0) == pytest.approx(0.25)
    assert random_share(20, 100, 0.5, 0.2) == pytest.approx(0.25)
    assert random_share(60, 100, 2.0, 0.0) == pytest.approx(0.8)
    assert random_share(30, 100, 1.0, 0.0) == pytest.approx(0.7)


# -- the noise ---------------------------------------------------------------------------------------------------------


def noise(robot_name="go2", seed=1, **options):
    config = DistilConfig(expert="expert", output_dir="out", **(SMALL | options))
    robot = load_robot(robot_name)
    return NoiseDistillation(WalkingTask(FakeSimulator(robot, 1), robot), config, seed)


@pytest.mark.parametrize("robot_name", ["go2", "a1", "minicheetah"])
def test_the_first_actions_reach_uniformly_over_the_joints_ranges(robot_name):
    robot = load_robot(robot_name)
    action = noise(robot_name).apply(torch.full((4000, ACTIONS), 3.0), 0).numpy()
    target = np.array(robot.default_pose_rad) + 0.25 * action  # what the walking task makes of an action, in rad
    lowest, highest = robot.joint_range_rad.T
    place = (target - lowest) / (highest - lowest)
    assert place.min() > -1e-5 and place.max() < 1 + 1e-5
    assert place.min(axis=0).max() < 0.01 and place.max(axis=0).min() > 0.99
    for joint in range(ACTIONS):
        shares = np.histogram(place[:, joint], bins=4, range=(0, 1))[0] / 4000
        assert np.abs(shares - 0.25).max() < 0.035  # 5 standard deviations
    correlation = np.corrcoef(place.T) - np.eye(ACTIONS)
    assert np.abs(correlation).max() < 0.08


def test_the_last_actions_are_exactly_the_experts():
    mixed = noise(steps_per_env=10, expert_fraction=0.5)
    expert = torch.randn(3, ACTIONS)
    executed = [mixed.apply(expert, step) for step in range(10)]
    assert all(torch.equal(action, expert) for action in executed[5:])
    assert all((action != expert).all() for action in executed[:5])


def test_noise_depends_on_its_seed_and_its_step():
    first, again, other = noise(seed=1), noise(seed=1), noise(seed=2)
    zero = torch.zeros(3, ACTIONS)
    a, b, c = (n.apply(zero, 0) for n in (first, again, other))
    assert torch.equal(a, b) and not torch.equal(a, c)
    assert (first.apply(zero, 1) != a).all()
