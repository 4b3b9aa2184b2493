"""A robot file from a URDF or MJCF, checked and drawn."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from vintix_fast.report.stance_picture import draw_stance
from vintix_fast.service.files import write_text
from vintix_fast.world.robot import load_robot
from vintix_fast.world.stance import Stance, stance_of
from vintix_fast.world.survey import survey


@dataclass(frozen=True)
class Made:
    """What was written."""

    robot_file: Path
    picture: Path
    stance: Stance


def make_robot(file: Path, output: Path) -> Made:
    """Write the robot file of a URDF or MJCF, and the picture of its stance beside it.

    The robot's name is that of ``output``.

    Raises:
        InputFileError: the file cannot be read, or holds no quadruped.
    """
    found = survey(file, output.stem)
    draft = output.with_name(f".{output.stem}.draft.toml")
    write_text(draft, found.robot_file())
    try:
        robot = load_robot(draft)  # as everybody else will
        stance = stance_of(robot)
        picture = output.with_suffix(".png")
        draw_stance(picture, robot, stance)
        draft.replace(output)
    finally:
        draft.unlink(missing_ok=True)
    return Made(output, picture, stance)
