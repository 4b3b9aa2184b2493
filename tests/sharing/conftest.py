"""A small run for the tests of sharing."""

import pytest
from fakes import save_tiny
from runs import run_small


@pytest.fixture(scope="session")
def run_dir(tmp_path_factory):
    """A finished run of three loops in the fake simulator; not to be written to."""
    folder = tmp_path_factory.mktemp("run")
    run_small(folder / "out", save_tiny(folder / "checkpoint"), num_improvement_loops=3)
    return folder / "out"
