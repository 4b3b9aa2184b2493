"""Whether a sweep finds what its trials find one after another: 4 robots x 3 seeds on two workers, one process killed.

    pip install 'vintix-fast[sweep]'
    python benchmarks/sweep_equal.py --output-dir runs/sweep-equal

runs `vintix-fast sweep` with half of the cores for each trial, kills the process of one trial (SIGKILL) when its loop
has begun, then runs `vintix-fast adapt` and `vintix-fast eval` for every trial in turn, and compares: the tables, the
numbers of each loop, each ``model.pth`` and each evaluation's ``eval.csv``, byte for byte, without what clocks say.
Trials are short: robots learn nothing in them.  Can be stopped and run again.  Linux.
"""

from __future__ import annotations

import argparse
import datetime
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from vintix_fast.benchmarks.machine import processor
from vintix_fast.outdir import OPTIONS_FILE
from vintix_fast.rundir import METRICS_FILE, read_rows
from vintix_fast.service.files import versions, write_text
from vintix_fast.sweep.config import SweepConfig, Trial
from vintix_fast.sweep.table import markdown, read_trial, table

ROBOTS, SEEDS = ["go2", "go1", "a1", "minicheetah"], [5, 6, 7]
ADAPT = {
    "num_improvement_loops": 1, "episodes_per_loop": 10, "num_envs": 10, "min_steps_per_loop": 2000,
    "max_steps_per_episode": 300, "critic_updates": 100, "finetune_steps_per_loop": 20, "gate_episodes": 10,
}  # fmt: skip
EVAL = {"num_envs": 10, "max_steps": 300}
KILLED = "a1-6"
CORES = max(1, (os.cpu_count() or 2) // 2)
PROGRAM = str(Path(sys.executable).with_name("vintix-fast"))
CLOCK = ("seconds", "_per_s", "writer_waits", "minutes")
"""Ends of the names of numbers that no two runs share."""


def write_sweep(file: Path) -> None:
    """The sweep's TOML file."""
    tables = {"adapt": ADAPT, "eval": EVAL}
    lines = [f"robots = {json.dumps(ROBOTS)}", f"seeds = {SEEDS}", f"cores = {CORES}"]
    for name, options in tables.items():
        lines += ["", f"[{name}]", *(f"{option} = {value}" for option, value in options.items())]
    write_text(file, "\n".join(lines) + "\n")


def run_sweep(out: Path) -> int:
    """`vintix-fast sweep`, one trial's process killed on the way; returns how many were, here or in an earlier call."""
    folder, mark = out / "sweep", out / "killed"
    write_sweep(out / "sweep.toml")
    words = ["sweep", str(out / "sweep.toml"), "--output-dir", str(folder)]
    words += ["--resume"] if (folder / OPTIONS_FILE).is_file() else []
    print("$ vintix-fast", *words, flush=True)
    running = subprocess.Popen([PROGRAM, *words])
    while running.poll() is None:
        if not mark.exists() and (pid := process_of(folder / KILLED, folder / f"{KILLED}.log")):
            os.kill(pid, signal.SIGKILL)
            write_text(mark, f"{pid}\n")
            print(f"killed process {pid}, which did {KILLED}", flush=True)
        time.sleep(0.1)
    if running.returncode:
        raise SystemExit(f"error: the sweep ended with exit code {running.returncode}")
    return int(mark.exists())


def process_of(run: Path, log: Path) -> int | None:
    """The process that does a trial, known by where it writes; None before it has begun the first loop."""
    metrics = run / METRICS_FILE
    if not metrics.is_file() or metrics.read_text().count("\n") != 1:
        return None
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if (process / "fd/1").readlink() == log.resolve():
                return int(process.name)
        except OSError:  # ended, or another user's
            continue
    return None


def run_alone(trial: Trial) -> None:
    """`vintix-fast adapt` and `eval` for one trial, with as many threads as a worker of the sweep has."""
    environment = os.environ | {"OMP_NUM_THREADS": str(CORES)}
    run, result = trial.adapt.output_dir, trial.eval.output_dir
    robot = {"robot_type": trial.robot}
    adapt = robot | {"seed": trial.adapt.seed, "output_dir": run} | ADAPT
    evaluation = robot | {"seed": trial.eval.seed, "output_dir": result, "vintix_path": run / "models/best"} | EVAL
    for command, options, more in (
        ("adapt", adapt, ["--resume"] if (run / OPTIONS_FILE).is_file() else []),
        ("eval", evaluation, ["--overwrite"]),
    ):
        words = [word for name, value in options.items() for word in (f"--{name.replace('_', '-')}", str(value))]
        print("$ vintix-fast", command, *words, *more, flush=True)
        subprocess.run([PROGRAM, command, *words, *more], check=True, env=environment, stdout=subprocess.DEVNULL)


def found_of(trial: Trial) -> dict[str, Any]:
    """What a trial left, without what clocks say: its row, its loops' numbers, hashes of its files."""
    run = trial.adapt.output_dir
    files = {str(path.relative_to(run)): path for path in sorted(run.glob("models/*/model.pth"))}
    files["eval.csv"] = trial.eval_file.with_suffix(".csv")
    return {
        "row": timeless(read_trial(trial)),
        "loops": list(map(timeless, read_rows(run))),
        "files": {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in files.items()},
    }


def timeless(row: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in row.items() if not key.endswith(CLOCK)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output-dir", type=Path, default=Path("runs/sweep-equal"))
    parser.add_argument("--report", type=Path, default=Path(__file__).parent / "results/sweep_equal.md")
    args = parser.parse_args()
    out = args.output_dir
    out.mkdir(parents=True, exist_ok=True)
    kills = run_sweep(out)
    swept, alone = (
        list(SweepConfig(output_dir=out / name, robots=ROBOTS, seeds=tuple(SEEDS), adapt=ADAPT, eval=EVAL).trials())
        for name in ("sweep", "alone")
    )
    for trial in alone:
        if not trial.eval_file.is_file():
            run_alone(trial)
    pairs = {one.name: (found_of(one), found_of(other)) for one, other in zip(swept, alone, strict=True)}
    differ = [name for name, (one, other) in pairs.items() if one != other]
    tables = [table([read_trial(trial) for trial in trials]) for trials in (swept, alone)]
    same = not differ and list(map(timeless, tables[0])) == list(map(timeless, tables[1]))
    write_text(args.report, report(pairs, tables, kills, differ, same))
    print(args.report.read_text())
    if not same or not kills:
        raise SystemExit(1)


def report(pairs: dict[str, Any], tables: list[Any], kills: int, differ: list[str], same: bool) -> str:
    """What was found, for people."""
    files = sum(len(one["files"]) for one, _ in pairs.values())
    known = ", ".join(f"{name} {version}" for name, version in versions().items())
    options = [", ".join(f"{name} {value}" for name, value in options.items()) for options in (ADAPT, EVAL)]
    said = f"equal, with {files} files (`model.pth`, `eval.csv`) byte for byte" if same else f"different: {differ}"
    lines = [
        "# A sweep on two workers, and its trials one after another",
        "",
        f"`python benchmarks/sweep_equal.py`, {datetime.date.today()}, {processor()}, {os.cpu_count()} cores; {known}.",
        f"`adapt`: {options[0]}; `eval`: {options[1]}. {len(pairs)} trials; killed processes: {kills} ({KILLED}).",
        "",
        f"Tables: **{said}**. Minutes aside, which other programs on the machine make longer.",
        "",
        "## `vintix-fast sweep`, two at a time",
        "",
        markdown(tables[0]),
        "## `vintix-fast adapt` and `eval`, one at a time",
        "",
        markdown(tables[1]),
        "## SHA-256 of the best models, the same in both" if same else "## SHA-256 of the best models",
        "",
        "| trial | sweep | alone |",
        "|---|---|---|",
    ]
    for name, found in pairs.items():
        lines.append(f"| {name} | {' | '.join(part['row']['weights'][:16] for part in found)} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
