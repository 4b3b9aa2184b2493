"""The C library on this machine: it acts as the compiled policy and the task do, and refuses what is not sound."""

import json
import os
import struct
import subprocess
import zlib

import numpy as np
import pytest
import torch
from exports import TASK, TOLERANCE, contract_of, replay_rows, rounded, write
from fakes import FakeSimulator, tiny_model
from native_runner import Runner

from vintix_fast.export.reward import RewardFed
from vintix_fast.policy import CompiledPolicy
from vintix_fast.world.task import WalkingTask
from vintix_fast.world.task_config import TaskConfig

LEVEL = (1.0, 0.0, 0.0, 0.0)
OPTIONS = [{}, {"norm_acs": True, "inner_ep_pos_enc": True}, {"transformer_heads": 3, "mlp_class": "LLaMAMLP"}]


def acted(model, rows, context_len, dtype, mass=0.01):
    policy = CompiledPolicy(model, TASK, 1, context_len, cache_dtype=dtype, dropped_mass=mass, threads=1)
    found = []
    for row in torch.from_numpy(rows):
        if row[-1]:
            policy.reset()
        policy.observe(row[33:45], row[45])
        found.append(policy.act(row[None, :33], row[46:47].int())[0].numpy())
    return np.stack(found)


@pytest.mark.parametrize("narrow", [False, True])
@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("options", OPTIONS)
def test_it_acts_as_the_compiled_policy_beyond_a_full_ring(options, dtype, narrow, native, go2, tmp_path):
    model, rows = tiny_model(**options), replay_rows(150, resets=(70,))
    if narrow:
        rounded(model.transformer)  # as the weights of adapted models: the robot's own group is not
    policy = write(tmp_path / "policy.bin", model, contract_of(model, go2, context_len=20, dtype=dtype))
    runner = Runner(native / "libvintix_policy.so", policy)
    found = []
    for row in rows:
        if row[-1]:
            runner.forget()
        found.append(runner.act(row[:33], row[33:45], row[45], row[46]))
    assert np.array_equal(np.stack(found), acted(model, rows, 20, dtype))
    exact = acted(model, rows, 20, "float32", 0.0)
    assert np.abs(np.stack(found) - exact).max() <= max(TOLERANCE[dtype], 0.01)  # what may stay unread


@pytest.fixture
def opened(native, go2, tmp_path):
    """(contract's options) -> model, contract and runner."""

    def open_it(**options):
        model = tiny_model()
        contract = contract_of(model, go2, **options)
        path = write(tmp_path / "policy.bin", model, contract)
        return model, contract, Runner(native / "libvintix_policy.so", path)

    return open_it


def sensed(sim):
    """What the robot of environment 0 senses."""
    state = sim.state()
    w, u = state.base_quat[:, :1], state.base_quat[:, 1:]
    turned = torch.linalg.cross(u, state.base_ang_vel_rad_s)
    gyro = state.base_ang_vel_rad_s + 2.0 * (torch.linalg.cross(u, turned) - w * turned)
    return [x[0].numpy() for x in (gyro, state.base_quat, state.joint_pos_rad, state.joint_vel_rad_s)]


@pytest.mark.parametrize("reward", ["constant", "estimate", "true"])
@pytest.mark.parametrize("latency_steps", [0, 1, 3])
def test_a_robot_gets_the_targets_that_the_simulated_one_gets(latency_steps, reward, opened, go2):
    config = TaskConfig(latency_steps=latency_steps)
    model, contract, runner = opened(task=config, reward=reward)
    sim = FakeSimulator(go2, 1)
    task = WalkingTask(sim, go2, 30, task_config=config)
    policy = CompiledPolicy(model, TASK, 1, 64, cache_dtype="float32", threads=1)
    if reward != "true":
        policy = RewardFed(policy, config, go2.layout, contract["reward"]["value"])
    observation, told, ends, low_high = task.reset(3, random_starts=True), 0.0, 0, go2.joint_range_rad.T
    for _ in range(100):
        first = bool(task.step_num[0] == 0)
        policy.begin(observation, task.step_num.clone())
        says, target = runner.step(*sensed(sim), reward=told)
        action = policy.finish()
        result = task.step(action)
        policy.observe(action, result.reward)
        seen, decided, last_reward = runner.last()
        assert says == "walking"
        np.testing.assert_allclose(seen, observation[0], atol=2e-6)
        np.testing.assert_allclose(decided, action[0], atol=1e-4)
        np.testing.assert_allclose(target, np.clip(sim.targets[-1][0].numpy(), *low_high), atol=1e-4)
        if not first:
            shown = {"true": told, "constant": 0.024}.get(reward)
            assert last_reward == pytest.approx(policy.policy._last_reward.item() if shown is None else shown, abs=1e-6)
        told, observation = float(result.reward[0]), result.observation
        if result.done.any():
            runner.begin_episode()
            ends += 1
    assert ends >= 3


