"""Models in two simulators: 100 episodes from the same randomised starts in Genesis and in MuJoCo.

    python benchmarks/sim2sim.py --output-dir runs/sim2sim RUN...

measures the bundled models on robots that they have seen and not seen, and the best model of each RUN, a directory of
`vintix-fast adapt`.  Each is `vintix-fast eval` in a process of its own.  Does what is not done yet, so that it can be
stopped and run again; prints the table.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from vintix_fast.service.files import write_text

SIMULATORS = ("genesis", "mujoco")
SEED = 1000
"""Other starts than the gate's."""


@dataclass(frozen=True)
class Case:
    """A model on a robot, as `eval` takes it."""

    name: str
    robot: str
    model: str
    how: str
    options: tuple[str, ...] = ()


def bundled() -> list[Case]:
    """Each robot under a model that was pretrained on it, and, copied from another robot, under one that was not."""
    cases = []
    for robot in ("go2", "go1", "a1", "minicheetah"):
        seen = "builtin:without-go2" if robot == "minicheetah" else "builtin:without-minicheetah"
        cases.append(Case(f"{robot}-seen", robot, seen, "pretrained on it"))
    for robot in ("go2", "go1", "a1", "minicheetah"):
        other = "go1" if robot == "go2" else "go2"
        copied = ("--reference-robot", other)
        cases.append(
            Case(f"{robot}-unseen", robot, f"builtin:without-{robot}", f"never seen, a copy of {other}", copied)
        )
    return cases


def adapted(run: Path) -> Case:
    """The best model of a run of adapt, on the robot that the run keeps."""
    config = json.loads((run / "config.json").read_text())
    file = config["robot"].get("file")
    robot = str(run / file) if file else config["options"]["robot_type"]
    where = "MuJoCo" if config["options"].get("simulator") == "mujoco" else "Genesis"
    return Case(run.name, robot, str(run / "models/best"), f"adapted in {where}")


def measure(case: Case, simulator: str, out: Path) -> dict:
    """Evaluate, unless that was done."""
    folder = out / f"{case.name}-{simulator}"
    if not (folder / "eval.json").is_file():
        program = str(Path(sys.executable).with_name("vintix-fast"))
        command = [program, "eval", "--vintix-path", case.model, "--robot-type", case.robot, *case.options]
        command += ["--simulator", simulator, "--seed", str(SEED), "--output-dir", str(folder)]
        subprocess.run(command, check=True)
    return json.loads((folder / "eval.json").read_text())


def table(cases: list[Case], out: Path) -> str:
    """Markdown."""
    lines = ["| robot | model | Genesis | fell | MuJoCo | fell |", "|---|---|---|---|---|---|"]
    for case in cases:
        found = [measure(case, simulator, out) for simulator in SIMULATORS]
        cells = [f"{f['mean_return']:.2f} ± {f['standard_error']:.2f} | {f['terminated']}" for f in found]
        lines.append(f"| {found[0]['robot']} | {case.how} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="*", help="directories of adapt")
    parser.add_argument("--output-dir", type=Path, default=Path("runs/sim2sim"))
    args = parser.parse_args()
    args.output_dir.mkdir(parents=True, exist_ok=True)
    text = table(bundled() + [adapted(run) for run in args.runs], args.output_dir)
    write_text(args.output_dir / "table.md", text)
    print(text)


if __name__ == "__main__":
    main()
