"""Make the bundled checkpoints: experts, histories, the four leave-one-out models, their evaluations and their cards.

Runs the commands that the cards show, each unless its result is there already, so that it can be stopped and run again:

    python benchmarks/make_checkpoints.py --output-dir runs/checkpoints

takes three to four hours on two cores; RAY_ADDRESS shares the robots out to a cluster's nodes, which need a file system
in common.  `--small` tries the script in minutes; its models know nothing and stay in the output directory.  Files that
a card needs are the commands' own: expert.json, distil.json, pretrain.json, eval.json.
"""

from __future__ import annotations

import argparse
import ctypes
import functools
import json
import os
import platform
import shlex
import signal
import subprocess
import sys
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from vintix_fast.benchmarks.machine import processor
from vintix_fast.model import fingerprint, load_checkpoint, save_checkpoint
from vintix_fast.pretrain.pretrain import MODEL_DIR
from vintix_fast.service.bundled import BUILTIN_CHECKPOINTS, CARD_FILE
from vintix_fast.service.console import ConsoleProgress
from vintix_fast.service.errors import VintixFastError
from vintix_fast.service.files import write_json, write_text
from vintix_fast.service.progress import Progress
from vintix_fast.sweep.trials import run_here_or_on_cluster
from vintix_fast.world.robot import joint_signs, load_robot

ROBOTS = ("go1", "go2", "a1", "minicheetah")
LATE = 2
"""Episodes from this number on (from 0) have two whole episodes in their context."""


@dataclass(frozen=True)
class Setting:
    """What differs between the bundled models and a trial of the script: robots, and options of each command."""

    robots: tuple[str, ...] = ROBOTS
    expert: tuple[str, ...] = ()
    distil: tuple[str, ...] = ()
    pretrain: tuple[str, ...] = ()
    evaluation: tuple[str, ...] = ("--num-envs", "10", "--episodes-per-env", "10")


