"""What a URDF must describe before a scene is built, and what of it is mended."""

import re
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
from stick_robot import BALL, INERTIA, INERTIAL, stick_robot

from vintix_fast.service.errors import InputFileError
from vintix_fast.world.robot import load_robot
from vintix_fast.world.urdf import DEEPEST, Urdf
from vintix_fast.world.urdf_text import urdf_text

CALF = '<joint name="FR_calf_joint"'
"""The text of a joint that the changes below are made in, to its end."""


def changed(pattern: str, new: str, at: str = "") -> str:
    """The stick robot's URDF with the first match after ``at`` replaced."""
    text = stick_robot()
    begin = text.index(at)
    text, count = re.subn(pattern, lambda _: new, text[begin:], count=1)
    assert count
    return stick_robot()[:begin] + text


ARM = (
    f'<link name="arm">{INERTIAL}</link><joint name="arm_joint" type="{{kind}}"><parent link="base"/>'
    '<child link="arm"/><origin xyz="0 0 0.1"/><axis xyz="0 1 0"/>{limit}</joint></robot>'
)


def with_arm(kind: str = "revolute", limit: str = '<limit lower="-1" upper="1"/>') -> str:
    return changed("</robot>", ARM.format(kind=kind, limit=limit))


@pytest.mark.parametrize("urdf, message", [
    # masses
    (changed('value="0.5"', 'value="5000"', 'name="FL_hip"'), r"weighs 5012 kg in all, .* 0.5 to 500 kg. Give masses"),
    (stick_robot().replace('value="0.5"', 'value="1e-6"'), r"principal moments .* 'base' .* metres wide"),
    (changed(INERTIAL, "", 'name="FL_thigh"'), r"link 'FL_thigh' moves, but .* no mass .*: 0 kg"),
    (changed('value="0.5"', 'value="-1"'), r"link 'base' has mass '-1', expected kg"),
    (changed('value="0.5"', 'value="nan"'), r"link 'base' has mass 'nan', expected kg"),
    (changed(INERTIA, ""), r"<inertia> of link 'base' is \{\}, expected ixx"),
    (changed('ixx="1e-3"', 'ixx="0"'), r"moments of inertia of link 'base' .* are 0 0.001 .* each must be above 0"),
    (changed('ixx="1e-3"', 'ixx="3e-3"'), r"link 'base' .* 0.003 kg m2 at 0.5 kg: no body can have more in one"),
    # shapes
    (stick_robot().replace(BALL, ""), r"no link below joint 'FR_calf_joint' has a <collision> shape \(FR_calf"),
    (changed('radius="0.02"', 'radius="0"'), r"collision shape of link 'FL_foot' is a <sphere> of radius '0'"),
    (changed("<sphere", "<ball"), r"shape of link 'FL_foot' is <ball>; expected one of box, sphere"),
    (changed("<sphere [^>]*>", ""), r"shape of link 'FL_foot' is empty"),
    (changed("<sphere [^>]*>", '<mesh filename="f.stl"/>'), r"'FL_foot' is the mesh 'f.stl', where there is no"),
    (changed("<sphere [^>]*>", '<mesh filename="package://a/f.obj"/>'), r"no file; .* package://NAME at a folder"),
    (changed("<sphere [^>]*>", '<mesh filename="f.step"/>'), r"mesh 'f.step'; convert it to one of .stl"),
    (changed("<sphere [^>]*>", '<mesh filename="f.stl" scale="1 0 1"/>'), r"<mesh> of scale '1 0 1'"),
    # motors
    (changed('effort="30"', 'effort="0"', CALF), r"joint 'FR_calf_joint' has effort='0', .* no torque; .* in Nm"),
    (changed(' effort="30"', "", CALF), r"joint 'FR_calf_joint' has effort=None"),
    (changed("<limit [^>]*>", "", CALF), r"joint 'FR_calf_joint' is revolute and has no <limit>; "),
    (changed('lower="-2"', 'lower="3"', CALF), r"limits of joint 'FR_calf_joint' are lower='3', upper='2'"),
    (changed("<axis", '<dynamics friction="-1"/><axis', CALF), r"joint 'FR_calf_joint' has friction='-1'"),
    (changed("<axis", '<mimic joint="FL_calf_joint"/><axis', CALF), r"'FR_calf_joint' mimics 'FL_calf_joint'"),
    (changed('"revolute"', '"prismatic"', CALF), r"'FR_calf_joint', which is prismatic in"),
    # the tree
    (changed('name="FR_hip"', 'name="FL_hip"'), r"two links are called 'FL_hip'"),
    (changed('name="FR_hip_joint"', 'name="FL_hip_joint"'), r"two joints are called 'FL_hip_joint'"),
    (changed('<link name="base"', "<link"), r"link 2 has no name"),
    (changed('child link="FR_thigh"', 'child link="FL_thigh"'), r"'FL_thigh' hangs from two joints, .*'FR_thigh"),
    (changed('child link="FR_thigh"', 'child link="x"'), r"joint 'FR_thigh_joint' names 'x' as its child, which is no"),
    (changed("</robot>", '<link name="lost"/></robot>'), r"2 links hang from no joint, .*: world_root, lost"),
    (changed('"revolute"', '"planar"', CALF), r"'FR_calf_joint' is of type 'planar', which is none"),
    (changed('"revolute"', '"floating"', CALF), r"'FR_calf_joint', which is floating in"),
    (with_arm("floating"), r"joint 'arm_joint' is floating; only one between an empty root link and the body"),
    (with_arm(limit='<mimic joint="arm_joint"/>'), r"joint 'arm_joint' mimics 'arm_joint', which is itself"),
    (changed("<origin rpy", '<origin xyz="0 nan 0" rpy'), r"xyz='0 nan 0' is not three finite numbers"),
    (changed('<robot name="rex"', "<robot"), r"<robot> has no name"),
    (changed('name="rex">', 'name="rex"><x:m xmlns:x="http://www.ros.org/wiki/xacro"/>'), r"is a xacro.*xacro rex"),
    ("<a>" * 5000 + "</a>" * 5000, rf"<a> lies in more than {DEEPEST} elements"),
])  # fmt: skip
def test_a_urdf_that_cannot_stand(rex, urdf, message):
    with pytest.raises(InputFileError, match=message):
        load_robot(rex(urdf=urdf))


