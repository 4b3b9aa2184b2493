"""A walk in a window of its own, drawn by MuJoCo whichever simulator it walks in; keys steer and disturb it.

Everything happens in the caller's thread: `take` reads the keys, `show` draws.  The model that is drawn is no
simulation, so nothing done in the window but its keys reaches the walk.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
import textwrap
import time
from typing import Any

import mujoco
import numpy as np

from vintix_fast.play.knobs import COMMAND, Knobs, key_help, known, numbers
from vintix_fast.play.looks import Looks
from vintix_fast.play.walk import Walk
from vintix_fast.service.errors import VintixFastError

SIZE = (1000, 640)
DISTANCE_M, AZIMUTH, ELEVATION, LOOK_AT_HEIGHT_M = 1.8, 121.0, -16.0, 0.2
TURN_PER_PIXEL = 0.4
REMEDY = "--page shows it in the browser"
SUN_M = (0.5, -0.5, 3.0)
WORLD = """
<mujoco>
  <visual><headlight ambient=".35 .35 .35" diffuse=".3 .3 .3" specular="0 0 0"/><quality shadowsize="2048"/></visual>
  <statistic extent="2" center="0 0 0.2"/>
  <asset>
    <texture type="skybox" builtin="gradient" rgb1=".93 .95 .98" rgb2=".72 .78 .86" width="64" height="384"/>
    <texture name="cells" type="2d" builtin="checker" rgb1=".75 .78 .84" rgb2=".68 .72 .79" width="256" height="256"/>
    <material name="cells" texture="cells" texrepeat="1 1" texuniform="true"/>
  </asset>
  <worldbody>
    <light directional="true" dir="-.15 .15 -1" diffuse=".4 .4 .4" specular="0 0 0"/>
    <geom type="plane" size="0 0 .05" material="cells"/>
    <body name="robot"/>
  </worldbody>
