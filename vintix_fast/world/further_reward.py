"""The reward's further terms: what a task may ask for beyond the observation's state, such as torques and landing feet.

Computed in torch, once for every device, and only where a task gives them a weight.  `FurtherWeights` has their table;
their forms are those of legged_gym (arXiv 2109.11978), but for the weights, which count per second.
"""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING

import torch

from vintix_fast.world.task_config import FurtherWeights

if TYPE_CHECKING:  # which needs this file
    from vintix_fast.world.task import Simulation

LONG_STEP_S = 0.5
STANDING_M_S = 0.1
"""Slower commands ask a robot to stand."""
TOUCHING_N = 1.0
STUMBLES = 5.0


class FurtherReward:
    """Sum of the weighted terms, a step's share of a second.

    Args:
        weights: of the terms.
        num_envs, num_joints: N, J.
        dt_s: time of a step.
        device: of the simulator's tensors.
    """

    def __init__(
        self, weights: FurtherWeights, num_envs: int, num_joints: int, dt_s: float, device: torch.device
    ) -> None:
        self._weights = {f.name: w for f in fields(weights) if (w := getattr(weights, f.name))}
        self._dt_s = dt_s
        self._last_vel = torch.zeros(num_envs, num_joints, device=device)
        self._air_s = torch.zeros(num_envs, 4, device=device)  # of each foot, since it last touched
        self._touched = torch.zeros(num_envs, 4, dtype=torch.bool, device=device)  # in the last step

    def __bool__(self) -> bool:
        return bool(self._weights)

    def begin(self, mask: torch.Tensor) -> None:
        """Episodes begin in ``mask``, bool [N]: at rest."""
        for memory in (self._last_vel, self._air_s, self._touched):
            memory.masked_fill_(mask[:, None], 0)

    def of_step(self, simulator: Simulation, joint_vel_rad_s: torch.Tensor, command: torch.Tensor) -> torch.Tensor:
        """[N]; to be asked once in every step, after its physics.

        Args:
            joint_vel_rad_s: [N, J].
            command: [N, 3] or [3].
        """
        total = torch.zeros(len(joint_vel_rad_s), device=joint_vel_rad_s.device)
        for name, weight in self._weights.items():
            if name == "torque":
                total += weight * simulator.joint_torque_nm().square().sum(dim=1)
            elif name == "joint_acc":
                total += weight * ((joint_vel_rad_s - self._last_vel) / self._dt_s).square().sum(dim=1)
                self._last_vel.copy_(joint_vel_rad_s)
            elif name == "foot_air_time":
                total += weight * self._air_time(simulator.foot_force_n(), command)
            elif name == "stumble":
                force = simulator.foot_force_n()
                sideways = force[..., :2].norm(dim=2) > STUMBLES * force[..., 2].abs()
                total += weight * sideways.any(dim=1)
            else:
                total += weight  # alive
        return total * self._dt_s

    def _air_time(self, force_n: torch.Tensor, command: torch.Tensor) -> torch.Tensor:
        touching = force_n[..., 2] > TOUCHING_N
        contact = touching | self._touched  # a contact that flickers is one
        landing = (self._air_s > 0.0) & contact
        self._air_s += self._dt_s
        term = ((self._air_s - LONG_STEP_S) * landing).sum(dim=1)
        self._air_s.masked_fill_(contact, 0.0)
        self._touched.copy_(touching)
        return term * (command[..., :2].norm(dim=-1) > STANDING_M_S)
