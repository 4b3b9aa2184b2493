"""The real simulator: every robot stands, its joints are in order, and a broken environment heals alone.

Slow: each scene takes about 10 s from the kernel cache and minutes without it.  `pytest -m "not genesis"` leaves these
out.
"""

import dataclasses
import gc
import re
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from fakes import ACTIONS

from vintix_fast import AdaptConfig, adapt, read_trajectories
from vintix_fast.kernels.reference import tilt
from vintix_fast.service.errors import VintixFastError
from vintix_fast.world import views
from vintix_fast.world.layout import QUADRUPED
from vintix_fast.world.mujoco_simulator import MujocoSimulator
from vintix_fast.world.robot import load_robot
from vintix_fast.world.simulator import RobotState, Simulator
from vintix_fast.world.task import WalkingTask
from vintix_fast.world.views import read_publicly

pytestmark = pytest.mark.genesis
NUM_ENVS = 4
APART_RAD = {"minicheetah": {1: 0.45, 4: 0.45}}
"""Joints to turn, and how far, so that no links touch, where they do in the default pose."""


AS_IN_MUJOCO = {"go2": (5e-4, 2e-3), "a1": (5e-4, 1e-2), "minicheetah": (3e-3, 0.1)}
"""How far base heights (m) and joints (rad) may be apart in the two simulators."""


def stands(task):
    """A second of the default pose."""
    for _ in range(50):
        result = task.step(torch.zeros(NUM_ENVS, ACTIONS))
        assert not result.done.any() and result.observation.isfinite().all() and result.reward.isfinite().all()
    state = task.simulator.state()
    height = state.base_pos_m[:, 2]  # the soft joints sag to 0.2 to 0.3 m; lying on its belly is below 0.1 m
    assert height.min() > 0.2 and height.max() < task.robot.start_height_m, height
    assert torch.stack(tilt(state.base_quat)).abs().max() < 0.1
    assert state.base_lin_vel_m_s.abs().max() < 0.2
    assert task.simulator.foot_contact().tolist() == [[True] * 4] * NUM_ENVS


def joints_are_in_order(sim, robot):
    """Each joint alone goes where it is sent, in its own column; the robots hang in the air while they do."""
    pose = torch.tensor(robot.default_pose_rad)
    for joint, offset_rad in APART_RAD.get(robot.name, {}).items():
        pose[joint] += offset_rad
    level = torch.tensor([1.0, 0.0, 0.0, 0.0]).expand(NUM_ENVS, 4)
    everyone = torch.ones(NUM_ENVS, dtype=torch.bool)
    for first in range(0, ACTIONS, NUM_ENVS):
        sim.reset_scene()
        sim.place(everyone, level, pose.expand(NUM_ENVS, ACTIONS))
        target = pose + 0.2 * torch.eye(ACTIONS)[first : first + NUM_ENVS]
        for _ in range(4):  # 0.08 s, a fall of 3 cm
            sim.step(target)
        assert not sim.foot_contact().any()
        moved = sim.state().joint_pos_rad - pose
        assert moved.argmax(dim=1).tolist() == list(range(first, first + NUM_ENVS)), moved


def same_seed_same_rollout(task):
    def rollout(seed):
        observation = [task.reset(seed, random_starts=True)]
        generator = torch.Generator().manual_seed(0)
        for _ in range(15):
            observation.append(task.step(0.5 * torch.randn(NUM_ENVS, ACTIONS, generator=generator)).observation)
        return torch.stack(observation)

    once, other, again = rollout(1), rollout(2), rollout(1)
    assert torch.equal(once, again)  # what was simulated in between has left nothing behind
    assert not torch.equal(once, other)


def one_broken_environment_heals_alone(task):
    sim = task.simulator
    start = task.reset()
    for _ in range(5):
        before = task.step(torch.zeros(NUM_ENVS, ACTIONS)).observation
    broken = torch.full((1, ACTIONS), float("nan"))
    sim._entity.set_dofs_velocity(broken, sim._dofs, envs_idx=torch.tensor([2]))
    result = task.step(torch.zeros(NUM_ENVS, ACTIONS))
    assert result.failed.tolist() == result.terminated.tolist() == [False, False, True, False]
    assert result.reward[2] == 0.0 and result.reward.isfinite().all()
    torch.testing.assert_close(result.observation[2], start[2], atol=1e-5, rtol=0)
    assert (result.observation[[0, 1, 3]] - before[[0, 1, 3]]).abs().max() < 0.5
    assert task.step_num.tolist() == [6, 6, 0, 6]
    for _ in range(20):
        result = task.step(torch.zeros(NUM_ENVS, ACTIONS))
        assert not result.done.any() and result.observation.isfinite().all()
    assert task.step_num.tolist() == [26, 26, 20, 26]


