"""A walk in a page of the browser, drawn by viser: the robot, what it earns, and knobs to steer and disturb it.

The page's own thread takes what a person asks for; `Page.take` does it between two steps.  Knows nothing about models
or simulators: everything that it shows and does is `Walk`'s.
"""

from __future__ import annotations

import contextlib
import functools
import io
import queue
import threading
import webbrowser
from collections.abc import Callable
from typing import Any

import numpy as np

from vintix_fast.play.knobs import (
    ANEW,
    COMMAND,
    COMMAND_STEP,
    HEAVIER,
    LIGHTER,
    NEXT_POLICY,
    PAYLOAD_KEYS,
    PUSH_M_S,
    PUSHES,
    command_ends,
    heaviest_kg,
    known,
    moved,
    numbers,
)  # fmt: skip
from vintix_fast.play.looks import Looks
from vintix_fast.play.walk import Walk
from vintix_fast.play.window import has_display
from vintix_fast.service.errors import UsageError, VintixFastError

CAMERA_M, LOOK_AT_M = (0.9, -1.5, 0.7), (0.0, 0.0, 0.2)
CELL_M = 0.5


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
        self._walk, self._looks, self.closed = walk, looks, False
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
            link: scene.add_frame(f"/robot/{i}", show_axes=False) for i, link in enumerate(self._looks.links)
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
        self._key(NEXT_POLICY, "next policy", self._choose_next)
        gui.add_button(f"start anew ({ANEW})").on_click(lambda _: self._ask(walk.restart))
        self._key(ANEW, "start anew", lambda: self._ask(walk.restart))
        with gui.add_folder("command"):
            self._command = [
                self._slider(f"{name} ({more}, {less})", command_ends(walk, i), value, (more, less), COMMAND_STEP)
                for i, ((name, more, less), value) in enumerate(zip(COMMAND, walk.task.config.command, strict=True))
            ]
            for slider in self._command:
                slider.on_update(lambda _: self._ask(walk.steer, *(knob.value for knob in self._command)))
            gui.add_markdown(known(walk.task.config))
        with gui.add_folder("disturb"):
            push = gui.add_slider("push, m/s", 0.0, 2.0, 0.1, PUSH_M_S)

            def shove(sign: float) -> None:
                self._ask(walk.push, sign * push.value)

            for side, key, sign in PUSHES:
                button = gui.add_button(f"push {side} ({key})")
                button.on_click(lambda _, sign=sign: shove(sign))
                self._key(key, f"push {side}", functools.partial(shove, sign))
            heaviest = heaviest_kg(walk)
            payload = self._slider(
                f"payload, kg ({HEAVIER}, {LIGHTER})", (0.0, heaviest), 0.0, (HEAVIER, LIGHTER),
                heaviest / PAYLOAD_KEYS, disabled=not walk.can_be_loaded,
            )  # fmt: skip
            payload.on_update(lambda _: self._ask(walk.load, payload.value))

    def _slider(
        self, label: str, ends: tuple[float, float], value: float, keys: tuple[str, str], step: float, **how: Any
    ) -> Any:
        """A slider that two keys move by a step, up and down."""
        slider = self._server.gui.add_slider(label, *ends, 0.01, value, **how)

        def move(by: float) -> None:
            slider.value = moved(slider.value, by, *ends)

        for key, by in zip(keys, (step, -step), strict=True):
            self._key(key, f"{label} {by:+.2g}", functools.partial(move, by), **how)
        return slider

    def _choose_next(self) -> None:
        names = self._walk.names
        self._policy.value = names[(names.index(self._policy.value) + 1) % len(names)]

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
        shown = numbers(walk, pace)
        shown |= {name: f"**{shown[name]}**" for name in list(shown)[:2]}
        self._numbers.content = "| | |\n|---|---|\n" + "".join(
            f"| {name} | {value} |\n" for name, value in shown.items()
        )

    def greet(self) -> str:
        """Open the browser where there is a display; what is said of it."""
        if has_display():  # some browsers are waited for
            threading.Thread(target=webbrowser.open, args=(self.url,), daemon=True).start()
        return f"{'Opening' if has_display() else 'Open'} {self.url} in a browser; Ctrl-C ends it"

    def close(self) -> None:
        self.closed = True
        with contextlib.redirect_stdout(io.StringIO()):
            self._server.stop()