FULL = Setting()
SMALL = Setting(
    robots=("go1", "go2"),
    expert=("--num-envs", "16", "--iterations", "3", "--eval-episodes", "4"),
    distil=("--histories", "4", "--num-envs", "4", "--steps-per-env", "300"),
    pretrain=("--steps", "6", "--batch-size", "2", "--window-len", "16", "--long-steps", "0", "--held-out", "0.25"),
    evaluation=("--num-envs", "2", "--episodes-per-env", "3", "--max-steps", "100"),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output-dir", type=Path, default=Path("runs/checkpoints"))
    parser.add_argument("--checkpoints", type=Path, help="where the models go; by default the bundled ones' place")
    parser.add_argument("--note", default="", help="a sentence for the cards, on how this was run")
    parser.add_argument("--only", choices=ROBOTS, nargs="*", help="robots to leave out")
    parser.add_argument("--small", action="store_true", help="two robots and tiny settings, to try the script")
    args = parser.parse_args()
    out, setting = args.output_dir, SMALL if args.small else FULL
    if args.only and not set(args.only) <= set(setting.robots):
        parser.error(f"--only {' '.join(args.only)}: --small has {' and '.join(setting.robots)} only")
    checkpoints = args.checkpoints or (out / "checkpoints" if args.small else BUILTIN_CHECKPOINTS)
    teach = {robot: functools.partial(make_histories, out, robot, setting) for robot in setting.robots}
    train = {
        f"without-{unseen}": functools.partial(make_model, out, checkpoints, unseen, args.note, setting)
        for unseen in args.only or setting.robots
    }
    told = ConsoleProgress(Console(stderr=True))
    try:
        for trials in (teach, train):
            run_here_or_on_cluster(trials, out / "logs", told)
    except VintixFastError as error:
        raise SystemExit(f"error: {error}") from error


def make_histories(out: Path, robot: str, setting: Setting, again: bool, progress: Progress) -> None:
    run(expert_command(out, robot, setting), out / "experts" / robot / "expert.json")
    run(distil_command(out, robot, setting), out / "histories" / robot / "distil.json")


def make_model(
    out: Path, checkpoints: Path, unseen: str, note: str, setting: Setting, again: bool, progress: Progress
) -> None:
    run(pretrain_command(out, unseen, setting), out / "models" / f"without-{unseen}" / "pretrain.json")
    bundle(out, checkpoints, unseen, note, setting)


def expert_command(out: Path, robot: str, setting: Setting) -> list[str]:
    return ["expert", "--robot-type", robot, "--output-dir", str(out / "experts" / robot), *setting.expert]


def distil_command(out: Path, robot: str, setting: Setting) -> list[str]:
    words = ["--expert", str(out / "experts" / robot), "--output-dir", str(out / "histories" / robot)]
    return ["distil", *words, *setting.distil]


def pretrain_command(out: Path, unseen: str, setting: Setting) -> list[str]:
    """What `vintix-fast leave-one-out` does for one robot."""
    seen = (robot for robot in setting.robots if robot != unseen)
    data = [word for robot in seen for word in ("--data", str(out / "histories" / robot))]
    return ["pretrain", *data, "--output-dir", str(out / "models" / f"without-{unseen}"), *setting.pretrain]


def eval_command(model: Path, robot: str, result: Path, setting: Setting, *more: str) -> list[str]:
    words = ["--vintix-path", str(model), "--robot-type", robot, *setting.evaluation, *more]
    return ["eval", *words, "--output-dir", str(result)]


def run(command: list[str], result: Path) -> None:
    """Run a command of vintix-fast unless its result is there; go on with what an interrupted one left."""
    if result.is_file():
        return
    resume = ["--resume"] if (result.parent / "config.json").is_file() else []
    print("$ vintix-fast", shlex.join([*command, *resume]), flush=True)
    program = Path(sys.executable).with_name("vintix-fast")
    status = subprocess.run([program, *command, *resume], preexec_fn=end_with_parent).returncode
    if status:  # told by the command itself; robots beside it go on
        raise VintixFastError(f"`vintix-fast {command[0]}` of {result.parent} ended with exit code {status}")


def end_with_parent() -> None:
    """A killed worker's command ends too, so that the next worker finds the directory free; Linux alone has that."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


def reference_for(unseen: str) -> str:
    """The robot whose adapter is copied for one that the model has not seen: adapt's default, or go1 for go2."""
    return "go1" if unseen == "go2" else "go2"


def measured(model: Path, robot: str, result: Path, setting: Setting, *more: str) -> dict[str, float]:
    """Mean returns of a few environments' episodes: all, the first episodes', those from the third on."""
    run(eval_command(model, robot, result, setting, *more), result / "eval.json")
    found = json.loads((result / "eval.json").read_text())
    by_number, errors = found["returns_by_episode_number"], found["standard_errors_by_episode_number"]
    return {
        "mean_return": found["mean_return"],
        "standard_error": found["standard_error"],
        "first_return": by_number[0],
        "first_standard_error": errors[0],
        "late_return": sum(by_number[LATE:]) / len(by_number[LATE:]),
        "late_standard_error": sum(error**2 for error in errors[LATE:]) ** 0.5 / len(errors[LATE:]),
        "mean_length": found["mean_episode_length"],
        "terminated": found["terminated"],
        "episodes": found["episodes"],
    }


def bundle(out: Path, checkpoints: Path, unseen: str, note: str, setting: Setting = FULL) -> None:
    """Store a model small, evaluate what was stored, and write its cards, unless the cards are of this model."""
    name = f"without-{unseen}"
    trained, target, results = out / "models" / name, checkpoints / name, out / "eval" / name
    model, cards = load_checkpoint(trained / MODEL_DIR), (target / CARD_FILE, target / "README.md")
    weights = fingerprint(model)
    if is_described(target, weights):
        return
    for card in cards:  # of the model that was there
        card.unlink(missing_ok=True)
    save_checkpoint(model, target, compact=True)
    seen = [robot for robot in setting.robots if robot != unseen]
    returns: dict[str, Any] = {}
    for robot in seen:
        returns[robot] = {"seen": True} | measured(target, robot, results / robot, setting)
    reference = ("--reference-robot", reference_for(unseen))
    returns[unseen] = {"seen": False, "reference_robot": reference[1]}
    returns[unseen] |= measured(target, unseen, results / f"{unseen}-converted", setting, *reference)
    if (joint_signs(load_robot(unseen), load_robot(reference[1])) < 0).any():
        plain = measured(target, unseen, results / f"{unseen}-plain", setting, *reference, "--init-map", "none")
        returns[unseen]["without_conversion"] = plain
    if unseen == "minicheetah":  # one is enough to see what storing bfloat16 costs
        full = measured(trained / MODEL_DIR, "go2", results / "go2-float32", setting)
        returns["go2"]["in_float32"] = full

    experts = {robot: json.loads((out / "experts" / robot / "expert.json").read_text()) for robot in seen}
    histories = {robot: json.loads((out / "histories" / robot / "distil.json").read_text()) for robot in seen}
    card = {"date": str(date.today()), "unseen": unseen, "returns": returns, "weights": weights}
    write_json(target / CARD_FILE, card)
    card["pretrain"] = json.loads((trained / "pretrain.json").read_text())
    write_text(target / "README.md", card_text(target, card, experts, histories, out, note, setting))


def is_described(target: Path, weights: str) -> bool:
    """Whether a bundled model's cards are there, and of these weights."""
    cards = target / CARD_FILE, target / "README.md"
    return all(card.is_file() for card in cards) and json.loads(cards[0].read_text()).get("weights") == weights


def card_text(
    target: Path, card: dict[str, Any], experts: dict, histories: dict, out: Path, note: str, setting: Setting
) -> str:
    """The model card of the checkpoint in ``target``."""
    name, training, unseen = target.name, card["pretrain"], card["unseen"]
    groups = ", ".join(f"`{group}`" for group in load_checkpoint(target).groups)
    where = f"{os.cpu_count()} cores ({processor()}), no GPU, Python {platform.python_version()}"
    options = training["options"]
    predicted = "the expert's action at each step" if options["target"] == "expert" else "the executed action"
    last = training["rows"][-1]
    lines = [
        f"# {name}",
        "",
        f"A Vintix of {training['parameters']:,} parameters (the usual architecture; token order "
        f"action-reward-observation) that has never seen {unseen}. Groups: {groups}. Stored in bfloat16.",
        "",
        f"Made on {card['date']} on {where}, torch {torch.__version__}, "
        f"genesis-world {training['versions']['genesis-world']}, "
        f"by the commands that `python benchmarks/make_checkpoints.py --output-dir {out}` runs. {note}".rstrip(),
        "",
        "```",
    ]
    for robot in experts:
        commands = expert_command(out, robot, setting), distil_command(out, robot, setting)
        lines += [f"vintix-fast {shlex.join(command)}" for command in commands]
    lines += [f"vintix-fast {shlex.join(pretrain_command(out, unseen, setting))}", "```", "", "## Data", ""]
    lines += [
        "| robot | expert: mean return of 100 episodes from randomised starts | reached 1000 steps | PPO steps "
        "| seconds | histories | steps of history | seconds |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for robot, expert in experts.items():
        found, history = expert["evaluation"], histories[robot]
        upright, error = found["episodes"] - found["terminated"], found["std_return"] / (found["episodes"] - 1) ** 0.5
        lines.append(
            f"| {robot} | {found['mean_return']:.2f} ± {error:.3f} | {upright}/{found['episodes']} "
            f"| {expert['env_steps']:,} | {expert['train_seconds']:.0f} | {history['histories']} "
            f"| {history['env_steps']:,} | {history['collect_seconds']:.0f} |"
        )
    lines += [
        "",
        "## Training",
        "",
        f"{training['steps']} steps of {options['batch_size']} windows of {options['window_len']} steps, the last "
        f"{options['long_steps']} with as many tokens in windows of {options['long_window_len']} "
        f"({training['tokens'] / 1e6:.1f} million tokens), AdamW, learning rate {options['lr']} with warm-up and "
        f"cosine decay, bfloat16 products, seed {options['seed']}: {training['seconds']:.0f} s. It learned to predict "
        f"{predicted}. Squared action error {last['loss']:.4f}, on held-out histories "
        f"{last.get('held_out_loss', float('nan')):.4f}.",
        "",
        "## Returns",
        "",
        f"`vintix-fast eval {shlex.join(setting.evaluation)}`: up to 1000 steps, no noise, the context carried on "
        "from episode to episode, starts moved by up to 0.1 rad and 5 degrees; mean ± standard error; of what is "
        "stored here, unless said otherwise.",
        "",
        "| robot | all episodes | first episodes | from the third on | mean length | fell |",
        "|---|---|---|---|---|---|",
    ]
    for robot, found in card["returns"].items():
        if found["seen"]:
            lines.append(row(robot, found))
            if "in_float32" in found:
                lines.append(row(f"{robot}, weights in float32 as trained", found["in_float32"]))
    zero_shot = card["returns"][unseen]
    copied = f"**{unseen}**, never seen: copy of {zero_shot['reference_robot']}'s adapter"
    if "without_conversion" in zero_shot:
        lines += [row(f"{copied}, converted", zero_shot), row(f"{copied}, plain", zero_shot["without_conversion"])]
    else:
        lines.append(row(f"{copied} (their joints turn alike: nothing to convert)", zero_shot))
    lines.append("")
    return "\n".join(lines)


def row(what: str, found: dict[str, float]) -> str:
    return (
        f"| {what} | {found['mean_return']:.2f} ± {found['standard_error']:.3f} "
        f"| {found['first_return']:.2f} ± {found['first_standard_error']:.3f} "
        f"| {found['late_return']:.2f} ± {found['late_standard_error']:.3f} "
        f"| {found['mean_length']:.0f} | {found['terminated']}/{found['episodes']} |"
    )


if __name__ == "__main__":
    main()
