"""What self-improvement gives on robots that the model has never seen, against other operators, rivals and ablations.

    python benchmarks/adaptation.py --output-dir runs/adaptation

runs everything that is not done yet, so that it can be stopped and run again; `--list` tells what there is, `--robot`,
`--study` and `--seed` choose.  With RAY_ADDRESS robots are shared out to a cluster's nodes.  A measurement is of one
model: 100 environments, one episode of 1000 steps each, cold context, randomised starts, no noise.  All of them are
gathered into benchmarks/adaptation.csv and printed as Markdown, which is all that `--table` does.
"""

from __future__ import annotations

import argparse
import functools
import hashlib
import json
import re
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from adaptation_operators import OPERATORS as IMITATORS
from adaptation_rivals import RIVALS, Scenes, measure_expert
from adaptation_tables import markdown
from rich.console import Console

from vintix_fast.adaptation import adapt
from vintix_fast.config import AdaptConfig
from vintix_fast.eval_config import EvalConfig
from vintix_fast.evaluation import evaluate
from vintix_fast.policy.expert import WEIGHTS_FILE
from vintix_fast.rundir import Run, loop_seconds, read_rows
from vintix_fast.service.console import ConsoleProgress
from vintix_fast.service.errors import Interrupted, UsageError, VintixFastError
from vintix_fast.service.files import versions, write_csv, write_json
from vintix_fast.service.progress import Progress
from vintix_fast.sweep.trials import run_here_or_on_cluster
from vintix_fast.world.robot import load_robot
from vintix_fast.world.simulator import Simulator

ROBOTS = ("minicheetah", "minicheetah-primitive", "go2", "go1", "a1")
WEAK = ("minicheetah-primitive", "go2")
"""The robots on which the unseen model leaves most to gain."""
SEEDS = (5, 6, 7)
MAIN_SEEDS = (*SEEDS, 8, 9)


def seeds_of(robot: str) -> tuple[int, ...]:
    """Of the main study; Mini Cheetah with its hulls came later."""
    return SEEDS if robot == "minicheetah" else MAIN_SEEDS


COMMON: dict[str, Any] = {
    "num_improvement_loops": 5, "episodes_per_loop": 50, "min_steps_per_loop": 8000,
    "batch_size": 16, "window_len": 128, "lr": 5e-4,
}  # fmt: skip
"""Options of every run, over which a spec's own go; where they changed, begun runs are refused, not mixed."""
EVALUATION = {"num_envs": 100, "max_steps": 1000, "seed": 5}
SLACK = 1.1
"""A loop ends with its last episode: a topped-up one, whose robots fell early at first, can pass a limit a little."""


@dataclass(frozen=True)
class Spec:
    """One run, and the numbers of steps, evaluations counted, after which its best model is measured."""

    study: str
    robot: str
    variant: str
    seed: int
    options: dict[str, Any]
    """As `AdaptConfig.from_options` takes them, over ``COMMON``; none: the default run, which is done once whatever
    studies call it."""
    limits: tuple[int, ...]

    def __str__(self) -> str:
        return f"{self.robot}, {self.study}: {self.variant}, seed {self.seed}"


