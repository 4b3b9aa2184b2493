"""Robot files: the bundled ones against constants written down here, a user's own, and every way to get one wrong."""

import dataclasses
import re
import sys
import xml.etree.ElementTree as ElementTree
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest
from stick_robot import EXAMPLE, stick_robot

from vintix_fast.service.errors import InputFileError, UsageError
from vintix_fast.world.robot import ROBOTS, find_task, joint_signs, load_robot, robot_names
from vintix_fast.world.robot_file import RobotFile
from vintix_fast.world.survey import survey
from vintix_fast.world.urdf_text import urdf_text

LEGS = ("FR", "FL", "RR", "RL")

# Constants of the environments that public checkpoints were trained in.
MINICHEETAH = dict(
    task_names=("minicheetah_walking_ad",), group_name="minicheetah_locomotion", base_link="base",
    kp=20, kd=0.5,
    start_height_m=0.40, target_height_m=0.30, front=(0, -0.8, 1.5), rear=(0, -0.8, 1.5), thigh_axis_y=-1,
)  # fmt: skip
MASS_KG = {"go2": 15.0, "go1": 13.1, "a1": 13.7, "minicheetah": 8.3, "minicheetah-primitive": 8.3}
"""Of the whole robot."""
FACTS = {
    "go2": dict(
        task_names=("go2_walking_ad",), group_name="go2_locomotion", base_link="base", kp=20, kd=0.5,
        start_height_m=0.42, target_height_m=0.30, front=(0, 0.8, -1.5), rear=(0, 1.0, -1.5), thigh_axis_y=1,
    ),
    "go1": dict(
        task_names=("go1_walking_ad",), group_name="go1_locomotion", base_link="trunk", kp=20, kd=0.5,
        start_height_m=0.42, target_height_m=0.32, front=(0, 0.8, -1.6), rear=(0, 1.0, -1.6), thigh_axis_y=1,
        friction=0, damping=0,  # the URDF says otherwise
    ),
    "a1": dict(
        task_names=("a1_walking_ad", "unitreea1_walking_ad"), group_name="a1_locomotion", base_link="trunk",
        kp=20, kd=0.5,
        start_height_m=0.42, target_height_m=0.27, front=(0, 0.8, -1.5), rear=(0, 1.0, -1.5), thigh_axis_y=1,
    ),
    "minicheetah": MINICHEETAH | {"feet": ()},
    "minicheetah-primitive": MINICHEETAH,
}  # fmt: skip


@pytest.fixture(params=FACTS)
def robot(request):
    return load_robot(request.param)


# --- the bundled robots ---


def test_names():
    assert set(FACTS) < set(robot_names()) and robot_names() == sorted(robot_names())


def test_those_made_by_the_command_are_what_it_makes_today(tmp_path):
    for name in sorted(set(robot_names()) - set(FACTS)):
        file = RobotFile(ROBOTS / f"{name}.toml")
        if file.table["urdf_package"] != "example-robot-data":
            continue  # of a package that only some need
        path = metadata.distribution("example-robot-data").locate_file(file.table["urdf"])
        assert survey(Path(str(path)), name).robot_file() == file.path.read_text()


def test_constants(robot):
    feet = tuple(f"{leg}_foot" for leg in LEGS)
    urdfs_own = {"base_mass_kg": None, "armature": None, "friction": None, "damping": None}
    facts = {"feet": feet} | urdfs_own | FACTS[robot.name]
    pose = 2 * facts.pop("front") + 2 * facts.pop("rear")
    thigh_axis_y = facts.pop("thigh_axis_y")
    assert {key: getattr(robot, key) for key in facts} == facts
    assert robot.default_pose_rad == pose
    assert robot.joints == tuple(f"{leg}_{part}_joint" for leg in LEGS for part in ("hip", "thigh", "calf"))
    leg_axes = [[1, 0, 0], [0, thigh_axis_y, 0], [0, thigh_axis_y, 0]]
    np.testing.assert_allclose(robot.joint_axes, 4 * leg_axes, atol=1e-12)


def test_mass_is_the_urdfs(robot):
    masses = [float(mass.get("value")) for mass in ElementTree.parse(robot.urdf_path).iter("mass")]
    assert sum(masses) == pytest.approx(MASS_KG[robot.name], rel=0.02)


