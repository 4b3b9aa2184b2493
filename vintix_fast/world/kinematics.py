"""Where a robot's links are for joint positions, from its URDF or MJCF; read by MuJoCo.

Owns what is asked of that library: bodies, joints, masses, Jacobians, tips of legs.  Knows nothing of robot files,
of which joints are legs, or of dynamics.
"""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from functools import cached_property
from pathlib import Path

import mujoco
import numpy as np

from vintix_fast.service.errors import InputFileError
from vintix_fast.world.robot_file import MJCF_SUFFIXES
from vintix_fast.world.urdf_text import find_file

_FIXED_BELOW_M = 1e-3
"""A link that is fixed this far from the last joint or farther can be a foot."""


def is_mjcf(path: Path) -> bool:
    """Whether a robot's description is an MJCF, by its name."""
    return path.suffix.lower() in MJCF_SUFFIXES


class Kinematics:
    """Bodies (links) and joints of one file.

    Args:
        path: a URDF (drawn parts and meshes are not needed and not read) or an MJCF.

    Raises:
        InputFileError: MuJoCo cannot read the file.
    """

    def __init__(self, path: Path):
        self.path = path
        try:
            if is_mjcf(path):
                self.model = mujoco.MjModel.from_xml_path(str(path))
                if ElementTree.parse(path).getroot().tag == "robot":
                    raise InputFileError(f"{path} holds a URDF; let its name end in .urdf")
            else:
                self.model = mujoco.MjModel.from_xml_string(_urdf_without_meshes(path))
        except (OSError, LookupError, ValueError, ElementTree.ParseError) as error:
            raise InputFileError(f"{path} cannot be read: {' '.join(str(error).split())}") from error
        self._data = mujoco.MjData(self.model)

    @cached_property
    def bodies(self) -> list[str]:
        """Names of all links but the world."""
        return [self.model.body(i).name for i in range(1, self.model.nbody)]

    @cached_property
    def hinges(self) -> dict[str, int]:
        """Joints that turn: name -> index; in the file's order."""
        turning = np.flatnonzero(self.model.jnt_type == mujoco.mjtJoint.mjJNT_HINGE)
        return {self.model.joint(int(i)).name: int(i) for i in turning}

    def body_of(self, joint: str) -> int:
        """Index of the body that a joint moves."""
        return int(self.model.jnt_bodyid[self.hinges[joint]])

    def parent(self, body: int) -> int:
        """Index of the body that one hangs from; 0 is the world."""
        return int(self.model.body_parentid[body])

    def upwards(self, body: int) -> list[int]:
        """A body and those that it hangs from, up to the one right below the world."""
        found = []
        while body > 0:
            found.append(body)
            body = self.parent(body)
        return found

    def hinges_above(self, body: int) -> list[str]:
        """Joints that turn, from a body up to the root, the body's own first."""
        joint_of = {self.body_of(name): name for name in self.hinges}
        return [joint_of[above] for above in self.upwards(body) if above in joint_of]

    def limits(self, joint: str) -> tuple[float, float] | None:
        """Lowest and highest position in rad; None for a joint that turns without end."""
        index = self.hinges[joint]
        if not self.model.jnt_limited[index]:
            return None
        lower, upper = self.model.jnt_range[index]
        return float(lower), float(upper)

    def effort_nm(self, joint: str) -> float | None:
        """The largest torque of a joint's motor; None where the file does not say."""
        model, index = self.model, self.hinges[joint]
        if model.jnt_actfrclimited[index]:
            return float(model.jnt_actfrcrange[index, 1])
        for i in range(model.nu):
            if model.actuator_trntype[i] == mujoco.mjtTrn.mjTRN_JOINT and model.actuator_trnid[i, 0] == index:
                if model.actuator_forcelimited[i]:
                    return float(model.actuator_forcerange[i, 1])
                if model.actuator_ctrllimited[i] and model.actuator_biastype[i] == mujoco.mjtBias.mjBIAS_NONE:
                    return float(model.actuator_gear[i, 0] * model.actuator_ctrlrange[i, 1])
        return None

    def inertia(self, joint: str) -> float:
        """Of all that hangs below a joint, about its axis, kg m2; the motor's own is not counted."""
        at = self.model.jnt_dofadr[self.hinges[joint]]
        return float(self.model.dof_M0[at] - self.model.dof_armature[at])

    def mass_kg(self) -> float:
        """Of the whole robot."""
        return float(self.model.body_mass.sum())

    def common_body(self, bodies: list[int]) -> str | None:
        """The lowest link that all of these are or hang from; None if that is the world."""
        paths = [self.upwards(body) for body in bodies]
        shared = [body for body in paths[0] if all(body in path for path in paths)] if paths else []
        return self.model.body(shared[0]).name if shared else None

    def radius_m(self, body: int, otherwise: float) -> float:
        """Of the ball at the end of a leg; ``otherwise`` where the end is none."""
        balls = (mujoco.mjtGeom.mjGEOM_SPHERE, mujoco.mjtGeom.mjGEOM_CAPSULE)
        found = [
            i for i in range(self.model.ngeom) if self.model.geom_bodyid[i] == body and self.model.geom_type[i] in balls
        ]
        return float(self.model.geom_size[found[-1]][0]) if found else otherwise

    def pose(self, joint_pos_rad: dict[str, float], base: str) -> Pose:
        """All links with these joint positions, others at their zero, seen from the base link."""
        mujoco.mj_resetData(self.model, self._data)
        for name, angle in joint_pos_rad.items():
            self._data.qpos[self.model.jnt_qposadr[self.hinges[name]]] = angle
        mujoco.mj_kinematics(self.model, self._data)
        mujoco.mj_comPos(self.model, self._data)
        return Pose(self, base)

    def tip(self, joint: str) -> tuple[int, np.ndarray, str | None]:
        """The end of a leg whose last joint this is: body, point in its frame [3] (m), and the foot's name if any.

        A foot is the link farthest from the joint among those that are fixed below it.  Without one it is the centre of
        the shape of the last link that is farthest away.
        """
        last = self.body_of(joint)
        anchor = self.model.jnt_pos[self.hinges[joint]]
        below = {last: np.zeros(3)}  # bodies fixed below -> their origins in the last link's frame
        for body in range(last + 1, self.model.nbody):
            up = self.parent(body)
            if up in below and self.model.body_jntnum[body] == 0:
                below[body] = below[up] + self._turn(up, last, self.model.body_pos[body])
        far = max(below, key=lambda body: float(np.linalg.norm(below[body] - anchor)))
        if np.linalg.norm(below[far] - anchor) > _FIXED_BELOW_M:
            return far, np.zeros(3), self.model.body(far).name
        points = [self.model.geom_pos[i] for i in range(self.model.ngeom) if self.model.geom_bodyid[i] == last]
        if not points:
            points = [_farthest_of_meshes(self.path, self.model.body(last).name)]
        return last, np.array(max(points, key=lambda point: float(np.linalg.norm(point - anchor)))), None

    def _turn(self, body: int, upto: int, vector: np.ndarray) -> np.ndarray:
        """A vector in a body's frame, in that of one which it is fixed to."""
        turned = np.array(vector)
        while body != upto:
            out = np.zeros(3)
            mujoco.mju_rotVecQuat(out, turned, self.model.body_quat[body])
            turned, body = out, self.parent(body)
        return turned