TWO_LOOPS = {"num_improvement_loops": 2}
SMALL_LOOP = {"num_improvement_loops": 1, "episodes_per_loop": 10, "num_envs": 10}
SLOW_SCRIPT = {"improver": "clone", "init_map": "none", "noise": 0.0, "gate": False, "bf16": False}
OPERATORS: dict[str, dict[str, Any]] = {
    "clone, slow script": TWO_LOOPS | SLOW_SCRIPT,
    "clone": TWO_LOOPS | {"improver": "clone"},
    "topk": TWO_LOOPS,
    "awr": TWO_LOOPS,
    "critic": {},
}
STEP_04 = TWO_LOOPS | {"improvement_step": 0.4}
"""What ablations, critics and lengths of fine-tuning change one thing of: the default when they were measured."""
ABLATIONS: dict[str, dict[str, Any]] = {
    "no ladder": STEP_04 | {"noise_ladder": False},
    "no gate": STEP_04 | {"gate": False},
    "replay of all loops": STEP_04 | {"replay": "all"},
    "decoder only": STEP_04 | {"train": "decoder"},
    "context 256": STEP_04 | {"context_len": 256},
    "reference go1": STEP_04 | {"reference_robot": "go1"},
    "reference a1": STEP_04 | {"reference_robot": "a1"},
}
CRITICS: dict[str, dict[str, Any]] = {
    "default": {},
    "step 0.4": STEP_04,
    "4000 updates": STEP_04 | {"critic_updates": 4000},
    "discount 0.98": STEP_04 | {"improve.critic.gamma": 0.98},
    "one-step returns": STEP_04 | {"improve.critic.n_steps": 1},
}
GUIDES_WINDOWS = STEP_04 | {"finetune_exactly": True, "batch_size": 4, "window_len": None, "lr": 1e-4}
FINETUNING: dict[str, dict[str, Any]] = {
    "20 steps of 4 x 2048": GUIDES_WINDOWS | {"finetune_steps_per_loop": 20},
    "100 steps of 4 x 2048": GUIDES_WINDOWS | {"finetune_steps_per_loop": 100},
}
SHORT, LONG = (50_000, 90_000), (100_000, 250_000)
"""What is short ends with the second loop, also of a robot that falls in the first, whose third one ends at 101,000."""
SPECS = (
    *(Spec("main", r, "default", s, {}, (0, 50_000, 100_000, 250_000)) for r in ROBOTS for s in seeds_of(r)),
    *(Spec("main", r, "one small loop", s, SMALL_LOOP, (10_000,)) for r in ROBOTS[1:] for s in MAIN_SEEDS),
    *(Spec("operators", r, name, s, o, SHORT) for r in WEAK for name, o in OPERATORS.items() for s in SEEDS),
    *(
        Spec("operators", "minicheetah-primitive", "plain copy", s, STEP_04 | {"init_map": "none"}, SHORT)
        for s in SEEDS
    ),
    *(Spec("critics", r, name, s, o, SHORT) for r in WEAK for name, o in CRITICS.items() for s in SEEDS),
    *(Spec("fine-tuning", r, name, s, o, SHORT) for r in WEAK for name, o in FINETUNING.items() for s in SEEDS),
    # The rivals give the number of loops that they leave, from which their runs are known to be done.
    *(Spec("rivals", r, "from scratch", s, {"num_improvement_loops": 5}, LONG) for r in WEAK for s in SEEDS),
    *(Spec("rivals", r, "PPO from expert", s, TWO_LOOPS, (0, *LONG)) for r in WEAK for s in SEEDS),
    *(
        Spec("ablations", "minicheetah-primitive", name, s, options, SHORT)
        for name, options in ABLATIONS.items()
        for s in SEEDS
    ),
)
STUDIES = tuple(dict.fromkeys(spec.study for spec in SPECS))
COLUMNS = (
    *("study", "robot", "variant", "seed", "env_steps", "limit", "mean_return", "std_return", "mean_length", "falls"),
    *("eval_env_steps", "seconds"),
)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output-dir", type=Path, default=Path("runs/adaptation"))
    parser.add_argument("--robot", choices=ROBOTS, nargs="+", default=ROBOTS)
    parser.add_argument("--study", choices=STUDIES, nargs="+", default=STUDIES)
    parser.add_argument("--seed", choices=MAIN_SEEDS, type=int, nargs="+", default=MAIN_SEEDS)
    parser.add_argument(
        "--experts", type=Path, default=Path("runs/checkpoints/experts"),
        help="DIR/go2 and DIR/go1 are what `vintix-fast expert` left; for PPO from expert",
    )  # fmt: skip
    parser.add_argument("--csv", type=Path, default=Path(__file__).with_suffix(".csv"), help="where the table goes")
    parser.add_argument("--list", action="store_true", help="say what there is and what is done, run nothing")
    parser.add_argument("--table", action="store_true", help="gather what is done, run nothing")
    args = parser.parse_args(arguments)
    chosen = [s for s in SPECS if s.robot in args.robot and s.study in args.study and s.seed in args.seed]
    if args.list:
        print("\n".join(f"{spec}: {state(spec, args.output_dir)}" for spec in chosen))
        return 0
    status = 0
    try:
        robots = () if args.table else dict.fromkeys(spec.robot for spec in chosen)
        trials = {
            robot: functools.partial(run_robot, [s for s in chosen if s.robot == robot], args.output_dir, args.experts)
            for robot in robots
        }
        told = ConsoleProgress(Console(stderr=True))
        status = int(any(run_here_or_on_cluster(trials, args.output_dir / "logs", told).values()))
    except (Interrupted, KeyboardInterrupt):
        print("Stopped; the same command goes on.", file=sys.stderr)
        status = 130
    table = gather(args.output_dir)
    rounded = ({k: round(v, 5) if isinstance(v, float) else v for k, v in row.items()} for row in table)
    write_csv(args.csv, COLUMNS, rounded)
    print(markdown(table))
    return status