def test_meshes_resolve(robot):
    """Every mesh is beside the URDF, or below the folder above it that package:// names, as Genesis looks for it."""
    for mesh in ElementTree.parse(robot.urdf_path).iter("mesh"):
        name, folder = mesh.get("filename"), robot.urdf_path.parent
        if name.startswith("package://"):
            name = name.removeprefix("package://")
            package = name.split("/")[0]
            folder = next(above.parent for above in robot.urdf_path.parents if above.name == package)
        assert (folder / name).is_file(), mesh.get("filename")


def test_robots_are_values(robot):
    assert robot == load_robot(robot.name) and hash(robot) == hash(load_robot(robot.name))
    with pytest.raises(dataclasses.FrozenInstanceError):
        robot.kp = 1.0
    with pytest.raises(ValueError, match="read-only"):
        robot.joint_axes[0] = 0.0


@pytest.mark.parametrize("name, meant", [("unitreea1", "a1"), ("UnitreeA1", "a1"), ("GO2", "go2"), ("A1", "a1")])
def test_aliases_and_case(name, meant):
    assert load_robot(name).name == meant


def test_bundled_file_by_path():
    assert load_robot(load_robot("go2").path) == load_robot("go2")


@pytest.mark.parametrize("target, reference, leg", [
    ("minicheetah", "go2", [1, -1, -1]),
    ("go2", "minicheetah", [1, -1, -1]),
    ("a1", "go2", [1, 1, 1]),
    ("go1", "go2", [1, 1, 1]),
    ("minicheetah", "minicheetah", [1, 1, 1]),
])  # fmt: skip
def test_joint_signs(target, reference, leg):
    signs = joint_signs(load_robot(target), load_robot(reference))
    assert signs.shape == (len(load_robot(target).joints),) and signs.dtype == np.float32
    assert signs.tolist() == 4 * leg


def test_find_task():
    a1 = load_robot("a1")
    assert find_task(a1, ["go2_walking_ad", "a1_walking_ad"]) == "a1_walking_ad"
    assert find_task(a1, ["go2_walking_ad", "unitreea1_walking_ad"]) == "unitreea1_walking_ad"
    assert find_task(a1, {"unitreea1_walking_ad": {}, "a1_walking_ad": {}}) == "a1_walking_ad"
    assert find_task(a1, ["go2_walking_ad"]) is None


def test_no_simulator_is_imported():
    """The module must not need Genesis: asked of its source, since another test may have imported it already."""
    for name in (f"vintix_fast.world.{part}" for part in ("robot", "urdf", "urdf_text", "body")):
        assert "genesis" not in vars(sys.modules[name])
        assert not re.search(r"^\s*(import|from) genesis", Path(sys.modules[name].__file__).read_text(), re.MULTILINE)


# --- a user's own robot file ---


def test_documented_example(rex, tmp_path, monkeypatch):
    robot = load_robot(rex())
    assert (robot.name, robot.kp, robot.aliases) == ("rex", 20.0, ())
    assert robot.urdf_path == tmp_path / "rex.urdf"
    assert joint_signs(robot, load_robot("go2")).tolist() == len(robot.joints) * [1]
    monkeypatch.chdir(tmp_path)
    assert load_robot("rex.toml").urdf_path == tmp_path / "rex.urdf"


def test_optional_keys(rex):
    path = rex('feet = ["FR_foot", "FL_foot", "RR_foot", "RL_foot"]')
    assert load_robot(path).feet == ()
    (physics,) = re.findall(r"^mass_kg.*^damping[^\n]*", EXAMPLE, re.MULTILINE | re.DOTALL)
    robot = load_robot(path := rex())
    assert (robot.base_mass_kg, robot.armature, robot.friction, robot.damping) == (6.0, 0.1, 0.0, 0.0)
    path.write_text(path.read_text().replace(physics, "damping = 1  # an integer"))
    robot = load_robot(path)
    assert (robot.base_mass_kg, robot.armature, robot.friction, robot.damping) == (None, None, None, 1.0)


