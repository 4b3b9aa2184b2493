"""`play`: what a walk counts, what a page shows and asks for, and which models there are to choose from."""

import json
import sys
import threading
import time
import urllib.request

import numpy as np
import pytest
import torch
from fakes import FakeSimulator, Listener, save_tiny
from stick_robot import stick_mjcf
from typer.testing import CliRunner
from walks import in_mujoco, without_display

from vintix_fast.cli import app
from vintix_fast.play.config import PlayConfig
from vintix_fast.play.knobs import known
from vintix_fast.play.looks import Looks
from vintix_fast.play.page import Page
from vintix_fast.play.play import play
from vintix_fast.play.walk import Steady, Walk
from vintix_fast.service.errors import InputFileError, UsageError
from vintix_fast.world.robot import load_robot
from vintix_fast.world.task_config import DEFAULT_TASK, FurtherWeights, TaskConfig
from vintix_fast.world.variation import Variation


class KeyedPage(Page):
    """Lets a test press keys."""

    def _key(self, key, what, do, **how):
        vars(self).setdefault("keys", {})[key] = do
        super()._key(key, what, do, **how)


class NoPage:
    """Counts its pictures, and asks for something in its first step."""

    def __init__(self, walk, looks, ask=lambda walk: None):
        self.walk, self.shown, self.closed, self._ask, self.opened = walk, 0, False, ask, False

    def greet(self):
        self.opened = True
        return "here"

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
    walk.push(1.0)
    assert simulator.pushed[-1].abs().sum() == 1.0 and not walk.can_be_loaded


def test_a_command_is_told_to_the_policy_and_paid_for(go2):
    ranges = TaskConfig(command=(0.5, 0.0, 0.0), command_spread=(0.5, 0.0, 0.5), resample_s=0.02)
    for task in (DEFAULT_TASK, ranges):  # drawn commands are the person's here
        walk = Walk(FakeSimulator(go2, 1, frozen=True), {}, task, first="zero")
        seen = walk.task.layout.command
        assert walk._observation[0, seen].tolist() == [1.0, 0.0, 0.0]
        walk.step()
        earned = walk.return_
        walk.steer(-0.4, 0.2, 1.0)
        walk.step()
        assert walk._observation[0, seen].tolist() == pytest.approx([-0.8, 0.4, 0.25])
        walk.step()
        assert walk.return_ - earned < 1.9 * earned  # it stands still; that was nearer to what was asked before
        assert walk.task.command.tolist() == [pytest.approx([-0.4, 0.2, 1.0])]


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

    def make_view(*args):
        pages.append(NoPage(*args, ask=lambda walk: walk.choose("initial")))
        return pages[-1]

    config = PlayConfig.from_options(model=run, seconds=0.2)
    walk = play(config, progress=Listener(), make_view=make_view)
    assert walk.names == ["best", "initial", "loop_01", "zero", "random"] and walk.name == "initial"
    assert walk.steps == 10 and pages[0].shown == 5 and pages[0].closed and walk.robot.name == "go2"
    assert pages[0].opened


def test_what_walks_first_is_asked_for_by_name_or_path(tmp_path, tiny_checkpoint):
    run = tmp_path / "run"
    for name in ("initial", "best"):
        save_tiny(run / "models" / name)
    (run / "config.json").write_text(json.dumps({"command": "adapt", "options": {"robot_type": "go2"}}))

    def first(**options):
        walk = play(PlayConfig.from_options(seconds=0.02, **options), make_view=NoPage)
        return walk.name, walk.names

    assert first(model=run, policy="initial") == ("initial", ["best", "initial", "zero", "random"])
    assert first(model=run, policy="random")[0] == "random"
    other = str(tiny_checkpoint)
    assert first(model=run, policy=other) == (other, ["best", "initial", other, "zero", "random"])
    assert first(policy="zero", robot_type="go2") == ("zero", ["zero", "random"])  # a robot without a model
    with pytest.raises(UsageError, match="--policy is loop_07, .* none of best, initial, zero, random"):
        first(model=run, policy="loop_07")
    with pytest.raises(UsageError, match="nothing to watch"):
        first(robot_type="go2")