def run_robot(specs: list[Spec], out: Path, experts: Path, again: bool, progress: Progress) -> int:
    """A robot's runs, then their measurements; returns 1 if one of them failed, and does the others all the same."""
    scenes = functools.cache(lambda num_envs: Simulator(load_robot(specs[0].robot), num_envs))
    known: dict[tuple[str, int], dict[str, Any]] = {}
    run = functools.partial(run_spec, out=out, scenes=scenes, experts=experts)
    measure = functools.partial(measure_spec, out=out, scenes=scenes, known=known)
    failures = 0
    for label, act in (("", run), ("measuring ", measure)):
        for spec in specs:
            try:
                act(spec)
            except Interrupted:
                raise
            except (VintixFastError, OSError) as error:
                print(f"{spec}: {label}FAILED: {error}", file=sys.stderr, flush=True)
                failures = 1
    return failures


def config_of(spec: Spec, out: Path) -> AdaptConfig:
    """The run's options; its directory is ``out``/robot/study-variant/seed-n, the default run's has no study."""
    words = f"{spec.study} {spec.variant}" if spec.options else "default"
    folder = re.sub(r"[^a-z0-9]+", "-", words.lower())
    own = {
        "pretrained_path": f"builtin:without-{spec.robot.removesuffix('-primitive')}",
        "reference_robot": "go1" if spec.robot == "go2" else "go2",
    }
    where = {"robot_type": spec.robot, "output_dir": out / spec.robot / folder / f"seed-{spec.seed}"}
    return AdaptConfig.from_options(**(own | COMMON | spec.options | where), seed=spec.seed)


def finished_rows(config: AdaptConfig) -> list[dict[str, Any]]:
    """A finished run's rows, one for each loop; none of any other, nor of one with other options."""
    options = config.output_dir / "config.json"
    if not options.is_file() or config.changed_options(json.loads(options.read_text())["options"]):
        return []
    rows = read_rows(config.output_dir)
    return rows if rows and rows[-1]["loop"] >= config.num_improvement_loops else []


def run_spec(spec: Spec, out: Path, scenes: Scenes, experts: Path) -> None:
    """Do the run, or what is left of it.

    Raises:
        UsageError: it was begun with other options.
        VintixFastError: it failed.
    """
    config = config_of(spec, out)
    options = config.output_dir / "config.json"
    begun = options.is_file()
    if begun and (changed := config.changed_options(json.loads(options.read_text())["options"])):
        raise UsageError(f"{config.output_dir} was begun with other options ({'; '.join(changed)}); move it away")
    if finished_rows(config):
        return
    if spec.variant in RIVALS:
        RIVALS[spec.variant](config, spec.limits, scenes, experts)
    else:
        imitator = IMITATORS.get(spec.variant)  # what only the study has
        improver = imitator and imitator(config.improve, config.engine.device)
        adapt(replace(config, resume=begun), improver=improver, simulator=scenes(config.envs))
    if rows := finished_rows(config):
        print(f"{spec}: {rows[-1]['total_env_steps']:,} steps, {sum(map(loop_seconds, rows)):.0f} s", flush=True)


