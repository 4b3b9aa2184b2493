"""What a policy and a robot must agree on, as plain data: contract.json, and the same inside the exported files.

Owns the contract's keys.  Reads model, robot and task; knows nothing about the files' forms.
"""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np

from vintix_fast.acting_config import DEFAULT_CACHE_DTYPE, DEFAULT_DROPPED_MASS
from vintix_fast.evaluation import check_context_len, task_for
from vintix_fast.export.reward import KINDS, constant_reward
from vintix_fast.model import Vintix
from vintix_fast.policy.compiled import decoder_weights
from vintix_fast.service.errors import InputFileError, UsageError
from vintix_fast.service.files import versions
from vintix_fast.world.robot import Robot
from vintix_fast.world.simulator import DT_S
from vintix_fast.world.task_config import DEFAULT_TASK, TaskConfig

VERSION = 1
"""Of the contract's keys."""


def make_contract(
    model: Vintix,
    robot: Robot,
    task: TaskConfig = DEFAULT_TASK,
    *,
    context_len: int | None = None,
    cache_dtype: str = DEFAULT_CACHE_DTYPE,
    dropped_mass: float = DEFAULT_DROPPED_MASS,
    reward: str = "constant",
    reward_value: float | None = None,
) -> dict[str, Any]:
    """The contract of a model that acts on a robot.

    Args:
        task: that the model was trained in.
        context_len: tokens of history; None for the model's own.
        cache_dtype, dropped_mass: of the runner, see `vintix_fast.policy.CompiledPolicy`.
        reward: what the model is told of its last reward: constant, estimate or true; see `vintix_fast.export.reward`.
        reward_value: the constant; None for what the model's pretraining told it, or the most that a step can give.

    Raises:
        InputFileError: the model has no group for this robot, or its numbers are none that this robot has.
        UsageError: an option is out of range or has no effect.
    """
    task_name = task_for(model, robot)
    info, layout = model.tasks[task_name], robot.layout
    _check_fits(model, task_name, robot, task)
    if reward not in KINDS:
        raise UsageError(f"--reward is {reward!r}; it is one of {', '.join(KINDS)}")
    if reward_value is not None and reward != "constant":
        raise UsageError(f"--reward-value {reward_value:g} has no effect with --reward {reward}; leave one of them out")
    most = task.most_reward_per_s * DT_S
    value = constant_reward(info, task) if reward_value is None else reward_value
    if not abs(value) <= 1.0:
        raise UsageError(f"--reward-value is {value:g}; a step's reward is at most {most:g}")
    observed = {
        "ang_vel": (layout.ang_vel, layout.ang_vel_scale, "the base's angular velocity, body frame, rad/s"),
        "gravity": (layout.gravity, 1.0, "the unit vector of gravity, body frame"),
        "command": (layout.command, list(layout.command_scale), "forward and lateral speed, m/s, and yaw rate, rad/s"),
        "joint_pos": (layout.joint_pos, 1.0, "joint positions less the default pose, rad"),
        "joint_vel": (layout.joint_vel, layout.joint_vel_scale, "joint speeds, rad/s"),
    }
    return {
        "contract_version": VERSION,
        "robot": robot.name,
        "task": task_name,
        "joints": list(robot.joints),
        "default_pose_rad": list(robot.default_pose_rad),
        "joint_range_rad": robot.joint_range_rad.tolist(),
        "kp": robot.kp,
        "kd": robot.kd,
        "action_scale_rad": task.action_scale_rad,
        "action_clip": task.action_clip,
        "latency_steps": task.latency_steps,
        "control_period_s": DT_S,
        "max_tilt_rad": task.max_tilt_rad,
        "command": list(task.command),
        "observation": [
            {"name": name, "from": part.start, "to": part.stop, "times": times, "is": words}
            for name, (part, times, words) in observed.items()
        ],
        "normalisation": {
            "observations": model.config.norm_obs,
            "actions": model.config.norm_acs,
            **{key: list(getattr(info, key)) for key in ("obs_mean", "obs_std", "acs_mean", "acs_std")},
        },
        "reward": {
            "input": reward,
            "value": value if reward == "constant" else None,
            "scale": info.reward_scale,
            "weights": {name: getattr(task.reward, name) for name in SENSED},
            "tracking_sigma": task.tracking_sigma,
        },
        "context_len": check_context_len(context_len, model),
        "cache_dtype": cache_dtype,
        "dropped_mass": dropped_mass,
        "model": model.config.to_dict(),
        "weights_sha256": weights_sha256(model, task_name),
        "versions": versions(),
    }


SENSED = ("tracking_lin_vel", "tracking_ang_vel", "action_rate", "similar_to_default")
"""The reward's terms that count in an estimate, in the order in which policy.bin has their weights."""


def weights_sha256(model: Vintix, task_name: str) -> str:
    """Of the tensors that act for a task, float32, each after its name, in the names' order."""
    digest = hashlib.sha256()
    for name, value in sorted(decoder_weights(model, task_name).items()):
        digest.update(name.encode() + b"\0" + np.ascontiguousarray(value, "<f4").tobytes())
    return digest.hexdigest()


def _check_fits(model: Vintix, task_name: str, robot: Robot, task: TaskConfig) -> None:
    """Raise InputFileError where the model was made for a robot or a command that this contract contradicts."""
    info, layout = model.tasks[task_name], robot.layout
    if not model.config.norm_obs:
        return
    mean, std = np.array(info.obs_mean), np.array(info.obs_std)
    # Where joints stood, on average, must be possible for this robot.
    low, high = (robot.joint_range_rad - np.array(robot.default_pose_rad)[:, None]).T
    for joint, at, least, most in zip(robot.joints, mean[layout.joint_pos], low, high, strict=True):
        if not least - 0.1 <= at <= most + 0.1:
            raise InputFileError(
                f"the model's task {task_name} saw {joint} on average {at:.2f} rad from the default pose, and "
                f"{robot.name}'s range is {least:.2f} to {most:.2f} rad from it; the model was made with another robot "
                "file: give that with --robot-type"
            )
    command = np.array(task.command) * np.array(layout.command_scale)
    for name, asked, at, spread in zip(
        ("forward speed", "lateral speed", "yaw rate"), command, mean[layout.command], std[layout.command], strict=True
    ):
        # The deviation of a command that never varied is given as 1.
        if abs(asked - at) > 3.0 * spread + 1e-3:
            raise InputFileError(
                f"the model's task {task_name} saw the command's {name} as {at:.3g} with deviation {spread:.3g}, and "
                f"the contract would ask for {asked:.3g}; export it with the task that it was trained in"
            )
