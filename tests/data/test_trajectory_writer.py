"""TrajectoryWriter against an oracle in numpy (a list of rows per environment).

Files are read back with h5py alone, the way the public reader of this format does.
"""

import re
import sys
import threading

import h5py
import numpy as np
import pytest
from written_files import (
    FIELD_LIST,
    group_names,
    make_writer,
    random_step,
    read_like_the_public_reader,
    write_random,
)

from vintix_fast._core import TrajectoryWriter
from vintix_fast.data.schema import FIELDS


@pytest.mark.parametrize(
    ("num_envs", "num_steps", "active_share", "options"),
    [
        (1, 1, 1.0, {}),
        (3, 250, 1.0, {}),
        (7, 333, 0.6, {"flush_every": 10, "block_len": 50}),
        (5, 120, 0.5, {"flush_every": 64, "block_len": 7}),  # several blocks in one flush
        (4, 90, 0.5, {"flush_every": 1, "block_len": 1, "queue_capacity": 1}),
        (300, 40, 0.3, {"flush_every": 16, "block_len": 10}),
    ],
)
def test_streams_are_unmixed_contiguous_and_complete(tmp_path, num_envs, num_steps, active_share, options):
    path = tmp_path / "trajectories.h5"
    rows = write_random(path, num_envs, num_steps, active_share=active_share, **options)

    data = read_like_the_public_reader(path)
    in_order = [row for stream in rows for row in stream]
    for name, (shape, dtype) in FIELDS.items():
        assert data[name].dtype == dtype
        assert data[name].shape == (len(in_order), *shape)
        np.testing.assert_array_equal(data[name], np.array([row[name] for row in in_order], dtype))
    with h5py.File(path, "r") as file:
        assert file.attrs["stream_env"].tolist() == [env for env, stream in enumerate(rows) if stream]
        assert file.attrs["stream_length"].tolist() == [len(stream) for stream in rows if stream]


def test_group_names_are_contiguous_and_blocks_end_with_the_stream(tmp_path):
    path = tmp_path / "trajectories.h5"
    write_random(path, 3, 25, block_len=10)
    assert group_names(path) == [
        "0-9", "10-19", "20-24", "25-34", "35-44", "45-49", "50-59", "60-69", "70-74",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("num_steps", "expected"),
    [(999, ["0-998"]), (1000, ["0-999"]), (1001, ["0-999", "1000-1000"])],
)
def test_default_blocks_hold_1000_transitions(tmp_path, num_steps, expected):
    path = tmp_path / "trajectories.h5"
    write_random(path, 1, num_steps)
    assert group_names(path) == expected
    with h5py.File(path, "r") as file:
        for name, group in file.items():
            first, last = map(int, name.split("-"))
            assert {len(dataset) for dataset in group.values()} == {last - first + 1}
            assert set(group) == set(FIELDS)


def test_environments_without_a_transition_are_left_out(tmp_path):
    path = tmp_path / "trajectories.h5"
    step = random_step(np.random.default_rng(0), 4)
    with make_writer(path, 4) as writer:
        writer.append(step, np.array([0, 1, 0, 7], np.uint8))  # any value but 0 counts
        writer.append(step, np.array([False, True, False, False]))
    assert group_names(path) == ["0-1", "2-2"]
    with h5py.File(path, "r") as file:
        assert file.attrs["stream_env"].tolist() == [1, 3]
        assert file.attrs["stream_length"].tolist() == [2, 1]


def test_a_collection_without_any_transition_closes_to_an_empty_file(tmp_path):
    path = tmp_path / "trajectories.h5"
    make_writer(path, 2).close()
    with h5py.File(path, "r") as file:
        assert list(file) == []
        assert file.attrs["stream_env"].shape == (0,)
        assert file.attrs["closed_cleanly"] == 1


