"""Tokens a second of fine-tuning: the plain trainer, and each improvement added in turn, in one run.

The plain trainer is the slow script's: float32, attention with its scores, bias and weights written out, gradients of
all parameters.  Weights are the bundled model's, histories are random numbers: nothing here depends on what they say.

`vintix-fast bench --training` prints what `measure` returns.  Each row is a process of its own, as a run is: what one
leaves in the allocator and the caches slows the next.  Timings are of single steps, after one that is not counted: the
fastest, which other programs on the machine disturbed least, and for the time of many steps the median.
"""

from __future__ import annotations

import contextlib
import functools
import multiprocessing
import os
import statistics
import tempfile
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch

from vintix_fast.benchmarks.machine import now
from vintix_fast.benchmarks.plain import causal_bias, written_out
from vintix_fast.config import FinetuneConfig
from vintix_fast.data import History, Targets, Windows
from vintix_fast.model import Vintix, load_checkpoint
from vintix_fast.service.bundled import BUILTIN_CHECKPOINT
from vintix_fast.service.device import multiplies_bf16
from vintix_fast.service.errors import cause
from vintix_fast.train import TrainingStep, finetune
from vintix_fast.train.finetune import descend
from vintix_fast.train.frozen import frozen
from vintix_fast.train.graph import compiles
from vintix_fast.train.losses import action_loss
from vintix_fast.world.layout import QUADRUPED

STATUS = Path("/proc/self/status")
KERNEL_CACHES = "TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR"
DEFAULT_STEPS = 1000
"""Of a loop of `adapt` at its defaults."""


def plain_finetune(
    model: Vintix,
    task_name: str,
    windows: Windows,
    config: FinetuneConfig,
    seed: int,
    on_step: Callable[[TrainingStep], None] = lambda step: None,
    *,
    dense: bool = True,
    every_gradient: bool = True,
) -> list[TrainingStep]:
    """`finetune` without what makes it fast: it draws the same windows and takes the same steps.

    Args:
        model: its group is trained in place.
        config: ``bf16`` means autocast.
        dense: write attention out.
        every_gradient: compute all parameters' gradients, though only the group's are used.
    """
    # The group alone is trained; whether the others get gradients all the same is what is measured.
    model.eval()
    parameters = [parameter for _, parameter in model.group_parameters(model.tasks[task_name].group_name)]
    # Without ``every_gradient`` the transformer is constant, in its own precision.
    model.requires_grad_(True)
    transformer = model.transformer if every_gradient else frozen(model.transformer, bf16=False)
    optimiser = torch.optim.AdamW(parameters, lr=config.lr, weight_decay=0.0)
    # Attention is written out for this training only.
    log, attending = [], contextlib.nullcontext()
    if dense:
        attending = written_out(transformer, causal_bias(model.config.transformer_heads, windows.window_len))
    with attending:
        # `finetune`'s own windows, in its order.
        for step in range(config.steps):
            batch = windows.batch(config.batch_size, np.random.default_rng([seed, step]))
            with torch.autocast(model.device.type, torch.bfloat16, enabled=config.bf16):
                loss = action_loss(model, task_name, batch, transformer)
            model.zero_grad()
            log.append(descend(loss, optimiser, step, config))
            on_step(log[-1])
    return log


def made_windows(count: int, length: int, window_len: int, device: str = "cpu") -> Windows:
    """Windows over ``count`` histories of ``length`` random transitions."""
    rng, histories = np.random.default_rng(0), []
    for env in range(count):
        histories.append(
            History(
                observation=rng.normal(0.0, 0.3, (length, QUADRUPED.size)).astype(np.float32),
                action=rng.normal(0.0, 0.5, (length, QUADRUPED.num_joints)).astype(np.float32),
                reward=rng.uniform(0.0, 0.02, length).astype(np.float32),
                step_num=(np.arange(length) % 1000).astype(np.int32),
                extras={},
                env=env,
            )
        )
    targets = [Targets(h.action, np.ones(length, np.float32)) for h in histories]
    return Windows(histories, targets, window_len, device)


