"""TrajectoryWriter where it cannot write, on a full disk, and killed in the middle."""

import os
import re
import signal
import threading
from pathlib import Path

import h5py
import numpy as np
import pytest
from written_files import HANG_S, group_names, in_child, make_writer, random_step

from vintix_fast.data.schema import FIELDS


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
