"""Trainings that several files of tests look at."""

import pytest
from histories_on_disk import Watcher, config, write_robot

from vintix_fast.pretrain import pretrain as pretrain_module
from vintix_fast.pretrain.pretrain import pretrain


@pytest.fixture(scope="session")
def data(tmp_path_factory):
    """Three robots' directories of histories; not to be written to."""
    folder = tmp_path_factory.mktemp("data")
    names = ("go1", "go2", "minicheetah")
    return tuple(write_robot(folder / name, name, (24, 30), seed=i) for i, name in enumerate(names))


@pytest.fixture
def two(data):
    return data[:2]


@pytest.fixture(scope="session")
def finished(tmp_path_factory, data):
    """A training of two robots that nothing disturbed, and what it told; not to be written to."""
    out, watcher = tmp_path_factory.mktemp("finished") / "run", Watcher()
    return out, pretrain(config(out, data[:2]), progress=watcher), watcher


@pytest.fixture
def plots_are_empty(monkeypatch, finished):
    """Half of a small run's time is its plot; ``finished`` has a real one."""
    monkeypatch.setattr(pretrain_module, "write_losses", lambda folder, rows: None)