def matmul_peak(dtype: torch.dtype, device: str = "cpu") -> float:
    """The best of ten multiplications of two square matrices, in operations a second."""
    size = 2048 if torch.device(device).type == "cpu" else 8192
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    best = float("inf")
    for _ in range(10):
        started = now(device)
        a @ b
        best = min(best, now(device) - started)
    return 2 * size**3 / best


def step_operations(model: Vintix, batch_size: int, window_len: int, decoder_only: bool = False) -> float:
    """Operations of a step's matrix products, where nothing is computed twice and no gradient needlessly.

    Attention counts whole triangles: what its windows leave out is counted as done.
    """
    config = model.config
    tokens, hidden = batch_size * window_len, config.hidden_dim
    decoder = 3 * hidden**2 + QUADRUPED.num_joints * hidden  # multiplications a token, forward
    if decoder_only:
        return 2 * tokens * (2 * decoder + 2 * hidden**2 + QUADRUPED.num_joints * hidden)  # no gradient of its input
    encoder = (QUADRUPED.size + config.observation_emb_dim) * config.observation_emb_dim
    encoder += (QUADRUPED.num_joints + config.action_emb_dim) * config.action_emb_dim
    mlp = (3 if config.mlp_class == "LLaMAMLP" else 2) * hidden * config.intermediate_size
    layer = 4 * hidden**2 + mlp + 3 * hidden * window_len / 2  # attention: 2 products forward, 4 backward
    return 2 * tokens * (3 * decoder + 2.5 * encoder + 2 * config.transformer_depth * layer)


def measure(
    batch_size: int = 4,
    window_len: int = 2048,
    steps: int = 12,
    plain_steps: int = 3,
    device: str = "cpu",
    say: Callable[[str], None] = lambda text: None,
) -> dict[str, Any]:
    """Measure fine-tuning at ``batch_size`` windows of ``window_len`` tokens.

    Args:
        steps, plain_steps: timed, of the trainer and of the plain one; each takes one more that is not counted.
        say: told each row as it comes.

    Returns:
        ``tokens_per_s``, ``plain_tokens_per_s``, ``decoder_only_tokens_per_s``, ``matmul_peak_fraction``,
        ``peak_memory_bytes`` (of the process, on CUDA of its tensors there, less what it held before the first step),
        ``process_memory_bytes``,
        ``matmul_peak_flops``, ``seconds_1000_steps`` (extrapolated from the median step),
        ``bf16``, ``threads``, sizes, and ``rows``: name, ``step_s``, ``median_step_s``, ``first_step_s`` from the
        beginning (of the compiled trainer also ``cold_first_step_s``, with empty caches), ``tokens_per_s``, ``ratio``
        to the plain trainer, ``matmul_peak_fraction``, and the memory.
    """
    # What the machine multiplies at best: the rows' shares are of it.
    bf16 = multiplies_bf16(device)
    peak = matmul_peak(torch.bfloat16 if bf16 else torch.float32, device)
    tokens = batch_size * window_len
    rows: list[dict[str, Any]] = []

    def timed_steps(trainer: Callable, count: int, **settings: Any) -> dict[str, Any]:
        settings = {"steps": count + 1, "batch_size": batch_size, "bf16": False} | settings
        return _in_own_process(time_steps, trainer, FinetuneConfig(**settings), window_len, device)

    def add_row(name: str, trainer: Callable, count: int, **settings: Any) -> dict[str, Any]:
        timed = timed_steps(trainer, count, **settings)
        step_s = timed["step_s"]
        timed |= {
            "name": name,
            "tokens_per_s": tokens / step_s,
            "ratio": (rows[0]["step_s"] if rows else step_s) / step_s,
            "matmul_peak_fraction": timed.pop("operations") / step_s / peak,
        }
        rows.append(timed)
        say(f"{name}: {step_s:.3f} s a step (median {timed['median_step_s']:.3f})")
        return timed

    # From the plain trainer on, each row adds one improvement to the one before.
    blocked = functools.partial(plain_finetune, dense=False)
    constant = functools.partial(plain_finetune, dense=False, every_gradient=False)
    plain = add_row("plain: float32, dense attention, every gradient", plain_finetune, plain_steps)
    on_cuda = torch.device(device).type == "cuda"
    add_row("torch's fused attention" if on_cuda else "attention in blocks, no dense bias", blocked, plain_steps)
    add_row("transformer frozen", constant, plain_steps)
    # Without products of bfloat16 two of them do not exist here.
    if bf16:
        add_row("bfloat16 (autocast)", constant, plain_steps, bf16=True)
        name = f"attention kernel, weights held in bfloat16{', one CUDA graph' * on_cuda}: the trainer"
        fast = add_row(name, finetune, steps, bf16=True, compile="off")
        in_graph = _add_compiled(functools.partial(timed_steps, finetune), add_row, steps, say)
        fast = in_graph if in_graph and compiles(FinetuneConfig.compile, device) else fast
    else:
        fast = add_row("the trainer", finetune, steps)
    # Its steps are so short that more of them are timed.
    decoder = add_row("decoder only", finetune, 4 * steps, bf16=bf16, train="decoder")
    # The trainer's figures on top, and every row.
    return {
        "tokens_per_s": fast["tokens_per_s"],
        "plain_tokens_per_s": plain["tokens_per_s"],
        "decoder_only_tokens_per_s": decoder["tokens_per_s"],
        "matmul_peak_fraction": fast["matmul_peak_fraction"],
        "matmul_peak_flops": peak,
        "seconds_1000_steps": DEFAULT_STEPS * fast["median_step_s"],
        "peak_memory_bytes": fast["peak_memory_bytes"],
        "process_memory_bytes": fast["process_memory_bytes"],
        "bf16": bf16,
        "threads": torch.get_num_threads(),
        "batch_size": batch_size,
        "window_len": window_len,
        "steps": steps,
        "rows": rows,
    }


