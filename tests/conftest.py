"""Fixtures of every test; their making is in `fakes.py`."""

from pathlib import Path

import pytest
from fakes import save_tiny

from vintix_fast.model import Vintix, load_checkpoint
from vintix_fast.robots import Robot, load_robot


@pytest.fixture(scope="session")
def go2() -> Robot:
    return load_robot("go2")


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory) -> Path:
    """A small model with a group for go2 and one for go1; not to be written to."""
    return save_tiny(tmp_path_factory.mktemp("tiny") / "checkpoint")


@pytest.fixture
def tiny(tiny_checkpoint) -> Vintix:
    """The model of ``tiny_checkpoint``, free to be changed."""
    return load_checkpoint(tiny_checkpoint)