def test_attributes(tmp_path):
    path = tmp_path / "trajectories.h5"
    attributes = {"robot": "go2", "versions": '{"ü": "1.0"}', "empty": "", "long": "x" * 200_000}
    write_random(path, 2, 3, attributes_json=attributes)
    with h5py.File(path, "r") as file:
        found = dict(file.attrs)
    assert {name: found.pop(name) for name in attributes} == attributes
    assert found.pop("closed_cleanly") == 1
    assert set(found) == {"stream_env", "stream_length"}
    assert found["stream_env"].dtype == found["stream_length"].dtype == np.int64


def test_most_environments_that_are_allowed(tmp_path):
    path = tmp_path / "trajectories.h5"
    fields = [("reward", (), "float32")]
    with TrajectoryWriter(path, 8000, fields, {}, queue_capacity=2, flush_every=2) as writer:
        reward = np.arange(8000, dtype=np.float32)
        active = np.zeros(8000, np.uint8)
        active[::1000] = 1
        writer.append({"reward": reward}, active)
    with h5py.File(path, "r") as file:
        assert file.attrs["stream_env"].tolist() == list(range(0, 8000, 1000))
        assert [file[f"{i}-{i}"]["reward"][0] for i in range(8)] == list(range(0, 8000, 1000))


def test_the_same_data_gives_the_same_bytes(tmp_path):
    for name in ("a.h5", "b.h5"):
        write_random(tmp_path / name, 3, 57, active_share=0.5, flush_every=10, block_len=8, attributes_json={"k": "v"})
    assert (tmp_path / "a.h5").read_bytes() == (tmp_path / "b.h5").read_bytes()


def test_file_has_its_final_name_only_after_close(tmp_path):
    path, partial = tmp_path / "trajectories.h5", tmp_path / "trajectories.h5.partial"
    path.write_text("an older file")
    partial.write_text("a leftover")
    writer = make_writer(path, 2)
    assert partial.exists() and path.read_text() == "an older file"
    writer.append(random_step(np.random.default_rng(0), 2), np.ones(2, np.uint8))
    writer.close()
    assert not partial.exists()
    assert group_names(path) == ["0-0", "1-1"]
    writer.close()
    writer.abort()
    assert path.exists()
    with pytest.raises(ValueError, match="closed"):
        writer.append(random_step(np.random.default_rng(0), 2), np.ones(2, np.uint8))


def test_exception_in_the_block_keeps_the_partial_file(tmp_path):
    path = tmp_path / "trajectories.h5"
    step = random_step(np.random.default_rng(0), 2)
    with pytest.raises(ZeroDivisionError), make_writer(path, 2, flush_every=10) as writer:
        for _ in range(13):
            writer.append(step, np.ones(2, np.uint8))
        raise ZeroDivisionError
    assert not path.exists()
    with h5py.File(f"{path}.partial", "r") as file:
        assert sorted(file) == ["env_0000_block_0000", "env_0001_block_0000"]
        assert file.attrs["closed_cleanly"] == 0
        assert file.attrs["stream_length"].tolist() == [13, 13]
        np.testing.assert_array_equal(file["env_0001_block_0000/action"][12], step["action"][1])


def test_a_forgotten_writer_leaves_the_partial_file(tmp_path):
    writer = make_writer(tmp_path / "trajectories.h5", 1)
    writer.append(random_step(np.random.default_rng(0), 1), np.ones(1, np.uint8))
    del writer
    assert [entry.name for entry in tmp_path.iterdir()] == ["trajectories.h5.partial"]
    with h5py.File(tmp_path / "trajectories.h5.partial", "r") as file:
        assert len(file["env_0000_block_0000/action"]) == 1


def test_several_writers_at_once(tmp_path):
    steps = [random_step(np.random.default_rng(i), 3) for i in range(40)]
    writers = [make_writer(tmp_path / f"{i}.h5", 3, flush_every=2 + i, block_len=7) for i in range(3)]
    for step in steps:
        for writer in writers:
            writer.append(step, np.ones(3, np.uint8))
    for writer in writers:
        writer.close()
    for i in range(3):
        data = read_like_the_public_reader(tmp_path / f"{i}.h5")
        np.testing.assert_array_equal(data["reward"], np.stack([step["reward"] for step in steps]).T.reshape(-1))