def rows_within(rows: list[dict[str, Any]], limit: int) -> list[dict[str, Any]]:
    """The loops that a run had finished when it had taken ``limit`` steps, its evaluations counted."""
    return [row for row in rows if row["total_env_steps"] <= limit * SLACK]


def best_loop(rows: list[dict[str, Any]], limit: int) -> int:
    """The loop whose model the run held by then: the last that the gate accepted, or the last; 0: the initial one."""
    return max((row["loop"] for row in rows_within(rows, limit) if row.get("accepted", True)), default=0)


def result_file(config: AdaptConfig, loop: int) -> Path:
    return config.output_dir / "measured" / f"{Run(config).model_dir(loop).name}.json"


def measure_spec(spec: Spec, out: Path, scenes: Scenes, known: dict[tuple[str, int], dict[str, Any]]) -> None:
    """Measure a finished run's models, each once.

    Args:
        known: results by the model's bytes, added to: runs of a robot begin with the same model.
    """
    config = config_of(spec, out)
    rows = finished_rows(config)
    for loop in sorted({best_loop(rows, limit) for limit in spec.limits} if rows else ()):
        model, file = Run(config).model_dir(loop), result_file(config, loop)
        content = b"".join(part.read_bytes() for part in sorted(model.iterdir()))
        key = hashlib.sha256(content).hexdigest(), config.context_len
        if not file.is_file():
            result = known.get(key) or measure_model(config, model, scenes(EVALUATION["num_envs"]))
            file.parent.mkdir(exist_ok=True)
            write_json(file, result)
            print(f"{spec}, {model.name}: {result['mean_return']:.2f} ± {result['std_return']:.2f}", flush=True)
        known[key] = json.loads(file.read_text())


def measure_model(config: AdaptConfig, model: Path, simulator: Any) -> dict[str, Any]:
    options = EVALUATION | {"random_starts": True, "context_len": config.context_len}
    settings = EvalConfig(model, config.robot_type, **options)
    measure = measure_expert if (model / WEIGHTS_FILE).is_file() else evaluate
    found = measure(settings, simulator=simulator)
    return found.summary() | {"versions": versions()}


def state(spec: Spec, out: Path) -> str:
    config = config_of(spec, out)
    if rows := finished_rows(config):
        files = {result_file(config, best_loop(rows, limit)) for limit in spec.limits}
        return f"done, {sum(file.is_file() for file in files)} of {len(files)} models measured"
    return "begun" if config.output_dir.is_dir() else "not begun"


def gather(out: Path) -> list[dict[str, Any]]:
    """Everything that was measured, a row (``COLUMNS``) for each run and limit."""
    table = []
    for spec in SPECS:
        config = config_of(spec, out)
        rows = finished_rows(config)
        for limit in spec.limits if rows else ():
            file, within = result_file(config, best_loop(rows, limit)), rows_within(rows, limit)
            if not file.is_file():
                continue
            found = json.loads(file.read_text())
            named = (spec.study, spec.robot, spec.variant, spec.seed, within[-1]["total_env_steps"] if within else 0)
            measured = [found[key] for key in ("mean_return", "std_return", "mean_episode_length", "terminated")]
            evaluated = sum(row.get(key, 0) for row in within for key in ("eval_env_steps", "posture_env_steps"))
            spent = evaluated, sum(map(loop_seconds, within))
            table.append(dict(zip(COLUMNS, (*named, limit, *measured, *spent), strict=True)))
    return table


if __name__ == "__main__":
    sys.exit(main())