def test_the_urdf_must_weigh_what_the_file_says(rex):
    for kg in (9.0, 13.0):
        load_robot(rex("\nmass_kg = 11.0", f"\nmass_kg = {kg:g}"))
    for kg in (22.0, 5.0):
        with pytest.raises(InputFileError, match=rf"mass_kg is {kg:g}, but .*rex.urdf weighs \d+(\.\d+)? kg"):
            load_robot(rex("\nmass_kg = 11.0", f"\nmass_kg = {kg:g}"))
    with pytest.raises(InputFileError, match="mass_kg must be from 0.5 to 500, got 1e-300"):
        load_robot(rex("\nmass_kg = 11.0", "\nmass_kg = 1e-300"))


def test_axes_follow_joint_origins_and_ignore_what_is_above_the_base(rex):
    plain = load_robot(rex())
    assert np.array_equal(load_robot(rex(urdf=stick_robot(base_rpy="0.3 0.2 0.1"))).joint_axes, plain.joint_axes)
    # A hip frame turned by 180 degrees about z flips the axes of thigh and calf in the base frame. So does its own.
    turned = stick_robot().replace('xyz="0.2 -0.05 0"', 'xyz="0.2 -0.05 0" rpy="0 0 3.141592653589793"')
    signs = joint_signs(load_robot(rex(urdf=turned)), plain)
    assert signs.tolist() == [-1, -1, -1] + 9 * [1]
    # 90 degrees about x take the calf's y axis to z.
    calf = stick_robot().replace('xyz="0 0 -0.2"', 'xyz="0 0 -0.2" rpy="1.5707963267948966 0 0"', 1)
    np.testing.assert_allclose(load_robot(rex(urdf=calf)).joint_axes[5], [0, 0, 1], atol=1e-12)


def test_axes_without_a_common_line(rex):
    robot = load_robot(rex(urdf=stick_robot(thigh_axis="0 1 1")))
    with pytest.raises(UsageError, match=r"'FR_thigh_joint' of rex turns about 0 0\.707 0\.707.*of go2 about 0 1 0"):
        joint_signs(robot, load_robot("go2"))
    slightly_off = load_robot(rex(urdf=stick_robot(thigh_axis="0 -1 0.3")))
    assert joint_signs(slightly_off, load_robot("go2")).tolist() == 4 * [1, -1, 1]


def test_a_robot_with_two_joints_a_leg(two_joints_a_leg):
    robot = two_joints_a_leg
    assert robot.joints == tuple(f"{leg}_{part}_joint" for leg in LEGS for part in ("thigh", "calf"))
    assert robot.last_joints == tuple(f"{leg}_calf_joint" for leg in LEGS)
    assert robot.joints_of_a_leg == ("joint 1", "joint 2") and load_robot("go2").joints_of_a_leg[-1] == "calf"
    np.testing.assert_allclose(robot.joint_axes, [[0, -1, 0]] * len(robot.joints), atol=1e-12)
    with pytest.raises(UsageError, match="held has 8 joints and go2 12"):
        joint_signs(robot, load_robot("go2"))


# --- errors ---


@pytest.mark.parametrize("name", ["bittle", "", "robots/spot", "go2.usd"])
def test_unknown_name(name):
    with pytest.raises(UsageError, match=r"a1 \(= unitreea1\), anymal_c, .*go1, go2, .*minicheetah.*\.toml") as caught:
        load_robot(name)
    assert repr(name) in str(caught.value)


def test_unreadable_files(tmp_path):
    with pytest.raises(InputFileError, match="nowhere.toml: No such file"):
        load_robot(tmp_path / "nowhere.toml")
    (tmp_path / "folder.toml").mkdir()
    with pytest.raises(InputFileError, match="folder.toml: Is a directory"):
        load_robot(tmp_path / "folder.toml")
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputFileError, match="not UTF-8"):
        load_robot(tmp_path / "binary.toml")
    (tmp_path / "broken.toml").write_text('name = "rex"\nkp = = 2\n')
    with pytest.raises(InputFileError, match=r"not valid TOML.*line 2"):
        load_robot(tmp_path / "broken.toml")


