"""A robot on a plane as MuJoCo is to simulate it: what Genesis makes of the same robot file, in MuJoCo's words.

Owns what is said to MuJoCo: shapes, motors, solver.  Collision meshes become their convex hulls, links that are fixed
to one another one body, and links that touch in the file's zero pose pass through each other, as in Genesis.  Knows
nothing about environments, tasks or Genesis itself.
"""

from __future__ import annotations

import io
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from pathlib import Path

import mujoco
import numpy as np
import trimesh

from vintix_fast.service.errors import VintixFastError
from vintix_fast.world.kinematics import Kinematics, is_mjcf, tell_compiler
from vintix_fast.world.mjcf import simulated_mjcf
from vintix_fast.world.robot import LEGS, Robot
from vintix_fast.world.simulator import DT_S, SUBSTEPS
from vintix_fast.world.urdf_text import find_file, urdf_text

ARMATURE_KG_M2 = 0.1
"""Of joints to which neither robot file nor description gives one: Genesis' default."""
GROUND = "vintix_fast_ground"
CELL_M, CELL_PART = 0.01, 0.05
"""Of the cells in which `_drawn_into_one_another` looks, at most: so much, and this part of the shape's length."""
SHRUNK = 1e-3
NEAR_M = 0.02
"""Shapes that are farther apart share no cell."""
EVERYWHERE_M = 100.0
"""Of a ball around a leg in which its contacts are felt."""


def robot_on_a_plane(robot: Robot, friction: float | None = None, strength: float = 1.0) -> mujoco.MjModel:
    """Compile what `vintix_fast.world.mujoco_simulator` steps.

    Actuator i turns joint i of the robot file; sensor i is the force (N) on leg i, FR, FL, RR, RL.

    Args:
        friction: of everything that touches the ground; None: the larger of the two shapes', of which the ground has 1.
        strength: the part of its torque that each motor gives.

    Raises:
        VintixFastError: MuJoCo refuses the robot's file.
    """
    try:
        spec = mjcf_spec(robot) if is_mjcf(robot.urdf_path) else urdf_spec(robot)
        _add_motors(spec, robot, strength)
        _add_feet(spec, robot)
        model = _without_inborn_contacts(spec, robot.start_height_m)
    except (ValueError, KeyError, OSError) as error:
        raise VintixFastError(f"MuJoCo cannot build {robot.urdf_path}: {' '.join(str(error).split())}") from error
    _set_physics(model, robot)
    if friction is not None:
        ground = model.geom(GROUND).id
        model.geom_friction[ground, 0], model.geom_priority[ground] = friction, 1
    return model


def mjcf_spec(robot: Robot) -> mujoco.MjSpec:
    """An MJCF's robot alone, without its own motors and sensors."""
    spec = mujoco.MjSpec.from_string(simulated_mjcf(robot.urdf_path, robot.joints))
    spec.compiler.discardvisual = True
    for part in (*spec.sensors, *spec.actuators):
        spec.delete(part)
    return spec


def urdf_spec(robot: Robot) -> mujoco.MjSpec:
    """A URDF's robot, free to move, with hulls in place of collision meshes."""
    path = robot.urdf_path
    text = urdf_text(path, robot.base_link, robot.joints)
    root = ElementTree.fromstring(path.read_bytes() if text is None else text)
    hulls: dict[str, bytes] = {}
    for link in root.findall("link"):
        for shape in [*link.findall("visual"), *link.findall("collision")]:
            mesh = shape.find("geometry/mesh")
            if shape.tag == "visual" or mesh is not None:
                link.remove(shape)
            if shape.tag == "collision" and mesh is not None:
                for hull in _hulls(path, mesh):
                    name = f"{len(hulls)}.obj"
                    hulls[name] = hull
                    link.append(_in_place_of(shape, name))
    tell_compiler(root, fusestatic="true", discardvisual="true", strippath="false")
    spec = mujoco.MjSpec.from_string(ElementTree.tostring(root, encoding="unicode"), assets=hulls)
    for body in spec.worldbody.bodies:
        if not list(body.joints):
            body.add_freejoint()
    for joint in root.findall("joint"):
        if (mimic := joint.find("mimic")) is not None and joint.get("type") != "fixed":
            spec.add_equality(
                type=mujoco.mjtEq.mjEQ_JOINT, objtype=mujoco.mjtObj.mjOBJ_JOINT,
                name1=joint.get("name"), name2=mimic.get("joint"),
                data=[float(mimic.get("offset", 0)), float(mimic.get("multiplier", 1)), *[0.0] * 9],
            )  # fmt: skip
    return spec


