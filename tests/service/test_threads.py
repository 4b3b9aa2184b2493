"""`vintix_fast.service.threads`: threads that OpenMP's settings would tie to one core are free."""

import json
import os
import subprocess
import sys

import pytest

CORES = os.sched_getaffinity(0)
"""Where there is but one core, these tests show little."""
REPORT = "import json, os; print(json.dumps([sorted(os.sched_getaffinity(0)), os.environ.get('OMP_PROC_BIND')]))"


def report(imports: str, **given: str) -> tuple[list, str]:
    done = subprocess.run(
        [sys.executable, "-c", f"{imports}\n{REPORT}"], env=os.environ | given, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout), done.stderr


@pytest.mark.parametrize(
    ("imports", "given"),
    [
        ("import vintix_fast, torch", {"OMP_PROC_BIND": "true", "OMP_PLACES": "cores"}),
        ("import torch, vintix_fast", {"OMP_PLACES": "cores"}),  # by itself it ties threads too
    ],
)
def test_the_main_thread_has_all_cores_in_either_order(imports, given):
    found, said = report(imports, **given)
    assert found == [sorted(CORES), "false"] and said.count("\n") == 1
    assert all(f"{name}={value}" in said for name, value in given.items())


def test_nothing_is_changed_or_said_unless_threads_are_tied():
    assert report("import vintix_fast") == ([sorted(CORES), None], "")
    assert report("import vintix_fast", OMP_PROC_BIND="FALSE") == ([sorted(CORES), "FALSE"], "")
