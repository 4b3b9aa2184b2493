"""The experiment that stands for a real robot: a model adapted in Genesis walks in MuJoCo, where friction, motors and
delay are others, and is improved there from its own logs.

    python benchmarks/real_robot.py RUN --output-dir runs/real_robot --seed 5

RUN is a directory of `vintix-fast adapt`.  Each round is a walk with exploration, logged, then a call of `vintix-fast
improve` on that log alone, as a person at a robot would do it.  A walk is two episodes on each rung of the ladder of
`vintix_walk --explore`, 10,000 steps or 200 s if nobody falls.  What each model earns without exploration is measured
beside that, from other starts, and teaches nothing.  `--rounds 0` only measures the first model.  JSON lines, also in
OUT/results.jsonl; what is done already is not done again.  `OUT... --plot FILE` draws the curves.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from pathlib import Path

import torch

from vintix_fast.data import open_writer
from vintix_fast.evaluation import measure, task_for
from vintix_fast.from_logs import improve
from vintix_fast.from_logs_config import FromLogsConfig
from vintix_fast.model import load_checkpoint
from vintix_fast.policy import Actor, make_policy
from vintix_fast.rollout import Noise, collect, ladder, standard_error
from vintix_fast.service.metrics import new_figure, save_figure
from vintix_fast.service.progress import Progress
from vintix_fast.world.mujoco_simulator import MujocoSimulator
from vintix_fast.world.robot import Robot, load_robot
from vintix_fast.world.task import WalkingTask

STEPS, RUNGS, EPISODES_A_RUNG, MEASURED = 1000, 5, 2, 20
EVALUATED_FROM = 1000
"""Seed of the starts of measurements."""


@dataclass(frozen=True)
class World:
    """What MuJoCo's robot has that Genesis' had not."""

    friction: float
    motor_strength: float
    delay_s: float

    def task(self, robot: Robot, num_envs: int) -> WalkingTask:
        return WalkingTask(MujocoSimulator(robot, num_envs, say=lambda text: None, **vars(self)), robot, STEPS)


def actor(model_dir: Path, robot: Robot, num_envs: int) -> Actor:
    model = load_checkpoint(model_dir)
    return make_policy(model, task_for(model, robot), num_envs, model.config.context_len)


def returned(model_dir: Path, robot: Robot, world: World) -> dict:
    """Of `MEASURED` episodes without exploration."""
    task = world.task(robot, MEASURED)
    found = measure(task, actor(model_dir, robot, MEASURED), MEASURED, EVALUATED_FROM, True, Progress())
    fell = sum(episode.terminated for episode in found.episodes)
    return {"return": found.mean_return, "standard_error": standard_error(found.returns), "fell": fell}


def walk(path: Path, model_dir: Path, robot: Robot, world: World, noise: float, seed: int) -> None:
    """Log a walk of the robot's."""
    task = world.task(robot, RUNGS)
    attributes = {"robot": robot.name, "task": task.config.to_json()}
    exploring = Noise(ladder(RUNGS, noise), robot.layout.num_joints, seed)
    with open_writer(path, RUNGS, attributes, layout=robot.layout) as writer:
        policy = actor(model_dir, robot, RUNGS)
        collect(task, policy, RUNGS * EPISODES_A_RUNG, seed=seed, random_starts=True, noise=exploring, writer=writer)


def experiment(first: Path, robot: Robot, world: World, args: argparse.Namespace) -> None:
    out: Path = args.output_dir
    out.mkdir(parents=True, exist_ok=True)
    results, run = out / "results.jsonl", out / "run"
    done = results.read_text().splitlines() if results.is_file() else []

    def say(row: dict) -> None:
        text = json.dumps(row)
        print(text, flush=True)
        with open(results, "a") as file:
            file.write(text + "\n")

    if not done:
        where = {"model": str(first), "seed": args.seed, "noise": args.noise} | vars(world)
        say({"round": 0, "steps": 0} | returned(first, robot, world) | where)
    for number in range(max(1, len(done)), args.rounds + 1):
        log, begun = out / f"walk_{number}.h5", (run / "models/next").is_dir()
        walk(log, run / "models/next" if begun else first, robot, world, args.noise, 1000 * args.seed + number)
        options: dict = {"data": (log,)}
        if not begun:
            options |= {"robot_type": robot.name, "output_dir": run, "seed": args.seed}
        made = improve(FromLogsConfig.of_call(run if begun else first, **options))
        print(made.verdict, flush=True)
        row = {"round": number, "steps": made.row["total_env_steps"], "log_return": made.row["mean_return"]}
        row |= {"judged": [made.row["quiet_return"], made.row["quiet_standard_error"]], "from": made.row["from_loop"]}
        row |= {"accepted": made.row.get("accepted"), "step": made.row["improvement_step"]}
        row |= {"train_s": made.row["train_seconds"]}
        say(row | returned(made.next_model, robot, world))


def plot(folders: list[Path], path: Path) -> None:
    """Return of each round's model against the steps that it had learnt from."""
    figure, axes = new_figure()
    for folder in folders:
        rows = [json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()]
        seed, rows = rows[0]["seed"], [row for row in rows if isinstance(row["round"], int)]
        axes.errorbar(
            [row["steps"] for row in rows], [row["return"] for row in rows], [row["standard_error"] for row in rows],
            fmt="o-", capsize=3, label=f"seed {seed}",
        )  # fmt: skip
    axes.set_xlabel("steps that the robot walked and logged")
    axes.set_ylabel("return of an episode, without exploration")
    axes.grid(alpha=0.3)
    axes.legend()
    save_figure(figure, path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, nargs="+", help="a directory of adapt; with --plot, those of this program")
    parser.add_argument("--robot-type", default="go2")
    parser.add_argument("--output-dir", type=Path, default=Path("runs/real_robot"))
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--seed", type=int, default=5)
    parser.add_argument("--noise", type=float, default=0.3)
    parser.add_argument("--friction", type=float, default=0.4)
    parser.add_argument("--motor-strength", type=float, default=0.7)
    parser.add_argument("--delay-s", type=float, default=0.02)
    parser.add_argument("--plot", type=Path, help="a PNG")
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.plot is not None:
        return plot(args.run, args.plot)
    first, robot = args.run[0] / "models/best", load_robot(args.robot_type)
    experiment(first, robot, World(args.friction, args.motor_strength, args.delay_s), args)


if __name__ == "__main__":
    main()
