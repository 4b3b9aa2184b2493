"""Calling a command, and reading what it printed."""

import json
import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from vintix_fast.cli import app


def invoke(*words, columns=80):
    return CliRunner().invoke(app, [str(word) for word in words], env={"COLUMNS": str(columns)})


def tree(folder: Path) -> dict[str, bytes | None]:
    """What there is below a folder: the bytes of files, None of folders."""
    return {str(p.relative_to(folder)): p.read_bytes() if p.is_file() else None for p in folder.rglob("*")}


def spoken(text: str) -> str:
    """Without colours and the frames that Typer draws."""
    return re.sub(r"(\x1b\[[\d;]*m|[│╭╮╰╯─\s])+", " ", text)


def last_json(result, exit_code=0) -> dict:
    """The one JSON object of a command's standard output."""
    assert result.exit_code == exit_code, result.output
    assert result.stdout.count("\n") == 1 and result.stdout.endswith("\n")
    return json.loads(result.stdout, parse_constant=pytest.fail)
