"""`play`: what a walk counts, what a page shows and asks for, and which models there are to choose from."""

import json
import sys
import time
import urllib.request

import numpy as np
import pytest
import torch
from fakes import FakeSimulator, Listener, save_tiny
from stick_robot import stick_mjcf
from typer.testing import CliRunner

from vintix_fast.cli import app
from vintix_fast.config import PlayConfig
from vintix_fast.play.looks import Looks
from vintix_fast.play.page import Page
from vintix_fast.play.play import play
from vintix_fast.play.walk import Steady, Walk
from vintix_fast.service.errors import InputFileError, UsageError
from vintix_fast.world.mujoco_simulator import MujocoSimulator
from vintix_fast.world.robot import load_robot


@pytest.fixture(scope="module")
def minicheetah():
    return load_robot("minicheetah")


def in_mujoco(robot, **how) -> Walk:
    return Walk(MujocoSimulator(robot, 1, say=lambda text: None), {"still": lambda: Steady(12, random=False)}, **how)


class NoPage:
    """Counts its pictures, and asks for something in its first step."""

    url = "nowhere"

    def __init__(self, walk, looks, host, port, ask=lambda walk: None):
        self.walk, self.shown, self.closed, self._ask = walk, 0, False, ask

    def take(self):
        if self.walk.steps == 0:
            self._ask(self.walk)

    def show(self, pace):
        self.shown += 1

    def close(self):
        self.closed = True


def test_a_walk_counts_returns_falls_and_steps(go2):
    made = []
    simulator = FakeSimulator(go2, 1, fall_after=(4,))
    walk = Walk(simulator, {"a": lambda: made.append("a") or Steady(12, False)}, max_steps=10, keep=True)
    rewards = []
    for _ in range(9):
        before = walk.return_
        walk.step()
        rewards.append((walk.return_ if walk.episode_steps else walk.last_return) - before)
    assert (walk.falls, walk.steps, walk.episode_steps) == (2, 9, 1)
    assert walk.last_return == pytest.approx(sum(rewards[4:8])) and walk.return_ == pytest.approx(rewards[8])
    assert walk.names == ["a", "zero", "random"] and made == ["a"]
    walk.choose("random")
    walk.choose("a")  # made once
    assert made == ["a"] and walk.name == "a"
    recording = walk.recording()
    assert recording.base_pos_m.shape == (9, 1, 3) and recording.joint_pos_rad.shape == (9, 1, 12)
    assert recording.reward[:, 0].tolist() == pytest.approx(rewards, abs=1e-6)
    walk.push(1.0)  # this simulator cannot be disturbed
    assert not walk.can_be_disturbed


def test_pushes_go_to_the_robots_own_left(minicheetah):
    walk = in_mujoco(minicheetah)
    half = np.pi / 4  # turned left by a right angle, its left is the world's -x
    quat = torch.tensor([[np.cos(half), 0.0, 0.0, np.sin(half)]], dtype=torch.float32)
    walk.simulator.place(torch.tensor([True]), quat, torch.tensor(minicheetah.default_pose_rad)[None])
    walk.state = walk.simulator.state()
    walk.push(0.7)
    assert walk.simulator.state().base_lin_vel_m_s[0].tolist() == pytest.approx([-0.7, 0.0, 0.0], abs=1e-6)


def test_looks_are_where_the_links_are(minicheetah, tmp_path):
    for robot, mass in ((minicheetah, 13), (load_robot(stick_mjcf(tmp_path)), 5)):
        looks = Looks(robot)
        assert len({shape.link for shape in looks.shapes}) >= mass - 1
        pose = np.array(robot.default_pose_rad)
        stance = looks.poses(pose)
        assert all(np.linalg.norm(quat) == pytest.approx(1.0) for _, quat in stance.values())
        bent = pose.copy()
        bent[2] += 0.5  # the first leg's knee
        turned = [link for link, (_, quat) in looks.poses(bent).items() if not np.allclose(quat, stance[link][1])]
        assert len(turned) == 1 and min(place[2] for place, _ in stance.values()) < -0.1


