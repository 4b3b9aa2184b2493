"""The compiled judge against the plain one, on states that a simulator gives and on states that it should not."""

import math

import numpy as np
import pytest
import torch
from fakes import quaternion

from vintix_fast.sim import RobotState
from vintix_fast.task import ACTION_CLIP, MAX_TILT_RAD, PlainJudge, compiled_judge

MAX_STEPS = 50
ATOL, RTOL = 2e-6, 2e-6
"""Sums of a dozen float32 products, in another order; the absolute part grows with the numbers that cancel."""


def random_state(robot, n, seed=0, spread=1.0):
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return spread * torch.randn(*shape, generator=generator)

    quat = torch.randn(n, 4, generator=generator)
    quat[: n // 2] = quaternion(*(0.2 * torch.randn(2, n // 2, generator=generator)))  # half of them nearly upright
    return RobotState(
        base_pos_m=normal(n, 3) * 0.3,
        base_quat=quat / quat.norm(dim=1, keepdim=True),
        base_lin_vel_m_s=normal(n, 3),
        base_ang_vel_rad_s=normal(n, 3) * 2.0,
        joint_pos_rad=torch.tensor(robot.default_pose_rad) + 0.3 * normal(n, 12),
        joint_vel_rad_s=normal(n, 12) * 5.0,
    )


def random_step(n, seed=0):
    """action, solver_failed, last_action, step_num."""
    generator = torch.Generator().manual_seed(seed)
    action, last_action = torch.randn(2, n, 12, generator=generator)
    action[::5] *= 3 * ACTION_CLIP
    solver_failed = torch.rand(n, generator=generator) < 0.1
    step_num = torch.randint(0, MAX_STEPS + 2, (n,), generator=generator, dtype=torch.int32)
    return action, solver_failed, last_action, step_num


def compare(robot, state, step, spread=1.0):
    """Both judges on the same step; returns the plain one's result."""
    memory = [[tensor.clone() for tensor in step[2:]] for _ in range(2)]
    plain = PlainJudge(robot, MAX_STEPS, torch.device("cpu")).judge(state, *step[:2], *memory[0])
    compiled = compiled_judge(robot, MAX_STEPS).judge(state, *step[:2], *memory[1])
    for name in plain.__dataclass_fields__:
        expected, got = getattr(plain, name), getattr(compiled, name)
        assert got.dtype == expected.dtype and got.shape == expected.shape, name
        torch.testing.assert_close(
            got, expected, atol=ATOL * max(1.0, spread), rtol=RTOL, equal_nan=True, msg=lambda m, n=name: f"{n}: {m}"
        )
    for expected, got in zip(*memory, strict=True):
        torch.testing.assert_close(got, expected, atol=0, rtol=0, equal_nan=True)
    return plain


@pytest.mark.parametrize("n", [1, 7, 300])
@pytest.mark.parametrize("spread", [0.1, 1.0, 30.0])
def test_random_states(go2, n, spread):
    result = compare(go2, random_state(go2, n, seed=n, spread=spread), random_step(n, seed=n), spread)
    if n == 300:  # every outcome is among them
        assert all(0 < flags.sum() < n for flags in (result.terminated, result.truncated, result.failed))


def as_strided_columns(tensor):
    """The same numbers with the environments side by side, as Genesis keeps them, after some other columns."""
    wide = torch.full((tensor.shape[1] + 3, tensor.shape[0] * 2), float("nan"))
    view = wide[2:-1, ::2].T
    view.copy_(tensor)
    assert view.stride(0) == 2 and not view.is_contiguous()
    return view


def test_views_with_strides(go2):
    state, (action, *rest) = random_state(go2, 9), random_step(9)
    columns = [as_strided_columns(getattr(state, name)) for name in state.__dataclass_fields__]
    strided = compare(go2, RobotState(*columns), (as_strided_columns(action), *rest))
    torch.testing.assert_close(strided.observation, compare(go2, state, (action, *rest)).observation)


@pytest.mark.parametrize("part", RobotState.__dataclass_fields__)
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 3e38])
def test_a_number_that_is_none_fails_its_own_environment(go2, part, value):
    state, step = random_state(go2, 4, spread=0.1), random_step(4)
    step[1][:] = False
    getattr(state, part)[2, -1] = value
    result = compare(go2, state, step)
    finite_and_slow = math.isfinite(value) and part not in ("base_lin_vel_m_s", "joint_vel_rad_s")
    assert result.failed.tolist() == [False, False, not finite_and_slow, False]


@pytest.mark.parametrize(("part", "limit"), [("base_lin_vel_m_s", 100.0), ("joint_vel_rad_s", 1000.0)])
def test_the_speed_limit_itself_is_allowed(go2, part, limit):
    state, step = random_state(go2, 4, spread=0.1), random_step(4)
    step[1][:] = False
    speeds = torch.tensor([limit, -limit, math.nextafter(limit, math.inf), -limit * 1.001]).float()
    speeds[2] = torch.nextafter(torch.tensor(limit), torch.tensor(math.inf))
    getattr(state, part)[:, 1] = speeds
    assert compare(go2, state, step).failed.tolist() == [False, False, True, True]


