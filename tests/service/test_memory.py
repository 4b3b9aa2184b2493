"""Environments that do not fit into the memory are refused before anything is built; freed memory is used again."""

import ctypes
import subprocess
import sys

import pytest

from vintix_fast.service import memory
from vintix_fast.service.errors import UsageError
from vintix_fast.service.memory import check_memory

MB = 1_000_000


def test_too_many_environments_are_refused_with_the_number_that_fits(monkeypatch):
    monkeypatch.setattr(memory, "free_bytes", lambda device: 102 * MB)
    check_memory(10, 9_400_000)
    with pytest.raises(UsageError, match=r"--num-envs 11 needs 0.1 GB \(10.2 MB each\).* give at most 10"):
        check_memory(11, 9_400_000)


def test_free_memory_is_that_of_this_machine(monkeypatch):
    free = memory.free_bytes("cpu")
    assert free is None or 0 < free < 2**50
    check_memory(1, MB)
    with pytest.raises(UsageError, match="are free on cpu"):
        monkeypatch.setattr(memory, "free_bytes", lambda device: MB)
        check_memory(1, MB)
    monkeypatch.setattr(memory, "free_bytes", lambda device: None)  # a system that does not say
    check_memory(10**6, MB)


def test_a_containers_limit_counts_where_it_is_less(monkeypatch, tmp_path):
    monkeypatch.setattr(memory, "CGROUP", tmp_path)
    monkeypatch.setattr(memory, "OWN_GROUPS", tmp_path / "nowhere")
    monkeypatch.setattr(memory, "_free_on_host", lambda: 10**6)

    def free(limit):
        content = {"memory.max": f"{limit}\n", "memory.current": "5000\n", "memory.stat": "anon 3\ninactive_file 70\n"}
        for name, text in content.items():
            (tmp_path / name).write_text(text)
        return memory.free_bytes("cpu")

    assert memory.free_bytes("cpu") == 10**6  # no control group
    assert [free("max"), free(2**50), free(6000), free(4000)] == [10**6, 10**6, 1070, 0]
    monkeypatch.setattr(memory, "_free_on_host", lambda: None)
    assert free(6000) == 1070


@pytest.mark.parametrize("version, own", [
    (2, "0::/system.slice/job_7/step_0/task_0"),
    (1, "12:cpu:/other\n4:memory:/slurm/job_7/step_0/task_0"),
])  # fmt: skip
def test_the_smallest_limit_above_a_clusters_job_counts(monkeypatch, tmp_path, version, own):
    """A job's limit stands in its group or in one above it, seldom where the groups are mounted."""
    monkeypatch.setattr(memory, "CGROUP", tmp_path)
    monkeypatch.setattr(memory, "OWN_GROUPS", tmp_path / "own")
    monkeypatch.setattr(memory, "_free_on_host", lambda: 10**6)
    (tmp_path / "own").write_text(own + "\n")
    limit_file, use_file, droppable = memory.VERSIONS[version]
    task = (tmp_path if version == 2 else tmp_path / "memory") / own.rpartition(":")[2].strip("/")
    task.mkdir(parents=True)

    def limited(folder, limit):
        for name, text in ((limit_file, limit), (use_file, 5000), ("memory.stat", f"{droppable} 70")):
            (folder / name).write_text(f"{text}\n")

    assert memory.free_bytes("cpu") == 10**6  # nobody says anything
    limited(task, "max" if version == 2 else 2**63 - 4096)
    assert memory.free_bytes("cpu") == 10**6
    limited(task.parents[1], 9000)
    assert memory.free_bytes("cpu") == 4070
    limited(task.parent, 7000)
    assert memory.free_bytes("cpu") == 2070


FAULTS = """
import resource
import numpy as np
from vintix_fast.service.memory import keep_freed_memory

keep_freed_memory()
def use():
    [np.ones(2 << 20, np.float32) for _ in range(20)]  # 8 MB each
use()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
use()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="the C library is not glibc")
def test_freed_memory_is_used_again():
    done = subprocess.run([sys.executable, "-c", FAULTS], check=True, capture_output=True)
    assert int(done.stdout) < 100  # of 40,000 pages