def test_play_walks_for_as_long_as_it_is_told_and_changes_models_meanwhile(tmp_path):
    run, pages = tmp_path / "run", []
    for name in ("initial", "loop_01", "best", ".best.new-12345678"):
        save_tiny(run / "models" / name) if not name.startswith(".") else (run / "models" / name).mkdir()
    (run / "config.json").write_text(json.dumps({"command": "adapt", "options": {"robot_type": "go2"}}))

    def make_page(*args):
        pages.append(NoPage(*args, ask=lambda walk: walk.choose("initial")))
        return pages[-1]

    config = PlayConfig.from_options(model=run, seconds=0.2)
    walk = play(config, progress=Listener(), make_page=make_page)
    assert walk.names == ["best", "initial", "loop_01", "zero", "random"] and walk.name == "initial"
    assert walk.steps == 10 and pages[0].shown == 5 and pages[0].closed and walk.robot.name == "go2"


def test_play_refuses_before_it_builds(tmp_path, tiny_checkpoint, monkeypatch):
    monkeypatch.setattr("vintix_fast.play.play.MujocoSimulator", lambda *args: pytest.fail("built a simulator first"))
    for options, error, text in (
        ({"model": tiny_checkpoint}, UsageError, "--robot-type is missing"),
        ({"model": tiny_checkpoint, "robot_type": "a1"}, InputFileError, "no group for a1"),
        ({"model": tmp_path / "absent", "robot_type": "go2"}, InputFileError, "absent"),
        (
            {"model": tiny_checkpoint, "robot_type": "go2", "record": tmp_path / "x" / "a.mp4"},
            UsageError,
            "x is no dir",
        ),
    ):
        with pytest.raises(error, match=text):
            play(PlayConfig.from_options(**options), make_page=NoPage)
    with pytest.raises(UsageError, match="must be an .mp4 file"):
        PlayConfig.from_options(model=tiny_checkpoint, record="a.gif")


def test_without_viser_play_says_what_to_install(tiny_checkpoint, monkeypatch):
    monkeypatch.setitem(sys.modules, "viser", None)
    monkeypatch.setattr("vintix_fast.play.play.MujocoSimulator", lambda *args: pytest.fail("built a simulator first"))
    result = CliRunner().invoke(app, ["play", str(tiny_checkpoint), "-r", "go2", "--seconds", "1"])
    assert result.exit_code == 2 and "pip install 'vintix-fast[play]'" in " ".join(result.stderr.split())


@pytest.mark.filterwarnings("default")  # viser's own
def test_a_page_opens_moves_and_takes_what_is_asked_for(minicheetah):
    viser = pytest.importorskip("viser", reason="pip install 'vintix-fast[play]'")
    from websockets.sync.client import connect

    def broken():
        raise InputFileError("no model.pth there")

    walk = in_mujoco(minicheetah)
    walk._makers["broken"] = broken
    page = Page(walk, Looks(minicheetah), port=8137)
    try:
        with urllib.request.urlopen(page.url, timeout=10) as answer:
            assert answer.status == 200 and b"<html" in answer.read().lower()
        with connect(
            page.url.replace("http", "ws"), subprotocols=[f"viser-v{viser.__version__}"], max_size=None
        ) as seen:
            assert len(seen.recv(timeout=10)) > 0
            page._policy.value = "zero"  # as a click does
            deadline = time.monotonic() + 5.0
            while walk.name != "zero" and time.monotonic() < deadline:
                page.take()
                time.sleep(0.01)
            assert walk.name == "zero"
            page._ask(walk.choose, "broken")
            page.take()  # said in the page
            assert walk.name == page._policy.value == "zero"
            before = page._base.position[2]
            for _ in range(10):
                walk.step()
            page.show(1.0)
            assert page._base.position[2] < before - 0.05  # it fell from its start
            assert "| falls | 0 |" in page._numbers.content
    finally:
        page.close()
    with pytest.raises(OSError):
        urllib.request.urlopen(page.url, timeout=2)
