"""TrajectoryWriter against an oracle in numpy (a list of rows per environment), and against kills and full disks.

Files are read back with h5py alone, the way the public reader of this format does.
"""

import os
import re
import signal
import subprocess
import sys
import threading
import time  # noqa: F401  (for the children's code)
from pathlib import Path

import h5py
import numpy as np
import pytest

from vintix_fast._core import TrajectoryWriter
from vintix_fast.schema import FIELDS

FIELD_LIST = [(name, shape, dtype.name) for name, (shape, dtype) in FIELDS.items()]
HANG_S = 60  # far beyond what anything here needs: only a hang takes so long


def make_writer(path, num_envs, **options) -> TrajectoryWriter:
    return TrajectoryWriter(str(path), num_envs, FIELD_LIST, options.pop("attributes_json", {}), **options)


def random_step(rng: np.random.Generator, num_envs: int) -> dict[str, np.ndarray]:
    return {
        name: rng.integers(0, 200, (num_envs, *shape)).astype(dtype)
        if dtype.kind in "iu"
        else rng.standard_normal((num_envs, *shape), dtype)
        for name, (shape, dtype) in FIELDS.items()
    }


def write_random(path, num_envs, num_steps, *, seed=0, active_share=1.0, **options) -> list[list[dict]]:
    """Writes random steps; returns the oracle, the rows of each environment."""
    rng = np.random.default_rng(seed)
    rows = [[] for _ in range(num_envs)]
    with make_writer(path, num_envs, **options) as writer:
        for _ in range(num_steps):
            step = random_step(rng, num_envs)
            active = rng.random(num_envs) < active_share
            writer.append(step, active)
            for env in np.flatnonzero(active):
                rows[env].append({name: values[env].copy() for name, values in step.items()})
            for values in step.values():  # the writer has its own copy by now
                values.fill(0)
    return rows


def read_like_the_public_reader(path) -> dict[str, np.ndarray]:
    with h5py.File(path, "r") as file:
        names = sorted(file.keys(), key=lambda name: int(name.split("-")[0]))
        return {field: np.concatenate([file[name][field][:] for name in names]) for field in FIELDS}


def group_names(path) -> list[str]:
    with h5py.File(path, "r") as file:
        assert all(isinstance(item, h5py.Group) for item in file.values())
        return sorted(file, key=lambda name: int(name.split("-")[0]))


def in_child(code: str, *arguments, **options) -> subprocess.Popen:
    """A Python process that runs code, with this file's helpers at hand."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *filter(None, sys.path)])}
    command = [sys.executable, "-c", "from test_trajectory_writer import *\n" + code, *map(str, arguments)]
    return subprocess.Popen(command, env=environment, text=True, stdout=subprocess.PIPE, **options)


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
    assert stats["steps"] == num_steps and stats["transitions"] == num_steps * num_envs
    assert stats["bytes_written"] == num_steps * x.nbytes
    assert stats["write_seconds"] > 0
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
        ({"action": np.zeros((3, 11), "f4")}, ValueError, r"'action': expected shape \(3, 12\), got \(3, 11\)"),
        ({"action": np.zeros((4, 12), "f4")}, ValueError, r"'action': expected shape \(3, 12\), got \(4, 12\)"),
        ({"reward": np.zeros((3, 1), "f4")}, ValueError, r"'reward': expected shape \(3,\), got \(3, 1\)"),
        ({"action": np.zeros((12, 3), "f4").T}, ValueError, r"'action': expected a C-contiguous array, got strides"),
        ({"active": np.ones(2, np.uint8)}, ValueError, r"'active': expected shape \(3,\), got \(2,\)"),
        ({"active": np.ones(3)}, TypeError, r"'active': expected .*uint8 or bool, got dtype float64"),
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
        assert writer.stats["steps"] == 0
        writer.append(random_step(np.random.default_rng(0), 3), np.ones(3, np.uint8))  # goes on


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_envs": 0}, "num_envs: expected at least 1, got 0"),
        ({"num_envs": 8001}, "num_envs: expected at most 8000, got 8001"),
        ({"queue_capacity": 0}, "queue_capacity: expected at least 1, got 0"),
        ({"flush_every": -1}, "flush_every: expected at least 1, got -1"),
        ({"block_len": 0}, "block_len: expected at least 1, got 0"),
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


# ------------------------------------------------------------------------------------------------------------- failures


def test_missing_directory_is_reported_by_the_constructor(tmp_path, capfd):
    path = tmp_path / "missing" / "t.h5"
    with pytest.raises(OSError, match=re.escape(f"cannot write {path}.partial: No such file or directory")) as raised:
        make_writer(path, 1)
    assert raised.value.errno == 2
    assert capfd.readouterr().err == ""  # HDF5 itself prints nothing


def test_directory_in_place_of_the_partial_file_is_reported_by_the_constructor(tmp_path):
    (tmp_path / "t.h5.partial").mkdir()
    with pytest.raises(OSError, match=r"cannot write .*t\.h5\.partial: Is a directory"):
        make_writer(tmp_path / "t.h5", 1)


def test_forbidden_directory_is_reported_by_the_constructor(tmp_path):
    tmp_path.chmod(0o500)
    code = """
