"""The example's control loop over UDP, with sanitizers, against a robot that this process plays."""

import json
import signal
import socket
import struct
import subprocess

import numpy as np
import pytest
from exports import contract_of, write
from fakes import tiny_model

from vintix_fast.data import read_trajectories

LEVEL, NAN = (1.0, 0.0, 0.0, 0.0), float("nan")
PASSIVE, STAND, WALK, HOLD = range(4)
PERIOD_S = 0.1  # longer than a robot's, for machines that do other things meanwhile
PATIENCE = 10  # periods of sound states before it walks on


class Robot:
    """The other end: sends states and reads targets."""

    def __init__(self, port: int, pose: tuple[float, ...]) -> None:
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.connect(("127.0.0.1", port))
        self.socket.settimeout(10.0)
        self.pose, self.sequence = np.array(pose, np.float32), 0

    def tell(self, gyro=(0.0, 0.0, 0.0), quaternion=LEVEL, flags=0, reward=0.01) -> None:
        self.sequence += 1
        head = struct.pack("<4sIIf3f4f", b"VFST", self.sequence, flags, reward, *gyro, *quaternion)
        self.socket.send(head + self.pose.tobytes() + np.zeros(12, np.float32).tobytes())

    def hear(self) -> tuple[int, float, np.ndarray]:
        """Mode, stiffness and target of the next message."""
        head = self.socket.recv(1000)
        magic, _, mode, _, kp, kd = struct.unpack_from("<4sIIIff", head)
        assert magic == b"VFCM" and kd == 0.5
        return mode, kp, np.frombuffer(head[24:], np.float32)

    def live(self, periods: int, **told) -> list[int]:
        """Modes; a state goes out right after each target."""
        modes = []
        for _ in range(periods):
            self.tell(**told)
            modes.append(self.hear()[0])
        return modes


def free_port() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture
def walking(sanitized, go2, tmp_path):
    """(further words) -> the program, and a robot for it; whatever it does, it is ended."""
    started, robots = [], []

    def start(*words):
        model, port = tiny_model(), free_port()
        period = {"contract.control_period_s": PERIOD_S}
        policy = write(tmp_path / "policy.bin", model, contract_of(model, go2), **period)
        command = [sanitized / "vintix_walk", policy, "--port", str(port), *map(str, words)]
        program = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        started.append(program)
        assert "listening" in program.stderr.readline()
        robots.append(Robot(port, go2.default_pose_rad))
        return program, robots[-1]

    yield start
    for robot in robots:
        robot.socket.close()
    for program in started:
        program.kill()
        program.communicate()


def test_it_stands_walks_holds_still_when_it_must_and_logs(walking, go2, tmp_path):
    log = tmp_path / "trajectories.h5"
    program, robot = walking("--stand", 3 * PERIOD_S, "--log", log)
    default = np.float32(go2.default_pose_rad)
    robot.pose = default + np.float32(0.3)

    # From the pose that it is in to the default pose, then the policy.
    stood = []
    for _ in range(3):
        robot.tell()
        mode, kp, target = robot.hear()
        stood.append(target - default)
        assert kp == 20.0
    np.testing.assert_allclose(stood, np.float32([[0.2] * 12, [0.1] * 12, [0.0] * 12]), atol=1e-6)
    robot.pose = default
    assert mode == WALK or robot.live(1) == [WALK]  # it says walk when standing is done
    assert robot.live(8) == [WALK] * 8

    # A sensor without a number, and states that stay away.
    assert robot.live(1, gyro=(NAN, 0.0, 0.0)) == [HOLD]
    for _ in range(2):
        mode, kp, target = robot.hear()
        assert (mode, kp) == (HOLD, 20.0)
        np.testing.assert_array_equal(target, default)
    modes = robot.live(PATIENCE + 2)
    assert modes[: PATIENCE - 1] == [HOLD] * (PATIENCE - 1) and modes[-1] == WALK
    assert robot.live(3, reward=0.02) == [WALK] * 3

    # Another program's message changes nothing; a fall makes it limp for good.
    robot.socket.send(b"hello")
    assert robot.live(1)[0] == WALK
    assert robot.live(2, quaternion=(0.9, 0.43, 0.0, 0.0)) == [PASSIVE] * 2
    robot.tell()
    assert robot.hear()[:2] == (PASSIVE, 0.0)

    program.send_signal(signal.SIGTERM)
    out, said = program.communicate(timeout=20)
    assert program.returncode == 0, said  # a sanitizer's finding is another
    for words in ("stand", "walk", "hold: a sensor gives no number", "passive: roll or pitch is beyond", "is no state"):
        assert words in said
    record = json.loads(out)
    assert record["lost_log_rows"] == 0 and record["held"] >= 3

    found = read_trajectories(log)
    (history,) = found.histories
    assert found.closed_cleanly and json.loads(found.attributes["contract"])["robot"] == "go2"
    # The steps before the sensor failed, then those after it walked on; the first lack their last, whose reward never
    # came, the others end with the fall.
    lengths = [stop - start for start, stop in history.episodes()]
    assert len(lengths) == 2 and sum(lengths) == record["steps"] - 1
    assert np.flatnonzero(history.extras["terminated"]).tolist() == [len(history) - 1]
    np.testing.assert_array_equal(history.extras["mean_action"], history.action)  # it did not explore
    assert set(np.unique(history.reward).tolist()) <= {np.float32(0.01).item(), np.float32(0.02).item()}
    np.testing.assert_allclose(history.observation[0, 3:9], [0, 0, -1, 1, 0, 0], atol=1e-6)
    assert np.isfinite(history.action).all() and history.step_num[0] == 0


