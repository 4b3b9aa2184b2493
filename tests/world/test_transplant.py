"""Maps of joints: which leg motion of a new robot means what of the reference's."""

import dataclasses

import numpy as np
import pytest

from vintix_fast.service.errors import UsageError
from vintix_fast.world.robot import load_robot
from vintix_fast.world.transplant import joint_map, kinematic_map, leg_jacobians


def test_feet_move_as_the_references_in_leg_lengths():
    target, reference = load_robot("minicheetah-primitive"), load_robot("go2")
    to_target = kinematic_map(target, reference).to_target
    offsets = np.random.default_rng(3).normal(size=len(reference.joints))
    for leg, ((there, there_m), (here, here_m)) in enumerate(
        zip(leg_jacobians(target), leg_jacobians(reference), strict=True)
    ):
        rows = slice(3 * leg, 3 * leg + 3)
        moved = there @ (to_target @ offsets)[rows] / there_m
        np.testing.assert_allclose(moved, here @ offsets[rows] / here_m, atol=1e-9)


def test_a_mirrored_knee_needs_thigh_and_calf_together():
    """With thigh and calf alike, (thigh, calf) -> (thigh + calf, -calf) moves the foot of a leg bent the other way."""
    foot_below = dataclasses.replace(load_robot("go2"), default_pose_rad=(0.0, 0.75, -1.5) * 4)
    mirrored = dataclasses.replace(foot_below, default_pose_rad=(0.0, -0.75, 1.5) * 4)
    leg = kinematic_map(mirrored, foot_below).to_target[:3, :3]
    np.testing.assert_allclose(leg, [[1, 0, 0], [0, 1, 1], [0, 0, -1]], atol=1e-6)


def test_a_robot_is_its_own_identity():
    joints = kinematic_map(load_robot("go2"), load_robot("go2"))
    np.testing.assert_allclose(joints.to_target, np.eye(12), atol=1e-9)


def test_a_plain_copy_of_another_size_names_the_map_that_fits(two_joints_a_leg):
    with pytest.raises(UsageError, match="8 joints and go2 12.*--init-map kinematic"):
        joint_map(two_joints_a_leg, load_robot("go2"), "none")
    assert joint_map(two_joints_a_leg, load_robot("go2"), "kinematic").to_target.shape == (8, 12)
