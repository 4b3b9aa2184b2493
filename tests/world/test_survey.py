"""A robot file from a URDF or MJCF alone: legs, sides, stance and gains of robots that nobody described."""

import re
import xml.etree.ElementTree as ElementTree
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest
import trimesh
from stick_robot import INERTIAL, stick_mjcf, stick_robot

from vintix_fast.service.errors import InputFileError
from vintix_fast.world.make_robot import make_robot
from vintix_fast.world.robot import load_robot
from vintix_fast.world.survey import survey

DATA = Path(
    str(metadata.distribution("example-robot-data").locate_file("cmeel.prefix/share/example-robot-data/robots"))
)
ANYMAL = DATA / "anymal_c_simple_description/urdf/anymal.urdf"
SOLO = DATA / "solo_description/robots/solo.urdf"
LAIKAGO = DATA / "laikago_description/urdf/laikago.urdf"


def test_a_stance_of_the_srdf_is_taken_and_joints_are_ordered_by_place():
    found = survey(ANYMAL)
    assert found.base_link == "base" and found.pose_source == "group_state 'standing' of anymal.srdf"
    assert found.joints[:3] == ("RF_HAA", "RF_HFE", "RF_KFE") and found.joints[-1] == "LH_KFE"
    assert [leg.foot for leg in found.legs] == ["RF_FOOT", "LF_FOOT", "RH_FOOT", "LH_FOOT"]
    assert found.pose_rad[:3] == (0.1, 0.7, -1.0) and found.pose_rad[6:9] == (0.1, -0.7, 1.0)
    assert found.mass_kg == pytest.approx(52.13, abs=0.01)


def test_without_one_feet_stand_below_the_hips_with_knees_behind():
    found = survey(LAIKAGO)
    np.testing.assert_allclose(np.reshape(found.pose_rad, (4, 3)), [[0.0, 0.75, -1.5]] * 4, atol=2e-3)
    assert "feet below the hips" in found.pose_source
    assert found.kp == pytest.approx(1.4 * 20.0 * 25.43 * 0.5 / (15.0 * 0.426), rel=0.01)


def test_knees_bend_where_their_limits_let_them(tmp_path):
    back, forward = (survey(stick_mjcf(tmp_path, knee=knee)).pose_rad[2] for knee in ("-2.5 -0.2", "0.2 2.5"))
    assert back == pytest.approx(-forward, abs=2e-3) and back == pytest.approx(-2 * np.arccos(0.732), abs=5e-3)


def test_a_keyframe_gives_the_stance_and_names_say_which(tmp_path):
    stand = "0 0 .3 1 0 0 0 " + "0 .6 -1.2 " * 4
    down = stand.replace(".6 -1.2", "1 -2.4")
    keys = f'<key name="down" qpos="{down}"/><key name="home" qpos="{stand}"/>'
    found = survey(stick_mjcf(tmp_path, key=f"<keyframe>{keys}</keyframe>"))
    assert found.pose_source == "keyframe 'home'" and found.pose_rad[:3] == (0.0, 0.6, -1.2)


def test_legs_of_two_joints_and_a_light_robot():
    found = survey(SOLO)
    assert len(found.joints) == 8
    # The springs are as soft in the robot's own scale as go2's.
    assert found.kp == pytest.approx(1.4 * 2.2, abs=0.1) and found.armature == pytest.approx(0.0084, abs=0.0005)


def test_the_written_file_is_a_robot(tmp_path):
    stance = make_robot(ANYMAL, tmp_path / "rex.toml")
    robot = load_robot(tmp_path / "rex.toml")
    assert robot.joints == survey(ANYMAL).joints and robot.urdf_path == ANYMAL.resolve()
    assert robot.target_height_m == pytest.approx(0.96 * 0.552, abs=2e-3)
    assert (tmp_path / "rex.png").read_bytes().startswith(b"\x89PNG") and all(check.sound for check in stance.checks)
    assert not list(tmp_path.glob(".*"))


def test_a_stance_that_its_motors_cannot_hold_is_said(tmp_path):
    urdf = ElementTree.parse(LAIKAGO)
    for joint in urdf.getroot().iter("joint"):
        if joint.get("name") == "RR_calf_joint":
            joint.find("limit").set("effort", "3")
    for link in urdf.getroot().iter("link"):
        for shape in (*link.findall("visual"), *link.findall("collision")):
            if shape.find("geometry/mesh") is not None:
                link.remove(shape)
    urdf.write(tmp_path / "weak.urdf")
    checks = {check.name: check for check in make_robot(tmp_path / "weak.urdf", tmp_path / "weak.toml").checks}
    assert [name for name, check in checks.items() if not check.sound] == ["torque at stance"]
    assert "of 3.0 Nm at RR_calf_joint" in checks["torque at stance"].value and checks["torque at stance"].remedy


