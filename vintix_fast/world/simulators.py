"""Which simulator a run asked for."""

from __future__ import annotations

from collections.abc import Callable

from vintix_fast.world.mujoco_simulator import MujocoSimulator
from vintix_fast.world.robot import Robot
from vintix_fast.world.simulator import Simulator
from vintix_fast.world.task import Simulation
from vintix_fast.world.task_config import TaskConfig


def make_simulator(
    kind: str, robot: Robot, num_envs: int, device: str, task: TaskConfig, say: Callable[[str], None]
) -> Simulation:
    """``num_envs`` copies of ``robot`` in the simulator of that name, with room for what varies in the task."""
    if kind == "mujoco":
        return MujocoSimulator(robot, num_envs, device, say)
    return Simulator(robot, num_envs, device, say, task.vary)