def views_are_what_the_public_calls_give(task):
    """A rollout with falls and time-outs gives the same bits with the views, without, and as on a GPU: placed by mask.

    Both ways of reading the state are held side by side as well.
    """
    sim = task.simulator
    bound = sim._views
    assert bound is not None, "Genesis' arrays are no longer where views.py looks for them: it runs, but slower"

    def rollout(views, masked=False):
        sim._views = views
        short, generator = WalkingTask(sim, sim.robot, 7, masked), torch.Generator().manual_seed(0)
        rows, ended = [short.reset(2, random_starts=True)], 0
        for _ in range(20):
            result = short.step(torch.randn(NUM_ENVS, ACTIONS, generator=generator))
            ended += int(result.done.sum())
            state, public = sim.state(), RobotState(*read_publicly(sim._entity, sim._dofs))
            for name in state._fields:
                assert torch.equal(getattr(state, name), getattr(public, name)), name
            rows.append(torch.cat([result.observation, result.reward[:, None]], dim=1))
        return rows, ended

    try:
        (with_views, ended), (public, _), (masked, _) = rollout(bound), rollout(None), rollout(None, masked=True)
    finally:
        sim._views = bound
    assert ended >= 2 * NUM_ENVS
    for step, (row, *others) in enumerate(zip(with_views, public, masked, strict=True)):
        assert all(torch.equal(row, other) for other in others), step


def a_state_stays_as_it_was_read(task):
    sim = task.simulator
    task.reset()
    state = sim.state()
    before = {name: getattr(state, name).clone() for name in state._fields}
    task.step(torch.ones(NUM_ENVS, ACTIONS))
    task.step(torch.ones(NUM_ENVS, ACTIONS))
    assert not torch.equal(sim.state().joint_pos_rad, before["joint_pos_rad"])
    assert all(torch.equal(getattr(state, name), tensor) for name, tensor in before.items())


def robots_are_placed_where_it_is_said(sim):
    pose, level = torch.tensor(sim.robot.default_pose_rad).expand(NUM_ENVS, ACTIONS), torch.tensor([1.0, 0.0, 0.0, 0.0])
    sim.reset_scene()
    before = sim.state().base_pos_m
    some, where_m = torch.tensor([True, False, True, False]), torch.tensor([[0.1, -0.05]]).repeat(NUM_ENVS, 1)
    sim.place(some, level.expand(NUM_ENVS, 4), pose, where_m)
    stands = sim.state().base_pos_m
    torch.testing.assert_close(stands[some, :2], where_m[some])
    assert torch.equal(stands[~some], before[~some])
    torch.testing.assert_close(stands[some, 2], torch.full((2,), sim.robot.start_height_m))


def contact_does_to_the_front_thighs_what_it_does_in_the_original_environments(task):
    """Mini Cheetah's begin inside its body's hull; whoever replaces that by slim boxes has another robot."""
    task.reset()
    for _ in range(100):
        task.step(torch.zeros(NUM_ENVS, ACTIONS))
    default = torch.tensor(task.robot.default_pose_rad)
    away_rad = (task.simulator.state().joint_pos_rad - default)[:, [1, 4]].abs()
    (body,) = task.simulator._entity.get_link(task.robot.base_link).geoms
    width_m = sorted(np.ptp(np.asarray(body.init_verts), axis=0))[1]
    if task.robot.name == "minicheetah":
        assert away_rad.min() > 0.35 and away_rad.max() < 0.55, away_rad
        assert width_m == pytest.approx(0.197, abs=1e-3)
    else:
        assert away_rad.max() < 0.1, away_rad
        assert width_m == pytest.approx(0.1, abs=2e-3)


def a_loop_of_adapt_runs_beside_it(sim, out):
    """The compiled policy decodes while Genesis steps; what is stored is what an episode in this scene can be."""
    config = AdaptConfig.from_options(
        robot_type=sim.robot.name, output_dir=out, num_envs=NUM_ENVS, episodes_per_loop=2 * NUM_ENVS,
        min_steps_per_loop=0, max_steps_per_episode=20, num_improvement_loops=1, finetune_steps_per_loop=2,
        critic_updates=20, gate_episodes=NUM_ENVS, context_len=64, reference_robot="go1", device=sim.device.type,
    )  # fmt: skip
    result = adapt(config, simulator=sim)
    assert [row["loop"] for row in result.rows] == [0, 1]
    histories = read_trajectories(out / "loop_00/trajectories.h5").histories
    assert [len(h.episodes()) for h in histories] == [2] * NUM_ENVS
    for h in histories:
        standing = h.observation[:, 5]  # gravity along the body's z axis
        assert (standing < -0.9).all() and np.abs(h.reward).max() < 0.1
        assert np.abs(np.diff(h.observation[:, QUADRUPED.joint_pos], axis=0)).max() > 1e-3  # the joints move


