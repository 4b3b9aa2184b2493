"""The runner's C functions, for Python: what the tests and `benchmarks/runner.py` call."""

from __future__ import annotations

import ctypes
import json
from pathlib import Path

import numpy as np

FLOATS = ctypes.POINTER(ctypes.c_float)


class State(ctypes.Structure):
    _fields_ = [
        ("gyro_rad_s", FLOATS),
        ("quaternion", FLOATS),
        ("joint_pos_rad", FLOATS),
        ("joint_vel_rad_s", FLOATS),
        ("reward", ctypes.c_float),
    ]


def floats(array: np.ndarray) -> ctypes._Pointer:
    assert array.dtype == np.float32 and array.flags.c_contiguous
    return array.ctypes.data_as(FLOATS)


class Runner:
    """A policy.bin, opened; ValueError with what the library says of a file that it refuses."""

    def __init__(self, library: Path, policy: Path, implementation: str = "") -> None:
        self._lib = lib = ctypes.CDLL(str(library))
        lib.vintix_open.restype = ctypes.c_void_p
        for name in ("vintix_contract", "vintix_implementation", "vintix_says"):
            getattr(lib, name).restype = ctypes.c_char_p
        message = ctypes.create_string_buffer(512)
        self._policy = None
        handle = lib.vintix_open(str(policy).encode(), implementation.encode(), message, len(message))
        if handle is None:
            raise ValueError(message.value.decode())
        self._policy = ctypes.c_void_p(handle)
        self.joints = lib.vintix_joints(self._policy)

    def __del__(self) -> None:
        if self._policy is not None:
            self._lib.vintix_close(self._policy)

    @property
    def contract(self) -> dict:
        return json.loads(self._lib.vintix_contract(self._policy))

    @property
    def implementation(self) -> str:
        return self._lib.vintix_implementation(self._policy).decode()

    def act(self, observation: np.ndarray, action: np.ndarray, reward: float, step_num: int) -> np.ndarray:
        result = np.zeros(self.joints, np.float32)
        self._lib.vintix_act(
            self._policy, floats(observation), floats(action), ctypes.c_float(reward), int(step_num), floats(result)
        )
        return result

    def step(self, gyro, quaternion, joint_pos, joint_vel, reward=np.nan) -> tuple[str, np.ndarray]:
        """What the library says, and the target."""
        arrays = [np.ascontiguousarray(x, np.float32) for x in (gyro, quaternion, joint_pos, joint_vel)]
        state, target = State(*map(floats, arrays), reward), np.full(self.joints, np.nan, np.float32)
        status = self._lib.vintix_step(self._policy, ctypes.byref(state), floats(target))
        return self._lib.vintix_says(status).decode(), target

    def hold(self) -> np.ndarray:
        target = np.full(self.joints, np.nan, np.float32)
        self._lib.vintix_hold(self._policy, floats(target))
        return target

    def last(self) -> tuple[np.ndarray, np.ndarray, float]:
        observation, action = np.zeros(9 + 2 * self.joints, np.float32), np.zeros(self.joints, np.float32)
        reward = ctypes.c_float()
        self._lib.vintix_last(self._policy, floats(observation), floats(action), ctypes.byref(reward))
        return observation, action, reward.value

    def explore(self, sigma: float, seed: int) -> None:
        self._lib.vintix_explore(self._policy, ctypes.c_float(sigma), ctypes.c_uint64(seed))

    def meant(self) -> np.ndarray:
        action = np.zeros(self.joints, np.float32)
        self._lib.vintix_meant(self._policy, floats(action))
        return action

    def begin_episode(self) -> None:
        self._lib.vintix_begin_episode(self._policy)

    def forget(self) -> None:
        self._lib.vintix_forget(self._policy)
