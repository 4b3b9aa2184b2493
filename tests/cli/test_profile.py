"""`vintix-fast profile`: a loop of adapt in the fake simulator, its times and its trace."""

import json

import pytest
from fakes import FakeSimulator
from typer.testing import CliRunner

from vintix_fast.cli import app

SMALL = (
    "--num-envs", 3, "--episodes-per-loop", 4, "--finetune-steps-per-loop", 5, "--max-steps-per-episode", 14,
    "--context-len", 32, "--batch-size", 2, "--critic-updates", 2, "--no-bf16", "--min-steps-per-loop", 0,
)  # fmt: skip


@pytest.fixture
def profile(monkeypatch, tmp_path, tiny_checkpoint):
    """Runs the command with these words in an empty folder."""
    monkeypatch.setattr("vintix_fast.world.simulators.Simulator", FakeSimulator)
    monkeypatch.chdir(tmp_path)

    def run(*words):
        gate = () if "--no-gate" in words else ("--gate-episodes", 3)
        words = ("profile", "--pretrained-path", tiny_checkpoint, *SMALL, *gate, *words)
        return CliRunner().invoke(app, [str(word) for word in words], env={"COLUMNS": "100"})

    return run


def test_a_loops_time_is_told_by_region(profile, tmp_path):
    result = profile("--json")
    assert result.exit_code == 0, result.output
    summary = json.loads(result.stdout)
    regions = {r["region"]: r for r in summary["regions"]}
    for inner in ("simulate", "observe", "decode", "wait"):
        # 4 episodes in 3 environments, 22 steps; the gate's 3, of 14, take one pass before the loop, and after it one
        # for each share of the change that it tries and one for a new stance.
        assert regions[f"collect/{inner}"]["calls"] == 22
        assert regions[f"gate/{inner}"]["calls"] in (28, 42, 56, 70)
    assert regions["collect/write"]["calls"] == 22 and "gate/write" not in regions
    for inner in ("load", "forward", "backward", "optimise"):
        assert regions[f"train/{inner}"]["calls"] == 5
    assert {"train/critic", "start-up", "compile"} <= regions.keys()
    shares = [summary[part]["share"] for part in ("acting", "training", "starting")]
    assert all(0 < share < 1 for share in shares) and sum(shares) < 1
    acting = ("posture", "collect", "gate")
    assert summary["acting"]["seconds"] == pytest.approx(sum(regions[part]["seconds"] for part in acting))
    assert summary["totals"]["simulate"] == pytest.approx(
        sum(regions[f"{part}/simulate"]["self_seconds"] for part in acting)
    )
    assert sum(summary["totals"].values()) < summary["wall_seconds"]
    for number in ("env_steps_per_s", "finetune_seconds_per_step"):
        assert summary[number] > 0
    assert summary["options"]["episodes_per_loop"] == 4 and summary["options"]["robot_type"] == "go2"
    assert "Acting (collect and gate) against training" in result.stderr


def test_the_trace_is_the_only_file_left(profile, tmp_path):
    result = profile("--trace", "my-trace.json")
    assert result.exit_code == 0, result.output
    assert [path.name for path in tmp_path.iterdir()] == ["my-trace.json"]
    events = json.loads((tmp_path / "my-trace.json").read_text())["traceEvents"]
    assert {"collect", "simulate", "forward", "critic"} <= {event["name"] for event in events}
    assert "my-trace.json" in result.stdout and "simulate" in result.stdout


def test_a_run_is_kept_where_it_was_asked_for(profile, tmp_path):
    assert profile("--output-dir", "run", "--no-gate").exit_code == 0
    assert (tmp_path / "run" / "models" / "loop_01" / "model.pth").is_file()


def test_a_stopped_profile_says_so(profile, tmp_path, monkeypatch):
    def stop(*args, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr("vintix_fast.learning.finetune", stop)
    result = profile()
    assert result.exit_code == 130 and "no profile" in result.stderr and "--resume" not in result.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "words", [("--trace", "no/such/folder.json"), ("--trace", "."), ("--critic-updates", 0), ("--overwrite",)]
)
def test_bad_options_are_found_before_anything_runs(profile, tmp_path, words):
    result = profile(*words)
    assert result.exit_code == 2 and words[0] in result.stderr
    assert list(tmp_path.iterdir()) == []
