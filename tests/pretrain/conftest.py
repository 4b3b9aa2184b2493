"""Trainings that several files of tests look at."""

import pytest
from histories_on_disk import Watcher, config, write_robot

from vintix_fast.policy.expert import expert_network
from vintix_fast.pretrain import pretrain as pretrain_module
from vintix_fast.pretrain.pretrain import pretrain
from vintix_fast.service.files import save_tensors, write_json


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


@pytest.fixture
def tiny_expert(tmp_path):
    """An expert's directory made by hand."""
    out = tmp_path / "expert"
    out.mkdir()
    save_tensors(out / "expert.pth", expert_network([8]).state_dict())
    write_json(out / "expert.json", {"robot": "go2", "hidden_dims": [8]})
    return out