@pytest.mark.parametrize("old, new, message", [
    ("kp = 20.0", "kp = 1e308", r"kp must be from 0.01 to 10000, got 1e\+308"),
    ("kp = 20.0", f"kp = 1{'0' * 400}", r"kp must be made of finite numbers, got 10000.*0\.\.\.$"),
    ("kp = 20.0", f"kp = 0x1{'0' * 5000}", r"kp must be .* got one too long to be shown \(int\)"),
    ("kp = 20.0", f"kp = 1{'0' * 5000}", r"rex.toml is not valid TOML: Exceeds the limit"),
    ("kp = 20.0", f"kp = {'[' * 5000}{']' * 5000}", r"rex.toml is not valid TOML: .*recursion"),
    ("kp = 20.0", f"kp{'.a' * 5000} = 1", r"kp must be made of finite numbers, got one too long to be shown \(dict\)"),
    ("start_height_m = 0.40", "start_height_m = 420", r"start_height_m must be from 0.05 to 3, got 420"),
    ("target_height_m = 0.30", "target_height_m = 30", r"target_height_m must be from 0.05 to 3, got 30"),
    ("armature = 0.1", "armature = 100", r"armature must be from 0 to 10, got 100"),
    ("    0.0, 0.8, -1.5,", "    0.0, 45, -86,", r"45 for joint 'FR_thigh_joint', which goes from -2 to 2 .*degrees"),
    ("    0.0, 0.8, -1.5,", "    0.0, 0.8, -2.1,", r"rex.toml:20: .* -2.1 for joint 'FR_calf_joint', .* -2 to 2 rad$"),
    ('["FR_foot", "FL_foot"', '["FL_foot", "FR_foot"', r"feet names 'FL_foot' for FR, .* joint 'FR_calf_joint'"),
    ('"rex.urdf"', f'"{"a" * 5000}"', r"rex.toml:6: urdf is no path: .*too long"),
    ('"rex.urdf"', '"\\u0000"', r"rex.toml:6: urdf points to .*where there is no file"),
])  # fmt: skip
def test_values_that_no_robot_has(rex, old, new, message):
    with pytest.raises(InputFileError, match=message):
        load_robot(rex(old, new))


