"""The plain observation, which the kernels are held against, by rotation matrices."""

import math

import pytest
import torch

from vintix_fast.kernels import reference
from vintix_fast.world.layout import QUADRUPED
from vintix_fast.world.robot import load_robot
from vintix_fast.world.task import task_constants
from vintix_fast.world.task_config import TaskConfig


def rotation_z_y_x(roll, pitch, yaw):
    """Body to world, as the product of three elementary rotations, in float64."""
    c, s = math.cos, math.sin
    x = [[1, 0, 0], [0, c(roll), -s(roll)], [0, s(roll), c(roll)]]
    y = [[c(pitch), 0, s(pitch)], [0, 1, 0], [-s(pitch), 0, c(pitch)]]
    z = [[c(yaw), -s(yaw), 0], [s(yaw), c(yaw), 0], [0, 0, 1]]
    x, y, z = (torch.tensor(m, dtype=torch.float64) for m in (x, y, z))
    return z @ y @ x


def quaternion_z_y_x(roll, pitch, yaw):
    """The same rotation as a quaternion, multiplied out from the three half angles."""
    (cr, sr), (cp, sp), (cy, sy) = ((math.cos(a / 2), math.sin(a / 2)) for a in (roll, pitch, yaw))
    return [
        cr * cp * cy + sr * sp * sy,
        sr * cp * cy - cr * sp * sy,
        cr * sp * cy + sr * cp * sy,
        cr * cp * sy - sr * sp * cy,
    ]


ANGLES = [(0.3, -0.2, 1.1), (-1.0, 0.7, -2.5), (0.0, 0.0, math.pi / 2), (3.0, 0.1, 0.2)]


@pytest.mark.parametrize("angles", ANGLES)
def test_rotation_into_the_body_is_the_transposed_matrix(angles):
    vector = torch.tensor([0.7, -1.3, 2.0], dtype=torch.float64)
    quat = torch.tensor([quaternion_z_y_x(*angles)], dtype=torch.float64)
    expected = rotation_z_y_x(*angles).T @ vector
    torch.testing.assert_close(reference.rotate_into_body(quat, vector[None])[0], expected, atol=1e-12, rtol=0)


@pytest.mark.parametrize("angles", ANGLES)
def test_gravity_and_turning_by_rotation_matrices(angles):
    quat = torch.tensor([quaternion_z_y_x(*angles)])
    turning = torch.tensor([0.4, -0.9, 1.7])
    robot, zeros = load_robot("go2"), torch.zeros(1, QUADRUPED.num_joints)
    told = task_constants(robot, TaskConfig(command=(0.5, 0.1, 0.2)), 1)
    seen = reference.observe(told, (zeros[:, :3], quat, zeros[:, :3], turning[None], zeros, zeros))[0]
    to_body = rotation_z_y_x(*angles).T.float()
    torch.testing.assert_close(seen[0:3], 0.25 * (to_body @ turning), atol=1e-6, rtol=0)
    torch.testing.assert_close(seen[3:6], -to_body[:, 2], atol=1e-6, rtol=0)
    torch.testing.assert_close(seen[6:9], torch.tensor([1.0, 0.2, 0.05]))
