"""``vintix-fast bench``: how fast collection is here, against the bare simulator and against the plain way."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from typer import Context, Option

from vintix_fast.benchmarks.config import BenchConfig
from vintix_fast.cli.common import (
    CacheDtype,
    DroppedMass,
    Engine,
    check_file,
    console,
    print_json,
    reports_errors,
    result_console,
)
from vintix_fast.config import BUILTIN_CHECKPOINT, MAX_ENVS, AdaptConfig, checkpoint_path
from vintix_fast.errors import UsageError

MAIN, PARTS, RUN = "Main", "Parts", "Run"
MAIN_ENVS = 64
"""The setting whose numbers stand at the top of --json."""
TRAINING_OPTIONS = ("training", "context_len", "device", "json")


@reports_errors
def bench(
    context: Context,
    num_envs: Annotated[
        str, Option(help="numbers of environments to measure, with commas", rich_help_panel=MAIN)
    ] = "1,16,64,256",
    context_len: Annotated[
        int | None,
        Option(
            min=1,
            help="steps of history that the policy sees; 256 is measured too",
            rich_help_panel=MAIN,
            show_default="what the model was made for",
        ),
    ] = None,
    robot_type: Annotated[
        str, Option(help="a robot that the checkpoint walks on, so that none falls", rich_help_panel=MAIN)
    ] = "go2",
    pretrained_path: Annotated[
        Path,
        Option(
            help="checkpoint directory, or builtin:<name>", rich_help_panel=MAIN, show_default="the bundled checkpoint"
        ),
    ] = BUILTIN_CHECKPOINT,
    device: Annotated[str, Option(help="cpu or cuda", rich_help_panel=MAIN)] = "cpu",
    engine: Engine = "auto",
    cache_dtype: CacheDtype = None,
    dropped_mass: DroppedMass = None,
    steps: Annotated[
        int | None,
        Option(
            help="steps of all environments in one timing, 10 to 1000",
            rich_help_panel=MAIN,
            show_default="20,000 / environments, at least 100",
        ),
    ] = None,
    repeats: Annotated[int, Option(min=1, help="timings of each row; the best counts", rich_help_panel=MAIN)] = 2,
    plain_steps: Annotated[
        int, Option(min=0, help="actions of the plain way; 0 leaves it out", rich_help_panel=PARTS)
    ] = 10,
    writer_steps: Annotated[
        int, Option(min=0, help="steps written to compare with h5py; 0 leaves it out", rich_help_panel=PARTS)
    ] = 2000,
    training: Annotated[
        bool, Option("--training", help="measure fine-tuning instead of collection", rich_help_panel=PARTS)
    ] = False,
    png: Annotated[
        Path | None, Option(help="picture of steps/s against environments", rich_help_panel=RUN, show_default="none")
    ] = None,
    json: Annotated[bool, Option("--json", help="print one JSON object last", rich_help_panel=RUN)] = False,
) -> None:
    """Measure collection, row by row: simulator, task, policy, writer, the plain way; or --training.

    Simulator and task repeat a recorded walk; the policy walks on live, from a
    full context. The bare simulator leaves robots where they fall: with falls,
    see the last column, its row differs. The defaults take a few minutes.
    """
    if training:
        _refuse_options_of_collection(context)
    environments = _numbers(num_envs)
    config = BenchConfig(environments, steps, repeats, plain_steps, device, engine, cache_dtype, dropped_mass)
    if png is not None:
        check_file("--png", png)

    from vintix_fast.benchmarks import collection_tables as tables
    from vintix_fast.benchmarks.collection import measure
    from vintix_fast.evaluate import check_context_len, check_device, task_for
    from vintix_fast.memory import check_memory
    from vintix_fast.model import load_checkpoint
    from vintix_fast.report.console import ConsoleProgress
    from vintix_fast.robots import load_robot
    from vintix_fast.rollout import cache_bytes

    check_device(device)
    out, say = result_console(json), ConsoleProgress(console).say
    if training:
        _training(context_len, device, out, say, json)
        return
    robot, model = load_robot(robot_type), load_checkpoint(checkpoint_path(pretrained_path), device)
    task_name, full = task_for(model, robot), check_context_len(context_len, model)
    check_memory(max(environments), cache_bytes(model, full, **config.engine_options), device)
    settings = measure(model, task_name, robot, full, config, say)

    out.print(tables.speed_table(settings))
    out.print(tables.step_table(settings))
    result = _result(settings, full) | _machine(device)
    out.print(_said(result, full), highlight=False, soft_wrap=True)
    if writer_steps:
        result["writer"] = _writer(min(MAIN_ENVS, max(environments)), writer_steps)
        out.print(tables.writer_table(result["writer"]))
    if png is not None:
        tables.plot_scaling(png, settings, robot.name)
        out.print(f"Picture: {png}", highlight=False, markup=False, soft_wrap=True)
    if json:
        print_json(result)


def _refuse_options_of_collection(context: Context) -> None:
    for name in context.params:
        if name not in TRAINING_OPTIONS and context.get_parameter_source(name).name == "COMMANDLINE":
            raise UsageError(
                f"--{name.replace('_', '-')} {context.params[name]} means nothing to --training; leave it out "
                "(--training takes --context-len, --device and --json)"
            )


def _training(context_len: int | None, device: str, out: Any, say: Any, json: bool) -> None:
    """Optimiser steps on windows of ``context_len``; needs no simulator."""
    from vintix_fast.benchmarks.collection_tables import training_table
    from vintix_fast.benchmarks.training import measure

    result = measure(window_len=context_len or AdaptConfig.context_len, device=device, say=say)
    out.print(training_table(result))
    memory = result["peak_memory_bytes"]
    out.print(
        f"1000 steps of {result['batch_size']} x {result['window_len']} tokens take "
        f"{result['seconds_1000_steps']:.0f} s by the median step"
        + ("" if memory is None else f"; a step's memory: {memory / 1e9:.2f} GB"),
        highlight=False,
        soft_wrap=True,
    )
    if json:
        print_json(result | _machine(device))


def _numbers(text: str) -> tuple[int, ...]:
    try:
        numbers = tuple(sorted({int(word) for word in text.replace(",", " ").split()}))
    except ValueError:
        numbers = ()
    if not numbers or not 1 <= numbers[0] <= numbers[-1] <= MAX_ENVS:
        raise UsageError(f"--num-envs is '{text}'; it must be numbers from 1 to {MAX_ENVS}, such as 16,64")
    return numbers


def _writer(num_envs: int, steps: int) -> dict[str, Any]:
    import tempfile

    from vintix_fast.benchmarks.writer import measure

    with tempfile.TemporaryDirectory() as folder:
        return measure(Path(folder), num_envs, steps)


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
    from vintix_fast.run import versions

    return {
        "device": device if device == "cpu" else torch.cuda.get_device_name(),
        "processor": processor(),
        "threads": torch.get_num_threads(),
        "versions": versions(),
    }
