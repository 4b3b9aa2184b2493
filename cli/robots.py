"""``vintix-fast robots``: the bundled robots."""

from __future__ import annotations

import json as jsonlib
from typing import Any

from rich import box
from rich.table import Table

from vintix_fast.cli.common import PlainJson, result_console
from vintix_fast.service.errors import InputFileError


def robots(json: PlainJson = False) -> Any:
    """List the bundled robots: mass, legs, where their URDF or MJCF comes from, and returns measured on them.

    Give a name to --robot-type.
    """
    from vintix_fast.world.kinematics import Kinematics
    from vintix_fast.world.robot import ROBOTS, load_robot, robot_names
    from vintix_fast.world.robot_file import RobotFile
    from vintix_fast.world.transplant import leg_jacobians

    measured = jsonlib.loads((ROBOTS / "measured.json").read_text(encoding="utf-8"))
    found: list[dict[str, Any]] = []
    for name in robot_names():
        package = RobotFile(ROBOTS / f"{name}.toml").table.get("urdf_package", "bundled")
        row: dict[str, Any] = {"name": name, "package": package, **measured.get(name, {})}
        try:
            robot = load_robot(name)
            _, leg_m = leg_jacobians(robot)[0]
            row |= {"joints": len(robot.joints), "kg": Kinematics(robot.urdf_path).mass_kg(), "leg_m": leg_m}
        except InputFileError:  # its package is one of those that only some need
            row |= {"missing": f"pip install {package}"}
        found.append(row)
    table = Table(box=box.SIMPLE_HEAD, padding=0)
    for title in ("name", "kg", "joints, leg", "from"):
        table.add_column(title)
    for title in ("zero-shot", "adapted"):
        table.add_column(title, justify="right")
    for row in found:
        legs = f"4 x {row['joints'] // 4}, {row['leg_m']:.2f} m" if "kg" in row else row["missing"]
        returns = [f"{row[key]:.1f}" if key in row else "" for key in ("zero_shot", "adapted")]
        table.add_row(row["name"], f"{row['kg']:.1f}" if "kg" in row else "", legs, row["package"], *returns)
    out = result_console(json)
    out.print(table)
    out.print("Mean returns of an episode, never seen: of a copied adapter, and after five loops.", highlight=False)
    return found
