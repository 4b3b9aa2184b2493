"""The walking task against numbers worked out by hand; the simulator is a fake whose state the tests set."""

import math

import pytest
import torch
from fakes import FakeSimulator, plain_step, quaternion
from torch.utils._python_dispatch import TorchDispatchMode

from vintix_fast.kernels.reference import tilt
from vintix_fast.world.layout import QUADRUPED
from vintix_fast.world.robot import load_robot
from vintix_fast.world.starts import Starts
from vintix_fast.world.task import WalkingTask
from vintix_fast.world.task_config import DEFAULT_TASK, StartNoise, TaskConfig

JOINTS = QUADRUPED.num_joints
LEVEL = [1.0, 0.0, 0.0, 0.0]
YAW_90 = [math.sqrt(0.5), 0.0, 0.0, math.sqrt(0.5)]  # body x points along world y, body y along world -x


def frozen_task(robot, num_envs=1, max_steps=1000, task_config=DEFAULT_TASK):
    sim = FakeSimulator(robot, num_envs, frozen=True)
    task = WalkingTask(sim, robot, max_steps, task_config=task_config)
    task.reset()
    return sim, task


def no_action(task):
    return torch.zeros(task.num_envs, JOINTS)


def leaning(roll_deg=0.0, pitch_deg=0.0):
    return quaternion(torch.tensor([math.radians(roll_deg)]), torch.tensor([math.radians(pitch_deg)]))


# -- observation -------------------------------------------------------------------------------------------------------


def test_first_observation_of_a_standing_robot(go2):
    _, task = frozen_task(go2, num_envs=2)
    observation = task.reset()
    #                 turning    gravity            command 0.5 m/s x 2   joints
    expected = torch.tensor([0, 0, 0, 0, 0, -1, 1, 0, 0] + [0] * 2 * JOINTS, dtype=torch.float32)
    torch.testing.assert_close(observation, expected.expand(2, QUADRUPED.size))


def test_angular_velocity_is_seen_from_a_robot_that_looks_along_world_y(go2):
    sim, task = frozen_task(go2)
    sim.quat[0], sim.ang[0] = torch.tensor(YAW_90), torch.tensor([1.0, 2.0, 3.0])
    observation = task.step(no_action(task)).observation[0]
    torch.testing.assert_close(observation[QUADRUPED.ang_vel], torch.tensor([0.5, -0.25, 0.75]))  # (2, -1, 3) x 0.25
    torch.testing.assert_close(observation[QUADRUPED.gravity], torch.tensor([0.0, 0.0, -1.0]))


@pytest.mark.parametrize(
    ("roll_deg", "pitch_deg", "gravity"),
    [
        (5.0, 0.0, [0.0, -math.sin(math.radians(5)), -math.cos(math.radians(5))]),  # right side down: pulls to -y
        (0.0, 5.0, [math.sin(math.radians(5)), 0.0, -math.cos(math.radians(5))]),  # nose down: pulls to +x
    ],
)
def test_gravity_is_seen_from_a_leaning_robot(go2, roll_deg, pitch_deg, gravity):
    sim, task = frozen_task(go2)
    sim.quat[:] = leaning(roll_deg, pitch_deg)
    observation = task.step(no_action(task)).observation[0]
    torch.testing.assert_close(observation[QUADRUPED.gravity], torch.tensor(gravity))


def test_joints_are_seen_in_order_relative_to_the_pose_and_scaled(go2):
    sim, task = frozen_task(go2)
    sim.joint_pos[0] += 0.01 * torch.arange(JOINTS)
    sim.joint_vel[0] = torch.arange(JOINTS) - 4.0
    observation = task.step(no_action(task)).observation[0]
    torch.testing.assert_close(observation[QUADRUPED.joint_pos], 0.01 * torch.arange(JOINTS), atol=1e-6, rtol=0)
    torch.testing.assert_close(observation[QUADRUPED.joint_vel], 0.05 * (torch.arange(JOINTS) - 4.0))