if os.geteuid() == 0:
    os.setuid(65534)  # root may write everywhere
try:
    make_writer(sys.argv[1], 1)
except OSError as error:
    print(error)
"""
    with in_child(code, tmp_path / "t.h5") as child:
        output, _ = child.communicate(timeout=HANG_S)
    assert "t.h5.partial: Permission denied" in output


FILL_DISK = """
import resource
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # then writing fails with EFBIG, as a full disk does with ENOSPC
resource.setrlimit(resource.RLIMIT_FSIZE, (2_000_000, 2_000_000))
writer = make_writer(sys.argv[1], 16, queue_capacity=2, flush_every=20)
step = random_step(np.random.default_rng(0), 16)
errors = []
for i in range(20_000):
    try:
        writer.append(step, np.ones(16, np.uint8))
    except OSError as error:
        errors.append(error)
        if len(errors) == 3:
            break
assert len(errors) == 3, "appending went on"
assert len({str(error) for error in errors}) == 1
print(errors[0])
print(errors[0].errno)
LAST
print("end")
"""


@pytest.mark.parametrize(
    "last_words",
    [
        "writer.abort()",
        "del writer",
        "with pytest.raises(OSError, match='File too large'): writer.close()",
        "with pytest.raises(OSError, match='File too large'), writer: pass",
    ],
)
def test_full_disk_surfaces_in_the_next_call_and_nothing_hangs(tmp_path, last_words):
    path = tmp_path / "t.h5"
    with in_child(FILL_DISK.replace("LAST", last_words), path) as child:
        output, _ = child.communicate(timeout=HANG_S)
    message, error_number, end = output.splitlines()
    assert message.startswith(f"cannot write {path}.partial: File too large")
    assert (error_number, end) == ("27", "end")
    assert child.returncode == 0
    assert not path.exists()
    with h5py.File(f"{path}.partial", "r") as file:  # what had been flushed before is still there
        flushed = file.attrs["stream_length"].tolist()
        assert len(set(flushed)) == 1 and flushed[0] > 0 and flushed[0] % 20 == 0
        step = random_step(np.random.default_rng(0), 16)
        saved = file["env_0015_block_0000/action"][: flushed[0]]
        assert (saved == step["action"][15]).all()


def test_writing_the_same_path_again_works_after_a_failure(tmp_path):
    code = FILL_DISK.replace("LAST", "write_random(sys.argv[1], 2, 30)")
    with in_child(code, tmp_path / "t.h5") as child:
        output, _ = child.communicate(timeout=HANG_S)
    assert output.endswith("end\n")
    assert group_names(tmp_path / "t.h5") == ["0-29", "30-59"]


# ---------------------------------------------------------------------------------------------------------------- kills

APPEND_FOREVER = """
num_envs, flush_every, seed = 6, 20, 3
writer = make_writer(sys.argv[1], num_envs, queue_capacity=4, flush_every=flush_every, block_len=64)
rows = {name: np.empty((num_envs, *shape), dtype) for name, (shape, dtype) in FIELDS.items()}
step = 0
while True:
    for values in rows.values():  # distinct small numbers, exact in every dtype
        values[...] = ((np.arange(num_envs) * 7 + step) % 251).reshape(-1, *[1] * (values.ndim - 1))
    writer.append(rows, np.ones(num_envs, np.uint8))
    step += 1
    print(step, flush=True)
    time.sleep(0.001)  # as a simulator takes its time: most of a collection lies between two flushes
"""


def assert_prefix(partial: Path, at_least: int):
    """The file holds the first transitions of each environment, at_least so many, in blocks of 64."""
    with h5py.File(partial, "r") as file:
        assert file.attrs["closed_cleanly"] == 0
        lengths = file.attrs["stream_length"].tolist()
        assert len(lengths) == 6 and min(lengths) >= at_least
        for env, length in enumerate(lengths):
            expected = (env * 7 + np.arange(length)) % 251
            for start in range(0, length, 64):
                group = file[f"env_{env:04d}_block_{start // 64:04d}"]
                stop = min(start + 64, length)
                for name in FIELDS:
                    block = group[name][: stop - start].reshape(stop - start, -1)
                    assert (block == expected[start:stop, None]).all(), (env, start, name)


@pytest.mark.parametrize("kill_after_steps", [30, 50, 110, 190, 310, 530])
def test_killed_process_leaves_a_readable_prefix(tmp_path, kill_after_steps):
    path = tmp_path / "t.h5"
    with in_child(APPEND_FOREVER, path) as child:
        watchdog = threading.Timer(HANG_S, child.kill)
        watchdog.start()
        for line in child.stdout:
            if int(line) == kill_after_steps:
                os.kill(child.pid, signal.SIGKILL)
                break
        child.stdout.read()
        child.wait()
        watchdog.cancel()
    assert child.returncode == -signal.SIGKILL
    assert not path.exists()
    # Not yet taken by the thread: at most the queue (4) and the step in its hands.  Flushed: whole multiples of 20.
    assert_prefix(Path(f"{path}.partial"), at_least=(kill_after_steps - 5) // 20 * 20)
