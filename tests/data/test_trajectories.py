"""read_trajectories: files of this package (by TrajectoryWriter) and of other tools (written here with h5py)."""

from pathlib import Path

import h5py
import numpy as np
import pytest
from fakes import ACTIONS, OBSERVATIONS
from written_files import foreign_file, numbered_rows, write_group

from vintix_fast._core import TrajectoryWriter
from vintix_fast.data import History, read_trajectories
from vintix_fast.data.schema import FIELDS, REQUIRED_FIELDS
from vintix_fast.service.errors import InputFileError

EXTRA_FIELDS = [name for name in FIELDS if name not in REQUIRED_FIELDS]
FIELD_LIST = [(name, shape, dtype.name) for name, (shape, dtype) in FIELDS.items()]


def collect(path: Path, lengths, *, close=True, flush_every=10, block_len=16, attributes=None) -> Path:
    """Environment e gets transitions e * 1000, e * 1000 + 1, ...; returns the file that there is then."""
    writer = TrajectoryWriter(path, len(lengths), FIELD_LIST, attributes or {}, 4, flush_every, block_len)
    for step in range(max(lengths)):
        rows = {name: np.empty((len(lengths), *shape), dtype) for name, (shape, dtype) in FIELDS.items()}
        for env in range(len(lengths)):
            for name, values in rows.items():
                values[env] = step % 200 if name in EXTRA_FIELDS else env * 1000 + step
        writer.append(rows, np.array([step < length for length in lengths]))
    if close:
        writer.close()
        return path
    writer.abort()
    return path.with_name(path.name + ".partial")


def assert_numbered(history: History, first: int, count: int):
    rows = numbered_rows(first, count)
    np.testing.assert_array_equal(history.observation, rows["proprio_observation"])
    for name in ("action", "reward", "step_num"):
        np.testing.assert_array_equal(getattr(history, name), rows[name])
    assert len(history) == count
    assert history.observation.dtype == history.action.dtype == history.reward.dtype == np.float32
    assert history.step_num.dtype == np.int32


# ------------------------------------------------------------------------------------------------------- our own files


def test_reads_what_the_writer_wrote(tmp_path):
    path = collect(tmp_path / "t.h5", [40, 0, 16, 3], attributes={"robot": "go2", "config": "{}"})
    trajectories = read_trajectories(path)
    assert [history.env for history in trajectories.histories] == [0, 2, 3]
    for history, length in zip(trajectories.histories, [40, 16, 3], strict=True):
        assert_numbered(history, history.env * 1000, length)
        assert set(history.extras) == set(EXTRA_FIELDS)
        np.testing.assert_array_equal(history.extras["mean_action"][:, 0], np.arange(length))
        assert history.extras["terminated"].dtype == np.uint8
    assert trajectories.num_transitions == 59
    assert trajectories.attributes == {"robot": "go2", "config": "{}"}
    assert trajectories.closed_cleanly is True
    assert trajectories.path == path


def test_reads_an_aborted_file_completely(tmp_path):
    trajectories = read_trajectories(collect(tmp_path / "t.h5", [40, 0, 16, 3], close=False, attributes={"a": "b"}))
    assert trajectories.closed_cleanly is False
    assert trajectories.attributes == {"a": "b"}
    assert [(history.env, len(history)) for history in trajectories.histories] == [(0, 40), (2, 16), (3, 3)]
    for history in trajectories.histories:
        assert_numbered(history, history.env * 1000, len(history))


def test_more_than_10000_blocks_and_environments_sort_by_number(tmp_path):
    """Staging names are padded to four digits only."""
    with h5py.File(tmp_path / "t.h5.partial", "w") as file:
        file.attrs["stream_length"] = np.array([3, 2])
        write_group(file, 2, 1, name="env_0000_block_10000")
        write_group(file, 1, 1, name="env_0000_block_9999")
        write_group(file, 0, 1, name="env_0000_block_9998")
        write_group(file, 0, 2, name="env_0001_block_0000")
    histories = read_trajectories(tmp_path / "t.h5.partial").histories
    assert_numbered(histories[0], 0, 3)
    assert_numbered(histories[1], 0, 2)


