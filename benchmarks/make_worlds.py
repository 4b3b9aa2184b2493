"""Make the bundled models of other worlds and commands: experts, histories, models and their cards.

Runs the commands that the cards show, each unless its result is there already, so that it can be stopped and run again:

    python benchmarks/make_worlds.py --output-dir runs/worlds

takes three to four hours on two cores.  All begin as the bundled model without Mini Cheetah.  `--small` tries the
script in minutes.  One expert teaches a robot's plain world and its varied ones: of two, a context tells which of them
it follows rather than what the world is.
"""

from __future__ import annotations

import argparse
import json
import shlex
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

from vintix_fast.benchmarks.make_checkpoints import FULL, SMALL, Setting, is_described, measured, row, run
from vintix_fast.model import fingerprint, load_checkpoint, save_checkpoint
from vintix_fast.pretrain.pretrain import MODEL_DIR
from vintix_fast.service.bundled import BUILTIN_CHECKPOINTS, CARD_FILE
from vintix_fast.service.errors import VintixFastError
from vintix_fast.service.files import write_json, write_text
from vintix_fast.world.task_file import read_task

BEGIN_WITH, UNSEEN = "builtin:without-minicheetah", "minicheetah"
VARIED = "payload_kg=0:5, motor=0.7:1, motor.any_leg=0.5:1, latency_steps=0:1, locked.any_calf="
TRAINED = f"{VARIED}0.1"
"""What an expert learns.  Told which calf is locked, it needs few such episodes."""
SHOWN = f"{VARIED}0.3, redraw_episodes=2"
"""What its histories show: a context needs many to tell them from."""
STRESS = "payload_kg=3; payload_kg=5; motor=0.85; motor=0.7; motor.FR=0.5; locked.FR_calf=1; latency_steps=1"
COMMANDS = str(Path(__file__).with_name("commands.toml"))
REFERENCE = "go2"
"""What is copied for the robot that none has seen."""


@dataclass(frozen=True)
class Recipe:
    """A bundled model: who taught it what, and how it is measured."""

    name: str
    what: str  # for the card, a sentence
    robots: tuple[str, ...]  # taught here
    others: tuple[str, ...]  # of make_checkpoints.py's histories, so that they are not forgotten
    expert: tuple[str, ...]  # options of each command
    histories: dict[str, tuple[str, ...]]
    pretrain: tuple[str, ...]
    stress: tuple[str, ...]
    task: str | None = None  # a file; in place of the default task
    forgets: bool = False  # whether to measure it without a context, too


RECIPES = (
    Recipe(
        "worlds", "Its context tells it under what load, and with which motors, it walks.", ("go1", "go2"), ("a1",),
        ("--iterations", "1000", "--vary", TRAINED),
        {
            "varied": ("--vary", SHOWN, "--max-steps-per-episode", "500", "--expert-fraction", "0.2"),
            "plain": ("--seed", "6"),
        },
        ("--lr", "5e-4", "--steps", "4000", "--long-steps", "800"),
        ("--max-steps", "500", "--worlds", STRESS), forgets=True,
    ),
    Recipe(
        "commands", "It walks as fast, and turns, as it is told.", ("go2",), ("go1", "a1"),
        ("--iterations", "600", "--task", COMMANDS),
        {"commands": ("--task", COMMANDS, "--expert-fraction", "0.2")},
        ("--lr", "5e-4", "--steps", "1600", "--long-steps", "300"),
        ("--max-steps", "500", "--worlds", ";", "--task", COMMANDS), COMMANDS,
    ),
)  # fmt: skip


def commands(recipe: Recipe, out: Path, others: Path, setting: Setting) -> list[tuple[list[str], Path]]:
    """What makes the model, in order: each command, and the file that it ends with."""
    own = out / recipe.name
    found, data = [], [word for robot in recipe.others for word in ("--data", str(others / robot))]
    for robot in recipe.robots:
        expert = own / f"expert-{robot}"
        words = ["expert", "--robot-type", robot, "--output-dir", str(expert), *recipe.expert, *setting.expert]
        found.append((words, expert / "expert.json"))
        for kind, options in recipe.histories.items():
            histories = own / f"histories-{robot}-{kind}"
            words = ["distil", "--expert", str(expert), "--robot-type", robot, "--output-dir", str(histories)]
            found.append(([*words, *options, *setting.distil], histories / "distil.json"))
            data += ["--data", str(histories)]
    trained = own / "model"
    words = ["pretrain", "--init-from", BEGIN_WITH, *data, "--output-dir", str(trained), *recipe.pretrain]
    return [*found, ([*words, *setting.pretrain], trained / "pretrain.json")]


