"""The links and joints of a URDF (https://wiki.ros.org/urdf/XML): one tree, named, with numbers that are numbers.

Reads the XML and nothing else: no meshes, no masses, no simulator. Knows nothing of legs or robot files.
"""

import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from vintix_fast.service.errors import InputFileError

DEEPEST = 64
"""Elements inside one another; a URDF needs 8. What reads it later calls itself for each."""
MOVING = ("revolute", "continuous", "prismatic")


class Urdf:
    """One URDF file: `links`, `joints` (name -> XML element), `root` (a link), `turning` (joints that can turn)."""

    def __init__(self, path: Path):
        self.path = path
        self.xml = self._parsed()
        self.index()

    def index(self) -> None:
        """Read the tree off `xml`, anew where that was changed."""
        self.links = self._named("link")
        self.joints = self._named("joint")
        self.turning = [n for n, joint in self.joints.items() if joint.get("type") in ("revolute", "continuous")]
        self.joint_above: dict[str, ElementTree.Element] = {}  # link -> the joint that it is the child of
        for name, joint in self.joints.items():
            self._check_joint(name, joint)
        self._check_tree()

    def error(self, problem: str) -> InputFileError:
        return InputFileError(f"URDF {self.path}: {problem}")

    def chain(self, name: str) -> list[ElementTree.Element]:
        """The joint and those above it, up to the root."""
        return list(self.upwards(end(self.joints[name], "child")))

    def upwards(self, link: str) -> Iterator[ElementTree.Element]:
        """The joints above a link, the nearest first."""
        while (joint := self.joint_above.get(link)) is not None:
            yield joint
            link = end(joint, "parent")

    def axis_and_origin(self, name: str, base_link: str) -> tuple[np.ndarray, np.ndarray] | None:
        """Axis [3] (unit) and origin [3] (m) in the base link's frame at 0 rad; None if the joint is not below it."""
        axis, origin = self.axis(name), np.zeros(3)
        for joint in self.chain(name):
            pose = self.pose(joint)
            axis = pose[:3, :3] @ axis
            origin = pose[:3, :3] @ origin + pose[:3, 3]
            if end(joint, "parent") == base_link:
                return axis, origin
        return None

    def axis(self, name: str) -> np.ndarray:
        """A joint's axis [3], a unit vector in its own frame."""
        axis = self._vector(self.joints[name].find("axis"), "xyz", "1 0 0")
        if not axis.any():
            raise self.error(f"the axis of joint {name!r} is 0 0 0; give the direction it turns about or slides along")
        return axis / np.linalg.norm(axis)

    def pose(self, element: ElementTree.Element) -> np.ndarray:
        """What ``<origin>`` of a joint, an inertial or a shape says: [4, 4], unity where it has none."""
        at = element.find("origin")
        pose = np.eye(4)
        pose[:3, :3] = _rotation(self._vector(at, "rpy", "0 0 0"))
        pose[:3, 3] = self._vector(at, "xyz", "0 0 0")
        return pose

    def limits(self, name: str) -> tuple[float, float] | None:
        """Lowest and highest position of a joint in rad or m; None if it has none (continuous, or two equal ones)."""
        joint = self.joints[name]
        if joint.get("type") == "continuous":
            return None
        limit = joint.find("limit")
        if limit is None:
            raise self.error(
                f"joint {name!r} is {joint.get('type')} and has no <limit>; give lower, upper, effort and velocity, "
                'or type="continuous" to a joint that turns without end'
            )
        lower, upper = self.number(limit, "lower", 0.0), self.number(limit, "upper", 0.0)
        if not (np.isfinite([lower, upper]).all() and lower <= upper):
            raise self.error(
                f"limits of joint {name!r} are lower={limit.get('lower')!r}, upper={limit.get('upper')!r}, expected "
                "two finite numbers in this order"
            )
        return (lower, upper) if lower < upper else None

    def number(self, element: ElementTree.Element | None, key: str, default: float = np.nan) -> float:
        """An attribute as a number; NaN where it is none, ``default`` where it is missing."""
        text = element.get(key) if element is not None else None
        try:
            return default if text is None else float(text)
        except ValueError:
            return np.nan

    def _parsed(self) -> ElementTree.Element:
        """The root element."""
        try:
            depth = 0
            with self.path.open("rb") as file:
                for event, element in ElementTree.iterparse(file, ("start", "end")):
                    depth += 1 if event == "start" else -1
                    if depth > DEEPEST:
                        raise self.error(f"<{element.tag}> lies in more than {DEEPEST} elements; no URDF is as deep")
        except (OSError, LookupError, ValueError, ElementTree.ParseError) as error:
            raise InputFileError(f"URDF {self.path} cannot be read: {error}") from error
        if element.tag != "robot":
            raise InputFileError(f"URDF {self.path} holds <{element.tag}> where <robot> is expected")
        if any("ros.org/wiki/xacro}" in part.tag for part in element.iter()):
            raise self.error(f"it is a xacro, from which a URDF is made: xacro {self.path.name} > robot.urdf")
        if not element.get("name"):
            raise self.error('<robot> has no name; write <robot name="...">')
        return element

    def _named(self, tag: str) -> dict[str, ElementTree.Element]:
        """Name -> element, in the file's order."""
        found: dict[str, ElementTree.Element] = {}
        for number, element in enumerate(self.xml.findall(tag), 1):
            name = element.get("name")
            if not name:
                raise self.error(f"{tag} {number} has no name")
            if name in found:
                raise self.error(f"two {tag}s are called {name!r}; rename one")
            found[name] = element
        return found

    def _check_joint(self, name: str, joint: ElementTree.Element) -> None:
        for tag in ("parent", "child"):
            element = joint.find(tag)
            link = element.get("link") if element is not None else None
            if link not in self.links:
                raise self.error(f"joint {name!r} names {link!r} as its {tag}, which is no link")
        other = self.joint_above.setdefault(end(joint, "child"), joint)
        if other is not joint:
            link = end(joint, "child")
            raise self.error(f"link {link!r} hangs from two joints, {other.get('name')!r} and {name!r}; remove one")
        if (kind := joint.get("type")) not in (*MOVING, "fixed", "floating"):
            raise self.error(
                f"joint {name!r} is of type {kind!r}, which is none of {', '.join(MOVING)}, fixed, floating"
            )
        self.pose(joint)
        if kind in MOVING:
            self.axis(name)

    def _check_tree(self) -> None:
        """All links hang from one root."""
        for name in self.joints:
            seen: list[str] = []
            for joint in self.upwards(end(self.joints[name], "child")):
                if joint.get("name") in seen:
                    raise self.error(f"the joints {', '.join(seen)} form a loop")
                seen.append(joint.get("name", ""))
        roots = [link for link in self.links if link not in self.joint_above]
        if len(roots) != 1:
            raise self.error(f"{len(roots)} links hang from no joint, expected one, the root: {', '.join(roots)}")
        self.root = roots[0]

    def _vector(self, element: ElementTree.Element | None, key: str, default: str) -> np.ndarray:
        text = element.get(key, default) if element is not None else default
        try:
            vector = np.array([float(part) for part in text.split()])
        except ValueError:
            vector = np.empty(0)
        if vector.shape != (3,) or not np.isfinite(vector).all():
            raise self.error(f"{key}={text!r} is not three finite numbers")
        return vector


def end(joint: ElementTree.Element, tag: str) -> str:
    """The link at a checked joint's end."""
    return joint.find(tag).get("link")  # type: ignore[union-attr, return-value]


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
