"""Walks to be played, and a machine without a display."""

from vintix_fast.play.walk import Steady, Walk
from vintix_fast.world.mujoco_simulator import MujocoSimulator


def in_mujoco(robot, **how) -> Walk:
    return Walk(MujocoSimulator(robot, 1, say=lambda text: None), {"still": lambda: Steady(12, random=False)}, **how)


def without_display(monkeypatch):
    monkeypatch.setattr("sys.platform", "linux")
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
