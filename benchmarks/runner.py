"""The runner and the ONNX step against the compiled policy, and how long steps take: benchmarks/results/runner.md.

    make runner && python benchmarks/runner.py
    python benchmarks/runner.py --aarch64          the runner for 64-bit Arm, under qemu-aarch64

The bundled model on go2 reads 5,000 steps of random numbers about as large as a robot's, in episodes of 1,000, and
forgets its history once.  JSON lines.  The ONNX part needs onnxruntime.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests" / "export"))

from native_runner import Runner  # noqa: E402

from vintix_fast.export import export_model  # noqa: E402
from vintix_fast.export.onnx_step import example_inputs  # noqa: E402
from vintix_fast.model import load_checkpoint  # noqa: E402
from vintix_fast.policy import CompiledPolicy  # noqa: E402
from vintix_fast.service.bundled import checkpoint_path  # noqa: E402
from vintix_fast.world.robot import load_robot  # noqa: E402

BUILD = ROOT / "build" / "runner"
FORGOTTEN = 2500


def inputs(info, steps: int) -> np.ndarray:
    """[T, O + J + 3] float32: observation, previous action, previous reward, step, whether to forget before it."""
    rng = np.random.default_rng(1)
    observation = rng.normal(info.obs_mean, info.obs_std, (steps, info.observation_dim))
    action = rng.normal(info.acs_mean, info.acs_std, (steps, info.action_dim))
    reward = rng.normal(0.02, 0.002, (steps, 1))
    t = np.arange(steps)[:, None]
    return np.hstack([observation, action, reward, t % 1000, t == FORGOTTEN]).astype(np.float32)


def compiled(model, task: str, rows: np.ndarray, dtype: str, mass: float) -> np.ndarray:
    policy = CompiledPolicy(model, task, 1, model.config.context_len, cache_dtype=dtype, dropped_mass=mass, threads=1)
    found = []
    for row in torch.from_numpy(rows):
        if row[-1]:
            policy.reset()
        policy.observe(row[33:45], row[45])
        found.append(policy.act(row[None, :33], row[46:47].int())[0].numpy())
    return np.stack(found)


def by_onnx(path: Path, model, task: str, rows: np.ndarray) -> np.ndarray:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    empty = example_inputs(model, task, model.config.context_len)
    first = {i.name: x.numpy() for i, x in zip(session.get_inputs(), empty, strict=True)}
    binding, found = session.io_binding(), []
    rings = None
    for row in rows:
        if rings is None or row[-1]:
            rings = [onnxruntime.OrtValue.ortvalue_from_numpy(first[name]) for name in ("position", "keys", "values")]
        for name, ring in zip(("position", "keys", "values"), rings, strict=True):
            binding.bind_ortvalue_input(name, ring)
        token = {"observation": row[None, :33], "previous_action": row[None, 33:45], "previous_reward": row[45:46]}
        for name, value in (token | {"step_num": row[46:47].astype(np.int64)}).items():
            binding.bind_cpu_input(name, np.ascontiguousarray(value))
        for output in session.get_outputs():
            binding.bind_output(output.name)
        session.run_with_iobinding(binding)
        action, *rings = binding.get_outputs()
        found.append(action.numpy()[0])
    return np.stack(found)


def by_library(policy: Path, rows: np.ndarray) -> np.ndarray:
    runner, found = Runner(BUILD / "native/libvintix_policy.so", policy), []
    for row in rows:
        if row[-1]:
            runner.forget()
        found.append(runner.act(row[:33], row[33:45], row[45], row[46]))
    return np.stack(found)


def by_program(command: list[str], policy: Path, rows: np.ndarray, implementation: str) -> np.ndarray:
    with tempfile.TemporaryDirectory() as folder:
        given, made = Path(folder) / "in", Path(folder) / "out"
        rows.tofile(given)
        subprocess.run([*command, policy, "replay", given, made, implementation], check=True)
        return np.fromfile(made, np.float32).reshape(len(rows), -1)


def say(what: str, found: np.ndarray, expected: np.ndarray, **more) -> None:
    error = np.abs(found - expected)
    record = {"what": what, "steps": len(found), "largest_error": float(error.max()), "mean_error": float(error.mean())}
    print(json.dumps(record | more), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=5000)
    parser.add_argument("--timed-steps", type=int, default=100_000)
    parser.add_argument("--aarch64", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(1)
    model, robot, task = (
        load_checkpoint(checkpoint_path("builtin:without-minicheetah")),
        load_robot("go2"),
        "go2_walking_ad",
    )
    rows = inputs(model.tasks[task], args.steps)
    with tempfile.TemporaryDirectory() as folder:
        for dtype in ("float32", "int8"):
            out = Path(folder) / dtype
            export_model(model, robot, out, cache_dtype=dtype)
            policy = out / "policy.bin"
            same = compiled(model, task, rows, dtype, 0.01)
            if args.aarch64:
                qemu = ["qemu-aarch64", "-cpu", "max", str(BUILD / "aarch64/vintix_replay")]
                for name in ("neon_dotprod", "neon") if dtype == "int8" else ("neon",):
                    say(f"aarch64 {name}", by_program(qemu, policy, rows, name), same, cache=dtype)
                continue
            exact = compiled(model, task, rows, "float32", 1e-8)
            say("runner", by_library(policy, rows), same, cache=dtype, against="compiled policy, same settings")
            say("runner", same, exact, cache=dtype, against="compiled policy, float32, everything read")
            if dtype == "float32":
                say("onnx", by_onnx(out / "policy.onnx", model, task, rows), exact, against="compiled policy, float32")
            replay = str(BUILD / "native/vintix_replay")
            for name in ("avx512", "avx2", "portable"):
                steps = args.timed_steps if name == "avx512" else args.timed_steps // 10
                subprocess.run([replay, policy, "time", str(steps), name])


if __name__ == "__main__":
    main()