# -- reward ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "target_m"), [("go2", 0.30), ("go1", 0.32), ("a1", 0.27), ("minicheetah", 0.30)])
def test_perfect_walking_is_worth_1_2_a_second(name, target_m):
    sim, task = frozen_task(load_robot(name))
    sim.pos[0, 2], sim.lin[0] = target_m, torch.tensor([0.5, 0.0, 0.0])
    assert task.step(no_action(task)).reward.item() == pytest.approx(1.2 * 0.02, abs=1e-7)


def test_reward_terms_by_hand(go2):
    sim, task = frozen_task(go2)
    sim.quat[0] = torch.tensor(YAW_90)
    sim.lin[0] = torch.tensor([-0.1, 0.4, 0.2])  # forward 0.4, left 0.1, up 0.2
    sim.ang[0] = torch.tensor([9.0, 9.0, 0.3])
    sim.pos[0] = torch.tensor([7.0, 7.0, 0.35])
    sim.joint_pos[0, :2] += torch.tensor([0.1, -0.2])
    action = no_action(task)
    action[0, :2] = torch.tensor([1.0, -2.0])
    per_second = (
        math.exp(-(0.1**2 + 0.1**2) / 0.25)
        + 0.2 * math.exp(-(0.3**2) / 0.25)
        - 0.04  # 0.2 m/s upwards
        - 0.125  # 5 cm too high
        - 0.025  # the action changed by (1, -2)
        - 0.03  # joints 0.3 rad away
    )
    assert task.step(action).reward.item() == pytest.approx(0.02 * per_second, abs=1e-7)


def test_action_change_counts_from_the_last_action_and_from_0_in_a_new_episode(go2):
    sim, task = frozen_task(go2, max_steps=3)
    sim.lin[0], sim.pos[0, 2] = torch.tensor([0.5, 0.0, 0.0]), 0.30
    actions = [torch.full((1, JOINTS), value) for value in (1.0, 1.0, 0.0)]
    rewards = torch.stack([task.step(action).reward for action in actions]).flatten()
    change = JOINTS * torch.tensor([1.0, 0.0, 1.0])
    torch.testing.assert_close(rewards, 0.02 * (1.2 - 0.005 * change), atol=1e-7, rtol=0)
    sim.lin[0], sim.pos[0, 2] = torch.tensor([0.5, 0.0, 0.0]), 0.30
    assert task.step(actions[0]).reward.item() == pytest.approx(0.02 * (1.2 - 0.005 * JOINTS), abs=1e-7)


# -- actions -----------------------------------------------------------------------------------------------------------


def test_an_action_is_executed_one_step_later(go2):
    sim, task = frozen_task(go2)
    sim.targets.clear()
    for value in (1.0, -2.0, 0.0):
        task.step(torch.full((1, JOINTS), value))
    moved = torch.cat(sim.targets) - sim.default
    torch.testing.assert_close(moved, torch.tensor([[0.0], [0.25], [-0.5]]).expand(3, JOINTS), atol=1e-6, rtol=0)


@pytest.mark.parametrize("latency", [0, 1, 2, 3])
def test_an_action_is_executed_as_many_steps_later_as_the_task_says(go2, latency):
    sim, task = frozen_task(go2, num_envs=2, task_config=TaskConfig(latency_steps=latency, action_clip=50.0))
    sim.targets.clear()
    decided = [1.0, -2.0, 99.0, 3.0, 4.0, 5.0, 6.0, 7.0]
    for step, value in enumerate(decided):
        if step == 4:  # whose first actions are none of the old episode's
            sim.quat[1] = leaning(roll_deg=20.0)
        task.step(torch.full((2, JOINTS), value))
    executed = ((torch.stack(sim.targets) - sim.default) / 0.25)[..., 0]
    clipped = [min(value, 50.0) for value in decided]
    torch.testing.assert_close(executed[:, 0], torch.tensor(([0.0] * latency + clipped)[: len(decided)]))
    anew = ([0.0] * latency + clipped)[:5] + ([0.0] * latency + clipped[5:])[:3]
    torch.testing.assert_close(executed[:, 1], torch.tensor(anew))


