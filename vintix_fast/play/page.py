"""A walk in a page of the browser, drawn by viser: the robot, what it earns, and knobs to steer and disturb it.

The page's own thread takes what a person asks for; `Page.take` does it between two steps.  Knows nothing about models
or simulators: everything that it shows and does is `Walk`'s.
"""

from __future__ import annotations

import contextlib
import functools
import io
import os
import queue
import sys
import threading
import webbrowser
from collections.abc import Callable
from typing import Any

import numpy as np

from vintix_fast.play.looks import Looks
from vintix_fast.play.walk import Walk
from vintix_fast.service.errors import UsageError, VintixFastError
from vintix_fast.world.task_config import TaskConfig

CAMERA_M, LOOK_AT_M = (0.9, -1.5, 0.7), (0.0, 0.0, 0.2)
CELL_M = 0.5
PUSH_M_S = 0.6
MOST_PAYLOAD = 0.5
"""Of the robot's mass."""
PAYLOAD_KEYS = 5
"""So often is the key pressed from nothing to the heaviest."""
COMMAND = (("forward, m/s", "I", "K"), ("left, m/s", "U", "O"), ("turn, rad/s", "N", "M"))
"""What a robot is asked for, left being more, with keys for more and less; viser's camera has WASD, Q, E and arrows."""
MOST_COMMAND, COMMAND_STEP = 1.0, 0.1


def import_viser() -> Any:
    """The library; UsageError where it is not installed."""
    try:
        import viser
    except ImportError as error:
        raise UsageError(f"`play` needs viser ({error}): pip install 'vintix-fast[play]'") from error
    return viser


