"""What a Genesis scene loads of a robot, and how one is freed.  Imports nothing of Genesis: it is handed in."""

from __future__ import annotations

import contextlib
import importlib
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vintix_fast.world.kinematics import is_mjcf
from vintix_fast.world.mjcf import simulated_mjcf
from vintix_fast.world.robot import Robot
from vintix_fast.world.urdf_text import urdf_text


@contextlib.contextmanager
def robot_file(gs: Any, robot: Robot, drawn: bool = False) -> Iterator[Any]:
    """A robot as Genesis is to load it, while its file is needed.

    Args:
        gs: genesis.
        drawn: with what is only looked at.
    """
    path, at = robot.urdf_path, {"pos": (0.0, 0.0, robot.start_height_m), "quat": (1.0, 0.0, 0.0, 0.0)}
    mjcf = is_mjcf(path)
    text = simulated_mjcf(path, robot.joints) if mjcf else urdf_text(path, robot.base_link, robot.joints, drawn)
    with tempfile.TemporaryDirectory() as folder:
        if text is not None:
            path = Path(folder) / path.name
            path.write_text(text, encoding="utf-8")
        yield gs.morphs.MJCF(file=str(path)) if mjcf else gs.morphs.URDF(file=str(path), **({} if drawn else at))


def release(scene: Any) -> None:
    """Free a scene whose simulator is gone: 0.8 MB an environment of go2, which Genesis' own `destroy` leaves.

    Its choice among solvers remembers every scene by the arguments of its calls.  And an array that was once read as a
    torch tensor or NumPy's keeps that, which keeps the array, in a circle that no garbage collector sees; where it is
    missing it is made anew.  In another Genesis nothing may be found here, and memory stays.
    """
    with contextlib.suppress(AttributeError, ImportError):
        choice = importlib.import_module("genesis.engine.solvers.rigid.constraint.solver").func_solve_body
        state = scene.sim.rigid_solver.dyn_state
        for memory in vars(choice).values():
            if isinstance(memory, dict | set):
                for call in [c for c in memory if isinstance(c, tuple) and any(part is state for part in c)]:
                    memory.pop(call) if isinstance(memory, dict) else memory.remove(call)
        if any(part is state for part in choice._cached_args or ()):
            choice._cached_args = choice._cached_kwargs = choice._cached_impl = None
        for array in list(importlib.import_module("quadrants.lang.impl").get_runtime().ndarrays):
            for name in ("_tc", "_T_tc", "_np", "_T_np"):
                vars(array).pop(name, None)
    scene.destroy()