def test_tilts_around_the_limit_and_past_90_degrees(go2):
    near = MAX_TILT_RAD + torch.tensor([-1e-3, -1e-5, 1e-5, 1e-3])
    angles = torch.cat([near, -near, torch.tensor([0.0, math.pi / 2, -math.pi / 2, 2.0, -2.0, 3.0, math.pi])])
    roll, pitch = (grid.flatten() for grid in torch.meshgrid(angles, angles, indexing="ij"))
    n = len(roll)
    state, step = random_state(go2, n, spread=0.1), random_step(n)
    step[1][:] = False
    state.base_quat[:] = quaternion(roll, pitch)
    terminated = compare(go2, state, step).terminated.reshape(len(angles), -1)
    assert terminated[8].tolist() == [False, False, True, True] * 2 + [False] + [True] * 6
    assert terminated[0, :8].tolist() == [False, False, True, True] * 2


def test_an_action_that_is_no_number_stays_one(go2):
    state, step = random_state(go2, 3, spread=0.1), random_step(3)
    step[1][:] = False
    step[0][1, 4] = math.nan
    assert compare(go2, state, step).reward.isnan().tolist() == [False, True, False]


def test_only_the_rows_of_the_mask_are_observed_anew(go2):
    state, mask = random_state(go2, 6), torch.tensor([True, False, False, True, True, False])
    made = []
    for judge in (PlainJudge(go2, MAX_STEPS, torch.device("cpu")), compiled_judge(go2, MAX_STEPS)):
        observation = torch.full((6, 33), 7.0)
        judge.observe(state, mask, observation)
        assert (observation[~mask] == 7.0).all() and (observation[mask] != 7.0).any(dim=1).all()
        made.append(observation)
    torch.testing.assert_close(*made, atol=ATOL, rtol=RTOL)


def test_the_same_step_gives_the_same_bits(go2):
    state, step = random_state(go2, 50), random_step(50)
    results = [compiled_judge(go2, MAX_STEPS).judge(state, *(t.clone() for t in step)) for _ in range(2)]
    for name in results[0].__dataclass_fields__:
        assert torch.equal(*(getattr(result, name) for result in results)), name


# -- the binding's checks ----------------------------------------------------------------------------------------------


def arguments(robot, n=3):
    state = random_state(robot, n)
    arrays = {name: getattr(state, name).numpy() for name in state.__dataclass_fields__}
    names = ("action", "solver_failed", "last_action", "step_num")
    return arrays | {name: tensor.numpy() for name, tensor in zip(names, random_step(n), strict=True)}


def misaligned(array):
    raw = np.zeros(array.nbytes + 1, dtype=np.uint8)[1:].view(array.dtype)
    return raw.reshape(array.shape)


@pytest.mark.parametrize(
    ("name", "change", "error"),
    [
        ("base_quat", lambda a: a[:, :3], "base_quat: expected an array, aligned to 4 bytes, of shape [3, 4], got"),
        ("joint_pos_rad", lambda a: a[:2], "of shape [3, 12], got shape (2, 12)"),
        ("base_pos_m", lambda a: a.ravel(), "of shape [9, 3], got shape (9,)"),
        ("action", lambda a: a.astype(np.float64), "action: expected a numpy array of dtype float32, got dtype"),
        ("base_lin_vel_m_s", misaligned, "base_lin_vel_m_s: expected an array, aligned to 4 bytes, of shape [3, 3]"),
        ("solver_failed", lambda a: a.astype(np.uint8), "solver_failed: expected a numpy array of dtype bool, got"),
        ("last_action", lambda a: np.asfortranarray(a), "last_action: expected a C-contiguous array of shape [3, 12]"),
        ("step_num", lambda a: a.astype(np.int64), "step_num: expected a numpy array of dtype int32, got dtype int64"),
    ],
)
def test_arrays_of_another_form_are_refused_and_nothing_is_written(go2, name, change, error):
    arrays = arguments(go2)
    before = {key: array.copy() for key, array in arrays.items()}
    with pytest.raises((TypeError, ValueError)) as raised:
        compiled_judge(go2, MAX_STEPS)._judge.judge(**arrays | {name: change(arrays[name])})
    assert error in str(raised.value)
    for key, array in arrays.items():
        np.testing.assert_array_equal(array, before[key])


def test_a_read_only_output_is_refused(go2):
    arrays = arguments(go2)
    arrays["step_num"].flags.writeable = False
    with pytest.raises(ValueError, match="writeable"):
        compiled_judge(go2, MAX_STEPS)._judge.judge(**arrays)
