"""The walking task under gymnasium: its own checker, autoreset, seeds, and the same numbers as `WalkingTask` gives."""

import subprocess
import sys
import warnings

import numpy as np
import pytest
import torch
from fakes import ACTIONS, OBSERVATIONS, FakeSimulator

gymnasium = pytest.importorskip("gymnasium", reason="needs vintix-fast[gym]")

from gymnasium.utils.env_checker import check_env  # noqa: E402
from gymnasium.vector import AutoresetMode, VectorEnv  # noqa: E402
from gymnasium.wrappers.vector import RecordEpisodeStatistics  # noqa: E402

from vintix_fast.gym import WalkEnv, WalkVectorEnv, env_spec  # noqa: E402
from vintix_fast.service.errors import UsageError, VintixFastError  # noqa: E402
from vintix_fast.world.task import WalkingTask  # noqa: E402
from vintix_fast.world.task_config import TaskConfig  # noqa: E402


@pytest.fixture
def many(go2):
    """Four environments that fall after 3, 5, never and never steps, of episodes of 4 steps."""
    simulator = FakeSimulator(go2, 4, fall_after=(3, 5, 0, 0))
    return WalkVectorEnv(4, "go2", max_episode_steps=4, simulator=simulator)


@pytest.fixture
def one(go2):
    return WalkEnv(robot="go2", max_episode_steps=4, simulator=FakeSimulator(go2, 1))


def actions(n, envs=4, seed=0):
    return np.random.default_rng(seed).normal(0.0, 0.1, (n, envs, ACTIONS)).astype(np.float32)


def test_gymnasium_s_checker_passes(go2):
    env = WalkEnv(robot="go2", simulator=FakeSimulator(go2, 1))
    with warnings.catch_warnings():
        # The task's observations have no bounds, and its actions wider ones than the checker recommends.
        for text in (".*Box observation space", ".*Box action spaces, we recommend", ".*due to the environment not"):
            warnings.filterwarnings("ignore", message=text)
        check_env(env)


def test_steps_are_those_of_the_task(many, go2):
    task = WalkingTask(FakeSimulator(go2, 4, fall_after=(3, 5, 0, 0)), go2, max_steps=4)
    observation, infos = many.reset(seed=7)
    np.testing.assert_array_equal(observation, task.reset(7, random_starts=True).numpy())
    assert infos == {}
    for action in actions(9):
        given, result = many.step(action), task.step(torch.from_numpy(action))
        expected = (result.observation, result.reward, result.terminated, result.truncated)
        for found, column in zip(given[:4], expected, strict=True):
            np.testing.assert_array_equal(found, column.numpy())


def test_what_was_observed_last_is_told_where_an_episode_ends(many):
    many.reset(seed=7)
    before = 0
    for step, action in enumerate(actions(4), start=1):
        observation, _, terminated, truncated, infos = many.step(action)
        assert observation in many.observation_space
        ended = terminated | truncated
        assert ended.tolist() == {3: [True, False, False, False], 4: [False, True, True, True]}.get(step, [False] * 4)
        if not ended.any():
            assert infos == {}
            continue
        np.testing.assert_array_equal(infos["_final_obs"], ended)
        for env in range(4):
            last = infos["final_obs"][env]
            if not ended[env]:
                assert last is None
                continue
            # The new episode begins at rest; the one that ended did not.
            joint_speed = slice(21, 33)
            assert last[joint_speed].any() and not observation[env][joint_speed].any()
        before += int(ended.sum())
    assert before == 4 and many.task.step_num.tolist() == [1, 0, 0, 0]


def test_seeds(many):
    first, _ = many.reset(seed=1)
    second, _ = many.reset()
    again, _ = many.reset(seed=1)
    np.testing.assert_array_equal(first, again)
    np.testing.assert_array_equal(second, many.reset()[0])
    assert (first != second).any() and (first[0] != first[1]).any()
    assert (first != many.reset(seed=2)[0]).any()


def test_fixed_starts_are_all_alike(go2):
    env = WalkVectorEnv(2, "go2", random_starts=False, simulator=FakeSimulator(go2, 2))
    observation, _ = env.reset(seed=1)
    np.testing.assert_array_equal(observation[0], observation[1])


def test_one_robot_sees_its_last_observation_and_must_be_reset(one):
    with pytest.raises(UsageError, match="call reset"):
        one.step(np.zeros(ACTIONS, np.float32))
    first, _ = one.reset(seed=3)
    for step in range(1, 5):
        observation, reward, terminated, truncated, info = one.step(actions(4, 1)[step - 1, 0])
        assert (terminated, truncated) == (False, step == 4) and info == {"failed": False}
        assert observation[21:].any() and isinstance(reward, float)
    with pytest.raises(UsageError, match="the episode has ended"):
        one.step(np.zeros(ACTIONS, np.float32))
    np.testing.assert_array_equal(one.reset(seed=3)[0], first)


