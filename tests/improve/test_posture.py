"""The search for a stance: its directions, what it finds where the best one is known, and what it asks of an actor."""

import dataclasses
import signal

import numpy as np
import pytest
import torch
from fakes import ACTIONS, OBSERVATIONS, FakeSimulator, Listener, StandingSimulator, tiny_model

from vintix_fast.improve.posture import Shifted, find_posture, leave_standing, mirrored, stands_still
from vintix_fast.model import fingerprint, move_posture
from vintix_fast.model.new_group import add_target
from vintix_fast.policy import Actor, Policy
from vintix_fast.rollout import collect
from vintix_fast.service.errors import Interrupted
from vintix_fast.service.interrupt import stop_on_interrupt
from vintix_fast.world.layout import QUADRUPED
from vintix_fast.world.robot import joint_signs, load_robot
from vintix_fast.world.task import WalkingTask

FRONT_THIGH, HIND_THIGH = 1, 4
"""Of the six numbers."""
TASK, GROUP = "minicheetah_walking_ad", "minicheetah_locomotion"


class Still(Actor):
    """Holds its pose; or shakes, by ``strength`` action units to and fro."""

    def __init__(self, strength=0.0):
        self.strength, self.resets, self.seen, self.observed = strength, [], [], []

    def reset(self, mask=None):
        self.resets.append(mask)

    def act(self, observation, step_num):
        self.seen.append(observation.clone())
        return self.strength * torch.ones(len(observation), ACTIONS) * (-1.0) ** len(self.seen)

    def observe(self, action, reward):
        self.observed.append((action, reward))


def standing_task(num_envs=25, robot="go2", max_steps=30):
    return WalkingTask(StandingSimulator(load_robot(robot), num_envs), load_robot(robot), max_steps)


# -- when --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mean_return", "mean_length", "stands"),
    [
        (7.0, 1000, True),  # of 24 at most
        (11.9, 1000, True),
        (12.1, 1000, False),  # walks, if badly
        (20.0, 1000, False),
        (3.0, 501, True),
        (3.0, 500, False),  # falls too soon to be standing
        (0.5, 60, False),
        (-2.0, 900, True),
    ],
)
def test_a_model_stands_still_where_it_stays_up_and_earns_little(mean_return, mean_length, stands):
    assert stands_still(mean_return, mean_length, standing_task(max_steps=1000)) is stands


# -- directions --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a1", "go1", "go2", "minicheetah", "minicheetah-primitive", "anymal_c"])
def test_left_and_right_legs_of_the_bundled_robots_move_alike_and_their_hips_mirrored(name):
    hip, thigh, calf = ([-1, 0, 0, 1, 0, 0], [0, 1, 0, 0, 1, 0], [0, 0, 1, 0, 0, 1])  # right leg, left leg
    none = [0] * 6
    expected = [hip + none, thigh + none, calf + none, none + hip, none + thigh, none + calf]
    np.testing.assert_array_equal(mirrored(load_robot(name)), expected)


def test_a_joint_that_is_mounted_the_other_way_round_is_moved_the_other_way():
    robot = load_robot("go2")
    axes = robot.joint_axes.copy()
    axes[[0, 7]] *= -1  # hip of the front right leg, thigh of the hind right one
    before, after = mirrored(robot), mirrored(dataclasses.replace(robot, joint_axes=axes))
    turned = [(row, joint) for row, joint in zip(*np.nonzero(before != after), strict=True)]
    assert turned == [(0, 0), (4, 7)] and after[0, 0] == 1 and after[4, 7] == -1


# -- what is found -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("num_envs", [4, 25, 60])
def test_the_best_stance_is_found_with_any_number_of_environments(num_envs):
    task = standing_task(num_envs)
    found = find_posture(task, Still, seed=1)
    best = np.zeros(6)
    best[FRONT_THIGH], best[HIND_THIGH] = 1.5, -1.0
    np.testing.assert_allclose(found.numbers, best, atol=0.25)
    np.testing.assert_array_equal(found.offset, found.numbers @ mirrored(task.robot))
    assert found.after > 2 * found.before
    assert found.env_steps == len(task.simulator.targets) * num_envs
    words = found.words(task)
    assert "front thigh +0.3" in words and "hind thigh -0.2" in words and "hip" not in words


