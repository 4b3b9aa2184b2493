"""`vintix_fast.service.threads`: threads that OpenMP's settings would tie to one core are free."""

import json
import os
import subprocess
import sys

import pytest

CORES = os.sched_getaffinity(0)
REPORT = "import json, os; print(json.dumps([sorted(os.sched_getaffinity(0)), os.environ.get('OMP_PROC_BIND')]))"


def report(imports: str, **given: str) -> tuple[list, str]:
    done = subprocess.run(
        [sys.executable, "-c", f"{imports}\n{REPORT}"], env=os.environ | given, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout), done.stderr


@pytest.mark.skipif(len(CORES) < 2, reason="one core is all that there is")
def test_torch_ties_the_main_thread_by_itself():
    """What the others rest on."""
    assert len(report("import torch", OMP_PROC_BIND="true", OMP_PLACES="cores")[0][0]) == 1


@pytest.mark.parametrize("imports", ["import vintix_fast, torch", "import torch, vintix_fast"])
@pytest.mark.parametrize("given", [{"OMP_PROC_BIND": "true"}, {"OMP_PLACES": "cores"}])
def test_the_main_thread_has_all_cores_in_either_order(imports, given):
    found, said = report(imports, **given)
    assert found == [sorted(CORES), "false"] and said.count("\n") == 1
    assert all(f"{name}={value}" in said for name, value in given.items())


def test_nothing_is_changed_or_said_unless_threads_are_tied():
    assert report("import vintix_fast") == ([sorted(CORES), None], "")
    assert report("import vintix_fast", OMP_PROC_BIND="FALSE") == ([sorted(CORES), "FALSE"], "")