def test_without_latency_a_step_is_simulated_once_its_action_is_known(go2):
    sim, task = frozen_task(go2, task_config=TaskConfig(latency_steps=0))
    sim.targets.clear()
    task.begin()
    assert not sim.targets
    task.finish(torch.ones(1, JOINTS))
    assert len(sim.targets) == 1


def test_a_tasks_own_action_scale(go2):
    sim, task = frozen_task(go2, task_config=TaskConfig(action_scale_rad=0.5, latency_steps=0))
    task.step(torch.ones(1, JOINTS))
    torch.testing.assert_close(sim.targets[-1][0] - sim.default, torch.full((JOINTS,), 0.5))


def test_a_new_episode_begins_without_the_old_ones_action(go2):
    sim, task = frozen_task(go2, num_envs=2)
    task.step(torch.ones(2, JOINTS))
    sim.quat[1] = leaning(roll_deg=20.0)
    assert task.step(torch.ones(2, JOINTS)).done.tolist() == [False, True]
    task.step(torch.ones(2, JOINTS))
    moved = sim.targets[-1] - sim.default
    torch.testing.assert_close(moved, torch.tensor([[0.25], [0.0]]).expand(2, JOINTS), atol=1e-6, rtol=0)


def test_actions_are_clipped_to_100(go2):
    sim, task = frozen_task(go2)
    task.step(torch.tensor([[1e6, -1e6] + [99.0] * (JOINTS - 2)]))
    task.step(no_action(task))
    moved = sim.targets[-1][0] - sim.default
    torch.testing.assert_close(moved, torch.tensor([25.0, -25.0] + [24.75] * (JOINTS - 2)), atol=1e-5, rtol=0)


def test_the_callers_action_is_not_kept_by_reference(go2):
    sim, task = frozen_task(go2)
    action = torch.ones(1, JOINTS)
    task.step(action)
    action.zero_()
    task.step(action)
    assert (sim.targets[-1][0] - sim.default).tolist() == pytest.approx([0.25] * JOINTS, abs=1e-6)


def test_a_robot_of_eight_joints_walks_and_falls(two_joints_a_leg):
    robot = two_joints_a_leg
    task = WalkingTask(FakeSimulator(robot, 3, fall_after=(0, 4, 0)), robot, max_steps=6)
    assert task.reset(1, random_starts=True).shape == (3, task.layout.size) == (3, 25)
    results = [task.step(torch.zeros(3, 8)) for _ in range(7)]
    assert torch.stack([result.terminated for result in results])[:, 1].tolist() == [False] * 3 + [True] + [False] * 3
    assert all(result.observation.isfinite().all() and result.reward.isfinite().all() for result in results)


# -- ends of episodes --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("roll_deg", "pitch_deg", "fallen"),
    [
        (9.9, 0.0, False), (10.1, 0.0, True), (-9.9, 0.0, False), (-10.1, 0.0, True),
        (0.0, 9.9, False), (0.0, 10.1, True), (0.0, -9.9, False), (0.0, -10.1, True), (9.5, 9.5, False),
    ],
)  # fmt: skip
def test_a_robot_has_fallen_beyond_10_degrees(go2, roll_deg, pitch_deg, fallen):
    sim, task = frozen_task(go2)
    sim.quat[:] = leaning(roll_deg, pitch_deg)
    result = task.step(no_action(task))
    assert result.terminated.item() is fallen
    assert not result.truncated.item() and not result.failed.item()


def test_heading_is_no_tilt():
    roll, pitch = tilt(torch.tensor([YAW_90, [0.0, 0.0, 0.0, 1.0]]))
    torch.testing.assert_close(torch.stack([roll, pitch]), torch.zeros(2, 2), atol=1e-6, rtol=0)


def test_time_out_is_truncation_and_no_fall(go2):
    _, task = frozen_task(go2, max_steps=3)
    for _ in range(2):
        assert not task.step(no_action(task)).done.item()
    result = task.step(no_action(task))
    assert result.truncated.item() and not result.terminated.item()
    assert task.step_num.tolist() == [0]
    assert [task.step(no_action(task)).truncated.item() for _ in range(3)] == [False, False, True]


