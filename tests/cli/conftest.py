"""What the tests of refusals share: a folder with a checkpoint, in which nothing may change."""

import shutil
from pathlib import Path

import pytest
import torch
from commands import spoken, tree
from typer.testing import CliRunner

from vintix_fast.cli import app

GOLDEN = Path(__file__).parents[1] / "golden" / "vintix_tiny"  # has go2 and a1, context 64
COMMON = {
    "adapt": "--pretrained-path checkpoint --robot-type minicheetah --output-dir out --context-len 64",
    "eval": "--vintix-path checkpoint --robot-type go2 --output-dir out --num-envs 2",
    "inspect": "",
}


@pytest.fixture
def refuse(tmp_path, monkeypatch):
    """A function that runs a command in a folder with ``checkpoint`` and asserts how it is refused."""

    def must_not_run(*args, **kwargs):
        raise AssertionError("the simulator was built")

    monkeypatch.setattr("vintix_fast.world.simulators.Simulator", must_not_run)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    shutil.copytree(GOLDEN, tmp_path / "checkpoint", ignore=shutil.ignore_patterns("io.npz"))
    monkeypatch.chdir(tmp_path)

    def run(line: str, code: int, *texts: str) -> None:
        command, *words = line.split()
        before = tree(tmp_path)
        result = CliRunner().invoke(app, [command, *COMMON[command].split(), *words])  # the last of two options counts
        said = spoken(result.stderr)
        assert isinstance(result.exception, SystemExit), result.exception
        assert result.exit_code == code, said
        assert "Traceback" not in said
        assert result.stdout == ""
        for text in texts:
            assert text in said
        assert tree(tmp_path) == before

    return run
