"""The links and joints of a URDF (https://wiki.ros.org/urdf/XML), as far as joint axes need them.

Reads the XML and nothing else: no meshes, no masses, no simulator. Knows nothing of legs or robot files.
"""

import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np

from vintix_fast.service.errors import InputFileError


class Urdf:
    """One URDF file: `links` (names), `joints` (name -> XML element), `turning` (names of joints that can turn)."""

    def __init__(self, path: Path):
        self.path = path
        try:
            root = ElementTree.parse(path).getroot()
        except (OSError, LookupError, ValueError, ElementTree.ParseError) as error:
            raise InputFileError(f"URDF {path} cannot be read: {error}") from error
        if root.tag != "robot":
            raise InputFileError(f"URDF {path} holds <{root.tag}> where <robot> is expected")
        self.links = [link.get("name", "") for link in root.findall("link")]
        self.joints = {joint.get("name", ""): joint for joint in root.findall("joint")}
        self.turning = [n for n, joint in self.joints.items() if joint.get("type") in ("revolute", "continuous")]
        self.joint_above = {self._end(joint, "child"): joint for joint in self.joints.values()}

    def chain(self, name: str) -> list[ElementTree.Element]:
        """The joint and those above it, up to the root."""
        chain = [self.joints[name]]
        while (above := self.joint_above.get(self._end(chain[-1], "parent"))) is not None:
            if above in chain:
                raise InputFileError(f"URDF {self.path}: the joints around {name!r} form a loop")
            chain.append(above)
        return chain

    def axis_and_origin(self, name: str, base_link: str) -> tuple[np.ndarray, np.ndarray] | None:
        """Axis [3] (unit) and origin [3] (m) in the base link's frame at 0 rad; None if the joint is not below it."""
        axis = self._vector(self.joints[name].find("axis"), "xyz", "1 0 0")
        origin = np.zeros(3)
        for joint in self.chain(name):
            at = joint.find("origin")
            rotation = _rotation(self._vector(at, "rpy", "0 0 0"))
            axis = rotation @ axis
            origin = rotation @ origin + self._vector(at, "xyz", "0 0 0")
            if self._end(joint, "parent") == base_link:
                length = np.linalg.norm(axis)
                if length == 0:
                    raise InputFileError(f"URDF {self.path}: the axis of joint {name!r} is 0 0 0")
                return axis / length, origin
        return None

    def limits(self, name: str) -> tuple[float, float] | None:
        """Lowest and highest position of a joint in rad; None if it has none (continuous, or none given)."""
        limit = self.joints[name].find("limit")
        if self.joints[name].get("type") == "continuous" or limit is None:
            return None
        try:
            lower, upper = float(limit.get("lower", 0.0)), float(limit.get("upper", 0.0))
        except ValueError:
            lower = upper = np.nan
        if not (np.isfinite([lower, upper]).all() and lower <= upper):
            raise InputFileError(
                f"URDF {self.path}: limits of joint {name!r} are lower={limit.get('lower')!r}, "
                f"upper={limit.get('upper')!r}, expected two finite numbers in this order"
            )
        return (lower, upper) if lower < upper else None

    def _end(self, joint: ElementTree.Element, tag: str) -> str | None:
        end = joint.find(tag)
        return end.get("link") if end is not None else None

    def _vector(self, element: ElementTree.Element | None, key: str, default: str) -> np.ndarray:
        text = element.get(key, default) if element is not None else default
        try:
            vector = np.array([float(part) for part in text.split()])
        except ValueError:
            vector = np.empty(0)
        if vector.shape != (3,) or not np.isfinite(vector).all():
            raise InputFileError(f"URDF {self.path}: {key}={text!r} is not three finite numbers")
        return vector


def without_visuals(path: Path) -> str | None:
    """The URDF's text less what is only drawn: meshes that take seconds to load.

    A link without masses of its own keeps its looks: a simulator may guess its inertia from them.  Names of the meshes
    that stay become absolute, so that the text can lie anywhere; None where one is named by its ROS package, which is
    looked for from the file's own folder.
    """
    root = ElementTree.parse(path).getroot()
    for link in root.findall("link"):
        if link.find("inertial") is not None:
            for visual in link.findall("visual"):
                link.remove(visual)
    for mesh in root.iter("mesh"):
        name = mesh.get("filename", "")
        if name.startswith("package://"):
            return None
        mesh.set("filename", str(path.parent.absolute() / name))
    return ElementTree.tostring(root, encoding="unicode")


def _rotation(rpy: np.ndarray) -> np.ndarray:
    """URDF roll, pitch, yaw (rad, about fixed axes x, y, z) as a matrix [3, 3]."""
    (cr, cp, cy), (sr, sp, sy) = np.cos(rpy), np.sin(rpy)
    return np.array(
        [
            [cy * cp, cy * sp * sr - sy * cr, cy * sp * cr + sy * sr],
            [sy * cp, sy * sp * sr + cy * cr, sy * sp * cr - cy * sr],
            [-sp, cp * sr, cp * cr],
        ]
    )
