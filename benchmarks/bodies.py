"""Random quadrupeds: other masses, lengths, motors, gains and stances than go2's, on go2's tree of joints.

`make_worlds.py` pretrains on them.  Each is a URDF and its robot file; what the file derives from the URDF is
`vintix-fast robot`'s.  Knows nothing about training.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vintix_fast.service.files import write_text
from vintix_fast.world.robot import load_robot
from vintix_fast.world.survey import survey

LEGS = (("FR", 1, -1), ("FL", 1, 1), ("RR", -1, -1), ("RL", -1, 1))
LEG_M, MASS_KG, GRAVITY = 0.213, 15.0, 9.81
"""go2's thigh, as long as its calf, and go2's mass."""


@dataclass(frozen=True)
class Body:
    """What differs between bodies; lengths in m."""

    thigh: float
    calf: float
    hip: float  # from a leg's first joint to its second, sideways
    length: float  # between the front and hind legs' first joints
    width: float  # between the left and right ones
    mass_kg: float
    legs_share: float  # of the mass
    ahead: float  # of the base's centre of mass
    effort: float  # of hip and thigh, of the weight times the leg's length; knees have half as much again
    stiffer: float  # than `vintix-fast robot` makes it
    turned: tuple[float, float, float, float]  # rad: front thighs, front calves, hind thighs, hind calves

    @staticmethod
    def draw(seed: int) -> Body:
        """Three quarters to one and a half times go2's size, the four robots' spread and beyond."""
        random = np.random.default_rng(seed)
        size = float(np.exp(random.uniform(np.log(0.75), np.log(1.45))))
        leg = LEG_M * size
        return Body(
            thigh=leg * random.uniform(0.88, 1.12),
            calf=leg * random.uniform(0.88, 1.12),
            hip=0.09 * size * random.uniform(0.65, 1.2),
            length=0.39 * size * random.uniform(0.85, 1.3),
            width=0.095 * size * random.uniform(0.9, 1.6),
            mass_kg=MASS_KG * size**2.5 * float(np.exp(random.uniform(np.log(0.6), np.log(1.6)))),
            legs_share=random.uniform(0.35, 0.6),
            ahead=size * random.uniform(-0.02, 0.03),
            effort=random.uniform(0.3, 0.6),
            stiffer=random.uniform(0.7, 1.3),
            turned=tuple(random.uniform(-0.15, 0.15, 4).tolist()),
        )  # fmt: skip

    def urdf(self, name: str) -> str:
        """The robot of boxes and balls."""
        leg = self.thigh + self.calf
        torque = self.effort * self.mass_kg * GRAVITY * leg
        limb, foot, height = 0.028 * leg, 0.052 * leg, 0.27 * leg
        of_leg = self.mass_kg * self.legs_share / 4
        base = (self.length, 0.9 * self.width, height)
        parts = [_link("base", (self.ahead, 0, 0), "box", base, self.mass_kg * (1 - self.legs_share))]
        for leg_name, x, y in LEGS:
            links = (
                ("hip", (0, 0.5 * y * self.hip, 0), "box", (1.5 * foot, self.hip, 1.5 * foot), 0.33 * of_leg),
                ("thigh", (0, 0, -self.thigh / 2), "box", (limb, limb, self.thigh), 0.55 * of_leg),
                ("calf", (0, 0, -self.calf / 2), "box", (0.7 * limb, 0.7 * limb, self.calf), 0.09 * of_leg),
                ("foot", (0, 0, 0), "sphere", (foot,), 0.03 * of_leg),
            )
            parts += [_link(f"{leg_name}_{part}", *how) for part, *how in links]
            at = (x * self.length / 2, y * self.width / 2, 0)
            parts += [
                _joint(leg_name, "hip", "base", at, "1 0 0", (-1.05, 1.05), torque),
                _joint(leg_name, "thigh", f"{leg_name}_hip", (0, y * self.hip, 0), "0 1 0", (-1.6, 3.5), torque),
                _joint(leg_name, "calf", f"{leg_name}_thigh", (0, 0, -self.thigh), "0 1 0", (-2.7, -0.6), 1.5 * torque),
                f'<joint name="{leg_name}_foot_joint" type="fixed"><origin xyz="0 0 {-self.calf:.5f}"/>'
                f'<parent link="{leg_name}_calf"/><child link="{leg_name}_foot"/></joint>',
            ]
        return "\n".join([f'<robot name="{name}">', *parts, "</robot>", ""])

    def write(self, folder: Path, name: str, task_name: str, group_name: str) -> Path:
        """Its URDF and robot file, of that task and group; returns the robot file."""
        folder.mkdir(parents=True, exist_ok=True)
        urdf, file = folder / f"{name}.urdf", folder / f"{name}.toml"
        write_text(urdf, self.urdf(name))
        found = survey(urdf, name)
        thighs_and_calves = np.reshape(found.pose_rad, (4, 3))
        thighs_and_calves[:, 1:] += np.repeat(np.reshape(self.turned, (2, 2)), 2, axis=0)
        values = {
            "task_names": f'["{task_name}"]',
            "group_name": f'"{group_name}"',
            "urdf": f'"{urdf.name}"',
            "default_pose_rad": f"{np.round(thighs_and_calves.ravel(), 3).tolist()}",
            "kp": f"{found.kp * self.stiffer:.3g}",
            "kd": f"{found.kd * self.stiffer:.3g}",
        }
        text = found.robot_file()
        for key, value in values.items():
            text = re.sub(rf"^{key} = (\[[^\]]*\]|.*?(?=  #|$))", f"{key} = {value}", text, flags=re.MULTILINE)
        write_text(file, text)
        load_robot(file)
        return file


def _link(name: str, centre: tuple[float, ...], shape: str, size: tuple[float, ...], mass: float) -> str:
    """A link whose mass fills its shape evenly."""
    if shape == "box":
        squares = np.square(size)
        inertia, geometry = mass / 12 * (squares.sum() - squares), f'<box size="{_words(size)}"/>'
    else:
        inertia, geometry = np.full(3, 0.4 * mass * size[0] ** 2), f'<sphere radius="{size[0]:.5f}"/>'
    moments = " ".join(f'i{axis}{axis}="{value:.6g}"' for axis, value in zip("xyz", inertia, strict=True))
    origin = f'<origin xyz="{_words(centre)}"/>'
    return (
        f'<link name="{name}"><inertial>{origin}<mass value="{mass:.5g}"/>'
        f'<inertia {moments} ixy="0" ixz="0" iyz="0"/></inertial>'
        f"<collision>{origin}<geometry>{geometry}</geometry></collision></link>"
    )


def _joint(
    leg: str, part: str, parent: str, at: tuple[float, ...], axis: str, limits: tuple[float, float], effort: float
) -> str:
    return (
        f'<joint name="{leg}_{part}_joint" type="revolute"><origin xyz="{_words(at)}"/><parent link="{parent}"/>'
        f'<child link="{leg}_{part}"/><axis xyz="{axis}"/>'
        f'<limit lower="{limits[0]}" upper="{limits[1]}" effort="{effort:.4g}" velocity="30"/></joint>'
    )


def _words(numbers: tuple[float, ...]) -> str:
    return " ".join(f"{number:.5f}" for number in numbers)