def joints_have_the_files_physics(sim, robot):
    entity = sim._entity
    for name, value in (("armature", robot.armature), ("frictionloss", robot.friction), ("damping", robot.damping)):
        found = getattr(entity, f"get_dofs_{name}")(sim._dofs)
        value = 0.1 if name == "armature" and value is None else value  # as docs/robots.md says
        if value is not None:
            torch.testing.assert_close(found, torch.full_like(found, value), msg=name)
    if robot.base_mass_kg is not None:
        assert float(entity.base_link.get_mass()) == pytest.approx(robot.base_mass_kg)


def moved(sim, target_of, steps):
    """Height [T] and joint positions [T, J] of the first environment, from the default pose in the air."""
    pose = torch.tensor(sim.robot.default_pose_rad).expand(sim.num_envs, -1)
    level = torch.tensor([1.0, 0.0, 0.0, 0.0])
    sim.reset_scene()
    sim.place(torch.ones(sim.num_envs, dtype=torch.bool), level.expand(sim.num_envs, 4), pose, 0.0)
    rows = []
    for step in range(steps):
        sim.step(target_of(pose.clone(), step))
        state = sim.state()
        rows.append(torch.cat([state.base_pos_m[0, 2:], state.joint_pos_rad[0]]).numpy())
    return np.array(rows)


def drop(pose, step):
    return pose


def bend_a_knee(pose, step):
    pose[:, 2] += 0.3
    return pose


def mujoco_does_the_same(sim, within_m, within_rad):
    """Three seconds of falling, landing and standing.  Mini Cheetah's thighs are pushed out of its body meanwhile."""
    other = MujocoSimulator(sim.robot, 1, say=lambda text: None)
    for target, steps in ((drop, 150), (bend_a_knee, 15)):
        apart = np.abs(moved(sim, target, steps) - moved(other, target, steps))
        assert apart[:, 0].max() < within_m and apart[:, 1:].max() < within_rad, (target, apart.max(axis=0))


def test_the_physics_of_a_robot_file_reach_the_simulator_and_stay():
    """go1's base is fixed to a root link of another name, into which the simulator merges it."""
    plain = load_robot("go1")
    assert plain.friction == plain.damping == 0.0, "not the URDF's"
    robot = dataclasses.replace(plain, base_mass_kg=9.0, armature=0.02, friction=0.3, damping=0.15)
    sim = Simulator(robot, NUM_ENVS)
    joints_have_the_files_physics(sim, robot)
    for _ in range(20):
        assert not sim.step(torch.tensor(robot.default_pose_rad).expand(NUM_ENVS, ACTIONS)).any()
    sim.reset_scene()
    joints_have_the_files_physics(sim, robot)
    assert sim.state().joint_pos_rad.isfinite().all()


def test_a_robot_of_eight_joints_stands(two_joints_a_leg):
    task = WalkingTask(Simulator(two_joints_a_leg, NUM_ENVS), two_joints_a_leg)
    task.reset()
    for _ in range(50):
        result = task.step(torch.zeros(NUM_ENVS, task.layout.num_joints))
        assert result.observation.isfinite().all() and not result.done.any()
    assert result.observation.shape == (NUM_ENVS, task.layout.size)
    assert task.simulator.foot_contact().all()


def go2_on_a_footprint(folder):
    """As ROS' navigation wants it: an empty root link on the ground, here turned against the body as well."""
    go2 = load_robot("go2")
    urdf = ElementTree.parse(go2.urdf_path)
    urdf.getroot().insert(0, ElementTree.fromstring('<link name="base_footprint"/>'))
    urdf.getroot().append(
        ElementTree.fromstring(
            '<joint name="footprint_joint" type="fixed"><parent link="base_footprint"/><child link="base"/>'
            '<origin xyz="0.1 0 0.3" rpy="0.2 0 1.5"/></joint>'
        )
    )
    for mesh in urdf.iter("mesh"):
        mesh.set("filename", str(go2.urdf_path.parent / mesh.get("filename")))
    urdf.write(folder / "go2.urdf")
    keys = re.sub(r"(?m)^urdf.*$", "", go2.path.read_text())
    (folder / "go2.toml").write_text(f'urdf = "go2.urdf"\n{keys}')
    return load_robot(folder / "go2.toml")