def test_a_fall_in_the_last_step_is_a_fall(go2):
    sim, task = frozen_task(go2, max_steps=1)
    sim.quat[:] = leaning(roll_deg=11.0)
    result = task.step(no_action(task))
    assert result.terminated.item() and not result.truncated.item()


def test_reward_is_of_the_fallen_state_and_observation_of_the_new_episode(go2):
    sim, task = frozen_task(go2)
    start = task.reset()
    sim.quat[:] = leaning(pitch_deg=30.0)
    sim.pos[0, 2], sim.joint_pos[0, 4] = 0.10, 2.8
    result = task.step(no_action(task))
    # Standing still, 20 cm too low, one joint 2 rad off; the start's 12 cm too high would give -0.72 instead.
    expected = 0.02 * (math.exp(-1.0) + 0.2 - 50 * 0.04 - 0.1 * 2.0)
    assert result.reward.item() == pytest.approx(expected, abs=1e-6)
    torch.testing.assert_close(result.observation, start, atol=0, rtol=0)


# -- failures of the simulation ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["nan", "speed", "solver"])
def test_a_failure_ends_its_own_environments_episode_only(go2, kind):
    def run(faults):
        task = WalkingTask(FakeSimulator(go2, 3, faults=faults), go2)
        first = task.reset()
        action = 0.3 * torch.randn(6, 3, JOINTS, generator=torch.Generator().manual_seed(0))
        return first, [task.step(a) for a in action], task

    first, steps, task = run({(2, 1): kind})
    _, healthy, _ = run({})
    failing = steps[2]
    assert failing.failed.tolist() == failing.terminated.tolist() == [False, True, False]
    assert not failing.truncated.any()
    assert failing.reward[1].item() == 0.0
    torch.testing.assert_close(failing.observation[1], first[1], atol=0, rtol=0)
    assert all(step.observation.isfinite().all() and step.reward.isfinite().all() for step in steps)
    assert not torch.stack([step.failed for step in steps[3:]]).any()
    assert task.step_num.tolist() == [6, 3, 6]
    for with_fault, without in zip(steps, healthy, strict=True):
        torch.testing.assert_close(with_fault.observation[[0, 2]], without.observation[[0, 2]], atol=0, rtol=0)
        torch.testing.assert_close(with_fault.reward[[0, 2]], without.reward[[0, 2]], atol=0, rtol=0)


# -- starts ------------------------------------------------------------------------------------------------------------


def starts(robot, seed, num_envs=400):
    task = WalkingTask(FakeSimulator(robot, num_envs, frozen=True), robot, max_steps=1)
    first = task.reset(seed, random_starts=True)
    return first, task.step(no_action(task)).observation, task


def test_random_starts_fill_their_bounds(go2):
    first, second, task = starts(go2, seed=3)
    joints = torch.cat([first, second])[:, QUADRUPED.joint_pos]
    assert joints.abs().max() <= 0.1 + 1e-6 and joints.amin() < -0.095 and joints.amax() > 0.095
    assert abs(joints.mean()) < 0.003
    for angle in tilt(task.simulator.state().base_quat):
        degrees = angle.rad2deg()
        assert degrees.abs().max() <= 5.0 + 1e-3, degrees.abs().max()
        assert degrees.amin() < -4.5 and degrees.amax() > 4.5 and abs(degrees.mean()) < 0.5
    assert len(joints.unique(dim=0)) == 800  # no two environments and no two episodes start alike
    sideways_m = task.simulator.state().base_pos_m[:, :2]
    assert sideways_m.abs().max() <= 0.1 + 1e-6
    assert (sideways_m.amin(dim=0) < -0.095).all() and (sideways_m.amax(dim=0) > 0.095).all()
    assert abs(torch.corrcoef(sideways_m.T)[0, 1]) < 0.2 and sideways_m.mean(dim=0).abs().max() < 0.01


