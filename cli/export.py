"""``vintix-fast export``: a model made ready for a robot."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from vintix_fast.acting_config import DEFAULT_CACHE_DTYPE
from vintix_fast.cli.common import console, show
from vintix_fast.service.bundled import checkpoint_path
from vintix_fast.service.errors import UsageError


def export(
    model: Annotated[str, Argument(help="a checkpoint directory, or builtin:NAME")],
    robot_type: Annotated[str, Option(help="the robot that it is for: a name, or a .toml, .urdf or .xml file")],
    output: Annotated[Path, Option(help="directory for policy.onnx, policy.bin and contract.json")],
    reward: Annotated[
        str,
        Option(
            help="what the model is told of its last reward: constant, estimate (from what the robot senses) or true"
        ),
    ] = "constant",
    reward_value: Annotated[
        float | None,
        Option(
            help="the constant reward of a step",
            show_default="what the model's pretraining told it, or the most that a step can give",
        ),
    ] = None,
    context_len: Annotated[
        int | None, Option(min=1, help="steps of history that it acts with", show_default="the model's")
    ] = None,
    cache_dtype: Annotated[str, Option(help="float32 or int8: how the runner keeps the context")] = DEFAULT_CACHE_DTYPE,
    overwrite: Annotated[bool, Option("--overwrite", help="replace an earlier export")] = False,
) -> None:
    """Write a model for a robot's computer: ONNX, one file for the C++ runner, and the contract of both.

    See docs/deployment.md. The robot's gains, joint order, scales, limits and latency go into the contract.
    """
    if cache_dtype not in ("float32", "int8"):
        raise UsageError(f"--cache-dtype is {cache_dtype!r}; it is float32 or int8")
    path = checkpoint_path(model)

    from vintix_fast.export import export_model
    from vintix_fast.model import load_checkpoint
    from vintix_fast.world.robot import load_robot

    robot = load_robot(robot_type)
    contract = export_model(
        load_checkpoint(path, say=lambda text: show(console, text)), robot, output, context_len=context_len,
        cache_dtype=cache_dtype, reward=reward, reward_value=reward_value, overwrite=overwrite,
    )  # fmt: skip
    told = contract["reward"]
    value = f" of {told['value']:g} a step" if told["value"] is not None else ""
    show(
        console, f"{robot.name}: {len(robot.joints)} joints, task {contract['task']}, context {contract['context_len']}"
    )
    show(console, f"Reward input: {told['input']}{value}; weights {contract['weights_sha256'][:16]}")
    show(console, f"Written: {output / 'policy.onnx'}, {output / 'policy.bin'}, {output / 'contract.json'}")
