"""A robot that an MJCF describes: what a robot file's values are checked against, and the text that is simulated.

Owns what differs from a URDF.  Knows nothing of Genesis or legs.
"""

from __future__ import annotations

import warnings
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from pathlib import Path

import mujoco
import numpy as np

from vintix_fast.service.errors import InputFileError
from vintix_fast.world.kinematics import Kinematics

_WITH_FILES = ("mesh", "texture", "hfield", "skin")
_DEEPEST = 8
"""Files that include files: deeper ones are left to MuJoCo to refuse."""


class Mjcf(Kinematics):
    """One MJCF, with what `Urdf` has of a URDF: `links`, `joints` (name -> what it is), `turning` (names)."""

    def __init__(self, path: Path):
        super().__init__(path)
        self.links, self.turning, model = self.bodies, list(self.hinges), self.model
        self.joints = {
            model.joint(i).name: {"type": mujoco.mjtJoint(model.jnt_type[i]).name.removeprefix("mjJNT_").lower()}
            for i in range(model.njnt)
        }

    def chain(self, name: str) -> list[dict[str, str]]:
        """The joint and those that turn above it, up to the root."""
        return [{"name": n} for n in self.hinges_above(self.body_of(name))]

    def axis_and_origin(self, name: str, base_link: str) -> tuple[np.ndarray, np.ndarray] | None:
        """Axis [3] (unit) and origin [3] (m) in the base link's frame at 0 rad; None if the joint is not below it."""
        if all(self.model.body(body).name != base_link for body in self.upwards(self.body_of(name))):
            return None
        pose = self.pose({}, base_link)
        return pose.axis(name), pose.anchor(name)

    def check_body(self, base_link: str, joints: Sequence[str], feet: Sequence[str]) -> None:
        """Raise InputFileError unless the base is the top body, each joint has a motor, and MuJoCo finds it sound."""
        if self.parent(self.model.body(base_link).id) != 0:
            raise InputFileError(
                f"{self.path}: body {base_link!r} hangs from another one; name the robot's top body as base_link"
            )
        for name in joints:
            effort = self.effort_nm(name)
            if effort is None or effort <= 0:
                raise InputFileError(
                    f"{self.path}: joint {name!r} has no actuator that says what torque it can give; add one, such as "
                    f'<actuator><motor joint="{name}" ctrlrange="-30 30"/></actuator> (Nm)'
                )
        for foot in feet:
            if not any(name in joints for name in self.hinges_above(self.model.body(foot).id)):
                raise InputFileError(f"{self.path}: foot {foot!r} hangs from none of the robot file's joints")
        simulated_mjcf(self.path, joints)

    def held(self, joints: Sequence[str]) -> tuple[tuple[str, float], ...]:
        """Joints beyond these, which are held at 0."""
        return tuple((name, 0.0) for name, what in self.joints.items() if name not in joints and what["type"] != "free")


def mjcf_tree(path: Path) -> ElementTree.Element:
    """An MJCF that can lie anywhere: what it includes is in it, names of files are absolute.

    Raises:
        InputFileError: it is no sound XML.
    """
    try:
        root = ElementTree.parse(path).getroot()
        _include(root, path.parent, 0)
    except (OSError, LookupError, ValueError, RecursionError, ElementTree.ParseError) as error:
        raise InputFileError(f"{path}, or what it includes, cannot be read: {error}") from error
    compilers = root.findall("compiler")
    folders = {key: "" for key in ("assetdir", "meshdir", "texturedir")}
    for compiler in compilers:
        folders |= {key: compiler.attrib.pop(key) for key in folders if key in compiler.attrib}
    for element in root.iter():
        if element.tag in _WITH_FILES and (name := element.get("file")):
            folder = folders["texturedir" if element.tag == "texture" else "meshdir"] or folders["assetdir"]
            element.set("file", str((path.parent / folder / name).resolve()))
    return root


def _include(element: ElementTree.Element, folder: Path, depth: int) -> None:
    """Put what is included in the place of the words that say so."""
    for index, child in reversed(list(enumerate(element))):
        if child.tag == "include" and depth < _DEEPEST:
            element.remove(child)
            for part in reversed(list(ElementTree.parse(folder / child.get("file", "")).getroot())):
                element.insert(index, part)
            _include(element, folder, depth + 1)
        else:
            _include(child, folder, depth)


def simulated_mjcf(path: Path, joints: Sequence[str]) -> str:
    """An MJCF's text, for any folder, in which other joints are held and which holds the robot without floors.

    Raises:
        InputFileError: MuJoCo refuses it, or warns of it.
    """
    text = ElementTree.tostring(mjcf_tree(path), encoding="unicode")
    try:
        with warnings.catch_warnings(action="error"):
            spec = mujoco.MjSpec.from_string(text)
            _hold_others(spec, joints)
            spec.compile()
    except (ValueError, UserWarning) as error:
        raise InputFileError(f"{path}, its other joints held, is not sound: {' '.join(str(error).split())}") from error
    return spec.to_xml()


def _hold_others(spec: mujoco.MjSpec, joints: Sequence[str]) -> None:
    """Let only these joints move, in a robot that is free, in a world that is empty."""
    free = mujoco.mjtJoint.mjJNT_FREE
    extra = [joint for joint in spec.joints if joint.name not in joints and joint.type != free]
    names = {joint.name for joint in extra}
    for actuator in [actuator for actuator in spec.actuators if actuator.target in names]:
        spec.delete(actuator)
    for key in list(spec.keys):  # of as many joints as there were
        spec.delete(key)
    for part in (*extra, *spec.worldbody.geoms):
        spec.delete(part)
    for body in spec.worldbody.bodies:
        if not list(body.joints):
            body.add_freejoint()
