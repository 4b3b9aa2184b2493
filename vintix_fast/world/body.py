"""Whether what a URDF describes can be a robot's body: masses, shapes that touch the ground, motors.

Takes a URDF that `urdf_text.reshape` has turned round, so that only the robot file's joints move in it. Each message
names link or joint, value and remedy. Knows nothing of Genesis; what it would refuse after a minute, or silently
replace, is refused here.
"""

import itertools
from collections.abc import Sequence
from pathlib import Path
from xml.etree.ElementTree import Element

import numpy as np

from vintix_fast.world.urdf import Urdf, end
from vintix_fast.world.urdf_text import find_file

LIGHTEST_KG, HEAVIEST_KG = 0.5, 500.0
"""Of a whole robot: Solo8 has 1.7 kg, HyQ 87. Grams and tonnes lie beyond."""
SPREAD_M = 1.0
"""Square root of a body's largest moment of inertia by its mass: ANYmal's trunk has 0.3 m. Others are in g mm2."""
MESHES = (".stl", ".obj", ".dae", ".ply", ".off", ".glb", ".gltf")
SIZES = {"box": "size", "sphere": "radius", "cylinder": "radius length", "capsule": "radius length", "mesh": "scale"}
"""Shape -> attributes that hold numbers."""
ROUNDING = 1e-6


def check_body(urdf: Urdf, base_link: str, base_mass_kg: float | None, last_joints: Sequence[str]) -> float:
    """Masses and shapes; the whole mass (kg).

    Args:
        base_mass_kg: instead of the URDF's, of the body that ``base_link`` belongs to.
        last_joints: each leg's lowest.

    Raises:
        InputFileError: no simulator can let this stand.
    """
    total_kg = 0.0
    for body, links in _bodies(urdf).items():
        own_kg = _check_masses(urdf, links)
        total_kg += base_mass_kg if base_mass_kg is not None and body == urdf.root else own_kg
    if not LIGHTEST_KG <= total_kg <= HEAVIEST_KG:
        raise urdf.error(
            f"the robot weighs {total_kg:.4g} kg in all, its base link {base_link!r} and what is fixed to it included; "
            f"expected {LIGHTEST_KG:g} to {HEAVIEST_KG:g} kg. Give masses in kg"
        )
    for name, link in urdf.links.items():
        for collision in link.findall("collision"):
            _check_shape(urdf, name, collision)
    for name in last_joints:
        below = [link for link in urdf.links if urdf.joints[name] in urdf.upwards(link)]
        if not any(urdf.links[link].find("collision") is not None for link in below):
            raise urdf.error(
                f"no link below joint {name!r} has a <collision> shape ({', '.join(below)}): the leg would fall "
                "through the ground. Give its calf or foot one"
            )
    return total_kg


def check_motor(urdf: Urdf, name: str) -> None:
    """A joint of the robot file must be able to push.

    The simulator gives a joint with effort 0, or without one in its limits, no torque at all.
    """
    joint = urdf.joints[name]
    limit, dynamics = joint.find("limit"), joint.find("dynamics")
    if limit is not None and not urdf.number(limit, "effort") > 0.0:
        raise urdf.error(
            f"joint {name!r} has effort={limit.get('effort')!r}, so its motor can give no torque; write the largest it "
            'can give, in Nm, such as effort="30"'
        )
    for key in ("friction", "damping"):
        if not 0.0 <= urdf.number(dynamics, key, 0.0) < np.inf:
            raise urdf.error(f"joint {name!r} has {key}={dynamics.get(key)!r}, expected a number of at least 0")  # type: ignore[union-attr]
    if (mimic := joint.find("mimic")) is not None:
        raise urdf.error(
            f"joint {name!r} mimics {mimic.get('joint')!r}, so it cannot be driven alone; remove its <mimic>, or name "
            "another joint in the robot file"
        )


def _bodies(urdf: Urdf) -> dict[str, list[tuple[str, np.ndarray]]]:
    """Links that move as one, by the topmost of them: each with its pose [4, 4] there."""
    bodies: dict[str, list[tuple[str, np.ndarray]]] = {}
    for link in urdf.links:
        top, pose = link, np.eye(4)
        for joint in itertools.takewhile(lambda joint: joint.get("type") == "fixed", urdf.upwards(link)):
            top, pose = end(joint, "parent"), urdf.pose(joint) @ pose
        bodies.setdefault(top, []).append((link, pose))
    return bodies


