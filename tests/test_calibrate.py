"""The number of environments that nobody gave: from the episodes, unless the device or its memory sets a limit."""

import pytest

from vintix_fast import calibrate
from vintix_fast.calibrate import choose_num_envs
from vintix_fast.config import MAX_ENVS, AdaptConfig

MB = 1_000_000
PLENTY = 1_000_000 * MB


@pytest.mark.parametrize(("episodes", "number"), [(1, 1), (2, 1), (3, 2), (50, 25), (128, 64), (129, 64), (5000, 64)])
def test_half_of_the_episodes_and_at_most_64_on_a_cpu(episodes, number):
    assert choose_num_envs(episodes, MB, free=PLENTY)[0] == number


def test_a_run_without_the_option_has_the_same_number(tmp_path):
    for episodes in (1, 7, 50, 400):
        config = AdaptConfig(robot_type="go1", output_dir=tmp_path / "run", episodes_per_loop=episodes)
        assert choose_num_envs(episodes, MB, free=PLENTY)[0] == config.envs


def test_a_gpu_takes_more():
    assert choose_num_envs(5000, MB, "cuda", free=PLENTY)[0] == 2500
    assert choose_num_envs(10 * MAX_ENVS, MB, "cuda", free=PLENTY)[0] == MAX_ENVS


def test_memory_is_a_limit_and_one_always_runs():
    number, reason = choose_num_envs(100, 10 * MB, free=204 * MB)
    assert number == 10 and "10.2 MB" in reason and "0.2 GB free on cpu" in reason
    assert choose_num_envs(100, 10 * MB, free=MB)[0] == 1


@pytest.mark.parametrize(
    ("episodes", "reason"),
    [
        (50, "25 environments (half of 50 episodes, so that the others begin with a warm context)"),
        (1000, "64 environments (more are no faster on a CPU)"),
        (1, "1 environment (one for the only episode)"),
    ],
)
def test_the_reason_is_said(episodes, reason):
    assert choose_num_envs(episodes, MB, free=PLENTY)[1] == reason


def test_free_memory_is_that_of_this_machine(monkeypatch):
    free = calibrate.free_bytes("cpu")
    assert free is None or 0 < free < 2**50
    monkeypatch.setattr(calibrate, "free_bytes", lambda device: None)  # a system that does not say
    assert choose_num_envs(50, MB)[0] == 25