def test_of_a_varied_run_the_nominal_robot_is_shown_and_said_so(tmp_path):
    run = tmp_path / "run"
    save_tiny(run / "models" / "initial")
    options = {"robot_type": "go2", "task": TaskConfig(vary=Variation.parse("motor.FR=0.5")).to_json()}
    (run / "config.json").write_text(json.dumps({"command": "adapt", "options": options}))
    said = Listener()
    assert play(PlayConfig.from_options(model=run, seconds=0.02), progress=said, make_view=NoPage).steps == 1
    assert "Shown without motor.FR=0.5; --simulator genesis has it" in said.said
    options["task"] = TaskConfig(further=FurtherWeights(torque=-1e-5)).to_json()
    (run / "config.json").write_text(json.dumps({"command": "adapt", "options": options}))
    with pytest.raises(UsageError, match="asks for forces, .*--simulator genesis does"):
        play(PlayConfig.from_options(model=run), make_view=NoPage)


def test_the_task_of_a_models_card_is_shown(tmp_path):
    model = save_tiny(tmp_path / "commands")
    task = TaskConfig(command=(0.25, 0.0, 0.0), command_spread=(0.25, 0.0, 0.5), resample_s=0.02)
    (model / "card.json").write_text(json.dumps({"task": task.to_json()}))
    walk = play(PlayConfig.from_options(model=model, robot_type="go2", seconds=0.2), make_view=NoPage)
    assert known(walk.task.config).startswith("Trained for forward 0 to 0.5 m/s")
    asked = walk._observation
    assert asked[0, walk.task.layout.command].tolist() == pytest.approx([0.25 * 2.0, 0.0, 0.0])


def test_play_refuses_before_it_builds(tmp_path, tiny_checkpoint, monkeypatch):
    monkeypatch.setattr("vintix_fast.play.play.make_simulator", lambda *args: pytest.fail("built a simulator first"))
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
            play(PlayConfig.from_options(**options), make_view=NoPage)
    with pytest.raises(UsageError, match="must be an .mp4 file"):
        PlayConfig.from_options(model=tiny_checkpoint, record="a.gif")


def test_without_viser_play_says_what_to_install(tiny_checkpoint, monkeypatch):
    monkeypatch.setitem(sys.modules, "viser", None)
    without_display(monkeypatch)
    monkeypatch.setattr("vintix_fast.play.play.make_simulator", lambda *args: pytest.fail("built a simulator first"))
    result = CliRunner().invoke(app, ["play", str(tiny_checkpoint), "-r", "go2", "--seconds", "1"])
    assert result.exit_code == 2 and "pip install 'vintix-fast[play]'" in " ".join(result.stderr.split())


@pytest.mark.filterwarnings("default")  # viser's own
def test_a_page_opens_moves_and_takes_what_is_asked_for(minicheetah, monkeypatch):
    viser = pytest.importorskip("viser", reason="pip install 'vintix-fast[play]'")
    from websockets.sync.client import connect

    def broken():
        raise InputFileError("no model.pth there")

    walk = in_mujoco(minicheetah)
    walk._makers["broken"] = broken
    page = KeyedPage(walk, Looks(minicheetah), port=8137)
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
            page._command[0].value = -0.3  # as a slider does
            for key in "IONNMPPR":
                page.keys[key]()
            page.take()
            assert walk.task.command[0].tolist() == pytest.approx([-0.2, -0.1, 0.1])
            model, base = walk.simulator.model, walk.simulator._own_mass_kg
            assert model.body_mass.max() - base == pytest.approx(0.1 * minicheetah.mass_kg, abs=0.1)  # half / 5
            for key in 20 * "I":
                page.keys[key]()
            assert page._command[0].value == 1.0
            page._ask(walk.choose, "broken")
            page.take()  # said in the page
            assert walk.name == page._policy.value == "zero"
            before = page._base.position[2]
            for _ in range(10):
                walk.step()
            page.show(1.0)
            assert page._base.position[2] < before - 0.05  # it fell from its start
            assert "| falls | 0 |" in page._numbers.content
            assert "Trained for forward 0.5 m/s, left 0 m/s, turn 0 rad/s" in known(DEFAULT_TASK)
            page.keys["C"]()  # the dropdown says what the key did
            page.take()
            assert walk.name == page._policy.value == "random"
            walk.step()
            page.keys["B"]()
            page.take()
            assert walk.episode_steps == 0 and walk.return_ == 0.0
    finally:
        page.close()
    with pytest.raises(OSError):
        urllib.request.urlopen(page.url, timeout=2)
    opened = threading.Event()
    monkeypatch.setattr("webbrowser.open", lambda url: opened.set() if url == page.url else None)
    without_display(monkeypatch)
    assert page.greet().startswith(f"Open {page.url}") and not opened.is_set()
    monkeypatch.setenv("DISPLAY", ":0")
    assert page.greet().startswith(f"Opening {page.url}") and opened.wait(5.0)