def load_meshes(file: Path) -> list[trimesh.Trimesh]:
    """The meshes of a file of any format that Genesis reads, where the file puts them."""
    loaded = trimesh.load(file, process=False)
    parts = loaded.dump() if isinstance(loaded, trimesh.Scene) else [loaded]
    return [part for part in parts if isinstance(part, trimesh.Trimesh)]


def _hulls(urdf: Path, mesh: ElementTree.Element) -> Iterator[bytes]:
    """The convex hull, as an OBJ file, of each part of a URDF's mesh."""
    name = mesh.get("filename", "")
    file = find_file(urdf, name)
    if file is None:
        raise ValueError(f"there is no mesh {name}")
    scale = np.array([float(part) for part in mesh.get("scale", "1 1 1").split()])
    for part in load_meshes(file):
        hull = trimesh.convex.convex_hull(part.vertices * scale)
        written = io.StringIO()
        written.writelines(f"v {x!r} {y!r} {z!r}\n" for x, y, z in hull.vertices.tolist())
        written.writelines(f"f {a + 1} {b + 1} {c + 1}\n" for a, b, c in hull.faces.tolist())
        yield written.getvalue().encode()


def _in_place_of(shape: ElementTree.Element, mesh: str) -> ElementTree.Element:
    """A collision shape with another mesh, at the same place."""
    made = ElementTree.Element("collision")
    made.extend(shape.findall("origin"))
    ElementTree.SubElement(ElementTree.SubElement(made, "geometry"), "mesh", {"filename": mesh})
    return made


def _add_motors(spec: mujoco.MjSpec, robot: Robot, strength: float) -> None:
    kinematics = Kinematics(robot.urdf_path)
    for name in robot.joints:
        motor = spec.add_actuator(name=name, trntype=mujoco.mjtTrn.mjTRN_JOINT, target=name)
        motor.set_to_position(kp=strength * robot.kp, kv=strength * robot.kd)
        effort_nm = kinematics.effort_nm(name)
        if effort_nm is not None:
            motor.forcelimited, motor.forcerange = True, [-strength * effort_nm, strength * effort_nm]


def _add_feet(spec: mujoco.MjSpec, robot: Robot) -> None:
    """A sensor for each leg.  A foot that is fixed to its calf becomes a part of it, with its sensor."""
    calves = [spec.joint(name).parent for name in robot.last_joints]
    feet = [spec.body(name) for name in robot.feet] or calves
    for leg, body in zip(LEGS, feet, strict=True):
        name = f"vintix_fast_{leg}"
        body.add_site(name=name, size=[EVERYWHERE_M] * 3)
        spec.add_sensor(
            name=name, type=mujoco.mjtSensor.mjSENS_TOUCH, objtype=mujoco.mjtObj.mjOBJ_SITE, objname=name
        )  # fmt: skip


def _without_inborn_contacts(spec: mujoco.MjSpec, start_height_m: float) -> mujoco.MjModel:
    """Compile, on a plane, a robot whose links do not collide where they do so by their drawing."""
    model = spec.compile()
    data = mujoco.MjData(model)
    data.qpos[model.jnt_qposadr[model.body_jntadr[base_body(model)]] + 2] = start_height_m
    model.geom_margin[:] = NEAR_M
    mujoco.mj_forward(model, data)
    near = {tuple(sorted(contact.geom.tolist())) for contact in data.contact}
    drawn_so = [pair for pair in sorted(near) if _drawn_into_one_another(model, data, *pair)]
    for pair in {tuple(sorted(int(model.geom_bodyid[geom]) for geom in pair)) for pair in drawn_so}:
        one, other = (model.body(body).name for body in pair)
        spec.add_exclude(bodyname1=one, bodyname2=other)
    # An MJCF's own masks sort out what collides within the robot; all that does stands on the ground.
    all_ones = 2**31 - 1
    spec.worldbody.add_geom(
        name=GROUND, type=mujoco.mjtGeom.mjGEOM_PLANE, size=[0, 0, 1], contype=all_ones, conaffinity=all_ones
    )
    return spec.compile()


