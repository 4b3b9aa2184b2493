"""Whether a robot can stand as its file says: checks of its stance, from its kinematics.

Knows nothing of how a robot file came to be, nor of simulators.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from vintix_fast.world.kinematics import Kinematics
from vintix_fast.world.new_stance import Leg, feet_and_lengths
from vintix_fast.world.robot import LEGS, Robot
from vintix_fast.world.survey import GO2_ARMATURE, GO2_LEG_M

GRAVITY_M_S2 = 9.81
LEAST_FREQUENCY_HZ = 1.5
"""Of go2's knees, 2.2 Hz, in the time of a leg of 0.43 m: softer ones swing too slowly for a trot."""


@dataclass(frozen=True)
class Check:
    """One property of a stance."""

    name: str
    value: str
    sound: bool
    remedy: str = ""


@dataclass(frozen=True)
class Stance:
    """A robot in its default pose, seen from its base link; lengths in m, legs FR, FL, RR, RL."""

    joints: np.ndarray  # [4, joints of a leg, 3] where a leg's joints are
    feet: np.ndarray  # [4, 3]
    centre_of_mass: np.ndarray  # [3]
    checks: list[Check]

    @property
    def support(self) -> np.ndarray:
        """Corners of the support polygon [4, 2], going round."""
        return self.feet[[0, 1, 3, 2], :2]


def stance_of(robot: Robot) -> Stance:
    """The default pose of a robot and what can be said of it without simulating."""
    kinematics = Kinematics(robot.urdf_path)
    pose = kinematics.pose(dict(zip(robot.joints, robot.default_pose_rad, strict=True)), robot.base_link)
    feet, lengths = feet_and_lengths(pose, [Leg(leg, *kinematics.tip(leg[-1])) for leg in robot.legs])
    places = np.array([[pose.anchor(name) for name in leg] for leg in robot.legs])
    stance = Stance(places, feet, pose.centre_of_mass(), [])
    # A quarter of the weight on each foot, held by the leg's joints.
    push = np.array([0.0, 0.0, GRAVITY_M_S2 * kinematics.mass_kg() / len(LEGS)])
    torques = np.concatenate([pose.jacobian(leg, foot).T @ push for leg, foot in zip(robot.legs, feet, strict=True)])
    leg_m = float(np.mean(lengths))
    stance.checks.extend(
        [
            _within_limits(robot, kinematics),
            _level(feet, leg_m),
            _over_the_feet(stance),
            _held(robot, kinematics, torques),
            _stiff(robot, kinematics, leg_m),
        ]
    )
    return stance


def _within_limits(robot: Robot, kinematics: Kinematics) -> Check:
    margins = {}
    for name, angle in zip(robot.joints, robot.default_pose_rad, strict=True):
        if (limits := kinematics.limits(name)) is not None:
            margins[name] = min(angle - limits[0], limits[1] - angle)
    if not margins:
        return Check("pose within limits", "no joint has limits", True)
    name = min(margins, key=lambda name: margins[name])
    return Check(
        "pose within limits", f"{margins[name]:.2f} rad at the nearest, {name}", bool(margins[name] >= 0.0),
        "change default_pose_rad",
    )  # fmt: skip


def _level(feet: np.ndarray, leg_m: float) -> Check:
    spread = float(np.ptp(feet[:, 2]))
    return Check(
        "feet level", f"{1000 * spread:.0f} mm apart in height", spread < 0.1 * leg_m, "change default_pose_rad"
    )


def _over_the_feet(stance: Stance) -> Check:
    """How far inside the support polygon the centre of mass is; the corners go round counterclockwise from above."""
    corners, at = stance.support, stance.centre_of_mass[:2]
    edges = np.roll(corners, -1, axis=0) - corners
    inward = np.stack([-edges[:, 1], edges[:, 0]], axis=1) / np.linalg.norm(edges, axis=1)[:, None]
    inside = float(((at - corners) * inward).sum(axis=1).min())
    return Check(
        "centre of mass over the feet", f"{1000 * inside:.0f} mm inside", inside > 0.0,
        "move the feet below it with default_pose_rad",
    )  # fmt: skip


def _held(robot: Robot, kinematics: Kinematics, torques: np.ndarray) -> Check:
    parts = {}
    for name, torque in zip(robot.joints, torques, strict=True):
        effort = kinematics.effort_nm(name)
        if effort is not None:
            parts[name] = (abs(torque) / effort if effort > 0 else np.inf, abs(torque), effort)
    if not parts:
        return Check("torque at stance", f"{np.abs(torques).max():.1f} Nm at most; the file gives no efforts", True)
    name = max(parts, key=lambda name: parts[name][0])
    part, torque, effort = parts[name]
    return Check(
        "torque at stance", f"{torque:.1f} of {effort:.1f} Nm at {name}", bool(part < 0.8),
        "straighten the legs, or correct the efforts",
    )  # fmt: skip


def _stiff(robot: Robot, kinematics: Kinematics, leg_m: float) -> Check:
    armature = GO2_ARMATURE if robot.armature is None else robot.armature  # the simulator's default
    inertia = max(kinematics.inertia(name) for name in robot.last_joints) + armature
    frequency = (robot.kp / inertia) ** 0.5 / (2 * np.pi)
    least = LEAST_FREQUENCY_HZ * (GO2_LEG_M / leg_m) ** 0.5
    return Check(
        "knees swing fast enough", f"{frequency:.1f} Hz on their springs, a gait needs {least:.1f}", frequency >= least,
        "raise kp or lower armature",
    )  # fmt: skip
