"""Data that lies elsewhere, was never written, would fill the memory, or is locked, is refused and explained."""

import subprocess
import sys

import h5py
import numpy as np
import pytest
from written_files import foreign_file

from vintix_fast.data import read_trajectories
from vintix_fast.data.schema import FIELDS, REQUIRED_FIELDS
from vintix_fast.service.errors import InputFileError


def never_written(group, name):
    dataset, rows = group[name], 10**9
    del group[name]
    group.create_dataset(name, (rows, *dataset.shape[1:]), dataset.dtype, chunks=(1000, *dataset.shape[1:]))


def in_another_file(group, name):
    whole = np.asarray(group[name])
    del group[name]
    group.create_dataset(name, whole.shape, whole.dtype, external=[("raw.bin", 0, whole.nbytes)])


def view_of_another_file(group, name):
    dataset = group[name]
    layout = h5py.VirtualLayout(dataset.shape, dataset.dtype)
    layout[:] = h5py.VirtualSource("other.h5", "0-4/reward", dataset.shape)
    del group[name]
    group.create_virtual_dataset(name, layout)


def linked(link):
    def change(group, name):
        del group[name]
        group[name] = link

    return change


ELSEWHERE = {
    "rows-never-written": (never_written, r"'0-4/reward' claims 5 rows that were never written"),
    "external-storage": (in_another_file, r"'0-4/reward' is stored in 'raw\.bin', and only data in the file itself"),
    "virtual": (view_of_another_file, r"'0-4/reward' is a view of 'other\.h5'"),
    "external-link": (linked(h5py.ExternalLink("other.h5", "/x")), r"'0-4/reward' is a link to '/x' of 'other\.h5'"),
    "soft-link": (linked(h5py.SoftLink("/0-4/step_num")), r"'0-4/reward' is a link to '/0-4/step_num'"),
}


@pytest.mark.parametrize(("change", "message"), ELSEWHERE.values(), ids=ELSEWHERE)
def test_data_that_is_not_in_the_file_is_not_read(tmp_path, change, message):
    path = foreign_file(tmp_path / "t.h5", [5])
    with h5py.File(path, "r+") as file:
        if change is never_written:  # all of a length
            for name in REQUIRED_FIELDS:
                never_written(file["0-4"], name)
            file.move("0-4", f"0-{10**9 - 1}")
            message = r"claims 1000000000 rows that were never written"
        else:
            change(file["0-4"], "reward")
    with pytest.raises(InputFileError, match=message):
        read_trajectories(path)


def test_a_packed_file_is_read_unless_it_would_fill_the_memory(tmp_path):
    def write(rows):
        with h5py.File(tmp_path / "t.h5", "w") as file:
            group = file.create_group(f"0-{rows - 1}")
            for name, (shape, dtype) in ((name, FIELDS[name]) for name in REQUIRED_FIELDS):
                zeros = np.zeros((rows, *shape), dtype)
                group.create_dataset(name, data=zeros, compression=1, chunks=(1000, *shape))
        return tmp_path / "t.h5"

    assert read_trajectories(write(1000)).num_transitions == 1000
    with pytest.raises(InputFileError, match=r"t\.h5: a file of \d+ bytes that would unpack to \d{8}"):
        read_trajectories(write(500_000))


def test_a_file_that_another_program_writes_is_not_called_damaged(tmp_path):
    path = foreign_file(tmp_path / "t.h5", [5])
    hold = "import h5py, sys; file = h5py.File(sys.argv[1], 'r+'); print(flush=True); sys.stdin.read()"
    with subprocess.Popen([sys.executable, "-c", hold, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        other.stdout.readline()
        with pytest.raises(InputFileError, match=r"t\.h5: another program has it open for writing.*wait"):
            read_trajectories(path)
        other.communicate()
    assert read_trajectories(path).num_transitions == 5


def test_numbers_beyond_float32_are_infinite_and_no_warning(tmp_path):
    (history,) = read_trajectories(foreign_file(tmp_path / "t.h5", [2], reward=np.array([1e300, 0.0]))).histories
    assert np.isinf(history.reward).tolist() == [True, False]
