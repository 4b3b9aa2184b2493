"""``vintix-fast bench``: how fast collection is here, against the bare simulator and against the plain way."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Annotated, Any

from typer import Option

from vintix_fast.benchmarks.config import PARTS, BenchConfig
from vintix_fast.cli.common import Json, check_file, progress, result_console, show, takes
from vintix_fast.config import AdaptConfig
from vintix_fast.run_config import RUN
from vintix_fast.service.errors import UsageError

MAIN_ENVS = 64
"""The setting whose numbers stand at the top of --json."""
TRAINING_OPTIONS = ("context_len", "device")
Training = Annotated[
    bool, Option("--training", help="measure fine-tuning instead of collection", rich_help_panel=PARTS)
]
Picture = Annotated[
    Path | None, Option(help="picture of steps/s against environments", rich_help_panel=RUN, show_default="none")
]


@takes(BenchConfig)
def bench(
    training: Training = False,
    png: Picture = None,
    json: Json = False,
    **options: Any,
) -> Any:
    """Measure collection, row by row: simulator, task, policy, writer, the plain way; or --training.

    Simulator and task repeat a recorded walk; the policy walks on live, from a
    full context. The bare simulator leaves robots where they fall: with falls,
    see the last column, its row differs. The defaults take a few minutes.
    """
    # What can be wrong with the words is said before anything heavy is imported.
    if training:
        _refuse_options_of_collection(options | ({} if png is None else {"png": png}))
    config = BenchConfig.from_options(**options)
    device = config.engine.device
    if png is not None:
        check_file("--png", png)

    from vintix_fast.benchmarks import collection_tables as tables
    from vintix_fast.benchmarks.collection import measure
    from vintix_fast.benchmarks.writer import measure as measure_writer
    from vintix_fast.evaluation import check_context_len, task_for
    from vintix_fast.model import load_checkpoint
    from vintix_fast.policy import cache_bytes
    from vintix_fast.service.device import check_device
    from vintix_fast.service.memory import check_memory
    from vintix_fast.world.robot import load_robot

    check_device(device)
    out, say = result_console(json), progress().say
    if training:
        return _training(config.context_len, device, out, say)
    # Whether model, context and memory fit is known before a scene is built.
    robot, model = load_robot(config.robot_type), load_checkpoint(config.pretrained_path, device)
    task_name, full = task_for(model, robot), check_context_len(config.context_len, model)
    check_memory(max(config.num_envs), cache_bytes(model, full, **config.engine.policy_options), device)
    settings = measure(model, task_name, robot, full, config, say)

    # Tables for people, the main setting in a sentence, and what else was asked for.
    out.print(tables.speed_table(settings))
    out.print(tables.step_table(settings))
    result = _result(settings, full) | _machine(device)
    show(out, _said(result, full))
    if config.writer_steps:
        with tempfile.TemporaryDirectory() as folder:
            result["writer"] = measure_writer(Path(folder), min(MAIN_ENVS, max(config.num_envs)), config.writer_steps)
        out.print(tables.writer_table(result["writer"]))
    if png is not None:
        tables.plot_scaling(png, settings, robot.name)
        show(out, f"Picture: {png}")
    return result


def _refuse_options_of_collection(given: dict[str, Any]) -> None:
    for name, value in given.items():
        if name not in TRAINING_OPTIONS:
            said = ",".join(map(str, value)) if isinstance(value, tuple) else value
            raise UsageError(
                f"--{name.replace('_', '-')} {said} means nothing to --training; leave it out "
                "(--training takes --context-len, --device and --json)"
            )


def _training(context_len: int | None, device: str, out: Any, say: Any) -> dict[str, Any]:
    """Optimiser steps on windows of ``context_len``; needs no simulator."""
    from vintix_fast.benchmarks.collection_tables import training_table
    from vintix_fast.benchmarks.training import measure

    result = measure(window_len=context_len or AdaptConfig.context_len, device=device, say=say)
    out.print(training_table(result))
    memory = result["peak_memory_bytes"]
    size = f"{result['batch_size']} x {result['window_len']}"
    text = f"1000 steps of {size} tokens take {result['seconds_1000_steps']:.0f} s by the median step"
    show(out, text + ("" if memory is None else f"; a step's memory: {memory / 1e9:.2f} GB"))
    return result | _machine(device)


def _result(settings: list[dict[str, Any]], full: int) -> dict[str, Any]:
    """The main setting's numbers, and all settings."""
    longest = [s for s in settings if s["context_len"] == full]
    main = next((s for s in longest if s["num_envs"] == MAIN_ENVS), longest[-1])
    return main | {"settings": settings}


def _said(result: dict[str, Any], full: int) -> str:
    text = (
        f"{result['num_envs']} environments at the full context of {full}: "
        f"{result['collection_steps_per_s']:,.0f} steps/s, {result['collection_of_bare']:.0%} of the bare simulator"
    )
    if "plain_steps_per_s" in result:
        text += (
            f", {result['collection_times_plain']:,.0f} times the plain way's {result['plain_steps_per_s']:.1f} "
            "(one environment, the whole history encoded for every action, dense attention)"
        )
    text += f"\nMemory read at {result['bandwidth_bytes_per_s'] / 1e9:.1f} GB/s (torch's dot product of float32 arrays"
    return text + f", {result['threads']} threads); policy: what the simulator does not hide; decode: without simulator"


def _machine(device: str) -> dict[str, Any]:
    import torch

    from vintix_fast.benchmarks.machine import processor
    from vintix_fast.service.files import versions

    return {
        "device": device if device == "cpu" else torch.cuda.get_device_name(),
        "processor": processor(),
        "threads": torch.get_num_threads(),
        "versions": versions(),
    }
