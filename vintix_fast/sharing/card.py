"""The model card of what goes to the Hugging Face Hub: README.md, made of a run's results or a bundled model's card.

Reads the results; knows nothing about networks.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCardData

from vintix_fast.model import Vintix
from vintix_fast.report.record import RunRecord
from vintix_fast.service.bundled import CARD_FILE
from vintix_fast.service.files import read_json, versions
from vintix_fast.world.robot import robot_names

TAGS = ["vintix", "in-context-learning", "quadruped", "locomotion", "genesis"]
USE = """```
pip install vintix-fast
vintix-fast pull {repo} MODEL
vintix-fast eval --vintix-path MODEL --robot-type {robot}
```
"""


def card_of_run(run: RunRecord, robot: str, model: Vintix, repo: str) -> str:
    """The card of an `adapt` run's model: its robot, its returns before and after, how it came about."""
    best, first = run.best or (run.measured[-1] if run.measured else None), run.zero_shot
    rows = [f"| {name} | {_measured(row)} |" for name, row in (("before", first), ("after", best)) if row]
    table = "\n".join(["| | return of an episode | length | episodes from |", "|---|---|---|---|", *rows])
    steps = ", ".join(f"{int(run.total(key)):,} {words}" for key, words in STEPS.items() if run.total(key))
    options = {key: value for key, value in run.options.items() if value not in (None, False)}
    parts = [
        f"# Vintix, adapted to {robot}",
        f"A [Vintix](https://github.com/dunnolab/vintix) of {_size(model)} parameters that learned to walk on "
        f"{robot} by itself, with vintix-fast: {run.loops_done} loops, {steps}.",
        *([table] if rows else ["No evaluation was made (`--no-gate`)."]),
        USE.format(repo=repo, robot=robot if robot in robot_names() else f"{robot}.toml"),
        "## How it was made",
        "```\nvintix-fast adapt " + " ".join(f"--{k.replace('_', '-')} {v}" for k, v in _said(options)) + "\n```",
        "Versions: " + ", ".join(f"{name} {version}" for name, version in (run.versions or versions()).items()) + ".",
        _robots(model),
    ]
    found = {robot: (best["eval_return"], best.get("eval_standard_error"))} if best else {}
    return _front(found, repo) + "\n\n".join(parts) + "\n"


STEPS = {"env_steps": "environment steps collected", "eval_env_steps": "in evaluations"}
LEFT_OUT = ("output_dir", "resume", "overwrite", "num_envs", "task", "pretrained_path")


def card_of_model(folder: Path, model: Vintix, repo: str) -> str:
    """The card of a checkpoint; with the returns that its ``card.json`` tells, if it has one."""
    card = read_json(folder / CARD_FILE, "leave it out", {"returns": dict}) if _has_card(folder) else {"returns": {}}
    parts = [
        f"# {folder.name}",
        f"A [Vintix](https://github.com/dunnolab/vintix) of {_size(model)} parameters, for vintix-fast.",
    ]
    found = {robot: (row["mean_return"], row.get("standard_error")) for robot, row in card["returns"].items()}
    if found:
        parts.append(
            "\n".join(
                [
                    "| robot | return of an episode | length | fell |",
                    "|---|---|---|---|",
                    *(
                        f"| {robot}{'' if row.get('seen', True) else ', never seen'} | {_number(*found[robot])} | "
                        f"{row.get('mean_length', float('nan')):.0f} | "
                        f"{row.get('terminated', '?')}/{row.get('episodes', '?')} |"
                        for robot, row in card["returns"].items()
                    ),
                ]
            )
        )
    robot = next(iter(model.tasks)).removesuffix("_walking_ad")
    parts += [USE.format(repo=repo, robot=robot), _robots(model)]
    return _front(found, repo) + "\n\n".join(parts) + "\n"


def _has_card(folder: Path) -> bool:
    return (folder / CARD_FILE).is_file()


def _front(found: dict[str, tuple[float, float | None]], repo: str) -> str:
    """What the Hub reads, as YAML between two lines."""
    results = [
        EvalResult(
            task_type="reinforcement-learning", task_name="walking", dataset_type=f"vintix-fast-{robot}",
            dataset_name=robot, metric_type="mean_reward", metric_name="return of an episode",
            metric_value=_number(*values),
        )
        for robot, values in found.items()
    ]  # fmt: skip
    options: dict[str, Any] = {"model_name": repo.rpartition("/")[2], "eval_results": results} if results else {}
    data = ModelCardData(library_name="vintix-fast", pipeline_tag="reinforcement-learning", tags=TAGS, **options)
    return f"---\n{data.to_yaml()}\n---\n\n"


def _measured(row: dict[str, Any]) -> str:
    value = _number(row["eval_return"], row.get("eval_standard_error"))
    length = row.get("eval_length")
    start = "the initial policy" if row["loop"] == 0 else f"loop {row['loop']}"
    return f"{value} | {'' if length is None else f'{length:.0f}'} | {start}"


def _number(value: float, error: float | None) -> str:
    return f"{value:.2f}" + (f" ± {error:.2f}" if error is not None else "")


def _size(model: Vintix) -> str:
    return f"{sum(p.numel() for p in model.parameters()):,}"


def _robots(model: Vintix) -> str:
    return "Tasks: " + ", ".join(f"`{name}` (group `{info.group_name}`)" for name, info in model.tasks.items()) + "."


def _said(options: dict[str, Any]) -> list[tuple[str, Any]]:
    plain = (int, float, str)
    return [(k, v) for k, v in options.items() if k not in LEFT_OUT and isinstance(v, plain) and "." not in k]
