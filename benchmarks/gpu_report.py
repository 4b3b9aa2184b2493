"""One report of a GPU: what works on it, how fast, and how fast a robot learns to walk there.

    python benchmarks/gpu_report.py                       # at most eight minutes; results/gpu-DEVICE.md
    python benchmarks/gpu_report.py --device cpu --small  # the same parts on a CPU, small, to try the script itself

Each part is a command of its own with a time limit, so that one that fails costs only itself; what it printed last
stands in its place.  Files are written after every part.  Parts that would not fit into ``--seconds`` are left out, and
named.
"""

from __future__ import annotations

import argparse
import datetime
import hashlib
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from vintix_fast.benchmarks.machine import processor
from vintix_fast.rundir import read_rows
from vintix_fast.service.files import versions, write_json, write_text

HERE = Path(__file__).resolve().parent
PYTHON = [sys.executable, "-P"]  # without the folder that it runs in, which holds half of the package
VINTIX_FAST = [*PYTHON, "-c", "from vintix_fast.cli import main; main()"]
NO_SIMULATOR = ("training", "step")
UNSEEN = ["--pretrained-path", "builtin:without-go2", "--reference-robot", "go1"]
GOOD = 20.0
"""A return that a robot which walks well passes."""


@dataclass(frozen=True)
class Setting:
    """What differs between a GPU's report and the trial of the script on a CPU."""

    device: str
    envs: tuple[int, ...] = (1, 25, 256, 1024, 4096)
    ppo: tuple[str, ...] = ("--num-envs", "4096", "--iterations", "200")
    adapt: tuple[str, ...] = ()
    loop: tuple[str, ...] = ("--num-improvement-loops", "1", "--finetune-steps-per-loop", "50")
    bench: tuple[str, ...] = ("--steps", "100", "--repeats", "1", "--plain-steps", "0", "--writer-steps", "0")


TINY_LOOP = (
    "--num-improvement-loops", "1", "--episodes-per-loop", "4", "--gate-episodes", "4",
    "--finetune-steps-per-loop", "2", "--critic-updates", "20", "--min-steps-per-loop", "0",
)  # fmt: skip
SMALL = Setting(
    "cpu",
    envs=(1, 8),
    ppo=("--num-envs", "16", "--iterations", "3", "--eval-episodes", "4"),
    adapt=TINY_LOOP,
    loop=TINY_LOOP,
    bench=("--steps", "20", "--repeats", "1", "--plain-steps", "0", "--writer-steps", "0", "--context-len", "64"),
)


class PartError(Exception):
    """A part that gave no result, and why."""


