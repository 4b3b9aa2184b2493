"""Writes policy.bin, the one file that the runner opens.

Owns its form on this side; `csrc/runner/policy_file.hpp` describes it and reads it.  What the numbers mean is the
contract's and the compiled policy's.
"""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from vintix_fast.export.contract import SENSED
from vintix_fast.export.reward import KINDS
from vintix_fast.model import Vintix
from vintix_fast.policy.compiled import decoder_settings, decoder_weights
from vintix_fast.service.files import write_bytes

MAGIC, VERSION = b"VFPOLICY", 1


def policy_arrays(model: Vintix, contract: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Everything that the runner computes with, by the names that it asks for; float32."""
    settings = decoder_settings(model, contract["task"], contract["context_len"], contract["dropped_mass"])
    reward = contract["reward"]
    scales = {part["name"]: part["times"] for part in contract["observation"]}
    plain = ("default_pose_rad", "joint_range_rad", "kp", "kd", "action_scale_rad", "action_clip", "latency_steps")
    numbers = {name: contract[name] for name in (*plain, "control_period_s", "max_tilt_rad", "command")} | {
        "ang_vel_scale": scales["ang_vel"],
        "joint_vel_scale": scales["joint_vel"],
        "command_scale": scales["command"],
        "reward_input": KINDS.index(reward["input"]),
        "reward_constant": reward["value"] or 0.0,
        "reward_weights": [reward["weights"][name] for name in SENSED],
        "tracking_sigma": reward["tracking_sigma"],
    }
    values = decoder_weights(model, contract["task"])
    values |= settings | {"cache_int8": contract["cache_dtype"] == "int8"}
    values |= {f"contract.{name}": value for name, value in numbers.items()}
    return {name: np.atleast_1d(np.asarray(value, np.float32)) for name, value in values.items()}


def policy_bytes(arrays: Mapping[str, np.ndarray], contract: Mapping[str, Any]) -> bytes:
    """A policy.bin's content."""
    text = json.dumps(contract).encode()
    parts = [struct.pack("<I", len(text)), text, struct.pack("<I", len(arrays))]
    for name, value in arrays.items():
        word = name.encode()
        parts += [struct.pack("<H", len(word)), word, struct.pack(f"<B{value.ndim}I", value.ndim, *value.shape)]
        parts.append(np.ascontiguousarray(value, "<f4").tobytes())
    body = b"".join(parts)
    return MAGIC + struct.pack("<IIQ", VERSION, zlib.crc32(body), len(body)) + body


def write_policy(path: Path, model: Vintix, contract: Mapping[str, Any]) -> None:
    """Write policy.bin; raises VintixFastError where the disk refuses."""
    write_bytes(path, policy_bytes(policy_arrays(model, contract), contract))