def test_partial_file_gives_only_what_was_flushed_as_a_whole(tmp_path):
    """A process killed within a flush leaves datasets longer than the rows that may be trusted."""
    partial = collect(tmp_path / "t.h5", [40, 20], close=False)
    with h5py.File(partial, "r+") as file:
        file.attrs["stream_length"] = np.array([30, 10])
        file["env_0000_block_0001/action"].resize(15, axis=0)  # rows 16 to 30: longer than needed, shorter than others
    histories = read_trajectories(partial).histories
    assert_numbered(histories[0], 0, 30)
    assert_numbered(histories[1], 1000, 10)


def test_partial_file_that_lacks_saved_rows_is_an_error(tmp_path):
    partial = collect(tmp_path / "t.h5", [40], close=False)
    with h5py.File(partial, "r+") as file:
        del file["env_0000_block_0002"]
    with pytest.raises(InputFileError, match=r"environment 0 lacks 8 of 40 transitions"):
        read_trajectories(partial)


@pytest.mark.parametrize("close", [True, False])
def test_file_without_a_transition_is_an_error(tmp_path, close):
    writer = TrajectoryWriter(tmp_path / "t.h5", 2, FIELD_LIST, {})
    path = tmp_path / ("t.h5" if close else "t.h5.partial")
    writer.close() if close else writer.abort()
    with pytest.raises(InputFileError, match=r"holds no transitions.*Collect it again"):
        read_trajectories(path)


@pytest.mark.parametrize(("envs", "lengths"), [([0, 1], [10, 9]), ([0], [10, 10]), ([0, 1, 2], [10, 10, 0])])
def test_stream_attributes_that_do_not_fit_the_groups_are_an_error(tmp_path, envs, lengths):
    path = collect(tmp_path / "t.h5", [10, 10])
    with h5py.File(path, "r+") as file:
        file.attrs["stream_env"], file.attrs["stream_length"] = envs, lengths
    with pytest.raises(InputFileError, match=r"stream_length tell of .* but its groups hold 20"):
        read_trajectories(path)


# -------------------------------------------------------------------------------------------------------- others' files


@pytest.mark.parametrize("counts", [[1], [10_000, 10_000, 3], [5] * 25, [7, 1, 30]])
@pytest.mark.parametrize("surplus", [0, 1])
def test_foreign_groups_of_any_size_are_one_history(tmp_path, counts, surplus):
    trajectories = read_trajectories(foreign_file(tmp_path / "t.h5", counts, surplus=surplus))
    (history,) = trajectories.histories
    assert_numbered(history, 0, sum(counts))
    assert history.env == 0 and history.extras == {}
    assert trajectories.closed_cleanly is True


def test_group_names_may_count_the_surplus_observation(tmp_path):
    with h5py.File(tmp_path / "t.h5", "w") as file:
        write_group(file, 0, 5, surplus=1, name="0-5")
        write_group(file, 5, 5, surplus=1, name="6-11")
    (history,) = read_trajectories(tmp_path / "t.h5").histories
    assert_numbered(history, 0, 10)


def test_other_number_types_are_converted(tmp_path):
    wide = {
        name: values.astype("f8" if values.dtype.kind == "f" else "i8") for name, values in numbered_rows(0, 4).items()
    }
    (history,) = read_trajectories(foreign_file(tmp_path / "t.h5", [4], **wide)).histories
    assert_numbered(history, 0, 4)


def test_only_extras_of_every_group_are_kept(tmp_path):
    with h5py.File(tmp_path / "t.h5", "w") as file:
        write_group(file, 0, 4, everywhere=np.arange(4), here=np.arange(4), short=np.arange(2), scalar=np.float32(1))
        write_group(file, 4, 3, everywhere=np.arange(4, 7), short=np.arange(3))
    (history,) = read_trajectories(tmp_path / "t.h5").histories
    assert list(history.extras) == ["everywhere"]
    np.testing.assert_array_equal(history.extras["everywhere"], np.arange(7))