@pytest.mark.parametrize("place", range(4))
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_sensor_without_a_number_holds_the_default_pose_and_leaves_no_trace(value, place, opened, go2):
    _, _, runner = opened()
    sensors = [np.zeros(3), np.array(LEVEL), np.array(go2.default_pose_rad), np.zeros(12)]

    def walk(steps):
        return [runner.step(*sensors)[1] for _ in range(steps)]

    expected = walk(3)
    broken = [x.copy() for x in sensors]
    broken[place][-1] = value
    says, target = runner.step(*broken)
    assert says.startswith("a sensor gives no number")
    np.testing.assert_array_equal(target, np.float32(go2.default_pose_rad))
    runner.forget()
    np.testing.assert_array_equal(walk(3), expected)


def test_what_else_stops_it(opened, go2):
    _, _, runner = opened(reward="true")
    sensors = [np.zeros(3), np.array(LEVEL), np.array(go2.default_pose_rad), np.zeros(12)]
    assert runner.step(*sensors, reward=np.nan)[0] == "walking"  # the first step has none
    assert runner.step(*sensors, reward=np.nan)[0].startswith("a sensor gives no number")
    assert runner.step(*sensors)[0] == "walking"
    sensors[1] = np.array([0.0, 0.0, 0.0, 0.0])
    assert runner.step(*sensors)[0].startswith("a sensor gives no number (NaN, infinity, or a quaternion of 0)")
    sensors[1] = np.array([np.cos(0.1), np.sin(0.1), 0.0, 0.0])  # rolled by 0.2 rad
    says, target = runner.step(*sensors)
    assert "max_tilt_rad" in says
    np.testing.assert_array_equal(target, np.float32(go2.default_pose_rad))
    np.testing.assert_array_equal(runner.hold(), np.float32(go2.default_pose_rad))


def test_exploration_follows_the_law_of_the_simulators_noise(opened, go2):
    _, contract, runner = opened()
    sensors = [np.zeros(3), np.array(LEVEL), np.array(go2.default_pose_rad), np.zeros(12)]

    def walk(steps):
        noise, targets = [], []
        runner.forget()
        for _ in range(steps):
            targets.append(runner.step(*sensors)[1])
            noise.append(runner.last()[1] - runner.meant())
        return np.stack(noise), np.stack(targets)

    quiet, plain = walk(4)
    assert not quiet.any()
    runner.explore(0.2, 7)
    noise, targets = walk(4000)
    # Latency 1: what was executed is told to the model, and is the next step's target.
    assert np.abs(targets[1] - plain[1]).max() > 0.01
    np.testing.assert_array_equal(targets[0], plain[0])
    assert noise.std() == pytest.approx(0.2, rel=0.05) and abs(noise.mean()) < 0.01
    assert np.mean(noise[1:] * noise[:-1]) / noise.var() == pytest.approx(0.7, abs=0.03)
    across = np.corrcoef(noise.T) - np.eye(12)
    assert np.abs(across).max() < 0.15  # of about 700 independent draws
    runner.explore(0.2, 7)
    np.testing.assert_array_equal(walk(20)[0], noise[:20])
    runner.explore(0.2, 8)
    assert not np.array_equal(walk(20)[0], noise[:20])
    runner.explore(0.0, 7)
    np.testing.assert_array_equal(walk(4)[1], plain)


def test_targets_stay_in_the_joints_ranges(opened, go2, native, tmp_path):
    model = tiny_model()
    contract = contract_of(model, go2)
    path = write(tmp_path / "wild.bin", model, contract, **{"contract.action_scale_rad": 1e4})
    runner = Runner(native / "libvintix_policy.so", path)
    for _ in range(3):
        _, target = runner.step(np.zeros(3), LEVEL, go2.default_pose_rad, np.zeros(12))
    low, high = np.float32(go2.joint_range_rad.T)
    assert ((target == low) | (target == high)).all()


# -- files that are not sound, with AddressSanitizer and UndefinedBehaviorSanitizer ------------------------------------


def opens(sanitized, path):
    """None, or what is said of the file; fails where a sanitizer found something."""
    done = subprocess.run([sanitized / "vintix_replay", path, "time", "0"], capture_output=True, text=True)
    assert "anitizer" not in done.stderr and "runtime error" not in done.stderr, done.stderr
    assert done.returncode in (0, 1), done
    return done.stderr.strip() if done.returncode else None