def test_a_new_episode_is_said_to_it_and_stands_in_the_log(walking, tmp_path):
    log = tmp_path / "trajectories.h5"
    program, robot = walking("--stand", 0, "--log", log, "--periods", 100)
    robot.live(4)
    robot.live(1, flags=1 | 2)  # the episode before it fell
    robot.live(3)
    robot.live(1, flags=1)
    robot.live(2)
    program.send_signal(signal.SIGINT)
    assert program.wait(timeout=20) == 0
    (history,) = read_trajectories(log).histories
    assert history.step_num.tolist() == [0, 1, 2, 3, 0, 1, 2, 3, 0, 1]
    assert np.flatnonzero(history.extras["terminated"]).tolist() == [3]
    assert np.flatnonzero(history.extras["truncated"]).tolist() == [7]


def test_it_explores_in_rungs_and_logs_what_it_meant(walking, tmp_path):
    log = tmp_path / "trajectories.h5"
    program, robot = walking("--stand", 0, "--log", log, "--explore", 0.3, "--seed", 4)
    for _ in range(6):
        robot.live(1, flags=1)
        robot.live(3)
    program.send_signal(signal.SIGINT)
    assert program.wait(timeout=20) == 0
    found = read_trajectories(log)
    assert found.attributes["seed"] == "4" and float(found.attributes["explore"]) == 0.3
    (history,) = found.histories
    noise = history.action - history.extras["mean_action"]
    strengths = [noise[start:stop].std() for start, stop in history.episodes()]
    # None, then ever more up to the largest, then from the beginning.
    expected = [0.0, *0.03 * 10 ** (np.arange(4) / 3), 0.0]
    np.testing.assert_allclose(strengths, expected, rtol=0.35)


@pytest.mark.parametrize(
    "words",
    [
        ["--explore", "2"],
        ["--seed", "x"],
        ["--port", "0"],
        ["--port", "x"],
        ["--stand", "-1"],
        ["--loud", "1"],
        ["--log"],
    ],
)
def test_words_that_it_does_not_know_are_refused(words, native):
    done = subprocess.run([native / "vintix_walk", "policy.bin", *words], capture_output=True, text=True)
    assert done.returncode == 1 and "[--port 9870]" in done.stderr


def test_what_cannot_be_opened_is_said(native, go2, tmp_path):
    done = subprocess.run([native / "vintix_walk", tmp_path / "no.bin"], capture_output=True, text=True)
    assert done.returncode == 1 and "no.bin: cannot be opened: No such file" in done.stderr
    model = tiny_model()
    policy = write(tmp_path / "policy.bin", model, contract_of(model, go2))
    log = ["--log", tmp_path / "nowhere/trajectories.h5", "--port", str(free_port())]
    done = subprocess.run([native / "vintix_walk", policy, *log], capture_output=True, text=True)
    assert done.returncode == 1 and "nowhere" in done.stderr
