"""Reading histories to pretrain on: whose they are, which are left out, which are held out, their statistics."""

import json
import os
import re

import h5py
import numpy as np
import pytest
from fakes import ACTIONS, OBSERVATIONS, make_history
from histories_on_disk import TASKS, write_foreign, write_history, write_robot

from vintix_fast.data import History, ShapeError, open_writer
from vintix_fast.data.schema import FIELDS
from vintix_fast.pretrain.histories import RobotHistories, read_histories
from vintix_fast.service.errors import InputFileError

GO2 = {"task_name": "go2_walking_ad", "observation_shape": {"proprio": [OBSERVATIONS]}, "action_dim": ACTIONS}


def read(*directories, held_out=0.0, seed=5, say=lambda text: None):
    return read_histories(directories, held_out, seed, say)


def assert_same_history(left: History, right: History):
    for name in ("observation", "action", "reward", "step_num"):
        np.testing.assert_array_equal(getattr(left, name), getattr(right, name), err_msg=name)


def name_of(history: History) -> bytes:
    return history.observation.tobytes()


# -- which formats -----------------------------------------------------------------------------------------------------


def test_every_file_of_a_directory_is_read_in_the_order_of_their_names(tmp_path):
    made = [make_history([5, 4], seed=i) for i in range(3)]
    for i in (2, 0, 1):
        write_history(tmp_path / f"trajectories_env_{i:04d}.h5", made[i], **GO2)
    (robot,) = read(tmp_path)
    assert (robot.task_name, robot.group_name) == ("go2_walking_ad", "go2_locomotion")
    assert robot.held_out == [] and robot.skipped == []
    for history, expected in zip(robot.train, made, strict=True):
        assert_same_history(history, expected)


def test_the_slow_pipelines_files_are_read_without_their_surplus_observations(tmp_path):
    made = make_history([10_000, 40], seed=1)
    write_foreign(tmp_path / "trajectories_env_0000.h5", made, **GO2, action_type="continuous")
    with h5py.File(tmp_path / "trajectories_env_0000.h5") as file:
        assert set(file) == {"0-9999", "10000-10039"} and len(file["0-9999/step_num"]) == 10_001
    (robot,) = read(tmp_path)
    (history,) = robot.train
    assert_same_history(history, made)


def test_the_environments_of_one_file_are_histories_of_their_own(tmp_path):
    with open_writer(tmp_path / "trajectories.h5", 3, {"task_name": "go2_walking_ad"}) as writer:
        for step in range(4):
            rows = {name: np.zeros((3, *shape), dtype) for name, (shape, dtype) in FIELDS.items()}
            rows["step_num"][:] = step
            rows["reward"][:] = np.arange(3)
            writer.append(rows, np.ones(3, bool))
    (robot,) = read(tmp_path)
    assert [history.reward.tolist() for history in robot.train] == [[0.0] * 4, [1.0] * 4, [2.0] * 4]


def test_directories_of_the_same_robot_are_joined(tmp_path):
    write_robot(tmp_path / "first", "go2", (10, 12), seed=1)
    write_robot(tmp_path / "other", "go1", (11,), seed=2)
    write_robot(tmp_path / "second", "go2", (14,), seed=3)
    go2, go1 = read(tmp_path / "first", tmp_path / "other", tmp_path / "second")
    assert (go2.task_name, list(map(len, go2.train))) == ("go2_walking_ad", [10, 12, 14])
    assert (go1.task_name, list(map(len, go1.train))) == ("go1_walking_ad", [11])