def command(words: list[str], seconds: float, cwd: Path | None = None) -> tuple[str, float]:
    """Run it; returns what it printed to the standard output, and its seconds."""
    started = time.perf_counter()
    try:
        done = subprocess.run(words, cwd=cwd, timeout=seconds, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    except subprocess.TimeoutExpired as late:
        raise PartError(f"took more than {seconds:.0f} s") from late
    if done.returncode:
        raise PartError(f"exit code {done.returncode}: {(done.stderr or done.stdout).strip()[-600:]}")
    return done.stdout, time.perf_counter() - started


def last_json(text: str) -> dict[str, Any]:
    return json.loads(text.strip().splitlines()[-1])


class Parts:
    """The parts of the report, by their names; each takes the seconds that it has and returns its result."""

    def __init__(self, setting: Setting, folder: Path) -> None:
        self.setting, self.folder = setting, folder

    def begin_warming(self) -> subprocess.Popen:
        """A first run, in the background: it compiles the simulator's kernels, if there is no cache of them."""
        out = str(self.folder / "warm")
        words = ["adapt", "--robot-type", "go2", "--output-dir", out, *self._device, *self.setting.loop]
        return subprocess.Popen([*VINTIX_FAST, *words], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def tests(self, seconds: float) -> dict[str, Any]:
        """The tests that need a GPU."""
        words = [*PYTHON, "-m", "pytest", "-q", "-m", "gpu", "-p", "no:cacheprovider", "tests"]
        try:
            printed, _ = command(words, seconds, HERE.parent)
        except PartError as failed:
            return {"outcome": str(failed)[-3000:]}
        return {"outcome": printed.strip().splitlines()[-1].strip("= ")}

    def training(self, seconds: float) -> dict[str, Any]:
        """``bench --training``."""
        words = ["--context-len", "64"] if self.setting == SMALL else []
        return last_json(command([*VINTIX_FAST, "bench", "--training", *self._device, "--json", *words], seconds)[0])

    def step(self, seconds: float) -> dict[str, Any]:
        """`cuda_step`: the policy alone, and how often the host waits in a step."""
        if self.setting.device == "cpu":
            raise PartError("needs a GPU")
        return last_json(command([*PYTHON, str(HERE / "cuda_step.py"), "--num-envs", "4096"], seconds)[0])

    def collection(self, seconds: float) -> dict[str, Any]:
        """``bench``: collection against the bare simulator, for each number of environments."""
        began, settings = time.perf_counter(), []
        for envs in self.setting.envs:
            words = ["bench", *self._device, "--num-envs", str(envs), *self.setting.bench, "--json"]
            left = seconds - (time.perf_counter() - began)
            try:
                settings.append(last_json(command([*VINTIX_FAST, *words], left)[0])["settings"][-1])
            except PartError as failed:
                settings.append({"num_envs": envs, "failed": str(failed)})
        return {"settings": settings}

    def adapt_go2(self, seconds: float) -> dict[str, Any]:
        """``adapt`` with its default options, of a model that has never seen go2 and falls."""
        return self._adapt("go2", "go2", [*UNSEEN, *self.setting.adapt], seconds)

    def adapt_minicheetah(self, seconds: float) -> dict[str, Any]:
        """``adapt`` with its default options."""
        return self._adapt("minicheetah-primitive", "minicheetah-primitive", [*self.setting.adapt], seconds)

    def time_to_good(self, seconds: float) -> dict[str, Any]:
        """``adapt``, stopped by the first model that walks well."""
        return self._adapt("good", "go2", [*UNSEEN, "--target-return", str(GOOD), *self.setting.adapt], seconds)

    def ppo(self, seconds: float) -> dict[str, Any]:
        """PPO from scratch on the same task: ``expert``, and when its episodes passed `GOOD`, exploration on."""
        out = self.folder / "ppo"
        words = ["expert", "--robot-type", "go2", "--output-dir", str(out), *self._device, *self.setting.ppo, "--json"]
        printed, took = command([*VINTIX_FAST, *words], seconds)
        result = last_json(printed)
        card = json.loads((out / "expert.json").read_text())
        curve = ppo_curve(out / "tensorboard")
        passed = next(((t, i) for t, i, mean in curve if mean >= GOOD), None)
        steps = card["env_steps"] // card["iterations"]
        return {
            "seconds": took, "train_seconds": card["train_seconds"], "return": result["mean_return"],
            "env_steps": card["env_steps"], "train_seconds_to_good": passed and passed[0],
            "env_steps_to_good": passed and (passed[1] + 1) * steps,
        }  # fmt: skip

    def same_bits(self, seconds: float) -> dict[str, Any]:
        """Two equal runs of one loop: whether their models are the same bits."""
        began, prints = time.perf_counter(), []
        for run in ("one", "two"):
            left = seconds - (time.perf_counter() - began)
            self._adapt(run, "go2", [*UNSEEN, *self.setting.loop], left)
            weights = [
                hashlib.sha256((self.folder / run / "models" / loop / "model.pth").read_bytes()).hexdigest()[:12]
                for loop in ("initial", "loop_01")
            ]
            rows = read_rows(self.folder / run)
            prints.append({"weights": weights, "returns": [row["eval_return"] for row in rows],
                           "collected": [row.get("mean_return") for row in rows]})  # fmt: skip
        return {"runs": prints, "same": prints[0] == prints[1]}

    @property
    def _device(self) -> list[str]:
        return ["--device", self.setting.device]

    def _adapt(self, name: str, robot: str, words: list[str], seconds: float) -> dict[str, Any]:
        out = self.folder / name
        words = ["adapt", "--robot-type", robot, "--output-dir", str(out), "--overwrite", *self._device, *words]
        took = command([*VINTIX_FAST, *words], seconds)[1]
        rows = read_rows(out)
        parts = ("collect_seconds", "improve_seconds", "train_seconds", "eval_seconds")
        return {
            "seconds": took,
            "returns": [row["eval_return"] for row in rows],
            "best": max(row["eval_return"] for row in rows),
            "total_env_steps": rows[-1]["total_env_steps"],
            "seconds_of": {part.removesuffix("_seconds"): sum(row.get(part, 0.0) for row in rows) for part in parts},
            "rows": rows,
        }


def ppo_curve(folder: Path) -> list[tuple[float, int, float]]:
    """Seconds since the first iteration, iteration, mean return of the latest episodes."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder))
    events.Reload()
    tags = [tag for tag in events.Tags()["scalars"] if tag.endswith("mean_reward")]
    scalars = events.Scalars(tags[0]) if tags else []
    return [(one.wall_time - scalars[0].wall_time, one.step, one.value) for one in scalars]


def markdown(report: dict[str, Any]) -> str:
    """The report for people."""
    lines = [f"# {report['device']}", "", f"{report['date']}, {report['processor']}, {report['cores']} cores; "
             + ", ".join(f"{k} {v}" for k, v in report["versions"].items()) + ".",
             f"Made by `{report['command']}` in {report['seconds']:.0f} s; each figure is of one run.", ""]  # fmt: skip
    parts = report["parts"]
    for name, part in parts.items():
        if "failed" in part:
            lines.append(f"- {name}: no result ({part['failed'].splitlines()[-1][:200]})")
    if "tests" in parts:
        lines += ["", f"Tests that need a GPU: {parts['tests'].get('outcome', '')[-200:]}"]
    runs = {n: p for n, p in parts.items() if "returns" in p}
    if runs or "train_seconds" in parts.get("ppo", {}):
        lines += ["", "| run | seconds, all | collecting | critic | fine-tuning | evaluating | steps, all | returns |",
                  "|---|---|---|---|---|---|---|---|"]  # fmt: skip
    for name, part in runs.items():
        of = part["seconds_of"]
        lines.append(
            f"| {name} | {part['seconds']:.0f} | {of['collect']:.1f} | {of['improve']:.1f} "
            f"| {of['train'] - of['improve']:.1f} | {of['eval']:.1f} | {part['total_env_steps']:,} "
            f"| {', '.join(f'{r:.2f}' for r in part['returns'])} |"
        )
    if "train_seconds" in parts.get("ppo", {}):
        ppo = parts["ppo"]
        passed = "never"
        if ppo["train_seconds_to_good"] is not None:
            passed = f"after {ppo['train_seconds_to_good']:.0f} s of training, {ppo['env_steps_to_good']:,} steps"
        lines.append(f"| PPO | {ppo['seconds']:.0f} | | | {ppo['train_seconds']:.1f} | | {ppo['env_steps']:,} "
                     f"| {ppo['return']:.2f}; {GOOD:g} {passed} |")  # fmt: skip
    if rows := parts.get("collection", {}).get("settings"):
        lines += [
            "",
            "| environments | collecting, steps/s | of the bare simulator | policy alone, ms |",
            "|---|---|---|---|",
        ]
        for row in rows:
            if "failed" in row:
                lines.append(f"| {row['num_envs']} | {row['failed'].splitlines()[-1][:120]} | | |")
                continue
            speed, of_bare = row["collection_steps_per_s"], row["collection_of_bare"]
            lines.append(f"| {row['num_envs']} | {speed:,.0f} | {of_bare:.0%} | {1e3 * row['decode_seconds']:.2f} |")
    if rows := parts.get("training", {}).get("rows"):
        lines += ["", "| training | ms a step | tokens/s |", "|---|---|---|"]
        lines += [f"| {row['name']} | {1e3 * row['step_s']:.2f} | {row['tokens_per_s']:,.0f} |" for row in rows]
    if cache := parts.get("step", {}).get("cache"):
        lines += ["", "| cache, 4096 x 2048 | policy step from a graph, ms | host, ms | eager, ms | waits a step |",
                  "|---|---|---|---|---|"]  # fmt: skip
        for dtype, row in cache.items():
            lines.append(f"| {dtype} | {row['graph_ms']:.2f} | {row['graph_host_ms']:.2f} | {row['eager_ms']:.2f} "
                         f"| {row.get('host_waits_per_step', float('nan')):g} |")  # fmt: skip
    if "same" in parts.get("same_bits", {}):
        said = "the same bits" if parts["same_bits"]["same"] else "different bits"
        lines += ["", f"Two equal runs of one loop gave {said}."]
    return "\n".join(lines) + "\n"


ORDER = (
    "training",
    "step",
    "tests",
    "adapt_go2",
    "time_to_good",
    "ppo",
    "adapt_minicheetah",
    "collection",
    "same_bits",
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--small", action="store_true", help="tiny settings, to try the script")
    parser.add_argument("--seconds", type=float, default=480.0, help="the most that it may take")
    parser.add_argument("--parts", default=",".join(ORDER), help="which, in this order")
    parser.add_argument("--output", type=Path, default=HERE / "results", help="folder of the report")
    args = parser.parse_args()
    if args.device != "cpu" and not torch.cuda.is_available():
        raise SystemExit("error: torch finds no CUDA device here; --device cpu --small tries the script")
    setting = SMALL if args.small else Setting(args.device)
    device = "cpu" if args.device == "cpu" else torch.cuda.get_device_name()
    stem = args.output / f"gpu-{re.sub('[^a-z0-9]+', '-', device.lower())}"
    report: dict[str, Any] = {
        "device": device,
        "date": str(datetime.date.today()), "processor": processor(), "cores": os.cpu_count(),
        "versions": versions(), "command": " ".join(["python benchmarks/gpu_report.py", *sys.argv[1:]]),
        "parts": {},
    }  # fmt: skip
    began = time.perf_counter()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        parts = Parts(setting, Path(folder))
        # Kernels for the simulator take minutes to compile and no GPU: meanwhile, what needs no simulator.
        warming = parts.begin_warming()
        for name in args.parts.split(","):
            part: Callable[[float], dict[str, Any]] = getattr(parts, name)
            left = args.seconds - (time.perf_counter() - began)
            started = time.perf_counter()
            try:
                if name not in NO_SIMULATOR and warming.poll() is None:
                    warming.wait(max(left, 1))
                    print(f"first start: {time.perf_counter() - began:.0f} s", flush=True)
                    report["first_start_seconds"] = time.perf_counter() - began
                    left = args.seconds - (time.perf_counter() - began)
                if left < 5:
                    raise PartError("left out: no time")
                report["parts"][name] = part(left)
            except (PartError, subprocess.TimeoutExpired) as failed:
                report["parts"][name] = {"failed": str(failed)}
            report["seconds"] = time.perf_counter() - began
            print(
                f"{name}: {time.perf_counter() - started:.0f} s {report['parts'][name].get('failed', '')}", flush=True
            )
            args.output.mkdir(parents=True, exist_ok=True)
            write_json(stem.with_suffix(".json"), report)
            write_text(stem.with_suffix(".md"), markdown(report))
    print(markdown(report))


if __name__ == "__main__":
    main()