def test_the_joints_of_another_robot_are_moved_in_their_own_directions():
    task = standing_task(robot="minicheetah")
    found = find_posture(task, Still, seed=1)
    np.testing.assert_allclose(0.25 * found.offset, StandingSimulator.STANCE_RAD, atol=0.07)


def test_where_nothing_is_better_the_stance_stays():
    task = standing_task()
    task.simulator.STANCE_RAD = torch.zeros(ACTIONS)
    found = find_posture(task, Still, seed=1)
    assert not found.numbers.any() and not found.offset.any() and found.words(task) == "no offset"
    assert found.after == pytest.approx(found.before, rel=0.05)


def test_a_stance_in_which_it_falls_is_worth_what_it_earned_until_then():
    """Farther out it goes faster, but falls at once; what it earns after that is another episode's."""
    task = standing_task()
    task.simulator.falls = lambda offset: offset[:, 1] > 0.3
    found = find_posture(task, Still, seed=1)
    assert 0.5 <= found.numbers[FRONT_THIGH] <= 1.2 and found.numbers[HIND_THIGH] == pytest.approx(-1.0, abs=0.25)


def test_a_search_can_be_gone_on_with():
    task = standing_task()
    begun = find_posture(task, Still, seed=1, rounds=1)
    assert np.count_nonzero(begun.numbers) == 1
    found = find_posture(task, Still, seed=1, rounds=4, start=begun)
    assert found.before == begun.before and found.after > begun.after
    assert found.env_steps == 5 * begun.env_steps == len(task.simulator.targets) * task.num_envs


def test_a_seed_decides_what_is_found():
    once, again = (find_posture(standing_task(), Still, seed=3) for _ in range(2))
    assert once.after == again.after and (once.numbers == again.numbers).all()
    assert find_posture(standing_task(), Still, seed=4).before != once.before


def test_a_robot_that_walks_is_moved_little_and_compared_from_equal_starts():
    task = standing_task()
    task.simulator.STANCE_RAD = torch.tensor([0.0, 0.125, 0.0] * 2 + [0.0] * 6)
    found, other = (find_posture(task, Still, seed=seed, rounds=2, fine=True) for seed in (3, 4))
    assert found.numbers[FRONT_THIGH] == 0.5 and np.count_nonzero(found.numbers) == 1
    assert other.before == found.before and other.after == found.after


def test_a_search_can_be_stopped_at_any_step():
    task, left = standing_task(), iter(range(40))

    class Stopped(Still):
        def act(self, observation, step_num):
            if next(left) == 37:
                signal.raise_signal(signal.SIGINT)
            return super().act(observation, step_num)

    said = []
    with pytest.raises(Interrupted), stop_on_interrupt(said.append):
        find_posture(task, Stopped, seed=1)
    assert len(task.simulator.targets) == 38 and "Ctrl-C" in said[0]


# -- what the actor sees -----------------------------------------------------------------------------------------------


def test_a_shifted_actor_knows_nothing_of_its_offset():
    inner, offset = Still(strength=0.5), torch.linspace(-1.0, 1.0, 24).reshape(2, ACTIONS)
    shifted = Shifted(inner, offset, standing_task())
    observation, reward, mask = torch.randn(2, OBSERVATIONS), torch.randn(2), torch.tensor([True, False])
    shown, step_num = observation.clone(), torch.zeros(2, dtype=torch.int32)
    acted = shifted.act(observation, step_num)
    torch.testing.assert_close(acted, offset - 0.5)
    shifted.begin(observation, step_num)
    torch.testing.assert_close(shifted.finish(), offset + 0.5)
    assert torch.equal(observation, shown), "the caller's"
    for seen in inner.seen:
        assert torch.equal(seen[:, :9], shown[:, :9])
        assert torch.equal(seen[:, QUADRUPED.joint_vel], shown[:, QUADRUPED.joint_vel])
        torch.testing.assert_close(seen[:, QUADRUPED.joint_pos], shown[:, QUADRUPED.joint_pos] - 0.25 * offset)
    shifted.observe(acted, reward)
    shifted.reset(mask)
    (action, kept), (reset,) = inner.observed[0], inner.resets
    torch.testing.assert_close(action, torch.full((2, ACTIONS), -0.5))
    assert kept is reward and reset is mask


