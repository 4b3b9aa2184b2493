"""The pages: what they name exists, and the README stays short."""

import json
import re
from dataclasses import MISSING
from pathlib import Path

import pytest
from typer.main import get_command

from vintix_fast.cli import app
from vintix_fast.config import AdaptConfig
from vintix_fast.options import entries
from vintix_fast.service.bundled import checkpoint_path

ROOT = Path(__file__).parents[1]
PAGES = [
    ROOT / "README.md",
    ROOT / "README.ja.md",
    *(ROOT / "docs").glob("*.md"),
    ROOT / "benchmarks/results/summary.md",
]
OTHERS = {"help", "experts", "max-episodes", "output", "mutants", "kills", "real", "nproc-per-node"} | {
    "port", "log", "stand", "periods", "explore", "small",
}  # fmt: skip
"""Of every command, of benchmarks/zoo.py, what the original script's evaluation calls two of ours, of the tests
that are programs too, of benchmarks, of torchrun, and of csrc/runner/walk.cpp."""
GENERATED = {"options.md"}


def words(page: Path) -> str:
    return page.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "page", [page for page in PAGES if page.name not in GENERATED | {"container.md"}], ids=lambda page: page.name
)
def test_every_option_that_a_page_names_exists(page):
    commands = get_command(app).commands.values()
    spelt = {name for c in commands for p in c.params for name in (*p.opts, *p.secondary_opts)}
    known = {name.removeprefix("--") for name in spelt} | OTHERS
    named = {name.replace("_", "-") for name in re.findall(r"(?<![\w-])--([a-z][a-z0-9_-]*)", words(page))}
    assert named - known == set()


@pytest.mark.parametrize("page", [*PAGES, ROOT / "benchmarks/results/history.md"], ids=lambda page: page.name)
def test_every_link_leads_somewhere(page):
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", words(page)):
        assert (page.parent / target).exists() or Path(target).name in GENERATED, target


def test_the_readme_is_short_and_both_languages_agree():
    english, japanese = words(ROOT / "README.md"), words(ROOT / "README.ja.md")
    assert len(english.split()) <= 900
    numbers = r"^\| (?:go2|go1|a1|minicheetah) \|.*$"
    assert re.findall(numbers, english, re.MULTILINE) == re.findall(numbers, japanese, re.MULTILINE)
    commands = [re.findall(r"^(?:make|vintix-fast) .*?(?=\s+#|$)", text, re.MULTILINE) for text in (english, japanese)]
    assert commands[0] == commands[1] and len(commands[0]) > 9


@pytest.mark.parametrize("page", ["README.md", "README.ja.md"])
def test_the_readmes_defaults_are_those_of_the_options(page):
    rows = re.findall(r"^\| `--([a-z-]+)` \| `?([^`|]+?)`? \|", words(ROOT / page), re.MULTILINE)
    known = entries(AdaptConfig)
    assert len(rows) >= 10
    for name, shown in rows:
        default = known[name.replace("-", "_")].default
        if shown in ("required", "必須"):
            assert default is MISSING
        elif default is None:
            assert known[name.replace("-", "_")].option.shown.startswith(shown)
        elif shown.startswith("builtin:"):
            assert default == checkpoint_path(shown)
        else:
            assert type(default)(shown) == default, name


def test_the_returns_that_robots_lists_are_those_of_the_results():
    rows = (words(ROOT / "docs/results.md") + words(ROOT / "benchmarks/results/zoo.md")).splitlines()
    measured = json.loads((ROOT / "vintix_fast/world/robots/measured.json").read_text())
    for name, returns in measured.items():
        numbers = [f"{value:.2f}" for value in returns.values()]
        assert any(row.startswith(f"| {name} |") and all(number in row for number in numbers) for row in rows), name