def _add_compiled(timed_steps: Callable, add_row: Callable, steps: int, say: Callable) -> dict[str, Any] | None:
    """The row of the compiled trainer, or said why not; in a cache of its own, at first empty, then filled."""
    compiled = {"bf16": True, "compile": "on"}
    with tempfile.TemporaryDirectory() as folder, mock.patch.dict(os.environ, dict.fromkeys(KERNEL_CACHES, folder)):
        try:
            cold_s = timed_steps(1, **compiled)["first_step_s"]
            row = add_row("the same, compiled: --compile on", finetune, steps, **compiled)
        except Exception as error:  # whatever keeps torch from compiling, the other rows are measured all the same
            say(f"--compile on is not measured: {cause(error)}")
            return None
    row["cold_first_step_s"] = cold_s
    say(f"its first step comes after {cold_s:.0f} s, and after {row['first_step_s']:.0f} s where kernels are kept")
    return row


def _in_own_process(function: Callable, *arguments: Any) -> Any:
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def time_steps(train: Callable, config: FinetuneConfig, window_len: int, device: str) -> dict[str, Any]:
    """Train the bundled model on random histories.

    Returns:
        ``step_s`` of the fastest step, ``median_step_s``, ``first_step_s`` from the beginning, ``operations`` of one,
        ``peak_memory_bytes`` and ``process_memory_bytes`` as `measure` has them.
    """
    model = load_checkpoint(BUILTIN_CHECKPOINT, device)
    windows = made_windows(8, 2 * window_len, window_len, device)
    before = _memory("VmRSS", device)
    times, started = [], now(device)
    train(model, next(iter(model.tasks)), windows, config, 0, lambda step: times.append(now(device)))
    peak = _memory("VmHWM", device)  # and not getrusage's, in which a child process begins with its parent's
    return {
        "step_s": np.diff(times).min().item(),
        "median_step_s": statistics.median(np.diff(times)),
        "first_step_s": times[0] - started,
        "operations": step_operations(model, config.batch_size, window_len, config.train == "decoder"),
        "peak_memory_bytes": None if peak is None else peak - before,
        "process_memory_bytes": peak,
    }


def _memory(key: str, device: str) -> int | None:
    """Bytes of this process, on CUDA of its tensors there; None where the system does not tell."""
    if torch.device(device).type == "cuda":
        return torch.cuda.max_memory_allocated() if key == "VmHWM" else torch.cuda.memory_allocated()
    if not STATUS.is_file():
        return None
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith(key))
    return 1024 * int(line.split()[1])
