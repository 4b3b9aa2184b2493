"""Fixtures of every test; their making is in `fakes.py`."""

import functools
import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
from fakes import save_tiny
from stick_robot import write_robot

from vintix_fast.model import Vintix, load_checkpoint
from vintix_fast.world.robot import Robot, load_robot


@pytest.fixture(scope="session")
def go2() -> Robot:
    return load_robot("go2")


@pytest.fixture(scope="session")
def two_joints_a_leg(tmp_path_factory) -> Robot:
    """Mini Cheetah with its hips held: a robot of 8 joints, thigh and calf of each leg."""
    whole, folder = load_robot("minicheetah-primitive"), tmp_path_factory.mktemp("robot")
    urdf = ElementTree.parse(whole.urdf_path)
    for joint in urdf.getroot().iter("joint"):
        if joint.get("name", "").endswith("_hip_joint"):
            joint.set("type", "fixed")
    urdf.write(folder / "held.urdf")
    keys = re.sub(r"(?ms)^(joints|default_pose_rad) = \[.*?^\]", "", whole.path.read_text())
    keys = keys.replace("minicheetah", "held").replace("held-primitive", "held")
    joints = [name for name in whole.joints if "_hip_" not in name]
    pose = [angle for name, angle in zip(whole.joints, whole.default_pose_rad, strict=True) if name in joints]
    (folder / "held.toml").write_text(f"{keys}\njoints = {joints}\ndefault_pose_rad = {pose}\n")
    return load_robot(folder / "held.toml")


@pytest.fixture
def rex(tmp_path):
    """`write_robot`, in a folder of the test's own."""
    return functools.partial(write_robot, tmp_path)


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory) -> Path:
    """A small model with a group for go2 and one for go1; not to be written to."""
    return save_tiny(tmp_path_factory.mktemp("tiny") / "checkpoint")


@pytest.fixture
def tiny(tiny_checkpoint) -> Vintix:
    """The model of ``tiny_checkpoint``, free to be changed."""
    return load_checkpoint(tiny_checkpoint)