def _drawn_into_one_another(model: mujoco.MjModel, data: mujoco.MjData, one: int, other: int) -> bool:
    """Whether the surfaces of two shapes share a cell: as Genesis sees it, which then lets them pass."""
    shrunk = []
    for geom in (one, other):
        mesh = geom_mesh(model, geom)
        if mesh is None:
            return False
        vertices = mesh.vertices @ data.geom_xmat[geom].reshape(3, 3).T + data.geom_xpos[geom]
        centre = vertices.mean(axis=0)
        shrunk.append(trimesh.Trimesh(centre + (1.0 - SHRUNK) * (vertices - centre), mesh.faces, process=False))
    (low, high), (other_low, other_high) = (mesh.bounds for mesh in shrunk)
    if (high < other_low).any() or (other_high < low).any():
        return False
    cells = [mesh.voxelized(min(CELL_M, CELL_PART * max(mesh.extents))) for mesh in shrunk]
    return any(a.is_filled(b.indices_to_points(np.argwhere(b.matrix))).any() for a, b in (cells, cells[::-1]))


def geom_mesh(model: mujoco.MjModel, geom: int) -> trimesh.Trimesh | None:
    """A shape's triangles in its own frame; None of one that has none, such as a plane."""
    size, kind = model.geom_size[geom], mujoco.mjtGeom(model.geom_type[geom])
    if kind == mujoco.mjtGeom.mjGEOM_MESH:
        mesh = model.mesh(int(model.geom_dataid[geom]))
        first, face = int(mesh.vertadr[0]), int(mesh.faceadr[0])
        vertices = model.mesh_vert[first : first + int(mesh.vertnum[0])]
        return trimesh.Trimesh(vertices, model.mesh_face[face : face + int(mesh.facenum[0])], process=False)
    if kind == mujoco.mjtGeom.mjGEOM_BOX:
        return trimesh.creation.box(2.0 * size)
    if kind == mujoco.mjtGeom.mjGEOM_SPHERE:
        return trimesh.creation.icosphere(radius=size[0], subdivisions=2)
    if kind == mujoco.mjtGeom.mjGEOM_CYLINDER:
        return trimesh.creation.cylinder(size[0], 2.0 * size[1])
    if kind == mujoco.mjtGeom.mjGEOM_CAPSULE:
        return trimesh.creation.capsule(2.0 * size[1], size[0])
    return None


def _set_physics(model: mujoco.MjModel, robot: Robot) -> None:
    """What the robot file says of joints and base, and what an MJCF may say otherwise of the world."""
    model.opt.timestep = DT_S / SUBSTEPS
    model.opt.integrator = mujoco.mjtIntegrator.mjINT_IMPLICITFAST
    model.opt.solver, model.opt.cone = mujoco.mjtSolver.mjSOL_NEWTON, mujoco.mjtCone.mjCONE_PYRAMIDAL
    model.opt.impratio, model.opt.iterations, model.opt.noslip_iterations = 1.0, 100, 0
    model.opt.gravity, model.opt.density, model.opt.viscosity = (0.0, 0.0, -9.81), 0.0, 0.0
    # A broken environment is put back by the task, which counts it as failed.  Hulls that are deep in one another, as
    # Mini Cheetah's are, are pushed apart at one point: at several, MuJoCo 4 does it a third faster than Genesis.
    off, one_point = mujoco.mjtDisableBit, getattr(mujoco.mjtDisableBit, "mjDSBL_MULTICCD", 0)
    model.opt.enableflags, model.opt.disableflags = 0, int(off.mjDSBL_AUTORESET) | int(one_point)
    model.geom_condim[:], model.geom_priority[:] = 3, 0
    joints = [model.joint(name).id for name in robot.joints]
    model.jnt_actfrclimited[joints] = False  # the motors have the same limits
    hinges = model.jnt_dofadr[model.jnt_type != mujoco.mjtJoint.mjJNT_FREE]
    without = hinges[model.dof_armature[hinges] == 0.0]
    model.dof_armature[without] = ARMATURE_KG_M2
    dofs = model.jnt_dofadr[joints]
    physics = {"armature": robot.armature, "frictionloss": robot.friction, "damping": robot.damping}
    for name, value in physics.items():
        if value is not None:
            getattr(model, f"dof_{name}")[dofs] = value
    if robot.base_mass_kg is not None:
        model.body_mass[base_body(model)] = robot.base_mass_kg
    mujoco.mj_setConst(model, mujoco.MjData(model))


def base_body(model: mujoco.MjModel) -> int:
    """Index of the body that is free."""
    return int(model.jnt_bodyid[np.flatnonzero(model.jnt_type == mujoco.mjtJoint.mjJNT_FREE)[0]])