def test_starts_depend_on_the_seed_alone(go2):
    once, again, other = starts(go2, 3)[:2], starts(go2, 3)[:2], starts(go2, 4)[:2]
    torch.testing.assert_close(once, again, atol=0, rtol=0)
    assert not torch.allclose(once[0], other[0])


def test_starts_drawn_ahead_are_the_same(go2):
    def walk(masked, steps=300):  # more than are drawn at a time, and not all of them used
        task = WalkingTask(FakeSimulator(go2, 3, fall_after=(2, 3, 7)), go2, masked=masked)
        seen, stood = [task.reset(1, random_starts=True)], []
        for _ in range(2):  # a reset in between forgets what was drawn ahead
            for _ in range(steps):
                seen.append(task.step(no_action(task)).observation)
                stood.append(task.simulator.state().base_pos_m)
            seen.append(task.reset(2, random_starts=True))
        return torch.stack(seen), torch.stack(stood)

    torch.testing.assert_close(walk(masked=True), walk(masked=False), atol=0, rtol=0)


class Questions(TorchDispatchMode):
    """Counts the operations whose result's number or shape the host would have to wait for, were it on a GPU."""

    NAMES = ("_local_scalar_dense", "nonzero", "masked_select", "index.Tensor", "index_put", "unique", "is_nonzero")

    def __init__(self):
        super().__init__()
        self.asked = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.asked += any(name in str(func) for name in self.NAMES)
        return func(*args, **(kwargs or {}))


class MaskedSimulator(FakeSimulator):
    """Places as Genesis does on a GPU: by mask, without asking it."""

    def place(self, mask, base_quat, joint_pos_rad, base_xy_m):
        torch.where(mask[:, None], base_quat, self.quat, out=self.quat)
        torch.where(mask[:, None], joint_pos_rad, self.joint_pos, out=self.joint_pos)


@pytest.mark.parametrize("random_starts", [False, True])
def test_a_step_by_mask_asks_the_device_nothing(go2, random_starts):
    task = WalkingTask(MaskedSimulator(go2, 3, frozen=True), go2, max_steps=3, masked=True)
    task._kernel = plain_step(go2, max_steps=3)
    task.reset(1, random_starts)
    task.simulator.quat[1] = leaning(roll_deg=20.0)
    with Questions() as questions:
        done = [task.step(no_action(task)).done for _ in range(250)]
    assert torch.stack(done).sum(dim=0).tolist() == [83, 84, 83]
    assert questions.asked == 0


def test_without_random_starts_every_episode_begins_alike(go2):
    task = WalkingTask(FakeSimulator(go2, 2, frozen=True), go2, max_steps=1)
    torch.testing.assert_close(task.reset(1), task.reset(2), atol=0, rtol=0)
    assert not task.simulator.state().base_pos_m[:, :2].any()
    torch.testing.assert_close(task.step(no_action(task)).observation, task.reset(3), atol=0, rtol=0)


def test_a_reset_forgets_everything_before_it(go2):
    sim, task = frozen_task(go2, max_steps=5)
    for _ in range(3):
        task.step(torch.ones(1, JOINTS))
    task.reset()
    assert task.step_num.tolist() == [0]
    task.step(torch.ones(1, JOINTS))
    torch.testing.assert_close(sim.targets[-1][0], sim.default)


def test_an_environments_next_episode_begins_alike_whatever_the_others_did():
    def second_start(first_to_end):
        starts = Starts(torch.zeros(JOINTS), 3, StartNoise())
        starts.seed(7, True)
        starts.draw(torch.ones(3, dtype=torch.bool))
        for env in first_to_end:
            drawn = starts.draw(torch.arange(3) == env)
        return [part[first_to_end[-1]] for part in drawn]

    for alone, after_others in zip(second_start([1]), second_start([2, 0, 2, 1]), strict=True):
        torch.testing.assert_close(alone, after_others, rtol=0, atol=0)
    first_of_another = Starts(torch.zeros(JOINTS), 3, StartNoise())
    first_of_another.seed(7, True)
    assert not torch.equal(first_of_another.draw(torch.ones(3, dtype=torch.bool))[1][1], second_start([1])[1])
