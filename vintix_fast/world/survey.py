"""A quadruped's robot file from its URDF or MJCF alone.

Owns what is read off the file (legs, sides, joints, stance, masses) and what is scaled from a known robot (gains,
armature, heights).  Knows nothing of simulators.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import numpy as np

from vintix_fast.service.errors import InputFileError
from vintix_fast.world.kinematics import Kinematics
from vintix_fast.world.new_stance import Leg, feet_and_lengths, find_stance
from vintix_fast.world.robot import LEG_SIDES, LEGS, ROBOTS
from vintix_fast.world.robot_file import RobotFile

GO2 = RobotFile(ROBOTS / "go2.toml").table
"""The reference, whose proportions scale gains: the models know how soft its legs are in its own scale."""
GO2_LEG_M, GO2_ARMATURE = 0.426, 0.1
"""Its thigh and calf; the simulator's default, which it has."""
STIFFER = 1.4
"""Gains in go2's scale: the best of five tried on five of seven robots, see benchmarks/results/zoo.md."""
DROP = 0.2
"""How far above its stance a robot starts, in leg lengths: go2's 9 cm."""
WALKING = 0.96
"""The height that is asked for, of the stance's: seven robots walked at 0.88 to 1.00 of it, untrained."""
ACROSS = 0.5
"""Of a knee's axis along the base's y: less is a leg that swings to the side."""
GUESSED_FOOT_RADIUS_M = 0.02


@dataclass(frozen=True)
class Survey:
    """What a robot file holds, with where each value comes from."""

    path: Path
    name: str
    base_link: str
    legs: tuple[Leg, ...]  # FR, FL, RR, RL
    pose_rad: tuple[float, ...]  # [J] in the order of the legs' joints
    pose_source: str
    mass_kg: float
    leg_m: float  # thigh and calf
    standing_m: float  # base above the feet's soles in the stance

    @property
    def joints(self) -> tuple[str, ...]:
        return tuple(name for leg in self.legs for name in leg.joints)

    @property
    def kp(self) -> float:
        """Nm/rad: `STIFFER` times go2's stiffness in units of weight times leg length."""
        return _rounded(STIFFER * GO2["kp"] * self.mass_kg * self.leg_m / (GO2["mass_kg"] * GO2_LEG_M))

    @property
    def kd(self) -> float:
        """Nm s/rad: go2's damping in the robot's own time, which goes with the root of its leg length."""
        return _rounded(self.kp * GO2["kd"] / GO2["kp"] * (self.leg_m / GO2_LEG_M) ** 0.5)

    @property
    def armature(self) -> float:
        """kg m2: go2's in units of mass times leg length squared."""
        return _rounded(GO2_ARMATURE * self.mass_kg * self.leg_m**2 / (GO2["mass_kg"] * GO2_LEG_M**2))

    @property
    def start_m(self) -> float:
        return self.standing_m + DROP * self.leg_m

    @property
    def target_m(self) -> float:
        return WALKING * self.standing_m

    def robot_file(self) -> str:
        """The robot file's text, with a comment on where each value comes from."""
        per_leg = len(self.legs[0].joints)

        def rows(words: Sequence[str]) -> list[str]:
            return [f"    {', '.join(words[i : i + per_leg])}," for i in range(0, len(words), per_leg)]

        feet = [str(leg.foot) for leg in self.legs if leg.foot]
        scale = f"{self.mass_kg:.3g} kg on legs of {self.leg_m:.3g} m"
        lines = [
            f"# Made from {self.path.name} by `vintix-fast robot`; docs/robots.md describes the format.",
            f"# Legs FR, FL, RR, RL: the four chains of joints below {self.base_link}, by where they begin.",
            "",
            f'name = "{self.name}"',
            f'task_names = ["{self.name}_walking_ad"]',
            f'group_name = "{self.name}_locomotion"',
            "",
            *_place(self.path),
            f"base_link = {_quoted(self.base_link)}  # the link that all legs hang from",
        ]
        if len(set(feet)) == len(LEGS):
            lines.append(f"feet = [{', '.join(map(_quoted, feet))}]  # the links farthest from the last joints")
        lines += [
            f"mass_kg = {self.mass_kg:.4g}  # of the whole robot; another URDF in this one's place is refused",
            "",
            f"start_height_m = {self.start_m:.3f}  # {DROP:g} leg lengths above the stance ({self.standing_m:.3f} m)",
            f"target_height_m = {self.target_m:.3f}  # {WALKING:g} of the stance's",
            "",
            "joints = [",
            *rows([_quoted(name) for name in self.joints]),
            "]",
            f"default_pose_rad = [  # {self.pose_source}",
            *rows([f"{angle:.3f}" for angle in self.pose_rad]),
            "]",
            f"kp = {self.kp:g}  # Nm/rad: {STIFFER:g} x go2's {GO2['kp']:g}, by weight times leg length ({scale})",
            f"kd = {self.kd:g}  # Nm s/rad: go2's {GO2['kd']:g}, likewise, times the root of the leg length",
            f"armature = {self.armature:g}  # kg m2: go2's {GO2_ARMATURE:g} scaled by mass times leg length squared",
        ]
        return "\n".join(lines) + "\n"