def test_noise_of_older_files_is_left_out(tmp_path):
    """Both of a file in place, and of a partial one."""
    for close in (True, False):
        path = collect(tmp_path / "t.h5", [40, 3], close=close)
        with h5py.File(path, "r+") as file:
            for group in file.values():
                group["noise"] = np.ones_like(group["action"])
        for history, length in zip(read_trajectories(path).histories, [40, 3], strict=True):
            assert_numbered(history, history.env * 1000, length)
            assert set(history.extras) == set(EXTRA_FIELDS)


def test_a_demonstrators_action_is_read_as_the_policys_unless_that_is_there_too(tmp_path):
    expert = np.ones((4, ACTIONS), np.float32)
    (history,) = read_trajectories(foreign_file(tmp_path / "a.h5", [4], demonstrator_action=expert)).histories
    assert list(history.extras) == ["mean_action"]
    np.testing.assert_array_equal(history.extras["mean_action"], expert)
    both = {"demonstrator_action": expert, "mean_action": 2.0 * expert}
    (history,) = read_trajectories(foreign_file(tmp_path / "b.h5", [4], **both)).histories
    np.testing.assert_array_equal(history.extras["mean_action"], 2.0 * expert)


def test_attributes_become_plain_values(tmp_path):
    path = foreign_file(tmp_path / "t.h5", [2])
    with h5py.File(path, "r+") as file:
        file.attrs.update({"text": "ü", "fixed": np.bytes_(b"abc"), "number": 3, "real": 0.5})
    assert read_trajectories(path).attributes == {"text": "ü", "fixed": "abc", "number": 3, "real": 0.5}


# ------------------------------------------------------------------------------------------------------------ episodes


@pytest.mark.parametrize(
    ("step_num", "expected"),
    [
        ([0, 1, 2], [(0, 3)]),
        ([0, 1, 0, 0, 1, 2], [(0, 2), (2, 3), (3, 6)]),
        ([5, 6, 0, 1], [(0, 2), (2, 4)]),  # begins within an episode
        ([0, 1, 2, 1, 2], [(0, 3), (3, 5)]),  # a first step is missing
        ([], []),
    ],
)
def test_episodes(step_num, expected):
    step_num = np.array(step_num, np.int32)
    n = len(step_num)
    history = History(np.zeros((n, OBSERVATIONS)), np.zeros((n, ACTIONS)), np.zeros(n), step_num, {}, 0)
    assert history.episodes() == expected
    assert step_num.tolist() == history.step_num.tolist()


# -------------------------------------------------------------------------------------------------------------- errors


def test_missing_file(tmp_path):
    with pytest.raises(InputFileError, match=r"nothing\.h5: no such file. Check the path"):
        read_trajectories(tmp_path / "nothing.h5")


def test_missing_file_beside_its_partial_file(tmp_path):
    collect(tmp_path / "t.h5", [5], close=False)
    with pytest.raises(InputFileError, match=r"did not finish.*t\.h5\.partial"):
        read_trajectories(tmp_path / "t.h5")


def test_directory(tmp_path):
    with pytest.raises(InputFileError, match="is a directory"):
        read_trajectories(tmp_path)


def test_not_hdf5(tmp_path):
    (tmp_path / "t.h5").write_text("step,reward\n")
    with pytest.raises(InputFileError, match=r"t\.h5: not an HDF5 file, or a truncated or damaged one"):
        read_trajectories(tmp_path / "t.h5")


def test_numbers_of_a_wrong_type(tmp_path):
    path = foreign_file(tmp_path / "t.h5", [5], reward=np.array([b"much"] * 5))
    with pytest.raises(InputFileError, match=r"t\.h5: '0-4/reward' holds \|S4, not numbers"):
        read_trajectories(path)
    path = collect(tmp_path / "streams.h5", [5, 6])
    for name, broken in (("stream_length", [5.5, 5.5]), ("stream_env", ["a", "b"]), ("stream_env", [0, -1])):
        with h5py.File(path, "r+") as file:
            whole = file.attrs[name]
            file.attrs[name] = broken
        with pytest.raises(InputFileError, match=rf"streams\.h5: attribute {name} is .*, not a list of counts"):
            read_trajectories(path)
        with h5py.File(path, "r+") as file:
            file.attrs[name] = whole


