"""That robots with other bodies move otherwise, each in its own environment: the real simulator.

One scene for all of it: what takes long is building it.
"""

import dataclasses

import pytest
import torch
from fakes import ACTIONS

from vintix_fast.world.drawn import Drawn
from vintix_fast.world.genesis_variation import OWN
from vintix_fast.world.robot import load_robot
from vintix_fast.world.simulator import Simulator
from vintix_fast.world.task import WalkingTask
from vintix_fast.world.task_config import TaskConfig
from vintix_fast.world.variation import Variation

pytestmark = pytest.mark.genesis
NUM_ENVS = 3
VARIED = torch.tensor([False, True, False])
"""The others keep their own bodies, and must not notice."""


@pytest.fixture(scope="module")
def sim():
    return Simulator(load_robot("go2"), NUM_ENVS, say=lambda text: None, vary=Variation.parse("payload_kg=1, motor=1"))


def prepared(sim, text, height=True):
    """The scene reset, with one environment's body changed and robots in their default pose; the pose."""
    sim.reset_scene()
    if text:
        made = Drawn(Variation.parse(text), sim.robot, NUM_ENVS, sim.device)
        made.seed(0)
        made.draw(torch.ones(NUM_ENVS, dtype=torch.bool))
        physics = made.physics()
        sim.vary(VARIED, physics)
        if physics.locked is not None:
            sim._locked = physics.locked & VARIED[:, None]
    pose = torch.tensor(sim.robot.default_pose_rad).expand(NUM_ENVS, ACTIONS)
    level = torch.tensor([1.0, 0.0, 0.0, 0.0]).expand(NUM_ENVS, 4)
    sim.place(torch.ones(NUM_ENVS, dtype=torch.bool), level, pose)
    return pose


def after(sim, text, steps, target=0.0):
    pose = prepared(sim, text)
    for _ in range(steps):
        sim.step(pose + target)
    state = sim.state()
    for part in state:  # alike where bodies are
        torch.testing.assert_close(part[0], part[2], rtol=0, atol=0)
    return state


def sink_m(sim, text):
    """How much lower the changed robot stands after a second."""
    height = after(sim, text, 50).base_pos_m[:, 2]
    return (height[0] - height[1]).item()


def test_a_load_presses_a_robot_down_and_its_place_tilts_it(sim):
    light, heavy = sink_m(sim, "payload_kg=2"), sink_m(sim, "payload_kg=6")
    assert 0.003 < light < heavy
    pitch = [after(sim, f"payload_kg=3, payload_x_m={x}", 50).base_quat[1, 2].item() for x in (-0.2, 0.2)]
    assert pitch[0] < -0.005 and pitch[1] > 0.005
    assert sink_m(sim, "base_mass_kg=12") > 0.003


def test_the_inertia_of_a_load_is_huygens_and_steiners(sim):
    prepared(sim, "payload_kg=4, payload_z_m=0.2")
    solver, base = sim._entity.solver, sim._bodies._base
    mass, com = sim._bodies._mass[0], sim._bodies._com[0]
    whole = mass + 4.0
    centre = (mass * com + 4.0 * torch.tensor([0.0, 0.0, 0.2])) / whole
    torch.testing.assert_close(solver.get_links_mass(base)[1, 0], whole)
    torch.testing.assert_close(solver.get_links_COM(base)[1, 0], centre)
    # Two points about their common centre: their reduced mass at their distance.
    apart = torch.tensor([0.0, 0.0, 0.2]) - com
    steiner = mass * 4.0 / whole * (apart @ apart * torch.eye(3) - torch.outer(apart, apart))
    frame = sim._bodies._frame
    added = frame @ (solver.get_links_inertia(base)[1, 0] - sim._bodies._inertia[0]) @ frame.T
    torch.testing.assert_close(added, steiner, atol=1e-5, rtol=1e-4)


def test_a_centre_of_mass_that_is_moved_tilts_a_robot(sim):
    pitch = [after(sim, f"com_x_m={x}", 50).base_quat[1, 2].item() for x in (-0.1, 0.1)]
    assert pitch[0] < -0.005 and pitch[1] > 0.005


def slides_m(sim, text):
    """How far robots get that are pushed at 1 m/s while they stand."""
    pose = prepared(sim, text)
    for _ in range(50):
        sim.step(pose)
    before = sim.state().base_pos_m
    sim.push(torch.ones(NUM_ENVS, dtype=torch.bool), torch.tensor([[0.0, 1.0]]).repeat(NUM_ENVS, 1))
    for _ in range(15):
        sim.step(pose)
    return (sim.state().base_pos_m - before)[:, 1]


def test_less_friction_lets_a_robot_slide(sim):
    """Genesis takes the larger friction of two geoms: the ground's own must fall too, or nothing changes."""
    far = slides_m(sim, "friction=0.05")
    assert far[1] > 1.3 * far[0] and far[0] == far[2] > 0.01
    same = slides_m(sim, "friction=1")
    torch.testing.assert_close(same[1], same[0], atol=1e-5, rtol=0)


