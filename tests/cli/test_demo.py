"""``vintix-fast demo``: what it runs, and that `make demo` is the same."""

from pathlib import Path
from types import SimpleNamespace

import pytest
from commands import invoke

from vintix_fast import adaptation
from vintix_fast.report import build
from vintix_fast.service.bundled import checkpoint_path


@pytest.fixture
def ran(monkeypatch):
    """What was adapted with which options, and reported on."""
    seen = []

    def adapt(config, progress):
        seen.append(config)
        return SimpleNamespace(rows=[{"loop": 0, "env_steps": 1}], best_model=Path("best"), last_model=Path("last"))

    def report(path, **how):
        seen.append(path)
        return SimpleNamespace(html=path / "report/report.html", skipped={}, pngs={}, videos={})

    monkeypatch.setattr(adaptation, "adapt", adapt)
    monkeypatch.setattr(build, "build_report", report)
    return seen


def test_the_demo_adapts_go2_to_a_model_that_has_not_seen_it_and_reports(ran):
    result = invoke("demo")
    assert result.exit_code == 0, result.stderr
    config, reported = ran
    assert config.robot_type == "go2" and config.pretrained_path == checkpoint_path("builtin:without-go2")
    assert config.gate.target_return == 20.0 and config.num_improvement_loops == 3
    assert config.output_dir == reported == Path("runs/demo")
    assert config.overwrite and not config.resume


def test_the_demo_goes_on_and_goes_elsewhere(ran):
    assert invoke("demo", "--output-dir", "here", "--seed", 7, "--resume").exit_code == 0
    config, reported = ran
    assert config.resume and not config.overwrite and config.seed == 7 and reported == Path("here")


def test_make_demo_is_the_command():
    recipe = (Path(__file__).parents[2] / "Makefile").read_text().split("\ndemo: install\n")[1].split("\n\n")[0]
    assert recipe == "\t$(BIN)/vintix-fast demo $(DEMO_OPTIONS)"