class Pose:
    """Links of a robot with given joint positions, in the frame of its base link."""

    def __init__(self, kinematics: Kinematics, base: str):
        self._data = kinematics._data
        body = self._data.body(base)
        self._origin, self._rotation = body.xpos.copy(), body.xmat.reshape(3, 3).copy()

    def _seen(self, vector: np.ndarray) -> np.ndarray:
        return self._rotation.T @ vector

    def anchor(self, joint: str) -> np.ndarray:
        """A joint's place [3], m."""
        return self._seen(self._data.joint(joint).xanchor - self._origin)

    def axis(self, joint: str) -> np.ndarray:
        """The unit vector [3] about which a joint turns."""
        return self._seen(self._data.joint(joint).xaxis)

    def point(self, body: int, local: np.ndarray) -> np.ndarray:
        """A point of a body, given in the body's frame [3], m."""
        return self._seen(self._data.xpos[body] + self._data.xmat[body].reshape(3, 3) @ local - self._origin)

    def orientation(self, body: int) -> np.ndarray:
        """A body's, as a quaternion [4] (w, x, y, z)."""
        quat = np.zeros(4)
        mujoco.mju_mat2Quat(quat, (self._rotation.T @ self._data.xmat[body].reshape(3, 3)).ravel())
        return quat

    def jacobian(self, joints: tuple[str, ...], point: np.ndarray) -> np.ndarray:
        """How a point [3] below all of these joints moves with each: [3, J], m/rad."""
        return np.stack([np.cross(self.axis(name), point - self.anchor(name)) for name in joints], axis=1)

    def leg_length(self, joints: tuple[str, ...], foot: np.ndarray) -> float:
        """Of thigh and calf, m: from the last but one of a leg's joints by the last to its foot [3]."""
        thigh, calf = (self.anchor(name) for name in joints[-2:])
        return float(np.linalg.norm(calf - thigh) + np.linalg.norm(foot - calf))

    def centre_of_mass(self) -> np.ndarray:
        """Of the whole robot [3], m."""
        return self._seen(self._data.subtree_com[0] - self._origin)


