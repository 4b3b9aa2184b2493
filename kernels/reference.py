"""Plain torch: the truth that every kernel of this package is tested against.

Knows tensors only; nothing about robots' names, simulators or models.
"""

from __future__ import annotations

import torch

ANG_VEL_SCALE = 0.25
JOINT_VEL_SCALE = 0.05
COMMAND_SCALE = (2.0, 2.0, 0.25)


def rotate_into_body(quat: torch.Tensor, vector: torch.Tensor) -> torch.Tensor:
    """Express world-frame vectors in body frames.

    Args:
        quat: [N, 4] unit quaternions (w, x, y, z) of the bodies.
        vector: [N, 3] in the world frame.

    Returns:
        [N, 3], v - 2 w (u x v) + 2 u x (u x v) with u = (x, y, z): the inverse of the quaternion's rotation.
    """
    w, u = quat[:, :1], quat[:, 1:]
    turned = torch.linalg.cross(u, vector)
    return vector + 2.0 * (torch.linalg.cross(u, turned) - w * turned)


def observe(
    base_quat: torch.Tensor,
    base_ang_vel: torch.Tensor,
    joint_pos: torch.Tensor,
    joint_vel: torch.Tensor,
    default_pose: torch.Tensor,
    command: torch.Tensor,
) -> torch.Tensor:
    """The 33 numbers that the policy sees.

    Args:
        base_quat: [N, 4] (w, x, y, z).
        base_ang_vel: [N, 3] rad/s, world frame.
        joint_pos: [N, J] rad; joint_vel: [N, J] rad/s.
        default_pose: [J] rad.
        command: [3] forward and lateral speed in m/s, yaw rate in rad/s.

    Returns:
        [N, 9 + 2 J]: body angular velocity x 0.25, projected gravity, command x (2, 2, 0.25), joint position minus
        the default pose, joint velocity x 0.05.
    """
    n = len(base_quat)
    gravity = torch.tensor([0.0, 0.0, -1.0], device=base_quat.device).expand(n, 3)
    scale = torch.tensor(COMMAND_SCALE, device=command.device)
    return torch.cat(
        [
            rotate_into_body(base_quat, base_ang_vel) * ANG_VEL_SCALE,
            rotate_into_body(base_quat, gravity),
            (command * scale).expand(n, 3),
            joint_pos - default_pose,
            joint_vel * JOINT_VEL_SCALE,
        ],
        dim=1,
    )
