"""What an observation is made of: which numbers stand where, in which scale, and how many there are.

Owns every size that depends on a robot's joints.  Knows nothing about tensors, rewards or how a robot is simulated.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np


@dataclass(frozen=True)
class ObservationLayout:
    """The observation of a robot of J joints; joints come in its file's order.

    | slice | what | times |
    |---|---|---|
    | `ang_vel` | the base's angular velocity, body frame, rad/s | `ang_vel_scale` |
    | `gravity` | the unit vector of gravity, body frame | 1 |
    | `command` | forward and lateral speed, m/s, and yaw rate, rad/s | `command_scale` |
    | `joint_pos` | joint positions less the default pose, rad | 1 |
    | `joint_vel` | joint speeds, rad/s | `joint_vel_scale` |

    Actions are one number a joint.  The scales are those that the pretrained models were trained with.
    """

    num_joints: int
    ang_vel_scale: float = 0.25
    command_scale: tuple[float, float, float] = (2.0, 2.0, 0.25)
    joint_vel_scale: float = 0.05

    ang_vel: ClassVar[slice] = slice(0, 3)
    gravity: ClassVar[slice] = slice(3, 6)
    command: ClassVar[slice] = slice(6, 9)

    @property
    def joint_pos(self) -> slice:
        return slice(self.command.stop, self.command.stop + self.num_joints)

    @property
    def joint_vel(self) -> slice:
        return slice(self.joint_pos.stop, self.size)

    @property
    def size(self) -> int:
        """How many numbers there are: 9 + 2 J."""
        return self.command.stop + 2 * self.num_joints

    @classmethod
    def extended(cls, joints: np.ndarray) -> np.ndarray:
        """A map of joints [J', J] as one of observations [9 + 2 J', 9 + 2 J]: the base's numbers stay as they are."""
        to, of = (cls(count) for count in joints.shape)
        whole = np.zeros((to.size, of.size))
        whole[: cls.command.stop, : cls.command.stop] = np.eye(cls.command.stop)
        whole[to.joint_pos, of.joint_pos] = joints
        whole[to.joint_vel, of.joint_vel] = joints
        return whole


QUADRUPED = ObservationLayout(num_joints=12)
"""Three joints a leg: the bundled robots, and what the bundled models were trained on."""
