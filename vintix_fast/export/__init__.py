"""A model made ready for a robot: policy.onnx, policy.bin for the runner in csrc/runner/, and the contract of both."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from vintix_fast.acting_config import DEFAULT_CACHE_DTYPE, DEFAULT_DROPPED_MASS
from vintix_fast.export.contract import Acting, make_contract
from vintix_fast.export.onnx_step import check_onnx, write_onnx
from vintix_fast.export.policy_file import write_policy
from vintix_fast.model import Vintix
from vintix_fast.service.errors import UsageError
from vintix_fast.service.files import check_writable, write_json
from vintix_fast.world.robot import Robot
from vintix_fast.world.task_config import DEFAULT_TASK, TaskConfig

FILES = ("policy.onnx", "policy.bin", "contract.json")


def export_model(
    model: Vintix,
    robot: Robot,
    output: Path,
    *,
    task: TaskConfig = DEFAULT_TASK,
    context_len: int | None = None,
    cache_dtype: str = DEFAULT_CACHE_DTYPE,
    dropped_mass: float = DEFAULT_DROPPED_MASS,
    reward: str = "constant",
    reward_value: float | None = None,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Write `FILES` into a directory; the contract comes last, so that it tells of whole files.

    Args:
        model: with a group for the robot.
        robot: whose contract it is.
        output: is made where there is none.
        task: that the model was trained in.
        context_len: tokens of history; None for the model's own.
        cache_dtype, dropped_mass: of the runner, see `vintix_fast.policy.CompiledPolicy`.
        reward: what the model is told of its last reward: constant, estimate or true; see `vintix_fast.export.reward`.
        reward_value: the constant; None for what the model's pretraining told it, or the most that a step can give.
        overwrite: replace earlier files.

    Returns:
        The contract.

    Raises:
        InputFileError: model and robot do not fit.
        UsageError: an option is out of range; there is an export already; a package is missing.
    """
    acting = Acting(context_len, cache_dtype, dropped_mass, reward, reward_value)
    contract = make_contract(model, robot, task, acting=acting)
    check_onnx()
    check_writable(output)
    held = [name for name in FILES if (output / name).exists()]
    if held and not overwrite:
        raise UsageError(f"--output {output} already holds {', '.join(held)}; --overwrite replaces them")
    output.mkdir(parents=True, exist_ok=True)
    (output / FILES[2]).unlink(missing_ok=True)
    write_onnx(output / FILES[0], model, contract)
    write_policy(output / FILES[1], model, contract)
    write_json(output / FILES[2], contract)
    return contract
