"""Maps from a reference robot's joints to another's, from what their files say.

Owns which maps there are.  Knows nothing of models.
"""

from __future__ import annotations

import functools

import numpy as np

from vintix_fast.service.errors import UsageError
from vintix_fast.world.joint_map import JointMap
from vintix_fast.world.kinematics import Kinematics
from vintix_fast.world.robot import LEGS, Robot, joint_signs


def joint_map(target: Robot, reference: Robot, kind: str) -> JointMap:
    """The map of a word of `acting_config.MAPS`: convert: signs of axes; kinematic: feet move alike; none: a copy.

    Raises:
        UsageError: it does not exist: other numbers of joints, or axes that no sign relates.
    """
    if kind == "kinematic":
        return kinematic_map(target, reference)
    if kind == "convert":
        return JointMap.of_signs(joint_signs(target, reference))
    if len(target.joints) != len(reference.joints):
        raise UsageError(
            f"{target.name} has {len(target.joints)} joints and {reference.name} {len(reference.joints)}, so that a "
            "plain copy does not fit; give --init-map kinematic"
        )
    return JointMap.of_signs(np.ones(len(target.joints)))


def kinematic_map(target: Robot, reference: Robot) -> JointMap:
    """The map under which each leg moves its foot as the reference's leg does, in units of its own length.

    At the default poses, with J the Jacobian of the foot's place in the base frame and l the leg's length,
    target offsets = pinv(J_target) (l_target / l_reference) J_reference x reference offsets.
    """
    there, here = leg_jacobians(target), leg_jacobians(reference)
    to_target = np.zeros((len(target.joints), len(reference.joints)))
    to_reference = np.zeros((len(reference.joints), len(target.joints)))
    for leg in range(len(LEGS)):
        (j_there, l_there), (j_here, l_here) = there[leg], here[leg]
        rows = slice(leg * j_there.shape[1], (leg + 1) * j_there.shape[1])
        columns = slice(leg * j_here.shape[1], (leg + 1) * j_here.shape[1])
        to_target[rows, columns] = np.linalg.pinv(j_there / l_there) @ (j_here / l_here)
        to_reference[columns, rows] = np.linalg.pinv(j_here / l_here) @ (j_there / l_there)
    return JointMap(to_target, to_reference)


@functools.lru_cache(maxsize=16)  # an audition asks for each robot's many times, and meshes take seconds
def leg_jacobians(robot: Robot) -> list[tuple[np.ndarray, float]]:
    """For legs FR, FL, RR, RL at the default pose: how its foot moves with its joints [3, joints of a leg] (m/rad),
    and the length of thigh and calf, m.
    """
    kinematics = Kinematics(robot.urdf_path)
    pose, found = kinematics.pose(dict(zip(robot.joints, robot.default_pose_rad, strict=True)), robot.base_link), []
    for joints in robot.legs:
        foot = pose.point(*kinematics.tip(joints[-1])[:2])
        found.append((pose.jacobian(joints, foot), pose.leg_length(joints, foot)))
    return found
