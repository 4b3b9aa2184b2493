"""A stance for a quadruped that no robot file describes: from a keyframe, an SRDF, or the legs' own geometry.

Knows which joints are legs, and what MuJoCo knows of them; nothing of gains or heights.
"""

from __future__ import annotations

import itertools
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vintix_fast.service.errors import InputFileError
from vintix_fast.world.kinematics import Kinematics, Pose

BEND = 0.732
"""A standing leg from hip to foot, of its length stretched: go2's stance."""
LEAST_BEND, MOST_BEND = 0.4, 0.97
"""The same of any leg that stands."""
LEVEL = 0.1
"""Feet of a stance are level when their heights differ by less than this, in leg lengths."""
_SCAN_RAD = 1e-3


@dataclass(frozen=True)
class Leg:
    """One leg: its joints from the base down, and where it ends."""

    joints: tuple[str, ...]
    tip_body: int
    tip_point: np.ndarray  # [3] in that body's frame, m
    foot: str | None  # the link's name, where the foot is one


def find_stance(kinematics: Kinematics, base: str, legs: Sequence[Leg]) -> tuple[list[float], str]:
    """Joint positions in the order of the legs' joints (rad), and where they come from."""
    joints = [name for leg in legs for name in leg.joints]
    for source, angles in (*_keyframes(kinematics), *_group_states(kinematics.path)):
        wanted = [angles.get(name) for name in joints]
        if all(angle is not None for angle in wanted) and _can_stand(kinematics, base, legs, angles):
            return [round(float(angle), 3) for angle in wanted if angle is not None], source
    bent, how = [_bent(kinematics, base, leg) for leg in legs], f"legs bent to {BEND:g} of their length as go2's"
    pose = dict(zip(joints, itertools.chain(*bent), strict=True))
    feet, lengths = feet_and_lengths(kinematics.pose(pose, base), legs)
    if np.ptp(feet[:, 2]) >= LEVEL * np.mean(lengths):
        bent = _levelled(kinematics, base, legs, float(np.median(feet[:, 2])), lengths)
        how = "legs bent until the feet are level"
    return list(itertools.chain(*bent)), f"feet below the hips, {how}"


def feet_and_lengths(pose: Pose, legs: Sequence[Leg]) -> tuple[np.ndarray, np.ndarray]:
    """Where the legs end, [4, 3], and how long thigh and calf are, [4], m."""
    feet = np.array([pose.point(leg.tip_body, leg.tip_point) for leg in legs])
    return feet, np.array([pose.leg_length(leg.joints, foot) for leg, foot in zip(legs, feet, strict=True)])


def _levelled(
    kinematics: Kinematics, base: str, legs: Sequence[Leg], ground_m: float, lengths: np.ndarray
) -> list[list[float]]:
    """Poses of legs that all reach down to the same height, as seen from the base link."""
    poses = []
    pose = kinematics.pose({name: _nearest(kinematics.limits(name), 0.0) for leg in legs for name in leg.joints}, base)
    drops = [float(pose.anchor(leg.joints[-2])[2]) - ground_m for leg in legs]
    for leg, drop, length in zip(legs, drops, lengths, strict=True):
        if not LEAST_BEND * length < drop < MOST_BEND * length:
            raise InputFileError(
                f"{kinematics.path}: the leg {'-'.join(leg.joints)} of {length:.3f} m does not reach the ground where "
                f"the others stand, {drop:.3f} m below {leg.joints[-2]!r}. Correct the file, or give a level stance by "
                "a keyframe or an SRDF (docs/robots.md)"
            )
        poses.append(_bent(kinematics, base, leg, drop))
    return poses


def _keyframes(kinematics: Kinematics) -> list[tuple[str, dict[str, float]]]:
    model = kinematics.model
    keys = [model.key(i) for i in range(model.nkey)]
    keys.sort(key=lambda key: _likeness(key.name))
    address = {name: model.jnt_qposadr[index] for name, index in kinematics.hinges.items()}
    return [(f"keyframe {key.name!r}", {name: float(key.qpos[at]) for name, at in address.items()}) for key in keys]


def _group_states(path: Path) -> list[tuple[str, dict[str, float]]]:
    """States of the SRDFs beside the URDF and in the folder srdf next to its own; that of the same name first."""
    found = []
    files = {*path.parent.glob("*.srdf"), *path.parent.parent.glob("srdf/*.srdf")}
    for file in sorted(files, key=lambda file: (file.stem != path.stem, file)):
        try:
            root = ElementTree.parse(file).getroot()
        except (OSError, ElementTree.ParseError):
            continue  # it is not asked for, and a stance can be had without
        for state in root.iter("group_state"):
            angles = {}
            for joint in state.findall("joint"):
                value = joint.get("value", "").split()
                if len(value) == 1 and re.fullmatch(r"[-+.\deE]+", value[0]):
                    angles[joint.get("name", "")] = float(value[0])
            found.append((f"group_state {state.get('name')!r} of {file.name}", angles))
    return sorted(found, key=lambda state: _likeness(state[0]))


