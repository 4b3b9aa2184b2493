"""`vintix-fast report`: its words, its exit codes, its one JSON object."""

import json
import os
import subprocess
import sys

import pytest
from runs import run_small
from typer.testing import CliRunner

from vintix_fast.cli import app


def invoke(*words):
    return CliRunner().invoke(app, ["report", *map(str, words)])


@pytest.fixture(scope="module")
def out(tmp_path_factory, tiny_checkpoint):
    out = tmp_path_factory.mktemp("cli") / "a [run]"
    run_small(out, tiny_checkpoint, num_improvement_loops=1, episodes_per_loop=6)
    return out


def test_json_names_what_was_made(out):
    result = invoke(out, "--no-rollout", "--json")
    assert result.exit_code == 0, result.output
    assert result.stdout.count("\n") == 1
    made, folder = json.loads(result.stdout), out / "report"
    assert made["html"] == str(folder / "report.html") and (folder / "report.html").is_file()
    assert made["pngs"] == [str(folder / f"{name}.png") for name in ("returns", "lengths", "by_episode")]
    assert made["videos"] == [] and made["video_skipped_reason"] == "--no-rollout was given"
    assert f"Report: {folder / 'report.html'}" in result.stderr and "No video: --no-rollout" in result.stderr


def test_without_json_standard_output_is_empty(out):
    result = invoke(out, "--no-rollout")
    assert (result.exit_code, result.stdout) == (0, "")


def test_options_reach_the_report(monkeypatch, tmp_path):
    from vintix_fast.report import build

    seen = []

    def make(path, **options):
        seen.append((path, options["rollout"], options["video"]))
        return build.Report(path / "report.html", {}, {}, {})

    monkeypatch.setattr(build, "build_report", make)
    for words in ([], ["--no-video"], ["--no-rollout"], ["--no_video"]):
        assert invoke(tmp_path, *words).exit_code == 0
    assert [options[1:] for options in seen] == [(True, True), (True, False), (False, True), (True, False)]


def test_paths_without_a_run_are_refused(tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "empty").mkdir()
    for name, text in (("nothing", "does not exist"), ("file", "is a file"), ("empty", "holds no run")):
        result = invoke(tmp_path / name)
        assert result.exit_code == 4 and result.stdout == ""
        said = " ".join(result.stderr.split())
        assert f"{tmp_path / name} {text}" in said and "give the --output-dir of a `vintix-fast adapt`" in said
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["empty", "file"]


def test_a_directory_that_cannot_be_written_to_is_refused(out, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: not mode & os.W_OK)  # root may write anywhere
    result = invoke(out, "--no-rollout")
    assert result.exit_code == 1 and "no permission to write" in result.stderr


def test_wrong_usage_ends_with_2(tmp_path):
    assert invoke().exit_code == 2
    assert invoke(tmp_path, "--videos").exit_code == 2
    assert invoke(tmp_path, tmp_path).exit_code == 2


def test_help_is_light():
    code = """
import sys
sys.argv = ["vintix-fast", "report", "--help"]
from vintix_fast.cli import main
try:
    main()
except SystemExit as end:
    assert not end.code
heavy = {"torch", "genesis", "h5py", "numpy", "matplotlib", "triton", "av"} & set(sys.modules)
sys.exit(f"imported {heavy}" if heavy else 0)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=os.environ | {"COLUMNS": "80"}
    )
    assert done.returncode == 0, done.stderr
    assert all(word in done.stdout for word in ("--no-video", "--no-rollout", "--json"))
