"""Every script of benchmarks/ finds what it imports; mypy does not look at them."""

import importlib
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "benchmarks"


@pytest.mark.parametrize("script", sorted(path.stem for path in FOLDER.glob("[a-z]*.py")))
def test_a_script_can_be_loaded(script, monkeypatch):
    monkeypatch.setattr(sys, "path", [str(FOLDER), *sys.path])
    assert importlib.import_module(script).__doc__
