"""A robot file from a URDF or MJCF, checked and drawn."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from vintix_fast.service.errors import InputFileError, VintixFastError
from vintix_fast.service.files import write_text
from vintix_fast.world.robot import load_robot
from vintix_fast.world.stance import Stance, stance_of
from vintix_fast.world.survey import survey


def robot_file_of(file: Path) -> Path:
    """The robot file of a URDF or MJCF, made anew in a folder of caches; runs keep copies.

    Raises:
        InputFileError: the file cannot be read, or holds no quadruped.
    """
    found = survey(file)
    caches = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    place = hashlib.sha256(os.fsencode(file.resolve())).hexdigest()[:12]
    output = caches / "vintix-fast" / "robots" / place / f"{found.name}.toml"
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        hint = "XDG_CACHE_HOME names another folder"
        raise VintixFastError(f"{output.parent}: {error.strerror or error}; {hint}") from error
    write_text(output, found.robot_file())
    return output


def make_robot(file: Path, output: Path) -> Stance:
    """Write the robot file of a URDF or MJCF, and the picture of its stance, which is returned, beside it as a .png.

    The robot's name is that of ``output``.

    Raises:
        InputFileError: the file cannot be read, or holds no quadruped.
    """
    from vintix_fast.report.plots import draw_stance  # matplotlib is for those who look

    found = survey(file, output.stem)
    draft = output.with_name(f".{output.stem}.draft.toml")
    write_text(draft, found.robot_file())
    try:
        robot = load_robot(draft)  # as everybody else will
        stance = stance_of(robot)
        draw_stance(output.with_suffix(".png"), robot, stance)
        draft.replace(output)
    except InputFileError as error:  # a value out of range, which the file gave
        raise InputFileError(str(error).replace(str(draft), f"{file}, as {output.name}")) from error
    finally:
        draft.unlink(missing_ok=True)
    return stance