def survey(path: Path, name: str | None = None) -> Survey:
    """Find a quadruped in a URDF or MJCF.

    Args:
        name: the robot's; None: the file's.

    Raises:
        InputFileError: the file cannot be read, or holds no quadruped that can stand.
    """
    if not path.is_file():
        raise InputFileError(f"{path}: no such file; give a URDF or an MJCF")
    if path.stat().st_size == 0:
        raise InputFileError(f"{path} is empty; give a URDF or an MJCF")
    kinematics = Kinematics(path)
    base, legs = _find_legs(kinematics)
    _check_reach(kinematics, base, legs)
    joints = [name for leg in legs for name in leg.joints]
    pose_rad, source = find_stance(kinematics, base, legs)
    pose = kinematics.pose(dict(zip(joints, pose_rad, strict=True)), base)
    feet, lengths = feet_and_lengths(pose, legs)
    return Survey(
        path=path,
        name=_word(name or path.stem),
        base_link=base,
        legs=tuple(legs),
        pose_rad=tuple(pose_rad),
        pose_source=source,
        mass_kg=kinematics.mass_kg(),
        leg_m=float(np.mean(lengths)),
        standing_m=float(-feet[:, 2].mean() + kinematics.radius_m(legs[0].tip_body, GUESSED_FOOT_RADIUS_M)),
    )


def _find_legs(kinematics: Kinematics) -> tuple[str, list[Leg]]:
    """The base link, and four legs in the order FR, FL, RR, RL."""
    where = kinematics.path
    above = {name: kinematics.hinges_above(kinematics.body_of(name)) for name in kinematics.hinges}
    ends = [name for name in above if not any(name in chain[1:] for chain in above.values())]
    # A leg hangs from the base: no joint that turns lies above it but its own.
    shared = {name for name in above if sum(name in above[end] for end in ends) > 1}
    chains = [tuple(reversed(above[end])) for end in ends if not shared & set(above[end])]
    candidates = [chain for chain in chains if len(chain) in (2, 3)]
    base = kinematics.common_body([kinematics.parent(kinematics.body_of(chain[0])) for chain in candidates])
    if candidates and base is None:
        highest = [kinematics.upwards(kinematics.body_of(chain[0]))[-1] for chain in candidates]
        tops = dict.fromkeys(kinematics.model.body(body).name for body in highest)
        raise InputFileError(
            f"{where}: the legs hang from no common link but from {', '.join(tops)}; a robot has one base"
        )
    if base is None or len(candidates) != len(LEGS):
        found = ", ".join(f"{'-'.join(chain)}" for chain in chains) or "none"
        raise InputFileError(
            f"{where}: a quadruped has four legs of two or three joints each, and this file has {len(candidates)} such "
            f"chains (chains of joints that turn: {found}). Joints that are not to move can be made fixed"
        )
    if len({len(chain) for chain in candidates}) > 1:
        raise InputFileError(
            f"{where}: legs have unlike numbers of joints: {', '.join('-'.join(c) for c in candidates)}"
        )
    # Sides are those of the first joints, seen from their centre.
    pose = kinematics.pose({}, base)
    hips = np.array([pose.anchor(chain[0]) for chain in candidates])
    corners = [tuple(int(s) for s in np.sign(at[:2])) for at in hips - hips.mean(axis=0)]
    by_corner = dict(zip(corners, candidates, strict=True))
    if set(by_corner) != set(LEG_SIDES):
        places = ", ".join(f"{c[0]} at x {h[0]:.2f} y {h[1]:.2f}" for c, h in zip(candidates, hips, strict=True))
        raise InputFileError(
            f"{where}: the legs are not at the four corners of link {base!r} (x forward, y left): {places} m. "
            "Turn the base link so that x points forward"
        )
    return base, [Leg(by_corner[side], *kinematics.tip(by_corner[side][-1])) for side in LEG_SIDES]


def _check_reach(kinematics: Kinematics, base: str, legs: Sequence[Leg]) -> None:
    """Each foot must be moved by its knee, forward, and the knee must have a range to bend in."""
    pose = kinematics.pose({}, base)
    for leg in legs:
        foot, knee = pose.point(leg.tip_body, leg.tip_point), leg.joints[-1]
        arm = float(np.linalg.norm(pose.jacobian((knee,), foot)))
        if arm < 0.01:
            raise InputFileError(
                f"{kinematics.path}: joint {knee!r} does not move its leg's end (lever {arm:.3f} m); it turns like a "
                "wheel, not like a knee"
            )
        axis = pose.axis(knee)
        if abs(axis[1]) < ACROSS:
            raise InputFileError(
                f"{kinematics.path}: knee {knee!r} turns about ({', '.join(f'{part:.2f}' for part in axis)}) of link "
                f"{base!r}, and a leg swings forward about its y. Turn the base link so that x points forward"
            )
        limits = kinematics.limits(knee)
        if limits is not None and limits[1] - limits[0] < 0.2:
            raise InputFileError(
                f"{kinematics.path}: knee {knee!r} can only turn from {limits[0]:.2f} to {limits[1]:.2f} rad; a leg "
                "that walks needs 0.2 rad at least. Correct its <limit>"
            )


def _word(text: str) -> str:
    """A text as a name may be."""
    return re.sub(r"[^A-Za-z0-9_-]+", "_", text).strip("_") or "robot"


def _place(path: Path) -> list[str]:
    """The lines that say where the file is: inside a package where it came with one, which can lie anywhere."""
    path = path.resolve()
    if "site-packages" in path.parts:
        for package in metadata.distributions():
            root = Path(str(package.locate_file("")))
            if path.is_relative_to(root) and any(path.relative_to(root) == Path(f) for f in package.files or ()):
                name = package.metadata["Name"]
                return [f"urdf_package = {_quoted(name)}", f"urdf = {_quoted(path.relative_to(root).as_posix())}"]
    return [f"urdf = {_quoted(str(path))}"]


def _rounded(value: float) -> float:
    return float(f"{value:.3g}")


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