def test_a_simulation_that_failed_is_told(go2):
    simulator = FakeSimulator(go2, 2, faults={(1, 1): "nan"})
    env = WalkVectorEnv(2, "go2", simulator=simulator)
    env.reset(seed=1)
    env.step(actions(1, 2)[0])
    *_, terminated, _, infos = env.step(actions(1, 2)[0])
    assert terminated.tolist() == [False, True] and infos["final_info"]["failed"].tolist() == [False, True]


def test_gymnasium_s_own_wrapper_counts_the_episodes(many):
    counted = RecordEpisodeStatistics(many)
    counted.reset(seed=7)
    lengths = []
    for action in actions(8):
        *_, infos = counted.step(action)
        if "episode" in infos:
            lengths += infos["episode"]["l"][infos["_episode"]].tolist()
    assert lengths[:4] == [3, 4, 4, 4]


def test_the_spaces_and_the_mode(many):
    assert isinstance(many, VectorEnv) and many.metadata["autoreset_mode"] is AutoresetMode.SAME_STEP
    assert many.single_observation_space.shape == (OBSERVATIONS,) and many.action_space.shape == (4, ACTIONS)
    assert many.single_action_space.high[0] == TaskConfig().action_clip
    many.close()
    many.close()
    with pytest.raises(UsageError, match="was closed"):
        many.reset()


def test_what_cannot_be_is_refused_before_a_scene_is_built(monkeypatch, many):
    monkeypatch.setattr("vintix_fast.gym.Simulator", lambda *args: pytest.fail("built"))
    for options, text in (
        ({"num_envs": 0}, "num_envs is 0; it must be at least 1 and at most 8000"),
        ({"max_episode_steps": 0}, "max_episode_steps is 0"),
        ({"robot": "unicorn"}, "unicorn"),
        ({"task": TaskConfig().to_json() | {"command": [1.0]}}, "command"),
    ):
        with pytest.raises(VintixFastError, match=text):
            WalkVectorEnv(**options)
    with pytest.raises(UsageError, match=r"actions have the shape \(3, 12\); it must be \(4, 12\)"):
        many.step(np.zeros((3, ACTIONS)))
    with pytest.raises(UsageError, match="no reset options, got terrain"):
        many.reset(options={"terrain": 1})


def test_the_spec_makes_the_same_environment_again():
    spec = env_spec("go1", TaskConfig(command=(1.0, 0.0, 0.0)))
    again = type(spec).from_json(spec.to_json())
    assert again.kwargs["robot"] == "go1" and again.vector_entry_point == "vintix_fast.gym:WalkVectorEnv"
    assert TaskConfig.from_json(again.kwargs["task"]).command == (1.0, 0.0, 0.0)


# gymnasium finds the task by the package's name, which imports neither Genesis nor torch for that.
FOUND = """
import gymnasium, vintix_fast, sys
spec = gymnasium.spec("Walk-v0")
assert not {"genesis", "torch"} & set(sys.modules)
print(spec.vector_entry_point)
"""
NOT_ASKED = "import vintix_fast, sys; assert not {'gymnasium', 'torch', 'genesis'} & set(sys.modules)"
LATER = "import vintix_fast, gymnasium, vintix_fast.gym; gymnasium.spec('Walk-v0')"


@pytest.mark.parametrize("code", [FOUND, NOT_ASKED, LATER], ids=["found", "not-asked", "imported-before"])
def test_the_task_is_registered(code):
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True, timeout=60)


@pytest.mark.genesis
def test_make_and_make_vec_build_it_in_genesis():
    many = gymnasium.make_vec("vintix_fast:Walk-v0", num_envs=3, robot="go2", max_episode_steps=20)
    first, _ = many.reset(seed=5)
    for action in actions(25, 3):
        observation, reward, *_ = many.step(action)
    assert np.isfinite(observation).all() and np.isfinite(reward).all()
    np.testing.assert_array_equal(many.reset(seed=5)[0], first)
    many.close()
    one = gymnasium.make("vintix_fast:Walk-v0", robot="go2", max_episode_steps=3)
    one.reset(seed=5)
    assert [one.step(np.zeros(ACTIONS, np.float32))[3] for _ in range(3)] == [False, False, True]
    with warnings.catch_warnings():
        for text in (".*Box observation space", ".*Box action spaces, we recommend"):
            warnings.filterwarnings("ignore", message=text)
        check_env(one.unwrapped)
    one.close()