# -- whose -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("task_name", "read_as", "group"),
    [
        ("go1_walking_ad", "go1_walking_ad", "go1_locomotion"),
        ("minicheetah_walking_ad", "minicheetah_walking_ad", "minicheetah_locomotion"),
        ("a1_walking_ad", "a1_walking_ad", "a1_locomotion"),
        ("unitreea1_walking_ad", "a1_walking_ad", "a1_locomotion"),
        ("anymal_walking", "anymal_walking", "anymal_walking"),
    ],
)
def test_robots_that_are_known_get_their_groups_and_others_one_of_their_own(tmp_path, task_name, read_as, group):
    write_history(tmp_path / "t.h5", make_history([5]), task_name=task_name)
    (robot,) = read(tmp_path)
    assert (robot.task_name, robot.group_name) == (read_as, group)


def test_older_and_newer_names_of_a_task_are_of_one_robot(tmp_path):
    for name, lengths in (("a1_walking_ad", [5]), ("unitreea1_walking_ad", [6])):
        write_history(tmp_path / f"{name}.h5", make_history(lengths), task_name=name)
    (robot,) = read(tmp_path)
    assert list(map(len, robot.train)) == [5, 6]


def test_a_group_that_the_description_names_is_taken(tmp_path):
    write_history(tmp_path / "t.h5", make_history([5]), **GO2, group_name="legged")
    (robot,) = read(tmp_path)
    assert robot.group_name == "legged"


def test_without_a_description_the_files_attributes_name_the_task(tmp_path):
    write_history(tmp_path / "t.h5", make_history([5]))
    with h5py.File(tmp_path / "t.h5", "r+") as file:
        file.attrs["task_name"] = "go1_walking_ad"
    (robot,) = read(tmp_path)
    assert (robot.task_name, robot.group_name) == ("go1_walking_ad", "go1_locomotion")


def test_the_description_counts_more_than_the_attributes(tmp_path):
    write_history(tmp_path / "t.h5", make_history([5]), **GO2)
    with h5py.File(tmp_path / "t.h5", "r+") as file:
        file.attrs["task_name"] = "go1_walking_ad"
    (robot,) = read(tmp_path)
    assert robot.task_name == "go2_walking_ad"


@pytest.mark.parametrize("about", [{}, {"robot": "go2"}, {"task_name": ""}, {"task_name": 7}], ids=str)
def test_a_file_that_names_no_task_is_refused_with_what_to_add(tmp_path, about):
    write_history(tmp_path / "t.h5", make_history([5]), **about)
    with pytest.raises(InputFileError, match=r"none of its 1 .*neither t\.json nor its attributes name a task"):
        read(tmp_path)


def test_robots_mixed_in_one_directory_are_refused_with_both_files(tmp_path):
    write_history(tmp_path / "a.h5", make_history([5]), task_name=TASKS["go2"])
    write_history(tmp_path / "b.h5", make_history([5]), task_name=TASKS["go1"])
    with pytest.raises(
        InputFileError, match=r"mixes robots: a\.h5 is of go2_walking_ad, b\.h5 of go1_walking_ad.*directory of its own"
    ):
        read(tmp_path)


# -- what is left out --------------------------------------------------------------------------------------------------


def spoil_truncate(path):
    os.truncate(path, path.stat().st_size - 2000)


def spoil_nan(path):
    with h5py.File(path, "r+") as file:
        next(iter(file.values()))["reward"][2] = np.nan


def spoil_infinity(path):
    with h5py.File(path, "r+") as file:
        next(iter(file.values()))["proprio_observation"][3, 7] = np.inf


def spoil_experts_action(path):
    with h5py.File(path, "r+") as file:
        next(iter(file.values()))["mean_action"][1, 4] = np.nan


def spoil_description(path):
    path.with_suffix(".json").write_text('{"task_name": ')


def spoil_task(path):
    path.with_suffix(".json").write_text("{}")


SPOILT = {
    "truncated": (spoil_truncate, r"b\.h5: not an HDF5 file, or a truncated"),
    "nan": (spoil_nan, r"b\.h5: holds NaN or infinity"),
    "infinity": (spoil_infinity, r"b\.h5: holds NaN or infinity"),
    "nan-in-what-is-learnt": (spoil_experts_action, r"b\.h5: holds NaN or infinity"),
    "broken-json": (spoil_description, r"b\.json is broken \(not valid JSON"),
    "no-task": (spoil_task, r"b\.h5: neither b\.json nor its attributes"),
}