def _likeness(name: str) -> int:
    """Names of stances first."""
    words = ("stand", "home", "nominal", "default")
    return next((i for i, word in enumerate(words) if word in name.lower()), len(words))


def _can_stand(kinematics: Kinematics, base: str, legs: Sequence[Leg], angles: dict[str, float]) -> bool:
    """Whether joints are within limits, legs bent, and feet level below the base."""
    joints = [name for leg in legs for name in leg.joints]
    for name in joints:
        limits = kinematics.limits(name)
        if limits is not None and not limits[0] <= angles[name] <= limits[1]:
            return False
    pose = kinematics.pose({name: angles[name] for name in joints}, base)
    feet, lengths = feet_and_lengths(pose, legs)
    length = np.mean(lengths)
    drops = [np.linalg.norm(foot - pose.anchor(leg.joints[-2])) for leg, foot in zip(legs, feet, strict=True)]
    level = np.ptp(feet[:, 2]) < LEVEL * length
    reach = LEAST_BEND * length < min(drops) and max(drops) < MOST_BEND * length
    return bool(level and (feet[:, 2] < 0).all() and reach)


def _bent(kinematics: Kinematics, base: str, leg: Leg, drop_m: float | None = None) -> list[float]:
    """A leg's joint positions: the foot below the thigh's joint, the knee behind if it may.

    Args:
        drop_m: how far below; None: `BEND` of the leg's length.
    """
    *hip, thigh, calf = leg.joints
    zero = {name: _nearest(kinematics.limits(name), 0.0) for name in leg.joints}
    pose = kinematics.pose(zero, base)
    top, knee, foot = pose.anchor(thigh), pose.anchor(calf), pose.point(leg.tip_body, leg.tip_point)
    wanted = drop_m or BEND * pose.leg_length(leg.joints, foot)
    # The knee's angles at which the foot is so far from the hip; then the thigh's that bring it below.
    bends = _range(kinematics.limits(calf), zero[calf])
    feet = knee + _turned(foot - knee, pose.axis(calf), bends - zero[calf])
    distance = np.linalg.norm(feet - top, axis=1) - wanted
    solutions = []
    for at in np.flatnonzero(np.diff(np.sign(distance))):
        swings = _range(kinematics.limits(thigh), zero[thigh])
        axis = pose.axis(thigh)
        tips = _turned(feet[at] - top, axis, swings - zero[thigh])
        best = int((np.abs(tips[:, 0]) + 10.0 * (tips[:, 2] > 0)).argmin())
        bent_knee = _turned(knee - top, axis, swings[best : best + 1] - zero[thigh])[0]
        if abs(tips[best, 0]) < 0.02 and tips[best, 2] < 0:
            solutions.append((float(bent_knee[0]), float(swings[best]), float(bends[at])))
    if not solutions:
        raise InputFileError(
            f"{kinematics.path}: the leg {'-'.join(leg.joints)} cannot be bent so that its foot stands {wanted:.3f} m "
            f"below {thigh!r} within the limits {_shown(kinematics, thigh)} and {_shown(kinematics, calf)}. Correct "
            "the limits, or write the robot file by hand (docs/robots.md)"
        )
    _, swing, bend = min(solutions)
    return [round(angle, 3) for angle in (*(zero[name] for name in hip), swing, bend)]


def _turned(vector: np.ndarray, axis: np.ndarray, angles: np.ndarray) -> np.ndarray:
    """A vector [3] turned about a unit axis by each of the angles [K]: [K, 3] (Rodrigues)."""
    cos, sin = np.cos(angles)[:, None], np.sin(angles)[:, None]
    return vector * cos + np.cross(axis, vector) * sin + axis * (axis @ vector) * (1.0 - cos)


def _range(limits: tuple[float, float] | None, around: float) -> np.ndarray:
    """Angles within limits, at most half a turn from one of them, `_SCAN_RAD` apart."""
    low, high = limits or (-np.pi, np.pi)
    return np.arange(max(low, around - np.pi), min(high, around + np.pi) + _SCAN_RAD / 2, _SCAN_RAD)


def _nearest(limits: tuple[float, float] | None, angle: float) -> float:
    return angle if limits is None else float(np.clip(angle, *limits))


def _shown(kinematics: Kinematics, joint: str) -> str:
    limits = kinematics.limits(joint)
    return f"of {joint!r}, " + ("none" if limits is None else f"{limits[0]:.2f} to {limits[1]:.2f} rad")
