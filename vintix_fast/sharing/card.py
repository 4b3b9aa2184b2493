"""The model card of what goes to the Hugging Face Hub: README.md, made of a run's results or a bundled model's card.

Reads the results; knows nothing about networks.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCardData

from vintix_fast.config import AdaptConfig
from vintix_fast.model import Vintix
from vintix_fast.options import entries
from vintix_fast.report.record import RunRecord
from vintix_fast.service.bundled import CARD_FILE
from vintix_fast.service.console import plus_minus
from vintix_fast.service.files import read_json, versions
from vintix_fast.world.robot import robot_names

TAGS = ["vintix", "in-context-learning", "quadruped", "locomotion", "genesis"]
NO_EVALUATION = "No evaluation was made (`--no-gate`)."
USE = """```
pip install vintix-fast
vintix-fast pull {repo} MODEL
vintix-fast eval --vintix-path MODEL --robot-type {robot}
```
"""


def card_of_run(run: RunRecord, robot: str, model: Vintix, repo: str) -> str:
    """The card of an `adapt` run's model: its robot, its returns before and after, how it came about."""
    best, first = run.best or (run.measured[-1] if run.measured else None), run.zero_shot
    rows = [f"{name} | {_measured(row)}" for name, row in (("before", first), ("after", best)) if row]
    table = _table("| return of an episode | length | episodes from", rows) if rows else NO_EVALUATION
    steps = ", ".join(f"{int(run.total(key)):,} {words}" for key, words in STEPS.items() if run.total(key))
    parts = [
        f"# Vintix, adapted to {robot}",
        f"A [Vintix](https://github.com/dunnolab/vintix) of {_size(model)} parameters that learned to walk on "
        f"{robot} by itself, with vintix-fast: {run.loops_done} loops, {steps}.",
        table,
        USE.format(repo=repo, robot=robot if robot in robot_names() else f"{robot}.toml"),
        "## How it was made",
        f"```\nvintix-fast adapt {' '.join(_said(run.options))}\n```",
        "Versions: " + ", ".join(f"{name} {version}" for name, version in (run.versions or versions()).items()) + ".",
        _robots(model),
    ]
    found = {robot: (best["eval_return"], best.get("eval_standard_error"))} if best else {}
    return _front(found, repo) + "\n\n".join(parts) + "\n"


STEPS = {"env_steps": "environment steps collected", "eval_env_steps": "in evaluations"}
LEFT_OUT = ("output_dir", "resume", "overwrite", "num_envs", "task", "pretrained_path")


def card_of_model(folder: Path, model: Vintix, repo: str) -> str:
    """The card of a checkpoint; with the returns that its ``card.json`` tells, if it has one."""
    file = folder / CARD_FILE
    card = read_json(file, "leave it out", {"returns": dict}) if file.is_file() else {"returns": {}}
    parts = [
        f"# {folder.name}",
        f"A [Vintix](https://github.com/dunnolab/vintix) of {_size(model)} parameters, for vintix-fast.",
    ]
    found = {robot: (row["mean_return"], row.get("standard_error")) for robot, row in card["returns"].items()}
    if found:
        rows = [
            f"{robot}{'' if row.get('seen', True) else ', never seen'} | {plus_minus(*found[robot])} | "
            f"{row.get('mean_length', float('nan')):.0f} | {row.get('terminated', '?')}/{row.get('episodes', '?')}"
            for robot, row in card["returns"].items()
        ]
        parts.append(_table("robot | return of an episode | length | fell", rows))
    robot = next(iter(model.tasks)).removesuffix("_walking_ad")
    parts += [USE.format(repo=repo, robot=robot), _robots(model)]
    return _front(found, repo) + "\n\n".join(parts) + "\n"


def _table(columns: str, rows: list[str]) -> str:
    return "\n".join([f"| {columns} |", "|---|---|---|---|", *(f"| {row} |" for row in rows)])


def _front(found: dict[str, tuple[float, float | None]], repo: str) -> str:
    """What the Hub reads, as YAML between two lines."""
    results = [
        EvalResult(
            task_type="reinforcement-learning", task_name="walking", dataset_type=f"vintix-fast-{robot}",
            dataset_name=robot, metric_type="mean_reward", metric_name="return of an episode",
            metric_value=plus_minus(*values),
        )
        for robot, values in found.items()
    ]  # fmt: skip
    options: dict[str, Any] = {"model_name": repo.rpartition("/")[2], "eval_results": results} if results else {}
    data = ModelCardData(library_name="vintix-fast", pipeline_tag="reinforcement-learning", tags=TAGS, **options)
    return f"---\n{data.to_yaml()}\n---\n\n"


def _measured(row: dict[str, Any]) -> str:
    value = plus_minus(row["eval_return"], row.get("eval_standard_error"))
    length = row.get("eval_length")
    start = "the initial policy" if row["loop"] == 0 else f"loop {row['loop']}"
    return f"{value} | {'' if length is None else f'{length:.0f}'} | {start}"


def _size(model: Vintix) -> str:
    return f"{sum(p.numel() for p in model.parameters()):,}"


def _robots(model: Vintix) -> str:
    return "Tasks: " + ", ".join(f"`{name}` (group `{info.group_name}`)" for name, info in model.tasks.items()) + "."


def _said(options: dict[str, Any]) -> Iterator[str]:
    """A run's options as a user writes them, but for this machine's; flags where they are not the default."""
    for name, entry in entries(AdaptConfig).items():
        value = options.get(name)
        if name not in LEFT_OUT and not entry.plain and isinstance(value, int | float | str):
            if entry.kind is not bool or value != entry.default:
                yield entry.spelt(value)