def _check_masses(urdf: Urdf, links: list[tuple[str, np.ndarray]]) -> float:
    """The mass (kg) of links that move as one."""
    parts = [(_inertial(urdf, link), pose) for link, pose in links]
    masses = np.array([mass for (mass, _, _), _ in parts])
    body, mass = links[masses.argmax()][0], masses.sum()  # the heaviest names them all
    if not mass > 0.0:
        raise urdf.error(
            f"link {body!r} moves, but it and what is fixed to it have no mass (<inertial> with <mass>: {mass:g} kg); "
            "give it the mass (kg) and inertia (kg m2) that it has"
        )
    centres = np.stack([pose[:3, :3] @ com + pose[:3, 3] for (_, com, _), pose in parts])
    offsets = centres - masses @ centres / mass
    inertia = np.zeros((3, 3))
    for kg, offset, ((_, _, own), pose) in zip(masses, offsets, parts, strict=True):
        inertia += pose[:3, :3] @ own @ pose[:3, :3].T + kg * (offset @ offset * np.eye(3) - np.outer(offset, offset))
    small, middle, large = np.linalg.eigvalsh(inertia)
    shown = f"the principal moments of inertia of link {body!r} and what is fixed to it are {small:.4g} {middle:.4g} "
    shown += f"{large:.4g} kg m2 at {mass:.4g} kg"
    if not small > 0.0:
        raise urdf.error(f"{shown}: each must be above 0; correct its <inertia>")
    if small + middle < large * (1.0 - ROUNDING) - 1e-9:
        raise urdf.error(f"{shown}: no body can have more in one than in the other two; correct its <inertia>")
    if large > mass * SPREAD_M**2:
        raise urdf.error(f"{shown}: those of a body that is metres wide; give <inertia> in kg m2")
    return float(mass)


def _inertial(urdf: Urdf, link: str) -> tuple[float, np.ndarray, np.ndarray]:
    """Mass, centre of mass [3] and moment of inertia [3, 3] about it, in the link's frame; zeros where it has none."""
    inertial = urdf.links[link].find("inertial")
    if inertial is None:
        return 0.0, np.zeros(3), np.zeros((3, 3))
    mass = urdf.number(inertial.find("mass"), "value", 0.0)
    if not 0.0 <= mass < np.inf:
        raise urdf.error(f"link {link!r} has mass {inertial.find('mass').get('value')!r}, expected kg")  # type: ignore[union-attr]
    tensor = inertial.find("inertia")
    xx, yy, zz, xy, xz, yz = (urdf.number(tensor, key) for key in ("ixx", "iyy", "izz", "ixy", "ixz", "iyz"))
    inertia = np.array([[xx, xy, xz], [xy, yy, yz], [xz, yz, zz]])
    if not np.isfinite(inertia).all():
        given = {} if tensor is None else tensor.attrib
        raise urdf.error(
            f"the <inertia> of link {link!r} is {given}, expected ixx, ixy, ixz, iyy, iyz and izz in kg m2"
        )
    pose = urdf.pose(inertial)
    return mass, pose[:3, 3], pose[:3, :3] @ inertia @ pose[:3, :3].T


def _check_shape(urdf: Urdf, link: str, collision: Element) -> None:
    urdf.pose(collision)
    where, shape = f"a collision shape of link {link!r}", collision.find("geometry/*")
    if shape is None or shape.tag not in SIZES:
        found = "empty" if shape is None else f"<{shape.tag}>"
        raise urdf.error(f"{where} is {found}; expected one of {', '.join(SIZES)}")
    for key in SIZES[shape.tag].split():
        text = shape.get(key, "1" if shape.tag == "mesh" else "")
        try:
            sizes = np.array([float(part) for part in text.split()])
        except ValueError:
            sizes = np.empty(0)
        mirrored = shape.tag == "mesh"  # by a scale below 0
        if not (len(sizes) in (1, 3) and np.isfinite(sizes).all() and sizes.all() and (mirrored or (sizes > 0).all())):
            raise urdf.error(f"{where} is a <{shape.tag}> of {key} {text!r}; give metres above 0, or no such shape")
    if shape.tag == "mesh":
        _check_mesh(urdf, where, shape.get("filename", ""))


def _check_mesh(urdf: Urdf, where: str, name: str) -> None:
    if Path(name).suffix.lower() not in MESHES:
        raise urdf.error(f"{where} is the mesh {name!r}; convert it to one of {' '.join(MESHES)}")
    path = find_file(urdf.path, name)
    if path is None:
        raise urdf.error(
            f"{where} is the mesh {name!r}, where there is no file; copy it there. A relative name starts at the "
            "URDF's folder, package://NAME at a folder above it that is called NAME"
        )
    with path.open("rb") as file:
        if file.read(40).startswith(b"version https://git-lfs"):
            raise urdf.error(f"{where} is the mesh {path}, which was not downloaded: run git lfs pull in its folder")