# ------------------------------------------------------------------------------------------------------------ the queue


def test_full_queue_waits_is_counted_and_loses_nothing(tmp_path):
    path = tmp_path / "trajectories.h5"
    fields = [("x", (2000,), "float32")]
    num_envs, num_steps = 8, 400
    x = np.empty((num_envs, 2000), np.float32)
    with TrajectoryWriter(path, num_envs, fields, {}, queue_capacity=1, flush_every=1) as writer:
        for step in range(num_steps):  # each step costs the thread a flush, append a memcpy
            x[:] = np.arange(num_envs)[:, None] * 1000 + step
            writer.append({"x": x}, np.ones(num_envs, np.uint8))
    stats = writer.stats
    assert stats["waits"] > 0 and stats["wait_seconds"] > 0
    assert stats["max_queue_depth"] == stats["queue_capacity"] == 1
    with h5py.File(path, "r") as file:
        for env in range(num_envs):
            stream = file[f"{env * num_steps}-{(env + 1) * num_steps - 1}"]["x"][:]
            np.testing.assert_array_equal(
                stream, np.repeat(env * 1000 + np.arange(num_steps)[:, None], 2000, axis=1).astype(np.float32)
            )


def test_other_python_threads_run_while_append_waits(tmp_path):
    """One thread appends to a queue of one slot, so it mostly waits; the main thread must get on meanwhile."""
    x = np.zeros((4, 20_000), np.float32)
    fields = [("x", (20_000,), "float32")]
    counted_while_appending = 0
    old_interval = sys.getswitchinterval()
    sys.setswitchinterval(1000)  # from here on nobody is made to give up the GIL: only a release lets others run
    try:
        with TrajectoryWriter(tmp_path / "t.h5", 4, fields, {}, queue_capacity=1, flush_every=1) as writer:

            def append_all():
                for _ in range(50):
                    writer.append({"x": x}, np.ones(4, np.uint8))

            appending = threading.Thread(target=append_all)
            appending.start()
            while appending.is_alive():
                if writer.stats["waits"] > 0:
                    counted_while_appending += 1
                appending.join(timeout=0.0001)
    finally:
        sys.setswitchinterval(old_interval)
    assert writer.stats["waits"] > 0
    assert counted_while_appending > 0


