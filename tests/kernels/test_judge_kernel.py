"""The Triton judge of the walking task against the task itself, in states that it would rarely see."""

import math

import pytest
import torch
from fakes import FakeSimulator, quaternion
from interpreter import Compiler, interpret, run_python

from vintix_fast.robots import load_robot
from vintix_fast.sim import DT_S, MAX_BASE_SPEED_M_S, MAX_JOINT_SPEED_RAD_S, RobotState
from vintix_fast.task import ACTION_CHANGE_WEIGHT, ACTION_CLIP, WalkingTask, triton_judge

MAX_STEPS = 7
TOLERANCE = 2e-6
"""Rewards are a 50th of sums of about a hundred; float32, in another order."""


def make_task(robot, num_envs=67):
    """A task whose environments stand, lean by up to 14 degrees, lie on their backs, or have blown up."""
    generator = torch.Generator().manual_seed(0)
    sim = FakeSimulator(robot, num_envs, frozen=True, faults={(0, 9): "solver"})
    task = WalkingTask(sim, robot, MAX_STEPS)
    task.reset()
    for rates in (sim.lin, sim.ang, sim.joint_vel):
        rates.copy_(torch.randn(rates.shape, generator=generator))
    sim.pos[:, 2] += 0.05 * torch.randn(num_envs, generator=generator)
    sim.joint_pos += 0.3 * torch.randn(num_envs, 12, generator=generator)
    sim.quat[:] = quaternion(*((torch.rand(2, num_envs, generator=generator) - 0.5) * math.radians(28)))
    sim.quat[0], sim.quat[1] = torch.tensor([0.0, 1.0, 0.0, 0.0]), torch.tensor([math.sqrt(0.5), math.sqrt(0.5), 0, 0])
    sim.joint_pos[2, 3], sim.quat[3, 0], sim.ang[4, 1] = float("nan"), float("inf"), -float("inf")
    sim.joint_vel[5, 11], sim.lin[6, 2] = -2.0 * MAX_JOINT_SPEED_RAD_S, 2.0 * MAX_BASE_SPEED_M_S
    sim.pos[7, 0] = float("nan")
    task.step_num[:] = torch.arange(num_envs) % MAX_STEPS
    action = torch.randn(num_envs, 12, generator=generator)
    action[8] = 1e4
    return task, action


def check_judge(device):
    """Compares the kernel with the task; also run in the interpreter, by the test below."""
    robot = load_robot("go2")
    judge, (task, action) = triton_judge(robot, MAX_STEPS, torch.device(device)), make_task(robot)
    last_action, step_num = torch.zeros(67, 12, device=device), task.step_num.to(device, copy=True)
    before = task.simulator.state()
    states = [getattr(before, name).to(device) for name in before.__dataclass_fields__]
    states[4] = states[4].T.contiguous().T  # one column after another, as a simulator may lay it out
    solver_failed = torch.arange(67, device=device) == 9
    state = RobotState(*states)
    arguments = (state, action.to(device), solver_failed, last_action, step_num)
    judged = judge.judge(*arguments)
    observation, reward = judged.observation.cpu(), judged.reward.cpu()
    flags = [flag.cpu() for flag in (judged.terminated, judged.truncated, judged.failed)]
    result = task.step(action)
    for flag, expected in zip(flags, (result.terminated, result.truncated, result.failed), strict=True):
        assert torch.equal(flag, expected) and flag.any() and not flag.all()
    torch.testing.assert_close(reward, result.reward, atol=TOLERANCE, rtol=TOLERANCE)
    goes_on = ~result.done  # elsewhere the task's observation is the next episode's
    assert goes_on.sum() > 10
    torch.testing.assert_close(observation[goes_on], result.observation[goes_on], atol=1e-6, rtol=1e-6)
    assert torch.equal(last_action.cpu(), action.clamp(-ACTION_CLIP, ACTION_CLIP))

    again = judge.judge(*arguments).reward.cpu()  # the same action once more, which costs nothing
    assert step_num.tolist() == [n % MAX_STEPS + 2 for n in range(67)]
    expected = reward + DT_S * ACTION_CHANGE_WEIGHT * action.square().sum(1)
    torch.testing.assert_close(again[10:], expected[10:], atol=TOLERANCE, rtol=TOLERANCE)

    unknown = arguments[1].clone()
    unknown[20, 4] = float("nan")
    assert judge.judge(state, unknown, *arguments[2:]).reward.isnan().nonzero().tolist() == [[20]]

    shown = torch.zeros(67, 33, device=device)
    mask = torch.arange(67, device=device) % 3 == 1
    judge.observe(state, mask, shown)
    assert not shown[~mask].any() and torch.equal(shown[mask].cpu()[4:], observation[mask.cpu()][4:])


def check_compiles():
    from vintix_fast.kernels import judge

    compiler = judge._judge_kernel = Compiler(judge._judge_kernel)
    robot = load_robot("go2")
    state = RobotState(*(torch.zeros(2, n) for n in (3, 4, 3, 3, 12, 12)))
    action, failed, step_num = torch.zeros(2, 12), torch.zeros(2, dtype=torch.bool), torch.zeros(2, dtype=torch.int32)
    triton_judge(robot, MAX_STEPS, torch.device("cpu")).judge(state, action, failed, action.clone(), step_num)
    assert len(compiler.compiled) == 1


def check_walk():
    """A task that runs as on a GPU against the same as on a CPU; run in the interpreter, by the test below."""
    robot = load_robot("go2")

    def walk(masked):
        task = WalkingTask(FakeSimulator(robot, 4, fall_after=(2, 5, 9, 3)), robot, MAX_STEPS, masked)
        if masked:
            task._judge = triton_judge(robot, MAX_STEPS, task.device)
        task.reset(seed=1, random_starts=True)
        actions = 0.3 * torch.randn(16, 4, 12, generator=torch.Generator().manual_seed(0))
        return [task.step(action) for action in actions]  # compared at the end: nothing may be written over

    for expected, got in zip(walk(masked=False), walk(masked=True), strict=True):
        for name in expected.__dataclass_fields__:
            torch.testing.assert_close(getattr(got, name), getattr(expected, name), atol=1e-5, rtol=1e-5)


def test_triton_kernel_in_the_interpreter():
    pytest.importorskip("triton", reason="triton is not installed")
    interpret("from test_judge_kernel import *; check_judge('cpu'); check_walk()")


def test_triton_kernel_compiles_for_a_gpu():
    pytest.importorskip("triton", reason="triton is not installed")
    run_python("import test_judge_kernel; test_judge_kernel.check_compiles()")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no CUDA device")
def test_triton_kernel_on_the_gpu():
    check_judge("cuda")