def _urdf_without_meshes(path: Path) -> str:
    """A URDF's text with what MuJoCo needs to know, less what is drawn and less meshes, which it may not read."""
    root = ElementTree.parse(path).getroot()
    if root.tag != "robot":
        mjcf = "; the name of an MJCF ends in .xml" if root.tag == "mujoco" else ""
        raise InputFileError(f"{path} holds <{root.tag}> where <robot> is expected{mjcf}")
    for link in root.findall("link"):
        for shape in [*link.findall("visual"), *link.findall("collision")]:
            if shape.tag == "visual" or shape.find("geometry/mesh") is not None:
                link.remove(shape)
    tell_compiler(root, fusestatic="false")
    return ElementTree.tostring(root, encoding="unicode")


def tell_compiler(urdf: ElementTree.Element, **options: str) -> None:
    """Say how MuJoCo is to read a URDF, whatever that says itself; impossible inertias are another's to refuse."""
    for old in urdf.findall("mujoco"):
        urdf.remove(old)
    inertias = {"inertiafromgeom": "false", "balanceinertia": "true", "boundmass": "1e-9", "boundinertia": "1e-12"}
    ElementTree.SubElement(ElementTree.SubElement(urdf, "mujoco"), "compiler", inertias | options)


def _farthest_of_meshes(path: Path, link_name: str) -> np.ndarray:
    """The vertex [3] of a URDF link's collision meshes that is farthest from its joint, m; the origin without any."""
    import trimesh  # which Genesis brings, as it does scipy
    from scipy.spatial.transform import Rotation

    best = np.zeros(3)
    for link in ElementTree.parse(path).getroot().findall("link"):
        for shape in link.findall("collision") if link.get("name") == link_name else []:
            if (mesh := shape.find("geometry/mesh")) is None:
                continue
            if (file := find_file(path, mesh.get("filename", ""))) is None:
                continue
            vertices = np.asarray(trimesh.load_mesh(file).vertices)
            at, origin = vertices * _numbers(mesh, "scale", "1 1 1"), shape.find("origin")
            if origin is not None:
                at = Rotation.from_euler("xyz", _numbers(origin, "rpy", "0 0 0")).apply(at)
                at = at + _numbers(origin, "xyz", "0 0 0")
            far = at[np.linalg.norm(at, axis=1).argmax()]
            best = far if np.linalg.norm(far) > np.linalg.norm(best) else best
    return best


def _numbers(element: ElementTree.Element, key: str, default: str) -> np.ndarray:
    return np.array([float(part) for part in element.get(key, default).split()])