def test_appends_from_several_threads_are_all_written(tmp_path):
    path = tmp_path / "t.h5"
    fields = [("x", (50,), "int32")]

    def append_some(thread: int, writer: TrajectoryWriter):
        for i in range(200):
            writer.append({"x": np.full((2, 50), thread * 1000 + i, np.int32)}, np.ones(2, np.uint8))

    with TrajectoryWriter(path, 2, fields, {}, queue_capacity=2, flush_every=3) as writer:
        threads = [threading.Thread(target=append_some, args=(i, writer)) for i in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    with h5py.File(path, "r") as file:
        x = file["0-599"]["x"][:]
    assert (x == x[:, :1]).all()  # no step is torn
    for thread in range(3):
        of_thread = x[:, 0][x[:, 0] // 1000 == thread]
        assert of_thread.tolist() == [thread * 1000 + i for i in range(200)]


# ------------------------------------------------------------------------------------------------------------ arguments


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"action": None}, ValueError, r"expected exactly the fields \['proprio_observation', 'action'.*got \['prop"),
        ({"surprise": np.zeros(3)}, ValueError, r"expected exactly the fields .*got .*'surprise'"),
        ({"action": np.zeros((3, 12))}, TypeError, r"'action': expected .*array of dtype float32, got dtype float64"),
        ({"step_num": np.zeros(3, np.int64)}, TypeError, r"'step_num': expected .*int32, got dtype int64"),
        ({"reward": np.zeros(3, ">f4")}, TypeError, r"'reward': expected .*float32, got dtype >f4"),
        ({"reward": [0.0, 0.0, 0.0]}, TypeError, r"'reward': expected a numpy array of dtype float32, got list"),
        ({"action": np.zeros((3, 11), "f4")}, ValueError, r"'action': expected .*shape \[3, 12\], got shape \(3, 11\)"),
        ({"action": np.zeros((4, 12), "f4")}, ValueError, r"'action': expected .*shape \[3, 12\], got shape \(4, 12\)"),
        ({"reward": np.zeros((3, 1), "f4")}, ValueError, r"'reward': expected .*shape \[3\], got shape \(3, 1\)"),
        ({"action": np.zeros((12, 3), "f4").T}, ValueError, r"'action': expected a C-contiguous array .*and strides"),
        ({"active": np.ones(2, np.uint8)}, ValueError, r"'active': expected .*shape \[3\], got shape \(2,\)"),
        ({"active": np.ones(3)}, TypeError, r"'active': expected .*uint8, got dtype float64"),
        ({"active": np.ones(6, np.uint8)[::2]}, ValueError, r"'active': expected a C-contiguous array"),
    ],
)  # fmt: skip
def test_append_names_what_it_expected_and_got(tmp_path, change, error, message):
    arrays = random_step(np.random.default_rng(0), 3) | {"active": np.ones(3, np.uint8)} | change
    arrays = {name: value for name, value in arrays.items() if value is not None}
    active = arrays.pop("active")
    with make_writer(tmp_path / "t.h5", 3) as writer:
        with pytest.raises(error, match=message):
            writer.append(arrays, active)
        assert writer.stats["max_queue_depth"] == 0
        writer.append(random_step(np.random.default_rng(0), 3), np.ones(3, np.uint8))  # goes on


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_envs": 0}, "num_envs: expected at least 1, got 0"),
        ({"num_envs": 8001}, "num_envs: expected at most 8000, got 8001"),
        ({"queue_capacity": 0}, "queue_capacity: expected at least 1, got 0"),
        ({"flush_every": -1}, "flush_every: expected at least 1, got -1"),
        ({"block_len": 0}, "block_len: expected at least 1, got 0"),
        ({"queue_capacity": 2**62}, "queue_capacity: too large: a buffer would have more than"),
        (
            {"queue_capacity": 2**64 // 5 + 1, "num_envs": 1, "fields": [("a", (), "float32")]},
            "queue_capacity: too large",
        ),
        ({"flush_every": 2**61}, "flush_every: too large"),
        ({"block_len": 2**63 - 1}, "block_len: too large"),
        ({"fields": [("a", (2**32, 2**32), "uint8")]}, "fields: 'a': too large"),
        ({"fields": []}, "fields: expected 1 to 64, got 0"),
        ({"fields": [("a", (), "float64")]}, "'a': expected dtype float32, int32 or uint8, got 'float64'"),
        ({"fields": [("a", (0,), "float32")]}, "'a': expected positive sizes, got 0"),
        ({"fields": [("a", (), "float32")] * 2}, "'a' is there twice"),
        ({"fields": [("a/b", (), "float32")]}, "not a name that HDF5 can store: 'a/b'"),
        ({"attributes_json": {"stream_env": "[]"}}, "'stream_env' is written by the writer itself"),
        ({"attributes_json": {"a": "x\0y"}}, "'a': a string attribute cannot hold a NUL"),
    ],
)
def test_constructor_refuses_before_anything_is_created(tmp_path, arguments, message):
    defaults = {"num_envs": 2, "fields": FIELD_LIST, "attributes_json": {}}
    with pytest.raises(ValueError, match=re.escape(message)):
        TrajectoryWriter(path=str(tmp_path / "t.h5"), **(defaults | arguments))
    assert list(tmp_path.iterdir()) == []