@pytest.mark.parametrize(("spoil", "words"), SPOILT.values(), ids=SPOILT)
def test_a_spoilt_file_is_left_out_and_said(tmp_path, spoil, words):
    for name, length in (("a", 6), ("b", 7), ("c", 8)):
        write_history(tmp_path / f"{name}.h5", make_history([length]), **GO2)
    spoil(tmp_path / "b.h5")
    said = []
    (robot,) = read(tmp_path, say=said.append)
    assert list(map(len, robot.train)) == [6, 8]
    assert len(said) == len(robot.skipped) == 1
    assert re.search(words, robot.skipped[0]) and said[0] == f"skipped: {robot.skipped[0]}"


def test_what_was_left_out_of_joined_directories_is_told_together(tmp_path):
    for folder in ("first", "second"):
        write_robot(tmp_path / folder, "go2", (6, 7))
        spoil_nan(tmp_path / folder / "trajectories_env_0000.h5")
    (robot,) = read(tmp_path / "first", tmp_path / "second")
    assert len(robot.train) == 2 and ["first" in text for text in robot.skipped] == [True, False]


def test_directories_without_histories_are_refused(tmp_path):
    with pytest.raises(InputFileError, match="--data .*nowhere: no such directory"):
        read(tmp_path / "nowhere")
    (tmp_path / "file").touch()
    with pytest.raises(InputFileError, match="--data .*file: no such directory"):
        read(tmp_path / "file")
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty/trajectories_env_0000.h5.partial").touch()
    with pytest.raises(InputFileError, match=r"--data .*empty: no trajectory files \(\*\.h5\).*vintix-fast distil"):
        read(tmp_path / "empty")
    write_robot(tmp_path / "broken", "go2", (6, 7))
    for path in (tmp_path / "broken").glob("*.h5"):
        spoil_truncate(path)
    with pytest.raises(InputFileError, match="--data .*broken: none of its 2 trajectory files is usable: .*_0000.h5"):
        read(tmp_path / "broken")


@pytest.mark.parametrize(
    "sizes",
    [{"observation_shape": {"proprio": [48]}}, {"action_dim": 8}, {"observation_shape": {"image": [33]}}],
    ids=str,
)
def test_a_description_of_other_sizes_is_refused(tmp_path, sizes):
    """Not skipped: the whole directory is another task's."""
    write_history(tmp_path / "a.h5", make_history([5]), **GO2)
    write_history(tmp_path / "b.h5", make_history([5]), **(GO2 | sizes))
    with pytest.raises(ShapeError, match=r"b\.json: .*the file has 33 observations and 12 actions"):
        read(tmp_path)


def test_datasets_of_other_sizes_are_refused(tmp_path):
    write_history(tmp_path / "a.h5", make_history([5]), **GO2)
    made = make_history([5])
    with h5py.File(tmp_path / "b.h5", "w") as file:
        group = file.create_group("0-4")
        group["proprio_observation"] = np.zeros((5, 48), np.float32)
        group["action"], group["reward"], group["step_num"] = made.action, made.reward, made.step_num
    (tmp_path / "b.json").write_text(json.dumps(GO2))
    with pytest.raises(ShapeError, match=r"b\.h5: dataset 'proprio_observation'.*\(5, 48\)"):
        read(tmp_path)


# -- held out ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def eight(tmp_path_factory):
    """A directory of eight histories; not to be written to."""
    return write_robot(tmp_path_factory.mktemp("eight") / "go2", "go2", [6 + i for i in range(8)])


@pytest.mark.parametrize(("share", "kept"), [(0.0, 0), (0.01, 1), (0.25, 2), (0.5, 4)])
def test_a_share_of_the_histories_is_held_out(eight, share, kept):
    (robot,) = read(eight, held_out=share)
    assert len(robot.held_out) == kept and len(robot.train) == 8 - kept
    assert {name_of(h) for h in robot.train}.isdisjoint(name_of(h) for h in robot.held_out)


