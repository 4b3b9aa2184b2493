"""MuJoCo as the second simulator, for which Genesis is not imported.  `test_sim.py` holds the two side by side."""

import dataclasses
import os
import subprocess
import sys

import h5py
import mujoco
import numpy as np
import pytest
import torch
from fakes import ACTIONS
from stick_robot import stick_mjcf
from test_sim import (
    NUM_ENVS,
    a_state_stays_as_it_was_read,
    bend_a_knee,
    drop,
    joints_are_in_order,
    moved,
    robots_are_placed_where_it_is_said,
    same_seed_same_rollout,
    stands,
)

from vintix_fast import adapt, read_trajectories
from vintix_fast.service.errors import UsageError, VintixFastError
from vintix_fast.world.mujoco_simulator import MujocoSimulator
from vintix_fast.world.robot import Robot, load_robot
from vintix_fast.world.task import WalkingTask


def simulator(robot: Robot, num_envs: int = NUM_ENVS, **how) -> MujocoSimulator:
    return MujocoSimulator(robot, num_envs, say=lambda text: None, **how)


@pytest.mark.parametrize("name", ["go1", "go2", "a1", "minicheetah", "minicheetah-primitive"])
def test_a_robot_stands_and_its_joints_are_in_order(name):
    sim = simulator(load_robot(name))
    task = WalkingTask(sim, sim.robot)
    task.reset(seed=0)
    stands(task)
    joints_are_in_order(sim, sim.robot)
    same_seed_same_rollout(task)
    a_state_stays_as_it_was_read(task)
    robots_are_placed_where_it_is_said(sim)


def test_a_passive_fall_is_gravitys(go2):
    height = moved(simulator(go2), drop, 5)[:, 0]
    sub_steps = 2 * np.arange(1, 6)  # of 0.01 s, each with the speed at its end
    expected = go2.start_height_m - 9.81 * 0.01**2 * sub_steps * (sub_steps + 1) / 2
    np.testing.assert_allclose(height, expected, atol=1e-4)


def test_contact_pushes_minicheetahs_front_thighs_out_of_its_body():
    """Its meshes are hulls, as in Genesis, where it is 0.35 to 0.55 rad."""
    robot = load_robot("minicheetah")
    away_rad = np.abs(moved(simulator(robot, 1), drop, 100)[-1, 1:] - robot.default_pose_rad)[[1, 4]]
    assert away_rad.min() > 0.35 and away_rad.max() < 0.55, away_rad


def test_velocities_are_in_the_worlds_frame(go2):
    """Of a robot that is turned and tumbles: what positions and quaternions say of them."""
    sim = simulator(go2, 1)
    half = 0.8
    quat = torch.tensor([[np.cos(half), 0.0, 0.0, np.sin(half)]], dtype=torch.float32)
    sim.place(torch.tensor([True]), quat, torch.tensor(go2.default_pose_rad)[None])
    sim._state[:, sim._base_vel] = [1.0, 0.5, 2.0, 3.0, -2.0, 1.0]
    target = torch.tensor(go2.default_pose_rad)[None]
    before = sim.state()
    sim.step(target)
    after = sim.state()
    lin = (after.base_pos_m - before.base_pos_m)[0].numpy() / 0.02
    np.testing.assert_allclose(lin, (before.base_lin_vel_m_s + after.base_lin_vel_m_s)[0].numpy() / 2, atol=0.08)
    back, turn = np.zeros(4), np.zeros(4)
    mujoco.mju_negQuat(back, before.base_quat[0].double().numpy())
    mujoco.mju_mulQuat(turn, after.base_quat[0].double().numpy(), back)
    ang = 2.0 * turn[1:] / 0.02
    np.testing.assert_allclose(ang, (before.base_ang_vel_rad_s + after.base_ang_vel_rad_s)[0].numpy() / 2, atol=0.1)


def test_a_broken_environment_heals_alone_and_leaves_no_file(go2, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    task = WalkingTask(simulator(go2), go2)
    start = task.reset()
    before = task.step(torch.zeros(NUM_ENVS, ACTIONS)).observation
    task.simulator._state[2, task.simulator._v] = np.nan
    result = task.step(torch.zeros(NUM_ENVS, ACTIONS))
    assert result.failed.tolist() == result.terminated.tolist() == [False, False, True, False]
    assert result.reward[2] == 0.0 and result.reward.isfinite().all()
    torch.testing.assert_close(result.observation[2], start[2], atol=1e-5, rtol=0)
    assert (result.observation[[0, 1, 3]] - before[[0, 1, 3]]).abs().max() < 0.5
    for _ in range(20):
        result = task.step(torch.zeros(NUM_ENVS, ACTIONS))
        assert not result.done.any() and result.observation.isfinite().all()
    assert not list(tmp_path.iterdir())  # MuJoCo would write MUJOCO_LOG.TXT


def test_results_do_not_depend_on_the_cores(go2, monkeypatch):
    def rollout(cores):
        monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(cores)), raising=False)
        task = WalkingTask(simulator(go2), go2)
        assert len(task.simulator._data) == cores
        generator = torch.Generator().manual_seed(0)
        rows = [task.reset(3, random_starts=True)]
        for _ in range(15):
            rows.append(task.step(0.5 * torch.randn(NUM_ENVS, ACTIONS, generator=generator)).observation)
        return torch.stack(rows)

    assert torch.equal(rollout(1), rollout(3))


