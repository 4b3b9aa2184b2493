"""N copies of one robot, each alone on a plane, in MuJoCo: what `simulator.py` is for Genesis.

It turns joint targets into states, over all cores that the process may use; results do not depend on how many.  Knows
nothing about observations, rewards or episodes.  What is simulated is `mujoco_model.py`'s.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable

import mujoco
import mujoco.rollout
import numpy as np
import torch

from vintix_fast.service.errors import UsageError
from vintix_fast.world.drawn import Physics
from vintix_fast.world.mujoco_model import base_body, robot_on_a_plane
from vintix_fast.world.robot import Robot
from vintix_fast.world.simulator import CONTACT_N, DT_S, SUBSTEPS, RobotState

STATE = mujoco.mjtState.mjSTATE_FULLPHYSICS
POSE, SPEED = 7, 6
"""Numbers of a free body's position and velocity."""


class MujocoSimulator:
    """``num_envs`` copies of ``robot``, stepped together at 50 Hz; a `vintix_fast.world.task.Simulation`.

    Args:
        robot: the robot to load.
        num_envs: environments side by side.
        device: "cpu", which is all that MuJoCo knows.
        say: called with a line of text.
        friction: between robot and ground; None: what the description says, at least 1, as in Genesis.
        motor_strength: the part of its torque, and of its limit, that each motor gives.
        delay_s: how long after a step's beginning its targets reach the motors, beside the task's own latency; a
            multiple of 0.01 s.

    Raises:
        UsageError: another device, or a value that cannot be.
        VintixFastError: MuJoCo refuses the robot's file.
    """

    def __init__(
        self,
        robot: Robot,
        num_envs: int,
        device: str = "cpu",
        say: Callable[[str], None] = print,
        *,
        friction: float | None = None,
        motor_strength: float = 1.0,
        delay_s: float = 0.0,
    ) -> None:
        if device != "cpu":
            raise UsageError(f"MuJoCo simulates on the CPU, not on {device}")
        delay = delay_s * SUBSTEPS / DT_S
        if not (motor_strength > 0.0 and (friction is None or friction > 0.0) and delay >= 0.0 and delay % 1 < 1e-6):
            raise UsageError(
                f"friction {friction}, motor strength {motor_strength} and delay {delay_s} s: the first two must be "
                f"above 0, the last a multiple of {DT_S / SUBSTEPS:g} s"
            )
        started = time.perf_counter()
        self.robot, self.num_envs, self.device = robot, num_envs, torch.device("cpu")
        self.model = robot_on_a_plane(robot, friction, motor_strength)
        model, free = self.model, int(np.flatnonzero(self.model.jnt_type == mujoco.mjtJoint.mjJNT_FREE)[0])
        joints = [model.joint(name).id for name in robot.joints]
        # Where things lie in a row of the state: time, positions, velocities, and what this model has no more of.
        q, v = 1, 1 + model.nq
        self._base = slice(q + model.jnt_qposadr[free], q + model.jnt_qposadr[free] + POSE)
        self._base_vel = slice(v + model.jnt_dofadr[free], v + model.jnt_dofadr[free] + SPEED)
        self._q, self._v = q + model.jnt_qposadr[joints], v + model.jnt_dofadr[joints]
        self._pose = np.array(robot.default_pose_rad)
        self._rest = np.zeros(mujoco.mj_stateSize(model, STATE))
        self._rest[q:v] = model.qpos0
        self._own_mass_kg = float(model.body_mass[base_body(model)])
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        threads = min(cores, num_envs)
        self._data = [mujoco.MjData(model) for _ in range(threads)]
        self._pool = mujoco.rollout.Rollout(nthread=0 if threads == 1 else threads)
        self._out = np.zeros((num_envs, SUBSTEPS, len(self._rest)))
        self._touch = np.zeros((num_envs, SUBSTEPS, model.nsensordata))
        self._waiting = np.zeros((num_envs, round(delay), model.nu))
        self.reset_scene()
        say(f"Built {num_envs} x {robot.name} in MuJoCo {mujoco.__version__} in {time.perf_counter() - started:.1f} s")

    def reset_scene(self) -> None:
        """Put every environment back to the state after the build."""
        self._state = np.tile(self._rest, (self.num_envs, 1))
        level = torch.tensor([1.0, 0.0, 0.0, 0.0]).expand(self.num_envs, 4)
        pose = torch.from_numpy(self._pose).expand(self.num_envs, -1)
        self.place(torch.ones(self.num_envs, dtype=torch.bool), level, pose)

    def place(
        self,
        mask: torch.Tensor,
        base_quat: torch.Tensor,
        joint_pos_rad: torch.Tensor,
        base_xy_m: torch.Tensor | float = 0.0,
    ) -> None:
        """Put robots at rest at their start height; arguments as of `vintix_fast.world.simulator.Simulator.place`."""
        rows = np.tile(self._rest, (self.num_envs, 1))
        xy_m = torch.zeros(self.num_envs, 2) + base_xy_m
        height_m = torch.full((self.num_envs, 1), self.robot.start_height_m)
        rows[:, self._base] = torch.cat([xy_m, height_m, base_quat], dim=1).numpy()
        rows[:, self._q] = joint_pos_rad.numpy()
        chosen = mask.numpy()
        self._state[chosen], self._touch[chosen], self._waiting[chosen] = rows[chosen], 0.0, self._pose

    def step(self, joint_target_rad: torch.Tensor) -> torch.Tensor:
        """Advance 0.02 s under PD control towards joint targets [N, J].

        Returns:
            bool [N], environments whose state left the finite numbers; they must be placed anew.
        """
        given = np.repeat(joint_target_rad.numpy()[:, None], SUBSTEPS, axis=1)
        queue = np.concatenate([self._waiting, given], axis=1, dtype=np.float64)
        target, self._waiting = np.ascontiguousarray(queue[:, :SUBSTEPS]), queue[:, SUBSTEPS:]
        # MuJoCo would write a file into the current folder about an environment that breaks.
        mujoco.set_mju_user_warning(lambda text: None)
        try:
            self._pool.rollout(
                [self.model] * self.num_envs, self._data, self._state, target,
                skip_checks=True, nstep=SUBSTEPS, state=self._out, sensordata=self._touch,
            )  # fmt: skip
        finally:
            mujoco.set_mju_user_warning(None)
        self._state = self._out[:, -1].copy()
        return torch.from_numpy(~np.isfinite(self._state).all(axis=1))

    def state(self) -> RobotState:
        """The state after the last step or placement; the tensors are the caller's."""
        base, speed = self._state[:, self._base], self._state[:, self._base_vel]
        turned = _turned(base[:, 3:], speed[:, 3:])
        parts = (base[:, :3], base[:, 3:], speed[:, :3], turned, self._state[:, self._q], self._state[:, self._v])
        return RobotState(*(torch.from_numpy(part.astype(np.float32)) for part in parts))

    def foot_contact(self) -> torch.Tensor:
        """Which lower legs touched something in the last step: bool [N, 4], legs FR, FL, RR, RL."""
        return torch.from_numpy(self._touch[:, -1] > CONTACT_N)

    def foot_force_n(self) -> torch.Tensor:
        """Refused: only Genesis tells the directions of contact forces."""
        raise UsageError("MuJoCo does not tell the forces on feet; leave --simulator mujoco out")

    def joint_torque_nm(self) -> torch.Tensor:
        """Refused: only Genesis tells torques."""
        raise UsageError("MuJoCo does not tell joint torques; leave --simulator mujoco out")

    def vary(self, mask: torch.Tensor, physics: Physics) -> None:
        """Refused: only in Genesis physics differs between environments."""
        raise UsageError("MuJoCo varies nothing between environments; leave --simulator mujoco out")

    def push(self, mask: torch.Tensor, speed_m_s: torch.Tensor) -> None:
        """Add [N, 2] to the speeds of the bases in ``mask``, bool [N]: x and y, in the world."""
        self._state[:, self._base_vel][:, :2] += (mask[:, None] * speed_m_s).numpy()

    def load(self, payload_kg: float) -> None:
        """Let the base weigh so much more than by itself."""
        self.model.body_mass[base_body(self.model)] = self._own_mass_kg + payload_kg
        mujoco.mj_setConst(self.model, mujoco.MjData(self.model))


def _turned(quat: np.ndarray, vector: np.ndarray) -> np.ndarray:
    """Vectors [N, 3] in bodies' frames, in the world's; quaternions [N, 4] (w, x, y, z)."""
    w, u = quat[:, :1], quat[:, 1:]
    across = np.cross(u, vector)
    return vector + 2.0 * (np.cross(u, across) + w * across)
