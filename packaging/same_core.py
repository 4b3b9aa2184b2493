"""Whether the compiled core of another processor family computes what this machine's does.

    same_core.py inputs FILE        made here, with vintix-fast and torch: arguments of the core, of a bundled model
    same_core.py run FILE RESULT    with any Python that has numpy and `vintix_fast._core`, also in an emulator
    same_core.py compare ONE OTHER  exit code 1 if two results differ by more than rounding

Decodes in each instruction set with either cache, steps the task, and writes ``RESULT.h5``.
"""

from __future__ import annotations

import pickle
import platform
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

ENVS, STEPS, CONTEXT = 3, 80, 48
RESET = 50
"""The step before which one environment forgets; the ring has come round by then."""
TOLERANCES = {"float32": 1e-5, "int8": 4e-3, "task": 2e-6}
"""Rounded otherwise, a number may fall to the next of 8-bit levels."""


def make_inputs() -> dict[str, Any]:
    from vintix_fast.model import load_checkpoint
    from vintix_fast.policy.compiled import decoder_settings, decoder_weights
    from vintix_fast.service.bundled import BUILTIN_CHECKPOINT
    from vintix_fast.world.robot import load_robot
    from vintix_fast.world.task import task_constants
    from vintix_fast.world.task_config import DEFAULT_TASK

    model, constants = load_checkpoint(BUILTIN_CHECKPOINT), task_constants(load_robot("go2"), DEFAULT_TASK, 50)
    rng = np.random.default_rng(5)

    def normal(*shape: int) -> np.ndarray:
        return rng.standard_normal(shape, np.float32)

    quat = normal(ENVS, 4)
    config = {name: getattr(constants.config, name) for name in (
        "command", "weights", "tracking_sigma", "action_clip", "max_tilt_rad", "min_height_m",
    )}  # fmt: skip
    layout = {name: getattr(constants.layout, name) for name in ("command_scale", "ang_vel_scale", "joint_vel_scale")}
    return {
        "weights": decoder_weights(model, "go2_walking_ad"),
        "settings": decoder_settings(model, "go2_walking_ad", CONTEXT, 1e-3),
        "observation": normal(STEPS, ENVS, 33), "action": normal(STEPS, ENVS, 12), "reward": normal(STEPS, ENVS),
        # Plain namespaces: the other Python has no torch, which the package's own classes import.
        "constants": SimpleNamespace(
            **(constants._asdict() | {"config": SimpleNamespace(**config), "layout": SimpleNamespace(**layout)})
        ),
        "state": [normal(ENVS, 3), quat / np.linalg.norm(quat, axis=1, keepdims=True), *normal(2, ENVS, 3),
                  *normal(2, ENVS, 12)],
    }  # fmt: skip


def run(inputs: dict[str, Any], file: Path) -> dict[str, Any]:
    from vintix_fast import _core

    found: dict[str, Any] = {"machine": platform.machine(), "decoders": _core.cpu_features()["decoders"]}
    for name in found["decoders"]:
        for dtype in ("float32", "int8"):
            found[name, dtype] = decode(_core, inputs, name, dtype)
    steps, last = np.zeros(ENVS, np.int32), np.zeros((ENVS, 12), np.float32)
    failed = np.zeros(ENVS, bool)
    made = _core.TaskStep(inputs["constants"]).step(inputs["state"], inputs["action"][0], failed, last, steps)
    found["portable", "task"] = np.concatenate([np.reshape(part, (ENVS, -1)) for part in (*made, steps, last)], axis=1)
    columns = [("observation", (33,), "float32"), ("reward", (), "float32")]
    with _core.TrajectoryWriter(str(file), ENVS, columns, {"robot": "go2"}) as writer:
        for observation, reward in zip(inputs["observation"], inputs["reward"], strict=True):
            writer.append({"observation": observation, "reward": reward}, np.ones(ENVS, np.uint8))
    return found


def decode(core: Any, inputs: dict[str, Any], name: str, dtype: str) -> np.ndarray:
    """Actions [STEPS, ENVS, J]."""
    settings = inputs["settings"] | {"cache_dtype": dtype, "implementation": name}
    decoder = core.PolicyDecoder(inputs["weights"], num_envs=ENVS, threads=2, **settings)
    actions, number = [], np.zeros(ENVS, np.int32)
    for step in range(STEPS):
        if step == RESET:
            decoder.reset(np.arange(ENVS) == 1)
            number[1] = 0
        decoder.begin(inputs["observation"][step], inputs["action"][step], inputs["reward"][step], number)
        actions.append(decoder.finish())
        number += 1
    return np.stack(actions)


def compare(one: Path, other: Path) -> int:
    """Print what differs how much; returns 1 if anything does by more than `TOLERANCES`."""
    a, b = (pickle.loads(file.read_bytes()) for file in (one, other))
    wrong = 0
    for key in (key for key in b if isinstance(key, tuple)):
        name, kind = key
        expected = a.get(key, a["portable", kind])  # instructions that one has only
        worst = float(np.abs(expected.astype(np.float64) - b[key]).max())
        fits = worst <= TOLERANCES[kind]
        wrong += not fits
        print(
            f"{b['machine']} {name}, {kind}: differs from {a['machine']} by at most {worst:.1e}" + " WRONG" * (not fits)
        )
    wrong += not same_files(one, other)
    return int(wrong > 0)


def same_files(one: Path, other: Path) -> bool:
    import h5py

    found: list[dict[str, Any]] = []
    for result in (one, other):
        arrays: dict[str, Any] = {}
        with h5py.File(f"{result}.h5") as file:
            file.visititems(
                lambda name, item, to=arrays: to.__setitem__(name, item[()]) if hasattr(item, "dtype") else None
            )
        found.append(arrays)
    same = found[0].keys() == found[1].keys() and all(np.array_equal(found[0][key], found[1][key]) for key in found[0])
    print(f"HDF5: {len(found[0])} arrays, " + ("equal" if same else "WRONG"))
    return same and bool(found[0])


def main(what: str, *files: str) -> int:
    paths = [Path(file) for file in files]
    if what == "compare":
        return compare(*paths)
    made = make_inputs() if what == "inputs" else run(pickle.loads(paths[0].read_bytes()), Path(f"{paths[1]}.h5"))
    paths[-1].write_bytes(pickle.dumps(made))
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
