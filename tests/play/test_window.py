"""`play`'s window: what keys do, what is drawn, and where it opens instead of the page."""

import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
from fakes import FakeSimulator, Listener
from walks import in_mujoco, without_display

from vintix_fast.play.config import PlayConfig
from vintix_fast.play.knobs import Knobs, key_help
from vintix_fast.play.looks import Looks
from vintix_fast.play.page import Page
from vintix_fast.play.play import choose_view, play
from vintix_fast.play.walk import Steady, Walk
from vintix_fast.play.window import Window, _drawn, why_no_window
from vintix_fast.service.errors import InputFileError
from vintix_fast.world.robot import load_robot


def press(knobs, keys):
    for key in keys:
        knobs.keys[key]()


def test_keys_steer_push_and_load(minicheetah):
    walk = in_mujoco(minicheetah)
    knobs = Knobs(walk)
    press(knobs, "IONNMPPR")
    assert walk.task.command[0].tolist() == pytest.approx(knobs.command) and knobs.command == [0.6, -0.1, 0.1]
    heavier = walk.simulator.model.body_mass.max() - walk.simulator._own_mass_kg
    assert heavier == pytest.approx(knobs.payload_kg, abs=0.01) and knobs.payload_kg > 0.5
    press(knobs, 20 * "I" + 20 * "R")
    assert knobs.command[0] == 1.0 and knobs.payload_kg == 0.0
    before = walk.simulator.state().base_lin_vel_m_s[0]
    press(knobs, "JJL")
    pushed = walk.simulator.state().base_lin_vel_m_s[0] - before
    assert float(pushed.norm()) == pytest.approx(0.6, abs=1e-3)
    assert set("".join(key_help(walk)).replace("arrows", "").replace("mouse", "").replace(" ", "")) == set(knobs.keys)


def test_without_payloads_there_are_no_keys_for_them(go2):
    walk = Walk(FakeSimulator(go2, 1), {}, first="zero")
    assert not {"P", "R"} & set(Knobs(walk).keys) and "payload" not in key_help(walk).values()


def test_a_key_goes_on_to_the_next_policy_past_one_that_is_broken(go2):
    def broken():
        raise InputFileError("no model.pth there")

    walk = Walk(FakeSimulator(go2, 1), {"a": lambda: Steady(12, False), "b": broken})
    knobs, seen = Knobs(walk), []
    for _ in range(5):
        try:
            press(knobs, "C")
        except InputFileError:
            seen.append("refused")
        seen.append(walk.name)
    assert seen == ["refused", "a", "zero", "random", "a", "refused", "a"]


def test_a_key_begins_another_episode_from_another_start(go2):
    walk = Walk(FakeSimulator(go2, 1, frozen=True), {}, first="zero")
    first = walk.state.joint_pos_rad.clone()
    walk.step()
    press(Knobs(walk), "IB")
    assert walk.episode_steps == 0 and walk.return_ == 0.0 and walk.last_return is None and walk.falls == 0
    assert not np.allclose(first, walk.state.joint_pos_rad)
    assert walk.task.command[0, 0] == pytest.approx(0.6), "what was asked for stays"


def test_every_bundled_robot_can_be_drawn(minicheetah):
    for robot in (minicheetah, load_robot("go2")):
        looks = Looks(robot)
        model = _drawn(looks)
        assert model.ngeom == len(looks.shapes) + 1 and model.nv == 0


# -- where it opens ----------------------------------------------------------------------------------------------------


def viewed(monkeypatch, reason, **options):
    """What is chosen, what was said, and whether viser was needed."""
    said, needed = Listener(), []
    monkeypatch.setattr("vintix_fast.play.play.import_viser", lambda: needed.append(True))
    monkeypatch.setattr("vintix_fast.play.play.why_no_window", lambda: reason)
    config = PlayConfig.from_options(policy="zero", robot_type="go2", **options)
    return choose_view(config, said.say), said.said, bool(needed)


def test_a_window_opens_where_one_can_and_needs_no_viser(monkeypatch):
    assert viewed(monkeypatch, None) == (Window, [], False)


@pytest.mark.parametrize(
    ("options", "place"),
    [
        ({"page": True}, ("127.0.0.1", 8080)),
        ({"port": 9000}, ("127.0.0.1", 9000)),
        ({"host": "0.0.0.0"}, ("0.0.0.0", 8080)),
    ],
    ids=str,
)
def test_a_page_is_shown_where_it_is_asked_for(monkeypatch, options, place):
    view, said, needed = viewed(monkeypatch, None, **options)
    assert view.func is Page and (view.keywords["host"], view.keywords["port"]) == place
    assert needed and said == []


def test_a_page_is_shown_where_no_window_can_be(monkeypatch):
    without_display(monkeypatch)
    assert why_no_window() == "there is no display"
    view, said, needed = viewed(monkeypatch, why_no_window())
    assert view.func is Page and needed and said == []
    monkeypatch.setenv("DISPLAY", ":4711")
    view, said, _ = viewed(monkeypatch, why_no_window())
    assert view.func is Page and said == ["No window, since GLFW finds no display"]


def test_a_window_that_is_closed_ends_the_walk(go2):
    class Closed:
        closed = True

        def __init__(self, walk, looks):
            pass

        def greet(self):
            return ""

        def close(self):
            pass

    config = PlayConfig.from_options(policy="zero", robot_type="minicheetah")
    assert play(config, make_view=Closed).steps == 0


@pytest.mark.skipif(shutil.which("Xvfb") is None, reason="Xvfb is not installed")
def test_a_window_opens_on_a_display(tmp_path):
    read, write = os.pipe()
    display = subprocess.Popen(
        ["Xvfb", "-displayfd", str(write), "-screen", "0", "1100x700x24"], pass_fds=[write], stderr=subprocess.DEVNULL
    )
    try:
        os.close(write)
        environment = os.environ | {"DISPLAY": ":" + os.read(read, 10).decode().strip()}
        words = ["play", "--policy", "zero", "-r", "minicheetah", "--seconds", "0.2"]
        program = [sys.executable, "-c", "from vintix_fast.cli import main; main()", *words]
        done = subprocess.run(program, env=environment, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0 and "A window shows it" in done.stdout + done.stderr, done.stderr
    finally:
        os.close(read)
        display.terminate()
        display.wait()