@pytest.mark.parametrize("old, new, message", [
    ("kp = 20.0", "kP = 20.0", r"rex.toml:26: kP is not a key of robot files; the keys are name, .*kp"),
    ("kp = 20.0", "", r"kp missing; docs/robots.md"),
    ("kp = 20.0", 'kp = "20"', r"rex.toml:26: kp must be made of finite numbers, got '20'"),
    ("kp = 20.0", "kp = true", r"kp must be .* got True"),
    ("kp = 20.0", "kp = nan", r"kp must be .* got nan"),
    ("kp = 20.0", "kp = 0", r"kp must be from 0.01 to 10000, got 0"),
    ("kd = 0.5", "kd = -0.5", r"kd must be from .* got -0.5"),
    ("start_height_m = 0.40", "start_height_m = -0.4", r"start_height_m must be from 0.05 to 3, got -0.4"),
    ("target_height_m = 0.30", "target_height_m = inf", r"target_height_m must be .* got inf"),
    ("base_mass_kg = 6.0", "base_mass_kg = 0", r"rex.toml:29: base_mass_kg must be from .* got 0"),
    ("armature = 0.1", "armature = -0.01", r"rex.toml:30: armature must be from 0 to .* got -0.01"),
    ("friction = 0.0", "friction = -1", r"rex.toml:31: friction must be from 0 to .* got -1"),
    ("damping = 0.0", "damping = -0.2", r"rex.toml:32: damping must be from 0 to .* got -0.2"),
    ("damping = 0.0", "damping = inf", r"rex.toml:32: damping must be .* got inf"),
    ("0.0, 0.8, -1.5,", "0.0, 0.8,", r"rex.toml:20: default_pose_rad must have 12 entries .*, got 11"),
    ("0.0, 0.8, -1.5,", "0.0, 0.8, nan,", r"default_pose_rad must be made of finite numbers, got nan"),
    ('name = "rex"', 'name = ""', r"rex.toml:1: name must be a text that is not empty, got ''"),
    ('name = "rex"', 'name = "my rex"', r"name may use letters, digits, _ and - only, got 'my rex'"),
    ('name = "rex"', "name = 3", r"name must be a text .* got 3"),
    ("aliases = []", 'aliases = "rexy"', r"aliases must be a list, got 'rexy'"),
    ('"rex_walking_ad"', "", r"task_names is empty"),
    ('"rex_walking_ad"', "7", r"task_names must hold texts only, got 7"),
    ('"rex_locomotion"', '"rex.locomotion"', r"group_name may use letters, digits, _ and - only"),
    ('"FR_hip_joint", ', "", r"joints must have as many entries for each of the legs FR, FL, RR, RL, got 11"),
    ('"FL_hip_joint"', '"FR_hip_joint"', r"joints names 'FR_hip_joint' twice"),
    ('"FL_hip_joint"', '"FL_hip"', r"joints names 'FL_hip', which is no joint of .*rex.urdf.*FR_hip_joint"),
    ('"FL_hip_joint"', '"FL_foot_fixed"', r"joints names 'FL_foot_fixed', which is fixed in .*rex.urdf"),
    ('base_link = "base"', 'base_link = "trunk"', r"rex.toml:8: base_link names 'trunk', which is no link of .* base"),
    ('base_link = "base"', 'base_link = "FR_hip"', r"base_link is 'FR_hip', but joint 'FR_hip_joint' is not below it"),
    ('["FR_foot", "FL_foot"', '["FR_toe", "FL_foot"', r"feet names 'FR_toe', which is no link"),
    ('["FR_foot", "FL_foot"', '["FL_foot"', r"feet must have 4 entries \(legs FR, FL, RR, RL\), got 3"),
    ('"rex.urdf"', '"max.urdf"', r"rex.toml:6: urdf points to .*max.urdf, where there is no file; a relative path"),
    ('"rex.urdf"', '"rex.urdf"\nurdf_package = "no-such-robots-0"',
     r"rex.toml:7: urdf_package names 'no-such-robots-0', which is not installed: pip install no-such-robots-0"),
    ('"rex.urdf"', '"rex.urdf"\nurdf_package = "numpy"',
     r"urdf points to .*rex.urdf, where there is no file; .* pip install --upgrade numpy"),
])  # fmt: skip
def test_wrong_values(rex, old, new, message):
    with pytest.raises(InputFileError, match=message):
        load_robot(rex(old, new))


