"""A model made ready for a robot: policy.onnx, policy.bin for the runner in csrc/runner/, and the contract of both."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from vintix_fast.export.contract import make_contract
from vintix_fast.export.onnx_step import write_onnx
from vintix_fast.export.policy_file import write_policy
from vintix_fast.model import Vintix
from vintix_fast.service.errors import UsageError
from vintix_fast.service.extras import need
from vintix_fast.service.files import check_writable, write_json
from vintix_fast.world.robot import Robot

FILES = ("policy.onnx", "policy.bin", "contract.json")


def export_model(
    model: Vintix,
    robot: Robot,
    output: Path,
    *,
    overwrite: bool = False,
    **acting: Any,
) -> dict[str, Any]:
    """Write `FILES` into a directory; the contract comes last, so that it tells of whole files.

    Args:
        model: with a group for the robot.
        robot: whose contract it is.
        output: is made where there is none.
        overwrite: replace earlier files.
        acting: in which task and how it is to act, see `make_contract`.

    Returns:
        The contract.

    Raises:
        InputFileError: model and robot do not fit.
        UsageError: an option is out of range; there is an export already; a package is missing.
    """
    contract = make_contract(model, robot, **acting)
    need("pretrain", "policy.onnx")
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
