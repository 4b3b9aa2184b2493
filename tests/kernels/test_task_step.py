"""The compiled and the Triton step of a task against the plain one, in states that a simulator should not give too."""

import dataclasses
import functools
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from fakes import FakeSimulator, plain_step, quaternion
from interpreter import Compiler, interpret, run_python

from vintix_fast.kernels import reference
from vintix_fast.world.layout import QUADRUPED
from vintix_fast.world.robot import load_robot
from vintix_fast.world.simulator import RobotState
from vintix_fast.world.task import CompiledStep, StepResult, WalkingTask, task_constants, triton_step
from vintix_fast.world.task_config import DEFAULT_TASK, RewardWeights, TaskConfig

MAX_STEPS = 50
TOLERANCE = 2e-6
"""Sums of a dozen float32 products, in another order; the absolute part grows with the numbers that cancel."""
WEIGHTS = dataclasses.asdict(DEFAULT_TASK.reward)
NO_WEIGHTS = dict.fromkeys(WEIGHTS, 0.0)
TASKS = {
    "default": DEFAULT_TASK,
    "another command": TaskConfig(command=(-0.3, 0.2, 0.7)),
    "no reward": TaskConfig(reward=RewardWeights(**NO_WEIGHTS)),
    **{f"no {name}": TaskConfig(reward=dataclasses.replace(DEFAULT_TASK.reward, **{name: 0.0})) for name in WEIGHTS},
    **{f"{name} alone": TaskConfig(reward=RewardWeights(**(NO_WEIGHTS | {name: 3.0}))) for name in WEIGHTS},
    "other ends": TaskConfig(max_tilt_rad=math.radians(35.0), min_height_m=-0.1),
    "commands of their own": TaskConfig(command_spread=(1.0, 0.5, 2.0)),
    "other actions": TaskConfig(tracking_sigma=0.1, action_clip=0.5),
}  # fmt: skip
CASES = [("go2", name) for name in TASKS] + [("of 8 joints", "default"), ("of 8 joints", "another command")]


def with_commands(kernel, config, n, device="cpu"):
    """A step that was made for a task, with environments' own commands where it has a range."""
    if config.commands_vary:
        share = 2.0 * torch.rand(n, 3, generator=torch.Generator().manual_seed(3)) - 1.0
        kernel.command = (torch.tensor(config.command) + torch.tensor(config.command_spread) * share).to(device)
    return kernel


def robot_for(name):
    if name != "of 8 joints":
        return load_robot(name)
    go2 = load_robot("go2")
    return dataclasses.replace(
        go2, joints=go2.joints[:8], default_pose_rad=go2.default_pose_rad[4:], target_height_m=0.25
    )


def compiled_step(robot, config=DEFAULT_TASK):
    return CompiledStep(task_constants(robot, config, MAX_STEPS))


def gpu_step(robot, config=DEFAULT_TASK, device="cpu"):
    return triton_step(task_constants(robot, config, MAX_STEPS), torch.device(device))


