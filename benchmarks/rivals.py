"""`adapt` against PPO from scratch on one machine: return against wall time and against environment steps.

    python benchmarks/rivals.py --output-dir runs/rivals

runs each command alone, one after another, and nothing that is finished is run again: `--rivals`, `--robots` and
`--seeds` choose, `--table` runs nothing, `--small` proves it in minutes.  rivals.json, rivals.md and rivals.png lie in
the directory.  About 40 minutes a seed on two cores, 24 of them `exact`; nothing else should run beside it.

Seconds count from a command's start, Python's included, to the time at which a model's file was there; the kernel cache
is filled before.  Steps are all that were simulated: collected, evaluated, tried before.  A run that was stopped is
begun anew, since its seconds would mean nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shlex
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vintix_fast.benchmarks.machine import processor
from vintix_fast.cli.demo import OPTIONS as DEMO
from vintix_fast.evaluation import measure
from vintix_fast.policy.expert import ExpertPolicy, load_expert
from vintix_fast.pretrain.expert import STATE_FILE
from vintix_fast.rundir import read_rows
from vintix_fast.service.files import load_tensors, versions, write_json, write_text
from vintix_fast.service.metrics import new_figure, save_figure
from vintix_fast.service.progress import Progress
from vintix_fast.world.robot import load_robot
from vintix_fast.world.simulator import Simulator
from vintix_fast.world.task import WalkingTask

GOAL = 20.0
EPISODES = 25
"""Of each evaluation of a PPO state, as many as `adapt`'s gate runs by default, from the same starts."""
SAVE_INTERVAL = 10
"""PPO iterations between two states that are measured; 122,880 steps."""
ADAPT: dict[str, list[str]] = {
    "default": [],
    "demo": [f"--{name.replace('_', '-')}={DEMO[name]}" for name in ("num_improvement_loops", "target_return")],
    "exact": ["--finetune-exactly"],
}
PPO = "ppo"
RIVALS = (*ADAPT, PPO)
NAMES = {
    "default": "`adapt`, default options",
    "demo": "`adapt` as the demo, stops at 20",
    "exact": "`adapt --finetune-exactly`",
    PPO: "PPO from scratch",
}
COLORS = dict(zip(RIVALS, ("#0072b2", "#009e73", "#e69f00", "#d62728"), strict=True))
SMALL = {
    "adapt": ["--num-improvement-loops=1", "--episodes-per-loop=4", "--max-steps-per-episode=60", "--context-len=64",
              "--min-steps-per-loop=0", "--finetune-steps-per-loop=5", "--critic-updates=5"],
    "expert": ["--iterations=4", "--num-envs=8", "--max-steps-per-episode=60", "--save-interval=2",
               "--eval-episodes=8"],
    "eval": ["--num-envs", "4", "--max-steps", "60"],
}  # fmt: skip
PUBLISHED = (
    "Published on this task (FlashSAC's repository, results for `go2-walk_easy`; fixed starts, last action observed; "
    "other machines, not run here): PPO 20.25 after 5.0 million steps, 21.40 after 10.1, 21.87 after 100; FlashSAC "
    "20.91 after 10.5, 21.99 after 50."
)
MEANING = (
    "Return: what the user holds, without exploration noise. `adapt`: its best model by its own gate (25 episodes from "
    "randomised starts). PPO: its latest state, each tenth iteration's, in 25 episodes from the same starts; these "
    "evaluations are ours and count neither in its seconds nor in its steps. `at the end`: another measurement, of 100 "
    "randomised starts, of `models/best` and of the finished expert."
)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output-dir", type=Path, default=Path("runs/rivals"))
    parser.add_argument("--rivals", choices=RIVALS, nargs="+", default=RIVALS)
    parser.add_argument("--robots", nargs="+", default=["go2"], help="robots that have a model which has not seen them")
    parser.add_argument("--seeds", type=int, nargs="+", default=[5, 6, 7])
    parser.add_argument("--small", action="store_true", help="tiny runs whose numbers mean nothing")
    parser.add_argument("--table", action="store_true", help="write table and plot of what there is, run nothing")
    args = parser.parse_args(arguments)
    out = args.output_dir / "small" if args.small else args.output_dir
    todo = [(robot, seed, rival) for robot in args.robots for seed in args.seeds for rival in args.rivals]
    todo = [] if args.table else [one for one in todo if not record_file(out, *one).is_file()]
    if todo and not args.small:
        warm_up(out / "warm-up", {(robot, rival) for robot, _, rival in todo})
    for one in todo:
        record_file(out, *one).parent.mkdir(parents=True, exist_ok=True)
        write_json(record_file(out, *one), run(out, *one, small=args.small))
        write_results(out)
    print(write_results(out))
    return 0


def record_file(out: Path, robot: str, seed: int, rival: str) -> Path:
    return out / robot / rival / f"seed-{seed}.json"


