"""A URDF as the simulator is given it: the body is the root, only the robot file's joints move, files are found.

Genesis places a robot by its root link and leaves joints that nobody drives limp. So the text is turned round to hang
from `base_link`, and joints beyond the robot file's are held: fixed where they are at rest. Knows nothing of Genesis.
"""

import contextlib
import functools
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from vintix_fast.world.urdf import MOVING, Urdf, end


def held_joints(urdf: Urdf, joints: Sequence[str]) -> dict[str, float]:
    """The joints beyond ``joints`` that can move, and where they are held (rad, m): at 0, or amid limits without it.

    One that mimics a held one is held as well; one that mimics one of ``joints`` goes on to follow it.
    """
    moving = [name for name, joint in urdf.joints.items() if joint.get("type") in MOVING and name not in joints]
    places = {name: _place(urdf, name, joints) for name in moving}
    return {name: place for name, place in places.items() if place is not None}


def _place(urdf: Urdf, name: str, joints: Sequence[str], followers: tuple[str, ...] = ()) -> float | None:
    """Where a joint is held; None: nowhere."""
    if name in joints:
        return None
    joint = urdf.joints[name]
    if (mimic := joint.find("mimic")) is not None:
        leader = mimic.get("joint", "")
        if leader not in urdf.joints or leader in (*followers, name):
            raise urdf.error(
                f"joint {name!r} mimics {leader!r}, which is itself or no joint; name the joint it follows"
            )
        leaders = _place(urdf, leader, joints, (*followers, name))
        factor, offset = urdf.number(mimic, "multiplier", 1.0), urdf.number(mimic, "offset", 0.0)
        if not np.isfinite([factor, offset]).all():
            raise urdf.error(f"the mimic of joint {name!r} has a multiplier or offset that is no finite number")
        return None if leaders is None else factor * leaders + offset
    low, high = (joint.find("limit") is not None and urdf.limits(name)) or (0.0, 0.0)
    return 0.0 if low <= 0.0 <= high else (low + high) / 2.0


def reshape(urdf: Urdf, base_link: str, joints: Sequence[str]) -> bool:
    """Hold what `held_joints` says and hang everything from ``base_link``; whether that changed anything.

    Raises:
        InputFileError: a floating joint that is not a mere hook for the whole robot.
    """
    held = held_joints(urdf, joints)
    for name, place in held.items():
        _hold(urdf, name, place)
    rerooted = _hang_from(urdf, base_link)
    for name, joint in urdf.joints.items():
        if joint.get("type") == "floating" and joint in list(urdf.xml):
            raise urdf.error(f"joint {name!r} is floating; only one between an empty root link and the body can be")
    urdf.index()
    return bool(held) or rerooted


def _hold(urdf: Urdf, name: str, place: float) -> None:
    joint, motion = urdf.joints[name], np.eye(4)
    if joint.get("type") == "prismatic":
        motion[:3, 3] = place * urdf.axis(name)
    else:
        motion[:3, :3] = _turn(urdf.axis(name), place)
    pose = urdf.pose(joint) @ motion
    joint.set("type", "fixed")
    for part in list(joint):
        if part.tag not in ("origin", "parent", "child"):
            joint.remove(part)
    if place:
        _set_pose(joint, pose)


def _hang_from(urdf: Urdf, base_link: str) -> bool:
    """Make ``base_link`` the root, unless it coincides with it; links above that carry nothing go."""
    chain = list(urdf.upwards(base_link))
    pose = functools.reduce(np.matmul, [urdf.pose(joint) for joint in reversed(chain)], np.eye(4))
    fixed = all(joint.get("type") == "fixed" for joint in chain)
    if fixed and np.array_equal(pose, np.eye(4)) and (not chain or urdf.root != "world"):  # a name of the simulator's
        return False
    parents = [end(joint, "parent") for joint in urdf.joints.values()]
    while chain and parents.count(top := end(chain[-1], "parent")) == 1 and not _carries(urdf.links[top]):
        urdf.xml.remove(urdf.links[top])
        urdf.xml.remove(chain.pop())
    for joint in chain:
        parent, child = joint.find("parent"), joint.find("child")
        assert parent is not None and child is not None
        parent.attrib["link"], child.attrib["link"] = child.attrib["link"], parent.attrib["link"]
        _set_pose(joint, np.linalg.inv(urdf.pose(joint)))
    for transmission in urdf.xml.findall("transmission"):  # may name a joint that went
        urdf.xml.remove(transmission)
    return True