</mujoco>
"""


def has_display() -> bool:
    """Whether somebody sits before this machine."""
    return sys.platform != "linux" or bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))


def why_no_window() -> str | None:
    """What keeps a window from opening here; None where one can."""
    if not has_display():
        return "there is no display"
    try:
        glfw = _glfw()
        if not glfw.init():
            return "GLFW finds no display"
        glfw.window_hint(glfw.VISIBLE, glfw.FALSE)
        opened = glfw.create_window(64, 64, "", None, None)
        glfw.default_window_hints()
        if opened is None:
            glfw.terminate()
            return "the display has no OpenGL"
        glfw.destroy_window(opened)
    except (ImportError, OSError) as error:
        return f"GLFW cannot be loaded ({error})"
    return None


def _glfw() -> Any:
    # Drivers of OpenGL bring an LLVM along; triton's own crashes the process where it comes later, as with Genesis.
    if importlib.util.find_spec("triton") is not None:
        importlib.import_module("triton")
    import glfw

    glfw.ERROR_REPORTING = "ignore"  # what fails is said by `why_no_window`
    return glfw


class Window:
    """One walk's window, on a display that has one.

    Args:
        walk: what is shown.
        looks: of its robot.

    Raises:
        VintixFastError: MuJoCo cannot draw this robot's meshes, or not with this OpenGL.
    """

    def __init__(self, walk: Walk, looks: Looks) -> None:
        self._walk, self._looks, self._knobs = walk, looks, Knobs(walk)
        self._model, self._said = _drawn(looks), known(walk.task.config)
        self._data = mujoco.MjData(self._model)
        self._pressed: list[str] = []
        self._help = key_help(walk)
        self._not_before = 0.0
        self._glfw = glfw = _glfw()
        glfw.init()
        glfw.window_hint(glfw.SAMPLES, 4)
        self._window = glfw.create_window(*SIZE, f"vintix-fast: {walk.robot.name}", None, None)
        glfw.make_context_current(self._window)
        glfw.swap_interval(0)  # the walk keeps the time
        self._scene = mujoco.MjvScene(self._model, len(looks.shapes) + 100)
        try:
            self._context = mujoco.MjrContext(self._model, mujoco.mjtFontScale.mjFONTSCALE_100)
        except mujoco.FatalError as error:  # of an OpenGL that is too old
            raise VintixFastError(f"MuJoCo cannot draw here ({error}); {REMEDY}") from error
        self._camera, self._options = mujoco.MjvCamera(), mujoco.MjvOption()
        self._camera.distance, self._camera.azimuth, self._camera.elevation = DISTANCE_M, AZIMUTH, ELEVATION
        self._listen()
        self.show(1.0)

    def _listen(self) -> None:
        glfw, camera = self._glfw, self._camera
        forward, _, turn = (keys for _, *keys in COMMAND)
        arrows = {glfw.KEY_UP: forward[0], glfw.KEY_DOWN: forward[1], glfw.KEY_LEFT: turn[0], glfw.KEY_RIGHT: turn[1]}
        last = [0.0, 0.0]

        def on_key(window: Any, key: int, scancode: int, action: int, mods: int) -> None:
            if action != glfw.RELEASE and key in arrows:
                self._pressed.append(arrows[key])

        def on_mouse(window: Any, x: float, y: float) -> None:
            if glfw.get_mouse_button(window, glfw.MOUSE_BUTTON_LEFT) == glfw.PRESS:
                camera.azimuth -= TURN_PER_PIXEL * (x - last[0])
                camera.elevation = np.clip(camera.elevation - TURN_PER_PIXEL * (y - last[1]), -89.0, 0.0)
            last[:] = x, y

        def on_wheel(window: Any, dx: float, dy: float) -> None:
            camera.distance = np.clip(camera.distance * 0.9**dy, 0.5, 20.0)

        glfw.set_key_callback(self._window, on_key)
        glfw.set_char_callback(self._window, lambda window, code: self._pressed.append(chr(code).upper()))
        glfw.set_cursor_pos_callback(self._window, on_mouse)
        glfw.set_scroll_callback(self._window, on_wheel)

    @property
    def closed(self) -> bool:
        """Whether somebody closed it."""
        return bool(self._glfw.window_should_close(self._window))

    def greet(self) -> str:
        """What is said once it is there."""
        return f"A window shows it; closing it ends it, Ctrl-C too; {REMEDY}"

    def take(self) -> None:
        """Do what keys asked for; what cannot be done, such as a model that cannot be read, is said in the window."""
        self._glfw.poll_events()
        pressed, self._pressed = self._pressed, []
        for key in pressed:
            self._said = known(self._walk.task.config)
            try:
                self._knobs.keys.get(key, lambda: None)()
            except VintixFastError as error:
                self._said = f"Not done: {error}"

    def show(self, pace: float) -> None:
        """Draw the walk as it stands.

        Args:
            pace: simulated seconds a second.
        """
        glfw, state, began = self._glfw, self._walk.state, time.perf_counter()
        if began < self._not_before:
            return
        glfw.make_context_current(self._window)
        area = mujoco.MjrRect(0, 0, *glfw.get_framebuffer_size(self._window))
        if not area.width or not area.height:  # minimised
            return
        self._pose(state.base_pos_m[0].numpy(), state.base_quat[0].numpy(), state.joint_pos_rad[0].numpy())
        mujoco.mjv_updateScene(
            self._model, self._data, self._options, None, self._camera, mujoco.mjtCatBit.mjCAT_ALL, self._scene
        )
        mujoco.mjr_render(area, self._scene, self._context)
        grid = mujoco.mjtGridPos
        for place, rows in (
            (grid.mjGRID_TOPLEFT, self._numbers(pace)),
            (grid.mjGRID_BOTTOMLEFT, self._help),
            (grid.mjGRID_BOTTOMRIGHT, {textwrap.fill(self._said, 40): ""}),
        ):
            columns = ("\n".join(column) for column in zip(*rows.items(), strict=True))
            mujoco.mjr_overlay(mujoco.mjtFont.mjFONT_NORMAL, place, area, *columns, self._context)
        glfw.swap_buffers(self._window)
        # Where OpenGL draws slowly, half of the time is the walk's.
        self._not_before = 2.0 * time.perf_counter() - began

    def _pose(self, place_m: np.ndarray, quat: np.ndarray, joint_pos_rad: np.ndarray) -> None:
        """Put the links where they are; camera and sun stay with the robot."""
        robot = self._model.body("robot")
        robot.pos[:], robot.quat[:] = place_m, quat
        for link, (where, turned) in self._looks.poses(joint_pos_rad).items():
            body = self._model.body(f"link {link}")
            body.pos[:], body.quat[:] = where, turned
        beside = np.array([*place_m[:2], 0.0])
        self._camera.lookat[:] = beside + (0.0, 0.0, LOOK_AT_HEIGHT_M)
        self._model.light_pos[0] = beside + SUN_M
        mujoco.mj_kinematics(self._model, self._data)
        mujoco.mj_camlight(self._model, self._data)

    def _numbers(self, pace: float) -> dict[str, str]:
        asked = ", ".join(f"{value:g}" for value in self._knobs.command)
        rows = numbers(self._walk, pace) | {"policy": self._walk.name, "forward, left, turn": asked}
        return rows | ({"payload": f"{self._knobs.payload_kg:g} kg"} if self._walk.can_be_loaded else {})

    def close(self) -> None:
        self._context.free()
        self._glfw.destroy_window(self._window)
        self._glfw.terminate()


def _drawn(looks: Looks) -> mujoco.MjModel:
    """A model that is only looked at: a body for each link, moved by hand."""
    spec = mujoco.MjSpec.from_string(WORLD)
    links = {link: spec.body("robot").add_body(name=f"link {link}") for link in looks.links}
    for i, shape in enumerate(looks.shapes):
        mesh = spec.add_mesh(
            name=str(i),
            uservert=shape.vertices_m.astype(np.float32).ravel(),
            userface=shape.faces.astype(np.int32).ravel(),
        )
        mesh.inertia = mujoco.mjtMeshInertia.mjMESH_INERTIA_SHELL  # of those with holes too
        links[shape.link].add_geom(
            type=mujoco.mjtGeom.mjGEOM_MESH, meshname=str(i), contype=0, conaffinity=0,
            rgba=[*(part / 255.0 for part in shape.colour), 1.0],
        )  # fmt: skip
    try:
        return spec.compile()
    except ValueError as error:
        raise VintixFastError(f"MuJoCo cannot draw this robot ({error}); {REMEDY}") from error