def warm_up(out: Path, kinds: set[tuple[str, str]]) -> None:
    """Fill the caches of compiled kernels: no command that is timed compiles any."""
    for robot, rival in sorted({(robot, PPO if rival == PPO else "default") for robot, rival in kinds}):
        started = time.time()
        subprocess.run(command(out / robot / rival, robot, 5, rival, small=True), check=True)
        print(f"Warm-up of {robot}, {rival}: {time.time() - started:.0f} s", flush=True)


def command(folder: Path, robot: str, seed: int, rival: str, small: bool) -> list[str]:
    common = ["--robot-type", robot, "--seed", str(seed), "--output-dir", str(folder), "--overwrite"]
    if rival == PPO:
        kind, own = "expert", [f"--save-interval={SAVE_INTERVAL}"]
    else:
        reference = "go1" if robot == "go2" else "go2"  # as in the other studies
        unseen = robot.removesuffix("-primitive")
        kind, own = "adapt", ["--pretrained-path", f"builtin:without-{unseen}", "--reference-robot", reference]
        own += ADAPT[rival]
    return [program(), kind, *common, *own, *(SMALL[kind] if small else [])]


def program() -> str:
    return str(Path(sys.executable).with_name("vintix-fast"))


def run(out: Path, robot: str, seed: int, rival: str, small: bool) -> dict[str, Any]:
    """Run one command, measure what it left, and say all of it."""
    folder = out / robot / rival / f"seed-{seed}"
    words = command(folder, robot, seed, rival, small)
    print("$ vintix-fast", shlex.join(words[1:]), flush=True)
    # A link to each state that PPO leaves in place of the one before; nothing is read while it runs.
    states = out / robot / rival / f"seed-{seed}-states"
    for old in states.glob("*"):
        old.unlink()
    ended = threading.Event()
    keeper = threading.Thread(target=keep_states, args=(folder / STATE_FILE, states, ended))
    if folder.is_dir():  # a stopped run's, which would be taken for this one's
        (folder / STATE_FILE).unlink(missing_ok=True)
    started = time.time()
    keeper.start()
    try:
        subprocess.run(words, check=True)
    finally:
        seconds = time.time() - started
        ended.set()
        keeper.join()
    points = ppo_points if rival == PPO else adapt_points
    record = {"robot": robot, "seed": seed, "rival": rival, "command": shlex.join(["vintix-fast", *words[1:]])}
    record |= {"small": small, "seconds": seconds, "points": points(folder, states, started, seed, robot)}
    final = expert_at_the_end if rival == PPO else adapted_at_the_end
    where = {"machine": f"{os.cpu_count()} cores, {processor()}", "python": platform.python_version()}
    return record | {"at_the_end": final(folder, robot, seed, small)} | where | {"versions": versions()}


def keep_states(file: Path, states: Path, ended: threading.Event) -> None:
    """Keep each version of a file that is replaced by renaming, under the time at which it was written, in ns."""
    last, over = None, False
    while not over:
        over = ended.wait(0.2)  # and once more when the command has ended
        if file.is_file() and (time_ns := file.stat().st_mtime_ns) != last:
            states.mkdir(exist_ok=True)
            os.link(file, states / str(time_ns))
            last = time_ns


def adapt_points(folder: Path, states: Path, started: float, seed: int, robot: str) -> list[dict[str, float]]:
    """A point a loop: the best model's return by the gate, when its model was there, and all steps until then."""
    points, best = [], float("-inf")
    for row in read_rows(folder):
        model = folder / "models" / (f"loop_{row['loop']:02d}" if row["loop"] else "initial") / "model.pth"
        best = max(best, row["eval_return"])
        points.append(point(model.stat().st_mtime - started, row["total_env_steps"], best))
    return points


def ppo_points(folder: Path, states: Path, started: float, seed: int, robot: str) -> list[dict[str, float]]:
    """A point a saved state, evaluated now without noise, from the starts of `adapt`'s gate."""
    network, card = load_expert(folder)
    options = card["options"]
    task = WalkingTask(Simulator(load_robot(robot), EPISODES), load_robot(robot), options["max_steps_per_episode"])
    points = []
    for file in sorted(states.iterdir(), key=lambda file: int(file.name)):
        state = load_tensors(file, "cpu", "run it again")
        actor = state["actor_state_dict"]
        network.load_state_dict({k.removeprefix("mlp."): v for k, v in actor.items() if k.startswith("mlp.")})
        found = measure(task, ExpertPolicy(network, EPISODES), EPISODES, seed, True, Progress())
        steps = state["iterations"] * options["num_envs"] * options["steps_per_iteration"]
        points.append(point(int(file.name) / 1e9 - started, steps, found.mean_return))
    return points


def point(seconds: float, env_steps: int, mean_return: float) -> dict[str, float]:
    return {"seconds": round(seconds, 2), "env_steps": env_steps, "return": mean_return}


def eval_command(model: Path, result: Path, robot: str, seed: int, small: bool) -> list[str]:
    words = ["eval", "--vintix-path", str(model), "--robot-type", robot, "--seed", str(seed)]
    return [program(), *words, "--output-dir", str(result), "--overwrite", *(SMALL["eval"] if small else [])]