def test_a_mesh_that_git_has_not_fetched(rex, tmp_path):
    (tmp_path / "f.stl").write_text("version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(InputFileError, match=r"f.stl, which was not downloaded: run git lfs pull"):
        load_robot(rex(urdf=changed("<sphere [^>]*>", '<mesh filename="f.stl"/>')))


def test_a_pose_of_a_joint_without_end_is_not_in_degrees(rex):
    urdf = changed('"revolute"', '"continuous"', CALF)
    assert load_robot(rex("    0.0, 0.8, -1.5,", "    0.0, 0.8, -3.5,", urdf=urdf)).default_pose_rad[2] == -3.5
    with pytest.raises(InputFileError, match="has -86 for joint 'FR_calf_joint', .* degrees"):
        load_robot(rex("    0.0, 0.8, -1.5,", "    0.0, 0.8, -86,", urdf=urdf))


# --- the body is the root of what is simulated ---


def placed(text: str) -> dict[str, np.ndarray]:
    """Where each link is, [4, 4], seen from the root, at 0 rad."""
    joints = ElementTree.fromstring(text).findall("joint")
    above = {joint.find("child").get("link"): joint for joint in joints}
    ends = {joint.find("parent").get("link") for joint in joints}
    (root,) = ends - set(above)
    reader = object.__new__(Urdf)

    def pose(link):
        if link == root:
            return np.eye(4)
        return pose(above[link].find("parent").get("link")) @ reader.pose(above[link])

    return {link: pose(link) for link in (*above, root)}


def simulated(path) -> str:
    robot = load_robot(path)
    return urdf_text(robot.urdf_path, robot.base_link, robot.joints)


MOUNT = '<origin xyz="0.1 -0.2 0.3" rpy="{rpy}"/></joint>'


@pytest.mark.parametrize("rpy", ["0 0 0", "0.4 -0.3 2.5", "0 1.5707963267948966 0.3"])
@pytest.mark.parametrize("empty", [True, False])
def test_all_hangs_from_the_base_link(rex, rpy, empty):
    """An empty root goes, one that weighs something is turned round and stays where it was."""
    plain = placed(simulated(rex()))
    urdf = changed("<origin [^>]*></joint>", MOUNT.format(rpy=rpy))
    if not empty:
        urdf = urdf.replace('<link name="world_root"/>', f'<link name="world_root">{INERTIAL}{BALL}</link>')
    found = placed(simulated(rex(urdf=urdf)))
    assert np.array_equal(found["base"], np.eye(4))
    assert ("world_root" in found) == (not empty)
    for link in set(found) & set(plain) - {"world_root"}:
        np.testing.assert_allclose(found[link], plain[link], atol=1e-12)
    if not empty:  # the base is where the URDF says, seen from it
        root = ElementTree.fromstring(f"<joint>{MOUNT.format(rpy=rpy)}".replace("</joint></joint>", "</joint>"))
        there = object.__new__(Urdf).pose(root)
        np.testing.assert_allclose(found["world_root"] @ there, np.eye(4), atol=1e-9)


def test_a_robot_that_floats_in_its_world_is_a_free_robot(rex):
    urdf = changed('type="fixed"', 'type="floating"')
    assert "world_root" not in placed(simulated(rex(urdf=urdf)))
    with pytest.raises(InputFileError, match=r"joint 'mount' is floating"):
        load_robot(rex(urdf=urdf.replace('<link name="world_root"/>', f'<link name="world_root">{INERTIAL}</link>')))


# --- joints that are not the robot file's ---


@pytest.mark.parametrize("kind, limit, at", [
    ("revolute", '<limit lower="-1" upper="1" effort="0"/>', 0.0),
    ("revolute", '<limit lower="0.2" upper="0.6"/>', 0.4),
    ("prismatic", '<limit lower="0.02" upper="0.04"/>', 0.03),
    ("revolute", "", 0.0),
    ("continuous", "", 0.0),
])  # fmt: skip
def test_other_joints_are_held(rex, kind, limit, at):
    path = rex(urdf=with_arm(kind, limit))
    assert load_robot(path).held_joints == (("arm_joint", pytest.approx(at)),)
    (joint,) = [j for j in ElementTree.fromstring(simulated(path)).findall("joint") if j.get("name") == "arm_joint"]
    assert joint.get("type") == "fixed" and joint.find("limit") is None
    arm = np.eye(4)
    arm[2, 3] = 0.1
    if kind == "prismatic":
        arm[1, 3] = at
    else:
        arm[:3, :3] = [[np.cos(at), 0, np.sin(at)], [0, 1, 0], [-np.sin(at), 0, np.cos(at)]]
    np.testing.assert_allclose(placed(simulated(path))["arm"], arm, atol=1e-12)


def test_what_mimics_a_held_joint_is_held_and_what_mimics_a_leg_follows_it(rex):
    urdf = with_arm(limit='<mimic joint="finger_joint" multiplier="-2" offset="0.1"/>').replace("</robot>", "")
    finger = ARM.format(kind="revolute", limit='<limit lower="0.2" upper="0.4"/>').replace("arm", "finger")
    assert dict(load_robot(rex(urdf=urdf + finger)).held_joints) == pytest.approx(
        {"arm_joint": -0.5, "finger_joint": 0.3}
    )
    follower = with_arm(limit='<limit lower="-1" upper="1"/><mimic joint="FR_calf_joint"/>')
    assert load_robot(rex(urdf=follower)).held_joints == ()