def test_a_trial_is_what_the_moved_adapter_does():
    """Bit for bit but for rounding: what is tried is what is kept."""
    robot, task_name, offset = load_robot("go2"), "go2_walking_ad", np.linspace(-1.5, 1.0, ACTIONS)
    model = tiny_model()

    task = WalkingTask(FakeSimulator(robot, 3, fall_after=(5, 9, 30)), robot, max_steps=12)

    def walked(policy):
        return collect(task, policy, seed=2, random_starts=True, steps_per_env=20, keep=True).histories

    shift = torch.as_tensor(offset, dtype=torch.float32).expand(3, ACTIONS)
    tried = walked(Shifted(Policy(model, task_name, 3, 64), shift, task))
    move_posture(model, task_name, offset, 0.25 * offset)
    for trial, moved in zip(tried, walked(Policy(model, task_name, 3, 64)), strict=True):
        np.testing.assert_array_equal(trial.step_num, moved.step_num)
        for name in ("observation", "action", "reward"):
            np.testing.assert_allclose(getattr(trial, name), getattr(moved, name), atol=1e-4, err_msg=name)


# -- whose adapter -----------------------------------------------------------------------------------------------------


def decoders_last_bias(model, task_name):
    return model.head.acs_decoders[model.tasks[task_name].group_name].layers[-1].bias.detach().clone()


@pytest.mark.parametrize("init_map", ["convert", "none"])
def test_another_robots_adapter_is_taken_where_it_walks_best(init_map):
    robot, listener = load_robot("minicheetah"), Listener()
    model = tiny_model()
    add_target(model, robot, load_robot("go2"), lambda text: None)
    others = fingerprint(model, GROUP)
    signs = joint_signs(robot, load_robot("go1")) if init_map == "convert" else np.ones(ACTIONS)
    go1s = torch.as_tensor(signs, dtype=torch.float32) * decoders_last_bias(model, "go1_walking_ad")

    def make_actor(candidate):
        its = torch.allclose(decoders_last_bias(candidate, TASK), go1s)
        return Still(strength=0.0 if its else 2.0)  # the others shake themselves out of any stance

    task = standing_task(robot="minicheetah")
    found, record = leave_standing(model, TASK, task, make_actor, init_map, seed=1, progress=listener)
    assert record["adapter"] == "go1's adapter" and record["posture_env_steps"] > 0
    assert record["posture_env_steps"] == len(task.simulator.targets) * task.num_envs
    assert found.tasks[TASK].group_name == GROUP and set(found.tasks) == set(model.tasks)
    offset = np.array(record["posture"])
    np.testing.assert_allclose(0.25 * offset, StandingSimulator.STANCE_RAD, atol=0.07)
    moved = go1s + torch.as_tensor(offset, dtype=torch.float32)
    torch.testing.assert_close(decoders_last_bias(found, TASK), moved, atol=1e-6, rtol=0)
    assert fingerprint(found, GROUP) == others, "no other robot changes"
    assert [text.split(":")[0] for text in listener.said[:-1]] == ["its own adapter", "go1's adapter", "go2's adapter"]
    assert "Going on with go1's adapter, front thigh +0.3" in listener.said[-1]


def test_a_robot_with_other_observations_is_no_candidate():
    robot, listener = load_robot("minicheetah"), Listener()
    model = tiny_model()
    add_target(model, robot, load_robot("go2"), lambda text: None)
    info = model.tasks["go1_walking_ad"]
    longer = {"observation_dim": 45, "obs_mean": (0.0,) * 45, "obs_std": (1.0,) * 45, "group_name": "a1_locomotion"}
    model.add_task("a1_walking_ad", dataclasses.replace(info, **longer))
    task = standing_task(robot="minicheetah")
    leave_standing(model, TASK, task, lambda candidate: Still(), "convert", seed=1, progress=listener)
    assert not any(text.startswith("a1's adapter") for text in listener.said)