def test_files_cut_short_anywhere_and_foreign_ones_are_refused(sanitized, go2, tmp_path):
    model, path = tiny_model(), tmp_path / "policy.bin"
    content = write(path, model, contract_of(model, go2, context_len=8)).read_bytes()
    assert opens(sanitized, path) is None
    for length in (0, 7, 8, 23, 24, 27, 1000, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:length])
        said = opens(sanitized, path)
        assert str(path) in said and ("is no policy" if length < 24 else "is cut short") in said
    path.write_bytes(content + b"x")
    assert "something after its end" in opens(sanitized, path)
    path.write_bytes(content[:8] + struct.pack("<I", 2) + content[12:])
    assert "has version 2, and this library reads 1; export the model again" in opens(sanitized, path)
    path.write_bytes(content[:-9] + bytes([content[-9] ^ 1]) + content[-8:])
    assert "its checksum is another; copy it again" in opens(sanitized, path)
    path.write_bytes(os.urandom(5000))
    assert "is no policy; give the policy.bin that `vintix-fast export` wrote" in opens(sanitized, path)
    assert "cannot be opened: No such file" in opens(sanitized, tmp_path / "absent.bin")
    assert "cannot be read: Is a directory" in opens(sanitized, tmp_path)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("spans", [[0, 8], [8, 8]], "a span is 0"),
        ("spans", [[1e30, 8], [8, 8]], "a span is 1000000"),
        ("spans", [[2**20, 2**20], [2**20, 2**20]], "would take over 1 GiB"),
        ("spans", [8, 8, 8], "'spans' has 3 numbers, expected 4"),
        ("slopes", [0.5, -1.0], "a slope is -1"),
        ("ln_f.weight", None, "'ln_f.weight' is missing"),
        ("ln_f.weight", np.ones(31), "'ln_f.weight': expected shape [32], got [31]"),
        ("ln_f.weight", np.full(32, np.nan), "'ln_f.weight' holds NaN or infinity"),
        ("contract.default_pose_rad", np.zeros(8), "'contract.joint_range_rad' has 24 numbers, expected 16"),
        ("contract.joint_range_rad", np.ones((12, 2)) * [1, -1], "an empty joint range"),
        ("contract.latency_steps", 1.5, "'contract.latency_steps' is 1.5"),
        ("contract.control_period_s", 0.0, "'contract.control_period_s' is 0"),
        ("contract.reward_input", 3, "'contract.reward_input' is 3"),
        ("dropped_mass", None, "'dropped_mass' is missing"),
    ],
)
def test_contents_that_do_not_fit_together_are_refused(name, value, message, sanitized, go2, tmp_path):
    model = tiny_model()
    path = write(tmp_path / "policy.bin", model, contract_of(model, go2, context_len=8), **{name: value})
    assert message in opens(sanitized, path)


def test_a_model_of_another_robot_is_refused(sanitized, go2, tmp_path):
    model = tiny_model()
    eight = {"contract.default_pose_rad": np.zeros(8), "contract.joint_range_rad": np.tile([-1.0, 1.0], (8, 1))}
    path = write(tmp_path / "policy.bin", model, contract_of(model, go2), **eight)
    assert "a robot of 8 joints, and a model of 33 observations and 12 actions" in opens(sanitized, path)


def test_mutants_are_opened_or_refused_without_a_fault(sanitized, go2, tmp_path):
    model, path = tiny_model(transformer_depth=1), tmp_path / "policy.bin"
    content = write(path, model, contract_of(model, go2, context_len=8)).read_bytes()
    (length,) = struct.unpack_from("<I", content, 24)
    rng, refused = np.random.default_rng(5), 0
    for _ in range(40):
        body = bytearray(content[24:])
        for _ in range(rng.integers(1, 4)):  # among the first arrays' heads, where sizes stand
            body[rng.integers(0, 4) if rng.random() < 0.2 else 4 + length + rng.integers(0, 600)] = rng.integers(256)
        head = struct.pack("<IIQ", 1, zlib.crc32(bytes(body)), len(body))
        path.write_bytes(content[:8] + head + bytes(body))
        refused += opens(sanitized, path) is not None
    assert refused > 5


def test_steps_are_clean_too_and_allocate_nothing(native, sanitized, go2, tmp_path):
    rows = replay_rows(60, resets=(30,))
    rows[10, 3], rows[40, 34] = np.nan, np.inf
    rows.tofile(tmp_path / "in")
    model = tiny_model()
    for dtype in TOLERANCE:
        policy = write(tmp_path / "policy.bin", model, contract_of(model, go2, context_len=20, dtype=dtype))
        for build in (native, sanitized):  # the program fails where a step allocated
            command = [build / "vintix_replay", policy, "replay", tmp_path / "in", tmp_path / "out"]
            done = subprocess.run(command, capture_output=True, text=True)
            assert (done.returncode, done.stderr) == (0, "")
        found = np.fromfile(tmp_path / "out", np.float32).reshape(60, 12)
        assert np.isnan(found[10]).all() and np.isfinite(found[30:40]).all()


def test_it_says_its_contract(opened):
    _, contract, runner = opened()
    assert runner.contract == json.loads(json.dumps(contract))
