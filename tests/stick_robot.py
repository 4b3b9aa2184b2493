"""A robot of sticks: the file that docs/robots.md shows, and a URDF for it that can stand."""

import re
from pathlib import Path

DOCS = Path(__file__).parents[1] / "docs" / "robots.md"
EXAMPLE = re.search(r"```toml\n(.*?)```", DOCS.read_text(), re.DOTALL).group(1)


INERTIA = '<inertia ixx="1e-3" iyy="1e-3" izz="1e-3" ixy="0" ixz="0" iyz="0"/>'
INERTIAL = f'<inertial><mass value="0.5"/>{INERTIA}</inertial>'
BALL = '<collision><geometry><sphere radius="0.02"/></geometry></collision>'


def stick_robot(hip_axis="1 0 0", thigh_axis="0 1 0", base_rpy="0 0 0") -> str:
    """A robot whose joints all hang below a root link `world_root`, turned against `base` by `base_rpy`."""
    parts = [f'<link name="world_root"/><link name="base">{INERTIAL}</link><joint name="mount" type="fixed">'
             f'<parent link="world_root"/><child link="base"/><origin rpy="{base_rpy}"/></joint>']  # fmt: skip
    for leg in ("FL", "FR", "RL", "RR"):
        x, y = 0.2 if leg[0] == "F" else -0.2, 0.05 if leg[1] == "L" else -0.05
        chain = [("hip", "base", f"{x} {y} 0", hip_axis), ("thigh", f"{leg}_hip", "0 0 0", thigh_axis),
                 ("calf", f"{leg}_thigh", "0 0 -0.2", "0 1 0")]  # fmt: skip
        for part, parent, xyz, axis in chain:
            parts.append(
                f'<link name="{leg}_{part}">{INERTIAL}</link><joint name="{leg}_{part}_joint" type="revolute">'
                f'<parent link="{parent}"/><child link="{leg}_{part}"/><origin xyz="{xyz}"/><axis xyz="{axis}"/>'
                f'<limit lower="-2" upper="2" effort="30" velocity="10"/></joint>'
            )
        parts.append(
            f'<link name="{leg}_foot">{BALL}</link><joint name="{leg}_foot_fixed" type="fixed">'
            f'<parent link="{leg}_calf"/><child link="{leg}_foot"/></joint>'
        )
    return f'<robot name="rex">{"".join(parts)}</robot>'


def write_robot(folder: Path, old: str = "", new: str = "", urdf: str | None = None) -> Path:
    """Write the documented example (with one text replaced) and a URDF for it; the robot file's path."""
    assert old in EXAMPLE
    (folder / "rex.toml").write_text(EXAMPLE.replace(old, new, 1) if old else EXAMPLE)
    (folder / "rex.urdf").write_text(stick_robot() if urdf is None else urdf)
    return folder / "rex.toml"


MJCF_LEG = """<body name="{leg}_thigh" pos="{x} {y} 0">
   <inertial pos="0 0 -0.1" mass="0.5" diaginertia="1e-3 1e-3 1e-3"/>
  <joint name="{leg}_hip" axis="1 0 0" range="-0.8 0.8"/>
  <body name="{leg}_leg" pos="0 {out} 0"><inertial pos="0 0 -0.1" mass="0.5" diaginertia="1e-3 1e-3 1e-3"/>
   <joint name="{leg}_swing" axis="0 1 0" range="-2 2"/>
   <body name="{leg}_shank" pos="0 0 -0.2"><inertial pos="0 0 -0.1" mass="0.2" diaginertia="1e-3 1e-3 1e-3"/>
    <joint name="{leg}_knee" axis="0 1 0" range="{knee}"/><geom type="sphere" size="0.02" pos="0 0 -0.2"/>
   </body></body></body>"""
MOTOR = '<motor joint="{}" ctrlrange="-30 30"/>'
CORNERS = ((0.2, -0.1), (0.2, 0.1), (-0.2, -0.1), (-0.2, 0.1))


def stick_mjcf(folder: Path, places=CORNERS, knee="-2.5 -0.2", key="", motors=MOTOR) -> Path:
    """An MJCF of a robot with legs at these places, whose knees bend as ``knee`` lets them."""
    legs = [f"leg{i}" for i in range(len(places))]
    bodies = "".join(
        MJCF_LEG.format(leg=leg, x=x, y=y, out=0.05 if y > 0 else -0.05 if y < 0 else 0.0, knee=knee)
        for leg, (x, y) in zip(legs, places, strict=True)
    )
    driven = "".join(motors.format(f"{leg}_{joint}") for leg in legs for joint in ("hip", "swing", "knee"))
    path = folder / "made.xml"
    path.write_text(
        f'<mujoco><compiler angle="radian"/><worldbody><body name="torso" pos="0 0 0.4"><freejoint/>'
        f'<inertial pos="0 0 0" mass="6" diaginertia="0.1 0.1 0.1"/>{bodies}</body></worldbody>'
        f"<actuator>{driven}</actuator>{key}</mujoco>"
    )
    return path
