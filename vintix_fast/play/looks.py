"""What a robot looks like: coloured shapes of its links, and where the links are for joint positions.

Reads what a URDF or MJCF draws; what it does not draw is shown by its collision shapes.  Knows nothing about pages.
"""

from __future__ import annotations

import contextlib
import functools
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mujoco
import numpy as np
import trimesh

from vintix_fast.world.kinematics import Kinematics, is_mjcf
from vintix_fast.world.mujoco_model import geom_mesh, load_meshes
from vintix_fast.world.robot import Robot
from vintix_fast.world.urdf import Urdf
from vintix_fast.world.urdf_text import find_file

MOST_FACES = 4000
"""Of a shape; what has more is simplified, so that a page opens in a second. go2's thigh has 60,000."""
GREY = (150, 155, 165)
Colour = tuple[int, int, int]


@dataclass(frozen=True)
class Shape:
    """A mesh in its link's frame."""

    link: str
    vertices_m: np.ndarray  # [V, 3]
    faces: np.ndarray  # [F, 3]
    colour: Colour


class Looks:
    """A robot's shapes, and where its links are."""

    def __init__(self, robot: Robot) -> None:
        self._robot, self._kinematics = robot, Kinematics(robot.urdf_path)
        drawn = _mjcf_shapes(self._kinematics.model) if is_mjcf(robot.urdf_path) else _urdf_shapes(robot.urdf_path)
        self.shapes = list(drawn)
        self.links = list(dict.fromkeys(shape.link for shape in self.shapes))
        self._held = {name: place for name, place in robot.held_joints if name in self._kinematics.hinges}

    def poses(self, joint_pos_rad: np.ndarray) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """Place [3] (m) and quaternion [4] (w, x, y, z) of each link that is drawn, seen from the base link.

        Args:
            joint_pos_rad: [J].
        """
        places = dict(zip(self._robot.joints, joint_pos_rad.tolist(), strict=True)) | self._held
        pose, model = self._kinematics.pose(places, self._robot.base_link), self._kinematics.model
        bodies = {link: model.body(link).id for link in self.links}
        return {link: (pose.point(body, np.zeros(3)), pose.orientation(body)) for link, body in bodies.items()}


def _urdf_shapes(path: Path) -> Iterator[Shape]:
    urdf = Urdf(path)
    colours = {m.get("name"): m for m in urdf.xml.findall("material")}
    part = "visual" if urdf.xml.find("link/visual") is not None else "collision"
    for name, link in urdf.links.items():
        for shape in link.findall(part):
            material = shape.find("material")
            if material is not None and material.find("color") is None:
                material = colours.get(material.get("name"))
            rgba = material.find("color") if material is not None else None
            given = _colour(np.array([float(x) for x in rgba.get("rgba", "").split()])) if rgba is not None else None
            for mesh, colour in _urdf_meshes(path, shape):
                placed = mesh.copy().apply_transform(urdf.pose(shape))
                yield Shape(name, placed.vertices, placed.faces, given or colour)


def _urdf_meshes(path: Path, shape: ElementTree.Element) -> Iterator[tuple[trimesh.Trimesh, Colour]]:
    """In the shape's frame, with the colours that they have themselves; none of a mesh that is not there."""
    geometry = shape.find("geometry/*")
    kind = geometry.tag if geometry is not None else ""
    sizes = {key: [float(x) for x in value.split()] for key, value in (geometry.items() if kind != "mesh" else ())}  # type: ignore[union-attr]
    if kind == "mesh":
        file = find_file(path, geometry.get("filename", ""))  # type: ignore[union-attr]
        scale = np.array([float(x) for x in geometry.get("scale", "1 1 1").split()])  # type: ignore[union-attr]
        for mesh, colour in _meshes(file) if file is not None else ():
            yield mesh.copy().apply_scale(scale), colour
    elif kind == "box":
        yield trimesh.creation.box(sizes["size"]), GREY
    elif kind == "sphere":
        yield trimesh.creation.icosphere(radius=sizes["radius"][0]), GREY
    elif kind == "cylinder":
        yield trimesh.creation.cylinder(sizes["radius"][0], sizes["length"][0]), GREY
    elif kind == "capsule":
        yield trimesh.creation.capsule(sizes["length"][0], sizes["radius"][0]), GREY


def _mjcf_shapes(model: mujoco.MjModel) -> Iterator[Shape]:
    """What touches nothing is there to be looked at; without anything of that kind, what touches."""
    of_robot = np.flatnonzero(model.geom_bodyid > 0)
    drawn = [g for g in of_robot if not (model.geom_contype[g] or model.geom_conaffinity[g])]
    for g in drawn or of_robot:
        mesh = geom_mesh(model, int(g))
        if mesh is not None:
            mesh = _simple(mesh)
            turn = np.zeros(9)
            mujoco.mju_quat2Mat(turn, model.geom_quat[g])
            material = model.geom_matid[g]
            rgba = model.mat_rgba[material] if material >= 0 else model.geom_rgba[g]
            vertices = mesh.vertices @ turn.reshape(3, 3).T + model.geom_pos[g]
            yield Shape(model.body(model.geom_bodyid[g]).name, vertices, mesh.faces, _colour(rgba))


@functools.cache
def _meshes(file: Path) -> list[tuple[trimesh.Trimesh, Colour]]:
    """A file's meshes, simplified, and their colours; legs share theirs."""
    return [(_simple(mesh), _own_colour(mesh)) for mesh in load_meshes(file)]


def _simple(mesh: trimesh.Trimesh) -> trimesh.Trimesh:
    """With at most `MOST_FACES`; as it is where that cannot be."""
    if len(mesh.faces) <= MOST_FACES:
        return mesh
    joined = trimesh.Trimesh(mesh.vertices, mesh.faces)  # its equal vertices are
    with contextlib.suppress(ValueError, ImportError):
        return joined.simplify_quadric_decimation(face_count=MOST_FACES)
    return joined


def _own_colour(mesh: trimesh.Trimesh) -> Colour:
    visual: Any = mesh.visual
    with contextlib.suppress(AttributeError, ValueError, TypeError):
        if visual.defined:
            return _colour(np.asarray((visual.material if visual.kind == "texture" else visual).main_color) / 255.0)
    return GREY


def _colour(rgba: np.ndarray) -> Colour:
    r, g, b = (round(255.0 * float(np.clip(x, 0.0, 1.0))) for x in rgba[:3])
    return r, g, b