@pytest.mark.parametrize("share", [0.02, 0.5, 0.99])
def test_truncated_file(tmp_path, share):
    path = collect(tmp_path / "t.h5", [200, 200])
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(InputFileError, match=r"t\.h5: .*truncated"):
        read_trajectories(path)


def test_no_groups(tmp_path):
    h5py.File(tmp_path / "t.h5", "w").close()
    with pytest.raises(InputFileError, match="holds no groups of transitions"):
        read_trajectories(tmp_path / "t.h5")


@pytest.mark.parametrize("name", ["metadata", "0-x", "env_0000_block_0000"])
def test_foreign_group_at_the_top_is_named(tmp_path, name):
    path = foreign_file(tmp_path / "t.h5", [5])
    with h5py.File(path, "r+") as file:
        file.create_group(name)
    with pytest.raises(InputFileError, match=rf"'{name}' at its top level is not a group of transitions"):
        read_trajectories(path)


def test_a_dataset_in_place_of_an_unfinished_files_group_is_named(tmp_path):
    with h5py.File(tmp_path / "t.h5.partial", "w") as file:
        file["env_0000_block_0000"] = np.zeros(3)
    with pytest.raises(InputFileError, match="'env_0000_block_0000' at its top level is not a group of transitions"):
        read_trajectories(tmp_path / "t.h5.partial")


@pytest.mark.parametrize(("second", "what"), [("6-10", "a gap"), ("4-8", "an overlap")])
def test_gap_and_overlap(tmp_path, second, what):
    with h5py.File(tmp_path / "t.h5", "w") as file:
        write_group(file, 0, 5)
        write_group(file, 5, 5, name=second)
    with pytest.raises(InputFileError, match=rf"{what} before group '{second}': transition 5 should come next"):
        read_trajectories(tmp_path / "t.h5")


def test_first_group_must_start_at_0(tmp_path):
    with h5py.File(tmp_path / "t.h5", "w") as file:
        write_group(file, 5, 5)
    with pytest.raises(InputFileError, match="a gap before group '5-9'"):
        read_trajectories(tmp_path / "t.h5")


@pytest.mark.parametrize("field", REQUIRED_FIELDS)
def test_missing_dataset(tmp_path, field):
    path = foreign_file(tmp_path / "t.h5", [5], **{field: None})
    with pytest.raises(InputFileError, match=f"group '0-4' has no dataset '{field}'"):
        read_trajectories(path)


@pytest.mark.parametrize(
    ("field", "length"), [("proprio_observation", 7), ("proprio_observation", 4), ("reward", 6), ("step_num", 4)]
)
def test_inconsistent_lengths(tmp_path, field, length):
    path = foreign_file(tmp_path / "t.h5", [5], **{field: numbered_rows(0, length)[field]})
    with pytest.raises(InputFileError, match=rf"group '0-4' differ in length: .*'{field}': {length}"):
        read_trajectories(path)


def test_name_that_promises_more_than_the_group_holds(tmp_path):
    with h5py.File(tmp_path / "t.h5", "w") as file:
        write_group(file, 0, 5, name="0-7")
    with pytest.raises(InputFileError, match="group '0-7' holds 5 transitions, its name promises 8"):
        read_trajectories(tmp_path / "t.h5")


@pytest.mark.parametrize(
    ("field", "shape"), [("proprio_observation", (5, 48)), ("action", (5,)), ("reward", (5, 1)), ("action", (5, 12, 1))]
)
def test_wrong_trailing_shape(tmp_path, field, shape):
    path = foreign_file(tmp_path / "t.h5", [5], **{field: np.zeros(shape, np.float32)})
    with pytest.raises(InputFileError, match=rf"dataset '{field}' of group '0-4' has shape .*expected \('n',"):
        read_trajectories(path)