def test_a_push_is_a_jump_of_speed_where_it_was_meant(sim):
    prepared(sim, "")
    sim.push(VARIED, torch.tensor([[0.5, -0.25]]).repeat(NUM_ENVS, 1))
    speed = sim.state().base_lin_vel_m_s
    torch.testing.assert_close(speed[1, :2], torch.tensor([0.5, -0.25]))
    assert not speed[[0, 2]].any()


def test_weak_motors_sag_and_press_with_less(sim):
    assert sink_m(sim, "motor=0.6") > 0.01
    assert 0.005 < sink_m(sim, "kp=0.6")
    after(sim, "motor.FR=0", 5, target=0.1)
    torque = sim.joint_torque_nm()
    assert not torque[1, :3].any() and torque[1, 3:].all() and torque[0].all()
    limit = sim._entity.get_dofs_force_range(sim._dofs)[1]
    assert (limit[1, :3] == 0.0).all() and torch.equal(limit[1, 3:], limit[0, 3:])


def test_a_speed_gain_damps(sim):
    speed = after(sim, "kd=4", 2, target=0.3).joint_vel_rad_s.abs().mean(dim=1)
    assert speed[1] < 0.8 * speed[0]


def test_a_limp_joint_gives_way_and_a_locked_one_does_not_move(sim):
    calf = 2
    pose = torch.tensor(sim.robot.default_pose_rad)
    limp = after(sim, "limp.FR_calf=1", 40).joint_pos_rad - pose
    assert (limp[1, calf] - limp[0, calf]).abs() > 0.1
    locked = after(sim, "locked.FR_calf=1", 40, target=0.3).joint_pos_rad - pose
    assert locked[1, calf].abs() < 0.03 < 0.1 < locked[0, calf].abs()


def test_a_locked_joint_starts_where_it_is_stuck(sim):
    pose = prepared(sim, "locked.FR_calf=1")
    level = torch.tensor([1.0, 0.0, 0.0, 0.0]).expand(NUM_ENVS, 4)
    sim.place(torch.ones(NUM_ENVS, dtype=torch.bool), level, pose + 0.1)
    moved = sim.state().joint_pos_rad - pose
    assert moved[1, 2] == 0.0 and torch.allclose(moved[[0, 2]], torch.tensor(0.1), atol=1e-6)


def test_a_joint_stops_at_its_smaller_range(sim):
    """Of hips, from -1.05 to 1.05 rad."""
    hip = 0
    moved = after(sim, "joint_range.hip=0.2", 25, target=0.8 * torch.eye(ACTIONS)[hip]).joint_pos_rad[:, hip]
    assert moved[1] < 0.27 < 0.4 < moved[0]


def test_a_reset_scene_has_the_robots_own_bodies_again(sim):
    text = "payload_kg=5, com_x_m=0.1, friction=0.2, motor=0.5, joint_range=0.3, locked.FR_calf=1"
    plain = after(sim, "", 20, target=0.1)
    assert not torch.equal(after(sim, text, 20, target=0.1).joint_pos_rad[1], plain.joint_pos_rad[1])
    again = after(sim, "", 20, target=0.1)
    for part, before in zip(again, plain, strict=True):
        torch.testing.assert_close(part, before, atol=1e-5, rtol=0)
    sim.vary(VARIED, OWN)  # changes nothing


def test_a_walk_with_drawn_bodies_repeats_to_the_bit(sim):
    config = TaskConfig(vary=Variation.parse("payload_kg=0:5, motor=0.6:1, friction=0.3:1, push_m_s=0.5"))
    config = dataclasses.replace(config, max_tilt_rad=0.1)

    def walk():
        task = WalkingTask(sim, sim.robot, 12, task_config=config)
        seen, generator = [task.reset(3, random_starts=True)], torch.Generator().manual_seed(0)
        bodies = []
        for _ in range(40):
            seen.append(task.step(0.5 * torch.randn(NUM_ENVS, ACTIONS, generator=generator)).observation)
            bodies.append(task.drawn.values.clone())
        return torch.stack(seen), torch.stack(bodies)

    (seen, bodies), (again, _) = walk(), walk()
    assert torch.equal(seen, again) and len(torch.unique(bodies[:, 0, 0])) >= 3


def test_a_scene_without_room_for_other_masses_has_other_motors_and_frictions():
    sim = Simulator(load_robot("go2"), NUM_ENVS, say=lambda text: None, vary=Variation.parse("motor=1, friction=1"))
    assert sink_m(sim, "motor=0.6, friction=0.8") > 0.01
    far = slides_m(sim, "friction=0.05")
    assert far[1] > 1.3 * far[0] and far[0] == far[2] > 0.01


def test_a_scene_of_robots_that_are_alike_refuses_to_change_them():
    from types import SimpleNamespace

    with pytest.raises(ValueError, match="robots that are all alike"):
        Simulator.vary(SimpleNamespace(_bodies=None), VARIED, OWN)