def random_state(robot, n, seed=0, spread=1.0):
    generator, joints = torch.Generator().manual_seed(seed), len(robot.joints)

    def normal(*shape):
        return spread * torch.randn(*shape, generator=generator)

    quat = torch.randn(n, 4, generator=generator)
    quat[: n // 2] = quaternion(*(0.2 * torch.randn(2, n // 2, generator=generator)))  # half of them nearly upright
    return RobotState(
        base_pos_m=normal(n, 3) * 0.3,
        base_quat=quat / quat.norm(dim=1, keepdim=True),
        base_lin_vel_m_s=normal(n, 3),
        base_ang_vel_rad_s=normal(n, 3) * 2.0,
        joint_pos_rad=torch.tensor(robot.default_pose_rad) + 0.3 * normal(n, joints),
        joint_vel_rad_s=normal(n, joints) * 5.0,
    )


def random_step(robot, n, seed=0):
    """action, solver_failed, last_action, step_num."""
    generator = torch.Generator().manual_seed(seed)
    action, last_action = torch.randn(2, n, len(robot.joints), generator=generator)
    action[::5] *= 3 * DEFAULT_TASK.action_clip
    solver_failed = torch.rand(n, generator=generator) < 0.1
    step_num = torch.randint(0, MAX_STEPS + 2, (n,), generator=generator, dtype=torch.int32)
    return action, solver_failed, last_action, step_num


def without_failures(step):
    step[1][:] = False
    return step


def compare(make, robot, state, step, spread=1.0, config=DEFAULT_TASK, device="cpu", seen_where=slice(None)):
    """An implementation, ``make(robot, config)``, and the plain one on the same step; returns what the plain one gave.

    ``seen_where``: rows whose observations are compared.
    """
    memory = [[tensor.clone() for tensor in step[2:]] for _ in range(2)]
    memory[1] = [tensor.to(device) for tensor in memory[1]]
    n = len(step[0])
    plain = with_commands(plain_step(robot, config, MAX_STEPS), config, n)
    plain = StepResult(*plain.step(state, *step[:2], *memory[0]))
    there = [tensor.to(device) for tensor in (*state, *step[:2])]
    tested = with_commands(make(robot, config), config, n, device)
    result = StepResult(*tested.step(there[:6], *there[6:], *memory[1]))
    for name in ("observation", "reward", "terminated", "truncated", "failed"):
        expected, got = getattr(plain, name), getattr(result, name)
        assert got.dtype == expected.dtype and got.shape == expected.shape, name
        rows = seen_where if name == "observation" else slice(None)
        torch.testing.assert_close(
            got.cpu()[rows], expected[rows], atol=TOLERANCE * max(1.0, spread), rtol=TOLERANCE, equal_nan=True,
            msg=lambda m, n=name: f"{n}: {m}",
        )  # fmt: skip
    for expected, got in zip(*memory, strict=True):
        torch.testing.assert_close(got.cpu(), expected, atol=0, rtol=0, equal_nan=True)
    return plain


# -- every task, in random states, on views, and rows by mask ----------------------------------------------------------


def as_strided_columns(tensor):
    """The same numbers with the environments side by side, as Genesis keeps them, after some other columns."""
    wide = torch.full((tensor.shape[1] + 3, tensor.shape[0] * 2), float("nan"), device=tensor.device)
    view = wide[2:-1, ::2].T
    view.copy_(tensor)
    assert view.stride(0) == 2 and not view.is_contiguous()
    return view


def check_task(make, robot_name, task_name, sizes=(1, 7, 300), device="cpu"):
    """The test of one task; also run in the interpreter and on a GPU, by tests below."""
    robot, config = robot_for(robot_name), TASKS[task_name]
    width = robot.layout.size
    for n in sizes:
        for spread in (0.1, 1.0, 30.0):
            state, step = random_state(robot, n, n, spread), random_step(robot, n, n)
            result = compare(make, robot, state, step, spread, config, device)
            assert result.observation.shape == (n, width)
            if n == 300:  # every outcome is among them
                assert all(0 < flags.sum() < n for flags in (result.terminated, result.truncated, result.failed))
        columns, action = RobotState(*map(as_strided_columns, state)), as_strided_columns(step[0])
        strided = compare(make, robot, columns, (action, *step[1:]), spread, config, device)
        torch.testing.assert_close(strided.observation, result.observation, atol=0, rtol=0)

    mask, there = torch.arange(n, device=device) % 3 == 1, [tensor.to(device) for tensor in state]
    made = []
    for implementation, where in ((plain_step(robot, config, MAX_STEPS), state), (make(robot, config), there)):
        observation = torch.full((n, width), 7.0, device=where[0].device)
        with_commands(implementation, config, n, where[0].device).observe(
            where, mask.to(observation.device), observation
        )
        made.append(observation.cpu())
    assert (made[0][~mask.cpu()] == 7.0).all() and n == 1 or (made[0][mask.cpu()] != 7.0).any(dim=1).all()
    torch.testing.assert_close(*made, atol=TOLERANCE * spread, rtol=TOLERANCE)


@pytest.mark.parametrize(("robot", "task"), CASES, ids=map(" ".join, CASES))
def test_the_compiled_step(robot, task):
    check_task(compiled_step, robot, task)


def check_all_triton(device="cpu", sizes=(1, 13)):
    for robot, task in CASES:
        check_task(functools.partial(gpu_step, device=device), robot, task, sizes, device)
    for fault in FAULTS:
        # A failed row is the next episode's before anybody sees it; Triton's NaNs are elsewhere in it.
        check_fault(functools.partial(gpu_step, device=device), *fault, device, seen_where=[0, 1, 3])
    check_standardised(device)


def test_triton_steps_in_the_interpreter():
    pytest.importorskip("triton", reason="triton is not installed")
    interpret("from test_task_step import *; check_all_triton(); check_walk()")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no CUDA device")
def test_triton_steps_on_the_gpu():
    check_all_triton("cuda", (1, 13, 300))


# -- states that should not be -----------------------------------------------------------------------------------------

FAULTS = [(part, value) for part in RobotState._fields for value in (math.nan, math.inf, -math.inf, 3e38)]


def check_fault(make, part, value, device="cpu", seen_where=slice(None)):
    robot = load_robot("go2")
    state, step = random_state(robot, 4, spread=0.1), without_failures(random_step(robot, 4))
    getattr(state, part)[2, -1] = value
    result = compare(make, robot, state, step, device=device, seen_where=seen_where)
    finite_and_slow = math.isfinite(value) and part not in ("base_lin_vel_m_s", "joint_vel_rad_s")
    assert result.failed.tolist() == [False, False, not finite_and_slow, False]


@pytest.mark.parametrize(("part", "value"), FAULTS)
def test_a_number_that_is_none_fails_its_own_environment(part, value):
    check_fault(compiled_step, part, value)


@pytest.mark.parametrize(("part", "limit"), [("base_lin_vel_m_s", 100.0), ("joint_vel_rad_s", 1000.0)])
def test_the_speed_limit_itself_is_allowed(go2, part, limit):
    state, step = random_state(go2, 4, spread=0.1), without_failures(random_step(go2, 4))
    speeds = torch.tensor([limit, -limit, math.nextafter(limit, math.inf), -limit * 1.001]).float()
    speeds[2] = torch.nextafter(torch.tensor(limit), torch.tensor(math.inf))
    getattr(state, part)[:, 1] = speeds
    assert compare(compiled_step, go2, state, step).failed.tolist() == [False, False, True, True]


def test_tilts_around_the_limit_and_past_90_degrees(go2):
    near = DEFAULT_TASK.max_tilt_rad + torch.tensor([-1e-3, -1e-5, 1e-5, 1e-3])
    angles = torch.cat([near, -near, torch.tensor([0.0, math.pi / 2, -math.pi / 2, 2.0, -2.0, 3.0, math.pi])])
    roll, pitch = (grid.flatten() for grid in torch.meshgrid(angles, angles, indexing="ij"))
    n = len(roll)
    state, step = random_state(go2, n, spread=0.1), without_failures(random_step(go2, n))
    state.base_quat[:] = quaternion(roll, pitch)
    terminated = compare(compiled_step, go2, state, step).terminated.reshape(len(angles), -1)
    assert terminated[8].tolist() == [False, False, True, True] * 2 + [False] + [True] * 6
    assert terminated[0, :8].tolist() == [False, False, True, True] * 2


def test_an_action_that_is_no_number_stays_one(go2):
    state, step = random_state(go2, 3, spread=0.1), without_failures(random_step(go2, 3))
    step[0][1, 4] = math.nan
    assert compare(compiled_step, go2, state, step).reward.isnan().tolist() == [False, True, False]


def test_the_same_step_gives_the_same_bits(go2):
    state, step = random_state(go2, 50), random_step(go2, 50)
    results = [compiled_step(go2).step(state, *(t.clone() for t in step)) for _ in range(2)]
    assert all(torch.equal(*pair) for pair in zip(*results, strict=True))


# -- Triton alone: standardised observations, a walk, the compiler -----------------------------------------------------


def check_standardised(device):
    """By a model's statistics, the command's deviation of 0 among them, to the last bit; rows of a mask too."""
    robot = load_robot("go2")
    mean, std = torch.randn(2, QUADRUPED.size, generator=torch.Generator().manual_seed(0)).to(device)
    std = std.abs()
    std[QUADRUPED.command] = 0.0
    kernel = gpu_step(robot, device=device)
    state, step = ([t.to(device) for t in part] for part in (random_state(robot, 20), random_step(robot, 20)))
    assert kernel.step(state, *(t.clone() for t in step))[-1] is None
    kernel.statistics = (mean, std)
    result = StepResult(*kernel.step(state, *step))
    assert torch.equal(result.standardised, reference.standardise(result.observation, mean, std))
    other, mask = [t.to(device) for t in random_state(robot, 20, seed=1)], torch.arange(20, device=device) % 3 == 1
    before = result.standardised.clone()
    kernel.observe(other, mask, result.observation, result.standardised)
    assert torch.equal(result.standardised, reference.standardise(result.observation, mean, std))
    changed = (result.standardised != before).any(dim=1)
    assert torch.equal(changed, mask)


def check_walk():
    """A task that runs as on a GPU against the same as on a CPU; run in the interpreter, by the test above."""
    robot = load_robot("go2")
    statistics = (torch.full((QUADRUPED.size,), 0.1), torch.full((QUADRUPED.size,), 0.5))

    def walk(masked):
        task = WalkingTask(FakeSimulator(robot, 4, fall_after=(2, 5, 9, 3)), robot, 7, masked)
        if masked:
            task._kernel = triton_step(task_constants(robot, DEFAULT_TASK, 7), task.device)
        task.standardise_by(statistics)
        task.reset(seed=1, random_starts=True)
        actions = 0.3 * torch.randn(16, 4, QUADRUPED.num_joints, generator=torch.Generator().manual_seed(0))
        return [task.step(action) for action in actions]  # compared at the end: nothing may be written over

    for expected, got in zip(walk(masked=False), walk(masked=True), strict=True):
        for name in ("observation", "reward", "terminated", "truncated", "failed"):
            torch.testing.assert_close(getattr(got, name), getattr(expected, name), atol=1e-5, rtol=1e-5)
        assert expected.standardised is None
        assert torch.equal(got.standardised, reference.standardise(got.observation, *statistics))


def check_compiles():
    from vintix_fast.kernels import task

    compilers = [Compiler(task._step_kernel), Compiler(task._observe_kernel)]
    task._step_kernel, task._observe_kernel = compilers
    robot = load_robot("go2")
    state, step = random_state(robot, 2), random_step(robot, 2)
    kernel = gpu_step(robot)
    for statistics in (None, (torch.zeros(QUADRUPED.size), torch.ones(QUADRUPED.size))):
        kernel.statistics = statistics
        result = StepResult(*kernel.step(state, *step))
        kernel.observe(state, step[1], result.observation, result.standardised)
    assert [len(compiler.compiled) for compiler in compilers] == [2, 2]


def test_triton_kernels_compile_for_a_gpu():
    pytest.importorskip("triton", reason="triton is not installed")
    run_python("import test_task_step; test_task_step.check_compiles()")


# -- the binding's checks ----------------------------------------------------------------------------------------------


def arguments(robot, n=3):
    names = ("action", "solver_failed", "last_action", "step_num")
    tensors = random_state(robot, n)._asdict() | dict(zip(names, random_step(robot, n), strict=True))
    return {name: tensor.numpy() for name, tensor in tensors.items()}


def core_step(robot, arrays):
    """The binding itself; its first six arrays are the state."""
    state, rest = list(arrays.values())[:6], dict(list(arrays.items())[6:])
    return compiled_step(robot)._core.step(state, **rest)


def misaligned(array):
    raw = np.zeros(array.nbytes + 1, dtype=np.uint8)[1:].view(array.dtype)
    return raw.reshape(array.shape)


@pytest.mark.parametrize(
    ("name", "change", "error"),
    [
        ("base_quat", lambda a: a[:, :3], "base_quat: expected an array, aligned to 4 bytes, of shape [3, 4], got"),
        ("joint_pos_rad", lambda a: a[:2], "of shape [3, {joints}], got shape (2, {joints})"),
        ("base_pos_m", lambda a: a.ravel(), "of shape [9, 3], got shape (9,)"),
        ("action", lambda a: a.astype(np.float64), "action: expected a numpy array of dtype float32, got dtype"),
        ("base_lin_vel_m_s", misaligned, "base_lin_vel_m_s: expected an array, aligned to 4 bytes, of shape [3, 3]"),
        ("solver_failed", lambda a: a.astype(np.uint8), "solver_failed: expected a numpy array of dtype bool, got"),
        ("last_action", np.asfortranarray, "last_action: expected a C-contiguous array of shape [3, {joints}]"),
        ("step_num", lambda a: a.astype(np.int64), "step_num: expected a numpy array of dtype int32, got dtype int64"),
    ],
)
def test_arrays_of_another_form_are_refused_and_nothing_is_written(go2, name, change, error):
    arrays = arguments(go2)
    before = {key: array.copy() for key, array in arrays.items()}
    with pytest.raises((TypeError, ValueError)) as raised:
        core_step(go2, arrays | {name: change(arrays[name])})
    assert error.format(joints=len(go2.joints)) in str(raised.value)
    for key, array in arrays.items():
        np.testing.assert_array_equal(array, before[key])


def test_a_read_only_output_is_refused(go2):
    arrays = arguments(go2)
    arrays["step_num"].flags.writeable = False
    with pytest.raises(ValueError, match="step_num: .*writ"):
        core_step(go2, arrays)


def test_as_many_weights_as_terms(go2):
    constants = task_constants(go2, DEFAULT_TASK, MAX_STEPS)
    other = SimpleNamespace(**dataclasses.asdict(DEFAULT_TASK), weights=(1.0,) * (len(WEIGHTS) + 1))
    with pytest.raises(ValueError, match=f"reward_weights: expected {len(WEIGHTS)} numbers, got {len(WEIGHTS) + 1}"):
        CompiledStep(constants._replace(config=other))