def test_legs_in_the_wrong_order(rex):
    right = '"FR_hip_joint", "FR_thigh_joint", "FR_calf_joint"'
    left = right.replace("FR", "FL")
    path = rex(f"{right},\n    {left}", f"{left},\n    {right}")
    with pytest.raises(
        InputFileError, match=r"joints has 'FL_hip_joint' as hip of FR, but the URDF puts it front left"
    ):
        load_robot(path)


def test_joints_of_a_leg_in_the_wrong_order(rex):
    path = rex('"FR_thigh_joint", "FR_calf_joint"', '"FR_calf_joint", "FR_thigh_joint"')
    with pytest.raises(InputFileError, match=r"FR_hip_joint, FR_calf_joint, FR_thigh_joint for FR, .* not one leg"):
        load_robot(path)


@pytest.mark.parametrize("old, new, message", [
    ("</robot>", "", r"URDF .*rex.urdf cannot be read: no element found: line 1"),
    ("robot", "mujoco", r"holds <mujoco> where <robot> is expected"),
    ('axis xyz="1 0 0"', 'axis xyz="0 0 0"', r"axis of joint 'FL_hip_joint' is 0 0 0; give"),
    ('axis xyz="1 0 0"', 'axis xyz="1 0"', r"xyz='1 0' is not three finite numbers"),
    ('axis xyz="1 0 0"', 'axis xyz="1 0 x"', r"xyz='1 0 x' is not three finite numbers"),
    ('<parent link="world_root"/>', '<parent link="FL_foot"/>', r"the joints mount, FL_foot_fixed, .* form a loop"),
])  # fmt: skip
def test_broken_urdf(rex, old, new, message):
    with pytest.raises(InputFileError, match=message):
        load_robot(rex(urdf=stick_robot().replace(old, new)))


# --- the URDF as it is simulated ---


def test_only_what_is_drawn_is_left_out(robot):
    full = ElementTree.parse(robot.urdf_path).getroot()
    bare = ElementTree.fromstring(urdf_text(robot.urdf_path, robot.base_link, robot.joints))
    assert not [v for link in bare.iter("link") if link.find("inertial") is not None for v in link.iter("visual")]
    for mesh in full.iter("mesh"):
        mesh.set("filename", str(robot.urdf_path.parent / mesh.get("filename")))

    def rest(root):
        return [(element.tag, element.attrib) for part in root for element in part.iter() if part.tag != "link"] + [
            (element.tag, element.attrib)
            for link in root.findall("link")
            for part in link
            if part.tag != "visual"
            for element in part.iter()
        ]

    assert rest(bare) == rest(full)


def test_meshes_are_found_from_anywhere_and_a_massless_link_keeps_its_looks(tmp_path):
    for name in ("hit.stl", "looks.dae"):
        (tmp_path / name).touch()
    (tmp_path / "urdf").mkdir()
    path = tmp_path / "urdf" / "robot.urdf"
    mesh = '<geometry><mesh filename="{}"/></geometry>'
    path.write_text(
        f"""<robot name="r"><material name="m"><texture filename="seen.png"/></material>
        <link name="a"><inertial/><visual>{mesh.format("seen.dae")}</visual>
          <collision>{mesh.format("../hit.stl")}</collision></link>
        <link name="b"><visual>{mesh.format(tmp_path / "looks.dae")}</visual><visual>{mesh.format("gone.dae")}</visual>
        </link><joint name="j" type="fixed"><parent link="a"/><child link="b"/></joint></robot>"""
    )
    bare = ElementTree.fromstring(urdf_text(path, "a", ()))
    names = [mesh.get("filename") for mesh in bare.iter("mesh")]
    assert names == [str(tmp_path / "urdf/../hit.stl"), str(tmp_path / "looks.dae")]
    assert not list(bare.iter("texture"))  # it is only drawn, and would be looked for beside the text


def test_meshes_of_a_ros_package_leave_the_file_as_it_is(tmp_path):
    (tmp_path / "x" / "urdf").mkdir(parents=True)
    path = tmp_path / "x" / "urdf" / "robot.urdf"
    path.write_text(
        '<robot name="r"><link name="a"><collision><mesh filename="package://x/hit.stl"/></collision></link></robot>'
    )
    (tmp_path / "x" / "hit.stl").touch()
    assert urdf_text(path, "a", ()) is None
