"""`vintix-fast play`: find the models, build the robot, and let it walk in real time until it is stopped.

What walks is `walk.py`'s, what is seen `window.py`'s or `page.py`'s.
"""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Callable
from pathlib import Path

from vintix_fast.evaluation import check_context_len, task_for
from vintix_fast.model import load_checkpoint
from vintix_fast.outdir import OPTIONS_FILE
from vintix_fast.play.config import PlayConfig
from vintix_fast.play.looks import Looks
from vintix_fast.play.page import Page, import_viser
from vintix_fast.play.walk import STEADY, Walk
from vintix_fast.play.window import Window, has_display, why_no_window
from vintix_fast.policy import Actor, make_policy
from vintix_fast.report.record import read_run
from vintix_fast.rundir import is_checkpoint
from vintix_fast.service.bundled import CARD_FILE, checkpoint_path
from vintix_fast.service.errors import InputFileError, UsageError
from vintix_fast.service.files import read_json
from vintix_fast.service.progress import Progress
from vintix_fast.world.robot import Robot, load_robot
from vintix_fast.world.simulator import DT_S
from vintix_fast.world.simulators import make_simulator
from vintix_fast.world.task_config import DEFAULT_TASK, TaskConfig
from vintix_fast.world.variation import NO_VARIATION

View = Window | Page
Policies = dict[str, Callable[[], Actor]]
SHOWN_EVERY = 2
"""Steps: 25 pictures a second."""


def play(
    config: PlayConfig,
    *,
    progress: Progress | None = None,
    make_view: Callable[[Walk, Looks], View] | None = None,
) -> Walk:
    """Let a robot walk before somebody's eyes, until the window is closed, Ctrl-C or ``config.seconds``.

    Args:
        progress: told what happens; None for silence.
        make_view: makes what it is seen in; None: `choose_view` does.

    Raises:
        UsageError, InputFileError: the model, run or robot cannot be used, or viser is needed and not installed.
    """
    progress = progress or Progress()
    make_view = make_view or choose_view(config, progress.say)
    paths, robot, task = _what_to_show(config)
    task = _as_simulated(task, config.simulator, progress)
    policies: Policies = {name: functools.partial(_policy, path, robot) for name, path in paths.items()}
    first = _first(config.policy, policies, robot)
    if first in policies:  # whether it fits is known before anything is built
        ready = policies[first]()
        policies[first] = lambda: ready
    film = config.record
    simulator = make_simulator(config.simulator, robot, 1, "cpu", task, progress.say)
    walk = Walk(
        simulator, policies, task, first=first, max_steps=config.max_steps, seed=config.seed, keep=film is not None
    )
    progress.say(f"Reading what {robot.name} looks like")
    view = make_view(walk, Looks(robot))
    progress.say(view.greet())
    try:
        _walk_on(walk, view, config.seconds)
    except KeyboardInterrupt:
        progress.say("stopped")
    finally:
        view.close()
    if film is not None and walk.steps:
        from vintix_fast.report.film import film_to

        progress.say(film_to(film, robot, walk.recording()))
    return walk


def choose_view(config: PlayConfig, say: Callable[[str], None]) -> Callable[[Walk, Looks], View]:
    """What makes the view: a window where one can be opened and no page was asked for."""
    wants_page = config.page or config.host is not None or config.port is not None
    reason = "" if wants_page else why_no_window()
    if reason is None:
        return Window
    import_viser()
    if reason and has_display():
        say(f"No window, since {reason}")
    return functools.partial(Page, host=config.host or "127.0.0.1", port=config.port or 8080)


def _walk_on(walk: Walk, view: View, seconds: float | None) -> None:
    """Step in real time, or as fast as can be where that is slower."""
    due = second = time.perf_counter()
    done_then, pace = walk.steps, 1.0
    while not view.closed and (seconds is None or walk.seconds < seconds):
        view.take()
        walk.step()
        now = time.perf_counter()
        if now - second > 1.0:
            pace, second, done_then = (walk.steps - done_then) * DT_S / (now - second), now, walk.steps
        if walk.steps % SHOWN_EVERY == 0:
            view.show(pace)
        due = max(due + DT_S, time.perf_counter() - DT_S)  # what was missed is not caught up with
        time.sleep(max(0.0, due - time.perf_counter()))


def _what_to_show(config: PlayConfig) -> tuple[dict[str, Path], Robot, TaskConfig]:
    """Checkpoints by name, the first to begin with; the robot; the task."""
    path = config.model
    if path is not None and (path / OPTIONS_FILE).is_file() and not is_checkpoint(path):
        run = read_run(path)
        found = sorted(p for p in (path / "models").glob("*") if is_checkpoint(p))
        order = {"best": 0, "initial": 1}
        models = {p.name: p for p in sorted(found, key=lambda p: (order.get(p.name, 2), p.name))}
        if not models:
            raise InputFileError(f"{path / 'models'} holds no model yet; wait until its first loop has begun")
        return (
            models,
            load_robot(config.robot_type or run.robot_type),
            TaskConfig.from_json(run.options.get("task") or {}),
        )
    if config.robot_type is None:
        raise UsageError("--robot-type is missing; only a run of adapt knows its robot")
    models = {path.name: path} if path is not None else {}
    return models, load_robot(config.robot_type), _task_of(path)


def _task_of(path: Path | None) -> TaskConfig:
    """The task that a bundled model was made for, by its card; the default where no card names one."""
    if path is None or not (path / CARD_FILE).is_file():
        return DEFAULT_TASK
    return TaskConfig.from_json(read_json(path / CARD_FILE, "choose another model").get("task") or {})


def _first(name: str | None, policies: Policies, robot: Robot) -> str:
    """The policy to begin with; a checkpoint that is none of ``policies`` is put among them."""
    if name is None or name in policies or name in STEADY:
        return name or next(iter(policies))
    path = checkpoint_path(name)
    if not is_checkpoint(path):
        known = ", ".join([*policies, *STEADY])
        raise UsageError(f"--policy is {name}, which is no checkpoint's directory and none of {known}")
    policies[name] = functools.partial(_policy, path, robot)
    return name


def _as_simulated(task: TaskConfig, simulator: str, progress: Progress) -> TaskConfig:
    """The task as far as the simulator knows it."""
    if simulator == "mujoco" and task.further.measured:
        raise UsageError("this run's reward asks for forces, which MuJoCo does not tell; --simulator genesis does")
    if simulator == "mujoco" and task.vary:
        progress.say(f"Shown without {task.vary}; --simulator genesis has it")
        return dataclasses.replace(task, vary=NO_VARIATION)
    return task


def _policy(path: Path, robot: Robot) -> Actor:
    model = load_checkpoint(path)
    return make_policy(model, task_for(model, robot), 1, check_context_len(None, model))