class Page:
    """A server for one walk.

    Args:
        walk: what is shown.
        looks: of its robot.
        host, port: where to listen; the next free port is taken.

    Raises:
        UsageError: viser is not installed.
    """

    def __init__(self, walk: Walk, looks: Looks, host: str = "127.0.0.1", port: int = 8080) -> None:
        self._walk, self._looks = walk, looks
        self._asked: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        with contextlib.redirect_stdout(io.StringIO()):  # viser's banner
            self._server = import_viser().ViserServer(host=host, port=port, label=f"vintix-fast: {walk.robot.name}")
        self.url = f"http://{host}:{self._server.get_port()}"
        self._draw()
        self._add_knobs()
        self.show(1.0)

    def _draw(self) -> None:
        scene = self._server.scene
        scene.set_up_direction("+z")
        self._server.initial_camera.position, self._server.initial_camera.look_at = CAMERA_M, LOOK_AT_M
        self._ground = scene.add_grid(
            "/ground", infinite_grid=True, cell_size=CELL_M, section_size=CELL_M, fade_distance=12.0,
            plane_color=(190, 200, 214), plane_opacity=1.0, section_color=(150, 160, 175),
        )  # fmt: skip
        self._base = scene.add_frame("/robot", show_axes=False)
        self._links = {
            link: scene.add_frame(f"/robot/{i}", show_axes=False)
            for i, link in enumerate(dict.fromkeys(shape.link for shape in self._looks.shapes))
        }
        for i, shape in enumerate(self._looks.shapes):
            frame = self._links[shape.link].name
            scene.add_mesh_simple(
                f"{frame}/{i}", shape.vertices_m.astype(np.float32), shape.faces.astype(np.uint32),
                color=shape.colour, flat_shading=True, side="double",
            )  # fmt: skip

    def _add_knobs(self) -> None:
        gui, walk = self._server.gui, self._walk
        self._numbers = gui.add_markdown("")
        self._policy = gui.add_dropdown("policy", walk.names, initial_value=walk.name)
        self._policy.on_update(lambda _: self._ask(walk.choose, self._policy.value))
        with gui.add_folder("command"):
            self._command = [
                self._slider(
                    f"{name} ({more}, {less})", (-MOST_COMMAND, MOST_COMMAND), value, (more, less), COMMAND_STEP
                )
                for (name, more, less), value in zip(COMMAND, walk.task.config.command, strict=True)
            ]
            for slider in self._command:
                slider.on_update(lambda _: self._ask(walk.steer, *(knob.value for knob in self._command)))
            gui.add_markdown(_known(walk.task.config))
        with gui.add_folder("disturb"):
            push = gui.add_slider("push, m/s", 0.0, 2.0, 0.1, PUSH_M_S)

            def shove(sign: float) -> None:
                self._ask(walk.push, sign * push.value)

            for side, key, sign in (("left", "J", 1.0), ("right", "L", -1.0)):
                button = gui.add_button(f"push {side} ({key})")
                button.on_click(lambda _, sign=sign: shove(sign))
                self._key(key, f"push {side}", functools.partial(shove, sign))
            heaviest = round(MOST_PAYLOAD * (walk.robot.mass_kg or 10.0), 1)
            payload = self._slider(
                "payload, kg (P, R)", (0.0, heaviest), 0.0, ("P", "R"), heaviest / PAYLOAD_KEYS,
                disabled=not walk.can_be_loaded,
            )  # fmt: skip
            payload.on_update(lambda _: self._ask(walk.load, payload.value))

    def _slider(
        self, label: str, ends: tuple[float, float], value: float, keys: tuple[str, str], step: float, **how: Any
    ) -> Any:
        """A slider that two keys move by a step, up and down."""
        low, high = min(ends[0], value), max(ends[1], value)
        slider = self._server.gui.add_slider(label, low, high, 0.01, value, **how)

        def move(by: float) -> None:
            slider.value = round(min(max(slider.value + by, low), high), 2)

        for key, by in zip(keys, (step, -step), strict=True):
            self._key(key, f"{label} {by:+.2g}", functools.partial(move, by), **how)
        return slider

    def _key(self, key: str, what: str, do: Callable[[], None], **how: Any) -> None:
        self._server.gui.add_command(what, hotkey=key, **how).on_trigger(lambda _: do())

    def _ask(self, what: Callable[..., None], *values: Any) -> None:
        self._asked.put(lambda: what(*values))

    def take(self) -> None:
        """Do what was asked for; what cannot be done, such as a model that cannot be read, is said in the page."""
        while not self._asked.empty():
            try:
                self._asked.get()()
            except VintixFastError as error:
                for client in self._server.get_clients().values():
                    client.add_notification("not done", str(error))
                self._policy.value = self._walk.name

    def show(self, pace: float) -> None:
        """Draw the walk as it stands.

        Args:
            pace: simulated seconds a second.
        """
        state, walk = self._walk.state, self._walk
        x, y, z = state.base_pos_m[0].tolist()
        with self._server.atomic():
            # The camera stays with the robot: the ground moves.
            self._ground.position = (-(x % CELL_M), -(y % CELL_M), 0.0)
            self._base.position, self._base.wxyz = (0.0, 0.0, z), state.base_quat[0].numpy()
            for link, (place, quat) in self._looks.poses(state.joint_pos_rad[0].numpy()).items():
                self._links[link].position, self._links[link].wxyz = place, quat
        rows = {
            "speed": f"**{walk.speed_m_s:.2f} m/s**",
            "return, this episode": f"**{walk.return_:.2f}**",
            "step": f"{walk.episode_steps} of {walk.task.max_steps}",
            "return, last episode": "" if walk.last_return is None else f"{walk.last_return:.2f}",
            "falls": str(walk.falls),
            "pace": f"{pace:.1f} x real time",
        }
        self._numbers.content = "| | |\n|---|---|\n" + "".join(
            f"| {name} | {value} |\n" for name, value in rows.items()
        )

    def open_browser(self) -> bool:
        """Show the page where there is a display; whether there is one."""
        if sys.platform == "linux" and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
            return False
        # Some browsers are waited for.
        threading.Thread(target=webbrowser.open, args=(self.url,), daemon=True).start()
        return True

    def close(self) -> None:
        with contextlib.redirect_stdout(io.StringIO()):
            self._server.stop()


def _known(task: TaskConfig) -> str:
    """What the models know of commands, for a person."""
    parts = []
    for (name, _, _), middle, spread in zip(COMMAND, task.command, task.command_spread, strict=True):
        quantity, unit = name.split(", ")
        span = f"{middle - spread:g} to {middle + spread:g}" if spread else f"{middle:g}"
        parts.append(f"{quantity} {span} {unit}")
    return f"Trained for {', '.join(parts)}. What else is asked for, the models have never seen."
