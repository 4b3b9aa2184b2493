"""Random bodies: what differs between them, and that each is a quadruped that a robot file can be made of."""

import numpy as np
import pytest

from vintix_fast.benchmarks.bodies import Body
from vintix_fast.world.kinematics import Kinematics
from vintix_fast.world.robot import load_robot

SEEDS = range(1, 9)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_body_is_a_robot_with_the_drawn_mass_lengths_and_gains(tmp_path, seed):
    body = Body.draw(seed)
    file = body.write(tmp_path, "body", "go2_walking_ad", "go2_locomotion")
    robot, go2 = load_robot(file), load_robot("go2")
    assert robot.joints == go2.joints and robot.task_names == go2.task_names and robot.group_name == go2.group_name
    np.testing.assert_array_equal(robot.joint_axes, go2.joint_axes)
    found = Kinematics(tmp_path / "body.urdf")
    assert found.mass_kg() == pytest.approx(body.mass_kg, rel=1e-3)
    pose = found.pose({}, "base")
    at = {part: pose.anchor(f"FL_{part}_joint") for part in ("hip", "thigh", "calf")}
    assert at["hip"] == pytest.approx([body.length / 2, body.width / 2, 0.0], abs=1e-4)
    assert at["thigh"] - at["hip"] == pytest.approx([0.0, body.hip, 0.0], abs=1e-4)
    assert at["calf"] - at["thigh"] == pytest.approx([0.0, 0.0, -body.thigh], abs=1e-4)
    # The stance's legs are turned in pairs.
    legs = np.reshape(robot.default_pose_rad, (4, 3))
    np.testing.assert_allclose(legs[[0, 2]], legs[[1, 3]] * (-1.0, 1.0, 1.0), atol=2e-3)
    assert 0.05 < robot.target_height_m < body.thigh + body.calf < robot.start_height_m * 2


def test_a_seed_is_a_body():
    drawn = [Body.draw(seed) for seed in SEEDS]
    assert drawn == [Body.draw(seed) for seed in SEEDS] and len(set(drawn)) == len(drawn)
    masses, legs = [body.mass_kg for body in drawn], [body.thigh + body.calf for body in drawn]
    assert min(masses) < 9 and max(masses) > 30 and max(legs) > 1.4 * min(legs)  # beyond Mini Cheetah, A1, Go1 and Go2
    assert drawn[0].urdf("body") == Body.draw(1).urdf("body") != drawn[1].urdf("body")