def _carries(link: ElementTree.Element) -> bool:
    return any(link.find(part) is not None for part in ("inertial", "collision", "visual"))


def find_file(description: Path, name: str) -> Path | None:
    """A mesh or picture, beside its URDF or MJCF or in the folder above that ``package://NAME`` means; or None."""
    folder, (scheme, _, rest) = description.parent.absolute(), name.rpartition("://")
    places = [folder / rest]
    if scheme in ("package", "model"):
        rest = rest.lstrip("/")
        package = rest.split("/")[0]
        places = [folder / rest]
        places += [above.parent / rest for above in reversed((folder, *folder.parents)) if above.name == package]
    with contextlib.suppress(OSError, ValueError):  # a name too long, or with a zero byte
        return next((place for place in places if place.is_file()), None)
    return None


def urdf_text(path: Path, base_link: str, joints: Sequence[str], drawn: bool = False) -> str | None:
    """What to simulate of a URDF, or what to draw; None: the file as it is.

    What is only drawn is left out where nothing is drawn: meshes that take seconds to load. A link without masses of
    its own keeps its looks: a simulator may guess its inertia from them. Names of files become absolute, so that the
    text can lie anywhere. A file that names its meshes by their ROS package is taken as it is where it can be: the
    simulator reads it in another way, and its robots shall stay the same.
    """
    urdf = Urdf(path)
    changed = reshape(urdf, base_link, joints)
    found = {name: find_file(path, name) for _, name in _files(urdf.xml)}
    for link in urdf.xml.findall("link"):
        for visual in link.findall("visual"):
            lost = any(found[name] is None for _, name in _files(visual))
            if lost or (not drawn and link.find("inertial") is not None):
                link.remove(visual)
    by_package = any(name.startswith("package://") for element, name in _files(urdf.xml) if element.tag == "mesh")
    if not changed and all(found.values()) and (drawn or by_package):
        return None
    for material in urdf.xml.iter("material"):
        for texture in material.findall("texture"):
            if not drawn or found[texture.get("filename", "")] is None:
                material.remove(texture)
    for element, name in _files(urdf.xml):
        element.set("filename", str(found[name] or name))
    return ElementTree.tostring(urdf.xml, encoding="unicode")


def _files(part: ElementTree.Element) -> list[tuple[ElementTree.Element, str]]:
    """Elements that name a file, with its name."""
    return [(element, element.get("filename", "")) for tag in ("mesh", "texture") for element in part.iter(tag)]


def _set_pose(element: ElementTree.Element, pose: np.ndarray) -> None:
    origin = element.find("origin")
    if origin is None:
        origin = ElementTree.SubElement(element, "origin")
    roll, pitch, yaw = _roll_pitch_yaw(pose[:3, :3])
    origin.set("xyz", " ".join(repr(float(x)) for x in pose[:3, 3]))
    origin.set("rpy", f"{roll!r} {pitch!r} {yaw!r}")


def _roll_pitch_yaw(matrix: np.ndarray) -> tuple[float, float, float]:
    """The angles (rad, about fixed axes x, y, z) of a rotation [3, 3]."""
    across = float(np.hypot(matrix[0, 0], matrix[1, 0]))  # cosine of the pitch
    pitch = float(np.arctan2(-matrix[2, 0], across))
    if across < 1e-9:  # straight up or down: only the difference of roll and yaw is known
        return float(np.arctan2(-matrix[1, 2], matrix[1, 1])), pitch, 0.0
    return float(np.arctan2(matrix[2, 1], matrix[2, 2])), pitch, float(np.arctan2(matrix[1, 0], matrix[0, 0]))


def _turn(axis: np.ndarray, angle_rad: float) -> np.ndarray:
    """[3, 3], Rodrigues' formula."""
    x, y, z = axis
    cross = np.array([[0.0, -z, y], [z, 0.0, -x], [-y, x, 0.0]])
    return np.eye(3) + np.sin(angle_rad) * cross + (1.0 - np.cos(angle_rad)) * cross @ cross