def test_a_seed_decides_which_are_held_out(eight):
    def held_out(seed):
        (robot,) = read(eight, held_out=0.25, seed=seed)
        return [name_of(history) for history in robot.held_out]

    first = held_out(0)
    assert held_out(0) == first
    assert [other for other in (held_out(1), held_out(2)) if other != first]


def test_held_out_histories_come_from_every_robot(tmp_path):
    folders = [write_robot(tmp_path / name, name, (6, 7, 8)) for name in ("go1", "go2")]
    assert [len(robot.held_out) for robot in read(*folders, held_out=0.05)] == [1, 1]


def test_the_only_history_is_trained_on(tmp_path):
    (robot,) = read(write_robot(tmp_path / "go2", "go2", (9,)), held_out=0.3)
    assert (len(robot.train), len(robot.held_out)) == (1, 0)


def test_there_is_always_a_history_left_to_train_on(tmp_path):
    (robot,) = read(write_robot(tmp_path / "go2", "go2", (9, 10)), held_out=0.9)
    assert (len(robot.train), len(robot.held_out)) == (1, 1)


# -- statistics --------------------------------------------------------------------------------------------------------


def test_statistics_are_those_of_all_training_transitions(tmp_path):
    folder = write_robot(tmp_path / "go2", "go2", (20, 30, 40, 50))
    (robot,) = read(folder, held_out=0.25)
    info = robot.statistics("legged")
    assert (info.group_name, info.observation_dim, info.action_dim, info.reward_scale) == ("legged", 33, 12, 1.0)
    observation = np.concatenate([h.observation for h in robot.train]).astype(np.float64)
    action = np.concatenate([h.action for h in robot.train]).astype(np.float64)
    np.testing.assert_allclose(info.obs_mean, observation.sum(axis=0) / len(observation), atol=1e-9)
    np.testing.assert_allclose(info.acs_mean, action.sum(axis=0) / len(action), atol=1e-9)
    varies = [*range(6), *range(9, 33)]
    spread = np.sqrt(np.square(observation - observation.mean(axis=0)).mean(axis=0))
    np.testing.assert_allclose(np.array(info.obs_std)[varies], spread[varies], rtol=1e-6)
    np.testing.assert_allclose(info.acs_std, np.sqrt(np.square(action - action.mean(axis=0)).mean(axis=0)), rtol=1e-6)
    everything = np.concatenate([h.observation for h in robot.train + robot.held_out])
    assert np.abs(np.array(info.obs_mean) - everything.mean(axis=0)).max() > 1e-4


def test_what_never_varies_has_a_deviation_of_one(tmp_path):
    """The command: dividing by its own would make rounding errors as large as everything else."""
    (robot,) = read(write_robot(tmp_path / "go2", "go2", (40,)))
    info = robot.statistics("legged")
    assert info.obs_std[6:9] == (1.0, 1.0, 1.0)
    assert info.obs_mean[6:9] == pytest.approx((0.5, 0.0, 0.0))
    assert 1.0 not in info.obs_std[:6] + info.obs_std[9:] + info.acs_std


def test_statistics_of_large_offsets_are_not_lost_to_rounding():
    n = 20_000
    observation = np.zeros((n, OBSERVATIONS), np.float32)
    observation[:, 0] = 1000.0 + np.tile([-0.5, 0.5], n // 2)
    history = History(observation, np.zeros((n, ACTIONS), np.float32), np.zeros(n), np.zeros(n, np.int32), {}, 0)
    info = RobotHistories("task", "group", [history], [], []).statistics("group")
    assert info.obs_mean[0] == pytest.approx(1000.0, abs=1e-6) and info.obs_std[0] == pytest.approx(0.5, abs=1e-6)