def make(recipe: Recipe, out: Path, others: Path, checkpoints: Path, note: str, setting: Setting) -> None:
    """Train the model, store it small, measure what was stored, and write its cards, unless they are of this model."""
    made, target = commands(recipe, out, others, setting), checkpoints / recipe.name
    for command, result in made:
        run(command, result)
    model = load_checkpoint(made[-1][1].parent / MODEL_DIR)
    weights = fingerprint(model)
    if is_described(target, weights):
        return
    save_checkpoint(model, target, compact=True)

    # The plain world on every robot that it knows, and the worlds that it was made for on those who saw them.
    results = out / recipe.name / "eval"
    returns: dict[str, Any] = {}
    for robot in dict.fromkeys((*recipe.robots, *recipe.others)):
        returns[robot] = {"seen": True} | measured(target, robot, results / robot, setting)
    found = measured(target, UNSEEN, results / UNSEEN, setting, "--reference-robot", REFERENCE)
    returns[UNSEEN] = {"seen": False, "reference_robot": REFERENCE} | found
    tables = {}
    for robot in recipe.robots:
        tables[robot] = stress(target, robot, results / f"stress-{robot}", recipe, setting)
        if recipe.forgets:
            tables[f"{robot}, its context cleared every second"] = stress(
                target, robot, results / f"forgets-{robot}", recipe, setting, "--forget-s", "1"
            )
        ceiling = out / recipe.name / f"expert-{robot}"
        tables[f"{robot}, its expert"] = stress(ceiling, robot, results / f"expert-{robot}", recipe, setting)

    card = {"date": str(date.today()), "unseen": UNSEEN, "returns": returns, "weights": weights}
    card["made_for"] = recipe.name
    if recipe.task is not None:
        card["task"] = read_task(recipe.task).to_json()
    write_json(target / CARD_FILE, card)
    words = [command for command, _ in made]
    write_text(target / "README.md", card_text(recipe, words, returns, tables, note, setting))


def stress(model: Path, robot: str, result: Path, recipe: Recipe, setting: Setting, *more: str) -> dict[str, Any]:
    """What `stress` finds."""
    few = ("--num-envs", "2", "--episodes-per-env", "2") if setting is SMALL else ()
    words = ["stress", str(model), "-r", robot, "--output-dir", str(result), *recipe.stress, *few, *more]
    run(words, result / "stress.json")
    return json.loads((result / "stress.json").read_text())


def card_text(
    recipe: Recipe, made: list[list[str]], returns: dict[str, Any], tables: dict[str, Any], note: str, setting: Setting
) -> str:
    """The model card."""
    lines = [f"# {recipe.name}", "", f"{recipe.what} It goes on from `{BEGIN_WITH}`. Stored in bfloat16.", ""]
    made_by = f"Made on {date.today()} by the commands that `python benchmarks/make_worlds.py` runs. {note}".rstrip()
    lines += [made_by, "", "```"]
    lines += [f"vintix-fast {shlex.join(command)}".replace(COMMANDS, "benchmarks/commands.toml") for command in made]
    lines += ["```", "", "## In the plain world", "", f"`vintix-fast eval {shlex.join(setting.evaluation)}`", ""]
    lines += ["| robot | all episodes | first episodes | from the third on | mean length | fell |", "|---" * 6 + "|"]
    for robot, found in returns.items():
        lines.append(row(robot if found["seen"] else f"**{robot}**, never seen", found))
    told = shlex.join(recipe.stress).replace(COMMANDS, "benchmarks/commands.toml")
    lines += ["", "## In the worlds that it was made for", "", f"`vintix-fast stress {told}`"]
    for title, found in tables.items():
        lines += ["", f"### {title}", "", *(command_rows(found) if found.get("commands") else world_rows(found))]
    return "\n".join(lines) + "\n"


def world_rows(found: dict[str, Any]) -> list[str]:
    """Markdown: a row a world."""
    lines = ["| world | return | survives | speed / commanded | episodes 1, 2, 3, 4 |", "|---" * 5 + "|"]
    for world in found["worlds"]:
        episodes = " ".join(f"{one['return']:.2f}" for one in world["by_episode"])
        lines.append(
            f"| {world['vary'] or 'plain'} | {world['return']:.2f} ± {world['return_error']:.2f} "
            f"| {world['survival']:.0%} | {world['speed_ratio']:.0%} | {episodes} |"
        )
    return lines


def command_rows(found: dict[str, Any]) -> list[str]:
    """Markdown: a row a command."""
    names = ("forward_m_s", "lateral_m_s", "yaw_rad_s")
    lines = ["| commanded: forward, lateral m/s, yaw rad/s | measured | return | survives |", "|---" * 4 + "|"]
    for one in found["commands"]:
        told, measured_ = (" ".join(f"{one[prefix + name]:.2f}" for name in names) for prefix in ("", "measured_"))
        lines.append(f"| {told} | {measured_} | {one['return']:.2f} | {one['survival']:.0%} |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output-dir", type=Path, default=Path("runs/worlds"))
    parser.add_argument(
        "--histories",
        type=Path,
        default=Path("runs/checkpoints/histories"),
        help="what make_checkpoints.py collected",
    )
    parser.add_argument("--checkpoints", type=Path, help="where the models go; by default the bundled ones' place")
    parser.add_argument("--note", default="", help="a sentence for the cards, on how this was run")
    parser.add_argument("--only", choices=[recipe.name for recipe in RECIPES])
    parser.add_argument("--small", action="store_true", help="tiny settings, to try the script")
    args = parser.parse_args()
    setting = SMALL if args.small else FULL
    try:
        for recipe in RECIPES:
            if args.only in (None, recipe.name):
                bundled = args.output_dir / "checkpoints" if args.small else BUILTIN_CHECKPOINTS
                make(recipe, args.output_dir, args.histories, args.checkpoints or bundled, args.note, setting)
    except VintixFastError as error:
        raise SystemExit(f"error: {error}") from error


if __name__ == "__main__":
    main()
