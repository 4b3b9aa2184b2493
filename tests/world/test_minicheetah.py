"""The project's own Mini Cheetahs: possible bodies, and shapes that touch where the original ones do."""

import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import pytest

from vintix_fast.world.robot import load_robot

NAMES = ("minicheetah", "minicheetah-primitive")


@pytest.fixture(params=NAMES)
def robot(request):
    return load_robot(request.param)


def tensors(urdf_path: Path) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Link -> centre of mass [3] and inertia [3, 3]."""
    found = {}
    for link in ElementTree.parse(urdf_path).findall("link"):
        i = {key: float(value) for key, value in link.find("inertial/inertia").attrib.items()}
        inertia = [[i["ixx"], i["ixy"], i["ixz"]], [i["ixy"], i["iyy"], i["iyz"]], [i["ixz"], i["iyz"], i["izz"]]]
        com = [float(x) for x in link.find("inertial/origin").get("xyz").split()]
        found[link.get("name")] = np.array(com), np.array(inertia)
    return found


def test_inertias_are_possible(robot):
    for link, (_, inertia) in tensors(robot.urdf_path).items():
        small, middle, large = np.linalg.eigvalsh(inertia)
        assert small > 0, link
        assert small + middle >= large, link


def test_a_right_leg_is_the_left_one_mirrored(robot):
    """In the xz plane: y -> -y."""
    mirror = np.diag([1.0, -1.0, 1.0])
    links = tensors(robot.urdf_path)
    parts = {link.split("_")[1] for link in links if link.startswith("FR_")}
    assert parts >= {"hip", "thigh", "calf"}
    for right, left in (("FR", "FL"), ("RR", "RL")):
        for part in parts:
            (com_right, inertia_right), (com_left, inertia_left) = links[f"{right}_{part}"], links[f"{left}_{part}"]
            np.testing.assert_array_equal(com_right, mirror @ com_left)
            np.testing.assert_array_equal(inertia_right, mirror @ inertia_left @ mirror)


def test_the_primitive_one_stands_at_its_target_height():
    """0.209 m of thigh at 0.8 rad, 0.18 m to the foot at 1.5 - 0.8 rad, and the foot's radius."""
    robot = load_robot("minicheetah-primitive")
    thigh_rad, calf_rad = robot.default_pose_rad[1:3]
    height_m = 0.209 * np.cos(thigh_rad) + 0.18 * np.cos(thigh_rad + calf_rad) + 0.015
    assert height_m == pytest.approx(robot.target_height_m, abs=0.005)


def corners(robot, name: str) -> np.ndarray:
    """Points [P, 3] of a hull in its own frame, in m."""
    lines = (robot.urdf_path.parent / "minicheetah" / f"{name}.obj").read_text().splitlines()
    return np.array([[float(x) for x in line.split()[1:]] for line in lines if line.startswith("v ")])


def test_links_collide_as_hulls_of_the_original_meshes():
    """Slimmer shapes give another robot: in the original environments the thighs begin inside this body."""
    robot = load_robot("minicheetah")
    links = ElementTree.parse(robot.urdf_path).findall("link")
    shapes = [shape.tag for link in links for shape in link.findall("collision/geometry/*")]
    assert shapes == ["mesh"] * 13
    np.testing.assert_allclose(np.ptp(corners(robot, "body"), axis=0), [0.276, 0.197, 0.099], atol=1e-3)
    np.testing.assert_allclose(np.ptp(corners(robot, "upper"), axis=0)[1:], [0.096, 0.096], atol=2e-3)
    assert np.abs(corners(robot, "lower")[:, 2]).max() == pytest.approx(0.193, abs=1e-3)


def test_hulls_are_small_enough_for_the_simulator_to_take_as_they_are():
    """It decimates meshes of more than 500 triangles."""
    folder = load_robot("minicheetah").urdf_path.parent / "minicheetah"
    for path in folder.glob("*.obj"):
        assert sum(line.startswith("f ") for line in path.read_text().splitlines()) <= 500, path.name