def test_a_robot_files_physics_reach_mujoco():
    """go1's base is fixed to a root link of another name."""
    robot = dataclasses.replace(load_robot("go1"), base_mass_kg=9.0, armature=0.02, friction=0.3, damping=0.15)
    model = simulator(robot).model
    for name in robot.joints:
        dof, motor = model.joint(name).dofadr[0], model.actuator(name)
        assert (model.dof_armature[dof], model.dof_frictionloss[dof], model.dof_damping[dof]) == (0.02, 0.3, 0.15)
        assert motor.gainprm[0] == robot.kp and motor.biasprm[2] == -robot.kd
    plain = simulator(load_robot("go1")).model
    assert np.allclose(plain.dof_armature[6:], 0.1) and not plain.dof_armature[:6].any()  # as docs/robots.md says
    assert model.body_mass.sum() - plain.body_mass.sum() == pytest.approx(9.0 - plain.body_mass[1])
    assert plain.actuator("FR_calf_joint").forcerange.tolist() == [-35.55, 35.55]  # the URDF's effort


def test_an_mjcf_is_simulated_with_its_motors_limits(tmp_path):
    sim = simulator(load_robot(stick_mjcf(tmp_path)), 2)
    assert sim.model.actuator_forcerange.tolist() == [[-30.0, 30.0]] * 12
    assert not sim.foot_contact().any()
    touched = []
    assert np.isfinite(moved(sim, lambda pose, _: (touched.append(sim.foot_contact()), pose)[1], 30)).all()
    assert torch.stack(touched).any(dim=0).all()  # each leg in its turn


def test_weaker_motors_smooth_ground_and_delay(go2):
    """What another robot than the simulated one would have."""
    weak = simulator(go2, motor_strength=0.5).model
    assert weak.actuator("FR_hip_joint").forcerange[1] == pytest.approx(23.7 / 2)
    assert weak.actuator("FR_hip_joint").gainprm[0] == go2.kp / 2

    def slides_m(friction):
        sim = simulator(go2, 1, friction=friction)
        moved(sim, drop, 100)
        sim.push(torch.ones(sim.num_envs, dtype=torch.bool), torch.tensor([[0.0, 0.3]]))
        before = sim.state().base_pos_m[0, 1]
        for _ in range(50):
            sim.step(torch.tensor(go2.default_pose_rad)[None])
        return float(sim.state().base_pos_m[0, 1] - before)

    assert slides_m(0.05) > 2.0 * slides_m(None)
    at_once, later = (moved(simulator(go2, delay_s=delay), bend_a_knee, 4)[:, 3] for delay in (0.0, 0.02))
    np.testing.assert_allclose(later[1:], at_once[:-1], atol=1e-5)  # in free fall nothing else moves a joint
    assert later[0] == pytest.approx(go2.default_pose_rad[2], abs=1e-6)


def test_a_payload_weighs(go2):
    sim = simulator(go2, 1)
    heights = []
    for payload in (0.0, 6.0, 0.0):
        sim.load(payload)
        heights.append(moved(sim, drop, 100)[-1, 0])
    assert heights[1] < heights[0] - 0.01 and heights[2] == heights[0]


def test_what_cannot_be_is_refused(go2, tmp_path):
    for how in ({"device": "cuda"}, {"motor_strength": 0.0}, {"friction": -1.0}, {"delay_s": 0.013}):
        with pytest.raises(UsageError, match="|".join(map(str, how.values()))):
            simulator(go2, **how)
    flat = tmp_path / "go2.urdf"
    flat.write_text(go2.urdf_path.read_text().replace('effort="23.7"', 'effort="23.7e"'))
    with pytest.raises(VintixFastError, match="MuJoCo cannot build|cannot be read"):
        simulator(dataclasses.replace(go2, urdf_path=flat))


def test_a_run_in_mujoco_says_so_and_one_in_genesis_is_as_before(tmp_path, tiny_checkpoint):
    from runs import run_small, small_config

    options = {"robot_type": "go2", "num_improvement_loops": 1, "max_steps_per_episode": 6}
    config = small_config(tmp_path / "run", tiny_checkpoint, simulator="mujoco", **options)
    adapt(config)
    record = (tmp_path / "run/config.json").read_text()
    assert '"simulator": "mujoco"' in record
    attributes = read_trajectories(tmp_path / "run/loop_00/trajectories.h5").attributes
    assert (attributes["simulator"], attributes["mujoco"]) == ("mujoco", mujoco.__version__)
    with pytest.raises(UsageError, match="--simulator mujoco, now genesis|was mujoco"):
        adapt(small_config(tmp_path / "run", tiny_checkpoint, resume=True, **options))
    run_small(tmp_path / "default", tiny_checkpoint, **options)
    assert "simulator" not in (tmp_path / "default/config.json").read_text()
    with h5py.File(tmp_path / "default/loop_00/trajectories.h5") as file:
        assert "simulator" not in file.attrs and "mujoco" not in file.attrs


WITHOUT_GENESIS = """
import sys
from vintix_fast import evaluation
from vintix_fast.eval_config import EvalConfig
config = EvalConfig.from_options(vintix_path=sys.argv[1], robot_type="go2", simulator="mujoco", num_envs=2, max_steps=5)
found = evaluation.evaluate(config)
assert found.lengths == [5, 5], found.lengths
assert not {"genesis", "quadrants"} & set(sys.modules)
"""


def test_genesis_is_not_imported_for_it(tiny_checkpoint):
    done = subprocess.run([sys.executable, "-c", WITHOUT_GENESIS, str(tiny_checkpoint)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