def test_the_base_link_counts_not_the_root_and_a_scene_that_is_gone_keeps_nothing(tmp_path):
    def rollout(robot):
        task = WalkingTask(Simulator(robot, NUM_ENVS, say=lambda text: None), robot)
        generator = torch.Generator().manual_seed(1)
        rows = [task.reset(3, random_starts=True)]
        for _ in range(10):
            rows.append(task.step(0.5 * torch.randn(NUM_ENVS, ACTIONS, generator=generator)).observation)
        return torch.stack(rows)

    def arrays():
        from quadrants.lang import impl  # only a scene imports it in an order that works

        gc.collect()
        return len(impl.get_runtime().ndarrays)

    plain = rollout(load_robot("go2"))
    before = arrays()
    assert torch.equal(rollout(go2_on_a_footprint(tmp_path)), plain)
    assert arrays() == before


@pytest.mark.parametrize("name", ["go1", "go2", "a1", "minicheetah", "minicheetah-primitive"])
def test_a_robot_in_its_scene(name, tmp_path):
    # One test for all of it: the scene is what takes long.
    robot, said = load_robot(name), []
    sim = Simulator(robot, NUM_ENVS, say=said.append)
    assert any(f"{NUM_ENVS} x {name}" in line for line in said)
    task = WalkingTask(sim, robot)
    task.reset(seed=0)
    stands(task)
    joints_are_in_order(sim, robot)
    same_seed_same_rollout(task)
    one_broken_environment_heals_alone(task)
    views_are_what_the_public_calls_give(task)
    a_state_stays_as_it_was_read(task)
    robots_are_placed_where_it_is_said(sim)
    joints_have_the_files_physics(sim, robot)
    if name.startswith("minicheetah"):
        contact_does_to_the_front_thighs_what_it_does_in_the_original_environments(task)
    if name in AS_IN_MUJOCO:
        mujoco_does_the_same(sim, *AS_IN_MUJOCO[name])
    if name == "minicheetah":
        a_loop_of_adapt_runs_beside_it(sim, tmp_path / "run")


def test_another_genesis_is_read_through_its_public_calls():
    """Its arrays may have other names, or memory that cannot be shared: no error, no views."""
    elsewhere = SimpleNamespace(sim=SimpleNamespace(rigid_solver=SimpleNamespace()))
    for zero_copy in (False, True):
        gs = SimpleNamespace(use_zerocopy=zero_copy)
        assert views.bind(gs, elsewhere, SimpleNamespace(base_link_idx=0), torch.tensor([0])) is None
    assert views.bind(SimpleNamespace(), elsewhere, None, torch.tensor([0])) is None


AFTER_A_SCENE = """
import torch
torch.manual_seed(3)
expected = torch.rand(4)
torch.manual_seed(3)
threads = torch.get_num_threads()
from vintix_fast.service.errors import VintixFastError
from vintix_fast.world.robot import load_robot
from vintix_fast.world.simulator import Simulator
sim = Simulator(load_robot("go2"), 2)
assert torch.equal(torch.rand(4), expected), "the caller's random numbers changed"
assert torch.get_default_dtype() == torch.float32 and torch.get_default_device().type == "cpu"
assert torch.get_num_threads() == threads
assert torch.zeros(3).device.type == "cpu" and torch.tensor(1.5).dtype == torch.float32
sim.step(torch.tensor([sim.robot.default_pose_rad] * 2))
import triton
layer = torch.nn.Linear(3, 1)
optimiser = torch.optim.AdamW(layer.parameters())
layer(torch.ones(2, 3)).sum().backward()
optimiser.step()
sim.step(torch.tensor([sim.robot.default_pose_rad] * 2))
assert sim.state().joint_pos_rad.isfinite().all()
print("done")
"""


def test_training_works_in_the_process_of_a_scene():
    """Genesis crashes what is imported after it, and changes torch's defaults; neither may reach the trainer."""
    pytest.importorskip("triton", reason="triton is not installed")
    done = subprocess.run([sys.executable, "-c", AFTER_A_SCENE], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0 and done.stdout.endswith("done\n"), done.stdout + done.stderr


def test_no_window_system_is_needed():
    """A bare system lacks some of X11's libraries, which pyglet loads where it may open a window."""
    code = """
import sys
sys.modules["pyglet.libs.x11"] = None
from vintix_fast.world.simulator import _import_genesis
_import_genesis()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr


def test_missing_libraries_are_an_error_that_a_user_can_act_on(monkeypatch):
    def refuse():
        raise ImportError('Library "EGL" not found.')

    monkeypatch.setattr("vintix_fast.world.simulator._import_genesis", refuse)
    robot, said = dataclasses.replace(load_robot("go2"), held_joints=(("arm_joint", 0.0), ("lid", 0.25))), []
    with pytest.raises(
        VintixFastError, match='cannot be imported: Library "EGL" not found.; .*apt-get install libegl1'
    ):
        Simulator(robot, 1, say=said.append)
    assert said[0].endswith(
        "joints that are not in its robot file are held still (rad, m): arm_joint at 0, lid at 0.25"
    )