def test_a_quadruped_without_motors_is_refused_before_anything_is_left(tmp_path):
    path = stick_mjcf(tmp_path, motors="")
    with pytest.raises(InputFileError, match="joint 'leg0_hip' has no actuator that says what torque .*<motor joint="):
        make_robot(path, tmp_path / "rex.toml")
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_an_mjcf_is_a_robot_wherever_one_is_asked_for(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caches"))
    robot = load_robot(stick_mjcf(tmp_path))
    assert robot.name == "made" and robot.mass_kg == pytest.approx(6.0 + 4 * 1.2) and len(robot.joints) == 12
    np.testing.assert_allclose(robot.joint_axes[:3], [[1, 0, 0], [0, 1, 0], [0, 1, 0]], atol=1e-9)


BIPED = ((0.0, -0.1), (0.0, 0.1))
HEXAPOD = tuple((x, y) for x in (0.3, 0.0, -0.3) for y in (-0.1, 0.1))
CROSS = ((0.3, 0.0), (0.0, 0.2), (-0.3, 0.0), (0.0, -0.2))


@pytest.mark.parametrize(
    "case",
    {
        "biped": (lambda at: stick_mjcf(at, BIPED), "four legs.*this file has 2"),
        "biped, URDF": (lambda at: _urdf(at, _urdf_without("R[LR]")), "four legs.*this file has 2"),
        "hexapod": (lambda at: stick_mjcf(at, HEXAPOD), "four legs.*this file has 6"),
        "hexapod, URDF": (
            lambda at: _urdf(at, _urdf_with(_urdf_without("R[LR]|base|world|mount").replace('"F', '"M'))),
            "four legs.*this file has 6",
        ),
        "car": (lambda at: _urdf(at, CAR), "a quadruped has four legs of two or three joints.*wheel0"),
        "car, MJCF": (lambda at: _text(at / "car.xml", MJCF_CAR), "'wheel0' does not move its leg's end.*like a wheel"),
        "empty": (lambda at: _text(at / "a.urdf", ""), "a.urdf is empty; give a URDF or an MJCF"),
        "empty, MJCF": (lambda at: _text(at / "a.xml", ""), "a.xml is empty; give a URDF or an MJCF"),
        "two bases": (lambda at: _two_robots(at), "no common link but from torso, other_torso; a robot has one base"),
        "two bases, URDF": (
            lambda at: _urdf(at, _urdf_with(re.sub('(name|link)="', r'\1="z_', URDF))),
            "no common link but from world_root, z_world_root; a robot has one base",
        ),
        "leg in the air": (
            lambda at: _changed(stick_mjcf(at), 'leg3_thigh" pos="-0.2 0.1 0"', 'leg3_thigh" pos="-0.2 0.1 0.5"'),
            "leg3_knee of 0.400 m does not reach the ground where the others stand, 0.793 m below 'leg3_swing'",
        ),
        "leg in the air, URDF": (
            lambda at: _urdf(at, re.sub('(RL_hip_joint".*?)-0.2 0.05 0"', r'\g<1>-0.2 0.05 0.5"', URDF)),
            "RL_calf_joint of 0.400 m does not reach the ground where the others stand, 0.793 m below 'RL_thigh_joint'",
        ),
        "stiff knees": (
            lambda at: stick_mjcf(at, knee="-0.1 0.05"),
            "knee 'leg0_knee' can only turn from -0.10 to 0.05",
        ),
        "stiff knees, URDF": (
            lambda at: _urdf(at, URDF.replace('lower="-2" upper="2"', 'lower="-0.1" upper="0.05"')),
            "knee 'FR_calf_joint' can only turn from -0.10 to 0.05",
        ),
        "straight legs": (
            lambda at: stick_mjcf(at, knee="-0.5 0.2"),
            "leg0_hip-leg0_swing-leg0_knee cannot be bent.*0.293 m",
        ),
        "x to the side": (
            lambda at: _changed(stick_mjcf(at), 'leg0_knee" axis="0 1 0"', 'leg0_knee" axis="1 0 0"'),
            r"knee 'leg0_knee' turns about \(1.00, 0.00, 0.00\) of link 'torso'.*x points forward",
        ),
        "corners": (lambda at: stick_mjcf(at, CROSS), "four corners.*x forward"),
        "missing": (lambda at: at / "none.urdf", "no such file"),
        "no links": (lambda at: _urdf(at, "<robot name='x'><link name='a'/></robot>"), "this file has 0"),
        "broken": (lambda at: _urdf(at, "<robot"), "cannot be read"),
        "a URDF named .xml": (lambda at: _text(at / "a.xml", CAR), "a.xml holds a URDF; let its name end in .urdf"),
        "an MJCF named .urdf": (lambda at: _urdf(at, MJCF_CAR), "holds <mujoco> .*the name of an MJCF ends in .xml"),
    }.items(),
    ids=lambda case: case[0],
)
def test_what_is_no_quadruped_is_refused_in_words(tmp_path, case):
    _, (make, message) = case
    with pytest.raises(InputFileError, match=message):
        survey(make(tmp_path))


def test_hips_of_unlike_heights_stand_on_level_feet(tmp_path):
    path = stick_mjcf(tmp_path)
    for leg in ("leg2", "leg3"):
        side = "-0.1" if leg == "leg2" else "0.1"
        _changed(path, f'{leg}_thigh" pos="-0.2 {side} 0"', f'{leg}_thigh" pos="-0.2 {side} 0.08"')
    stance = make_robot(path, tmp_path / "rex.toml")
    assert "legs bent until the feet are level" in survey(path).pose_source
    assert all(check.sound for check in stance.checks) and np.ptp(stance.feet[:, 2]) < 2e-3


URDF = stick_robot().replace('_foot"/></joint>', '_foot"/><origin xyz="0 0 -0.2"/></joint>')
"""With feet at the ends of its calves."""


def _text(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def _urdf(folder: Path, text: str) -> Path:
    return _text(folder / "given.urdf", text)


def _changed(path: Path, old: str, new: str) -> Path:
    text = path.read_text()
    assert text.count(old) == 1
    return _text(path, text.replace(old, new))


def _urdf_without(names: str) -> str:
    """Without the links and joints whose names begin so."""
    kept = re.sub(rf'<(link|joint) name="({names})[^>]*/>|<(link|joint) name="({names}).*?</\3>', "", URDF)
    assert kept != URDF
    return kept


def _urdf_with(parts: str) -> str:
    parts = re.fullmatch("<robot[^>]*>(.*)</robot>", parts).group(1)
    return URDF.replace("</robot>", parts.replace('xyz="0.2 ', 'xyz="0.0 ') + "</robot>")


def _two_robots(folder: Path) -> Path:
    path = stick_mjcf(folder)
    robot = re.search(r'<body name="torso".*(?=</worldbody>)', path.read_text(), re.DOTALL).group(0)
    return _changed(path, "</worldbody>", re.sub('name="', 'name="other_', robot) + "</worldbody>")


_INERTIAL = '<inertial><mass value="1"/><inertia ixx="1" iyy="1" izz="1" ixy="0" ixz="0" iyz="0"/></inertial>'
_WHEELS = [(i, x, y) for i, (x, y) in enumerate(((1, -1), (1, 1), (-1, -1), (-1, 1)))]
CAR = f'<robot name="car"><link name="body">{_INERTIAL}</link>' + "".join(
    f'<link name="rim{i}">{_INERTIAL}</link><joint name="wheel{i}" type="continuous"><parent link="body"/>'
    f'<child link="rim{i}"/><origin xyz="{x} {y} 0"/><axis xyz="0 1 0"/></joint>'
    for i, x, y in _WHEELS
) + "</robot>"  # fmt: skip
_WEIGHT = '<inertial pos="0 0 0" mass="1" diaginertia="0.1 0.1 0.1"/>'
MJCF_CAR = f'<mujoco><worldbody><body name="car"><freejoint/>{_WEIGHT}' + "".join(
    f'<body name="stub{i}" pos="{x} {y} 0">{_WEIGHT}<joint name="steer{i}" axis="0 0 1"/><body name="rim{i}">{_WEIGHT}'
    f'<joint name="wheel{i}" axis="0 1 0"/></body></body>'
    for i, x, y in _WHEELS
) + "</body></worldbody></mujoco>"  # fmt: skip


def test_a_leg_ends_where_the_mesh_of_a_ros_package_does(tmp_path):
    for folder in ("urdf", "meshes"):
        (tmp_path / "rex_description" / folder).mkdir(parents=True)
    trimesh.creation.box((0.02, 0.02, 0.4)).export(tmp_path / "rex_description/meshes/calf.stl")
    mesh = '<geometry><mesh filename="package://rex_description/meshes/calf.stl"/></geometry>'
    calf = rf'(<link name="\w+_calf">{INERTIAL})(</link>)'
    path = tmp_path / "rex_description/urdf/rex.urdf"
    path.write_text(re.sub(calf, rf"\1<collision>{mesh}</collision>\2", stick_robot()))
    assert survey(path).leg_m == pytest.approx(0.4, abs=1e-3)