def adapted_at_the_end(folder: Path, robot: str, seed: int, small: bool) -> dict[str, float]:
    result = folder.with_name(f"{folder.name}-eval")
    subprocess.run(eval_command(folder / "models/best", result, robot, seed, small), check=True)
    return final(json.loads((result / "eval.json").read_text()))


def expert_at_the_end(folder: Path, robot: str, seed: int, small: bool) -> dict[str, float]:
    return final(json.loads((folder / "expert.json").read_text())["evaluation"])


def final(found: dict[str, Any]) -> dict[str, float]:
    return {key: found[key] for key in ("mean_return", "episodes", "terminated")}


# -- what is written of it ---------------------------------------------------------------------------------------------


def write_results(out: Path) -> str:
    """Write rivals.json, rivals.md and rivals.png of all finished runs; returns the table."""
    records = [json.loads(path.read_text()) for path in sorted(out.glob("*/*/seed-*.json"))]
    records.sort(key=lambda r: (r["robot"], RIVALS.index(r["rival"]), r["seed"]))
    if not records:
        return "No run is finished yet."
    text = table(records)
    write_json(out / "rivals.json", {"goal": GOAL, "runs": records})
    write_text(out / "rivals.md", text)
    plot(out / "rivals.png", records)
    return text


def passed(points: list[dict[str, float]]) -> dict[str, float] | None:
    """The first point at which the return is there."""
    return next((p for p in points if p["return"] >= GOAL), None)


def table(records: list[dict[str, Any]]) -> str:
    """Markdown: a row for each robot and rival, means over seeds."""
    head = (
        "| robot | | seeds | 20 after, s | 20 after, steps | minutes in all | steps in all | at the end (worst seed) |"
    )
    lines = [head, "|---" * (head.count("|") - 1) + "|"]
    for robot, rival, runs in grouped(records):
        found = [p for r in runs if (p := passed(r["points"]))]
        seconds, steps = (spread([p[key] for p in found], len(runs)) for key in ("seconds", "env_steps"))
        seeds, ends = ", ".join(str(r["seed"]) for r in runs), [r["at_the_end"]["mean_return"] for r in runs]
        minutes, total = mean([r["seconds"] / 60 for r in runs]), mean([r["points"][-1]["env_steps"] for r in runs])
        lines.append(
            f"| {robot} | {NAMES[rival]} | {seeds} | {seconds} | {steps} | {minutes:.1f} | {total:,.0f} "
            f"| {mean(ends):.2f} ({min(ends):.2f}) |"
        )
    machines = "; ".join(dict.fromkeys(f"{r['machine']}, Python {r['python']}" for r in records))
    small = "**Tiny runs: the numbers mean nothing.** " * any(r["small"] for r in records)
    commands = [runs[0]["command"] for _, _, runs in grouped(records)]
    return "\n".join(
        [*lines, "", f"{small}{MEANING}", "", PUBLISHED, "", f"On {machines}:", "", "```", *commands, "```", ""]
    )


def grouped(records: list[dict[str, Any]]) -> Iterator[tuple[str, str, list[dict[str, Any]]]]:
    for robot, rival in dict.fromkeys((r["robot"], r["rival"]) for r in records):
        yield robot, rival, [r for r in records if (r["robot"], r["rival"]) == (robot, rival)]


def mean(values: list[float]) -> float:
    return sum(values) / len(values)


def spread(values: list[float], runs: int) -> str:
    """Mean and range of the runs that came so far, and how many of all these are."""
    if not values:
        return "never"
    within = f" ({min(values):,.0f} to {max(values):,.0f})" if len(values) > 1 else ""
    return f"{mean(values):,.0f}{within}" + f", {len(values)} of {runs} runs" * (len(values) < runs)


def plot(path: Path, records: list[dict[str, Any]]) -> None:
    """Each run a line: left over wall time, right over environment steps, both logarithmic."""
    robots = list(dict.fromkeys(r["robot"] for r in records))
    figure, grid = new_figure(len(robots), 2, (11, 4.2 * len(robots)), squeeze=False, sharey=True)
    for axes, key, label in ((0, "seconds", "seconds from the command"), (1, "env_steps", "environment steps, all")):
        for robot, rival, runs in grouped(records):
            own = grid[robots.index(robot)][axes]
            for number, r in enumerate(runs):
                at = [max(p[key], 1) for p in r["points"]]
                name = NAMES[rival].replace("`", "") if number == 0 else None
                own.plot(at, [p["return"] for p in r["points"]], ".-", color=COLORS[rival], alpha=0.8, label=name)
            own.axhline(GOAL, color="#7f7f7f", linestyle=":", linewidth=1)
            own.set(xscale="log", xlabel=label, title=robot)
            own.grid(alpha=0.3)
    for row in grid:
        row[0].set_ylabel("return of an episode")
    figure.legend(*grid[0][0].get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False)
    save_figure(figure, path)


if __name__ == "__main__":
    sys.exit(main())
