"""A task as a TOML file, which `docs/worlds.md` describes, read, checked, made a `TaskConfig`; and as two options.

Errors name the file and the key.  What a file does not say is as in the default task.  A configuration that has both
options, as ``task`` and ``vary``, calls `check_world`; after that its ``task`` says all of it.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from vintix_fast.options import option
from vintix_fast.run_config import MAIN
from vintix_fast.service.errors import InputFileError, UsageError
from vintix_fast.service.files import read_toml
from vintix_fast.world.task_config import DEFAULT_TASK, FurtherWeights, RewardWeights, StartNoise, TaskConfig
from vintix_fast.world.variation import Variation

REMEDY = "docs/worlds.md shows a complete file"
COMMANDS = ("forward_m_s", "lateral_m_s", "yaw_rad_s")
_NUMBERS = ("tracking_sigma", "min_height_m", "time_limit_s", "action_scale_rad", "action_clip", "latency_steps")
_STARTS = {"joints_rad": 1.0, "tilt_deg": math.pi / 180.0, "position_m": 1.0}


def read_task(path: str | Path | TaskConfig) -> TaskConfig:
    """The task of a file; one that is a task already is returned.

    Raises:
        InputFileError: the file is missing or broken, or has a key or a value that no task has.
    """
    if isinstance(path, TaskConfig):
        return path
    path = Path(path)
    return task_of(read_toml(path, REMEDY, "task file"), f"task file {path}")


def task_of(table: dict[str, Any], where: str) -> TaskConfig:
    """The task of a file's table; ``where`` names it in errors."""
    values: dict[str, Any] = {}
    try:
        for key, value in table.items():
            if key in _TABLES:
                if not isinstance(value, dict):
                    raise UsageError(f"{key} is {value!r}; it must be a table, [{key}]. {REMEDY}")
                values |= _TABLES[key](value)
            elif key == "max_tilt_deg":
                values["max_tilt_rad"] = math.radians(_number(key, value))
            elif key in _NUMBERS:
                values[key] = _number(key, value)
            else:
                raise _unknown(key, (*_TABLES, "max_tilt_deg", *_NUMBERS))
        return TaskConfig(**values)
    except UsageError as error:
        raise InputFileError(f"{where}: {error}") from error


def _number(key: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or abs(value) > sys.float_info.max:
        raise UsageError(f"{key} is {value!r}; it must be a number. {REMEDY}")
    return value


def _unknown(key: str, known: Iterable[str]) -> UsageError:
    return UsageError(f"{key} is not known there; known are {', '.join(known)}. {REMEDY}")


def _command(part: dict[str, Any]) -> dict[str, Any]:
    """Values, or lists of lowest and highest."""
    spans = dict(zip(COMMANDS, ([value, value] for value in DEFAULT_TASK.command), strict=True))
    values: dict[str, Any] = {}
    for key, value in part.items():
        if key == "resample_s":
            values[key] = _number(f"command.{key}", value)
        elif key in spans:
            span = value if isinstance(value, list) else [value, value]
            if len(span) != 2:
                raise UsageError(f"command.{key} is {value!r}; it must be a number, or lowest and highest")
            spans[key] = [_number(f"command.{key}", end) for end in span]
        else:
            raise UsageError(f"command.{key} is not known; known are {', '.join((*COMMANDS, 'resample_s'))}")
    for key, (low, high) in spans.items():
        if low > high:
            raise UsageError(f"command.{key} is {[low, high]}; the lowest value comes first")
    centre = tuple((low + high) / 2.0 for low, high in spans.values())
    return values | {
        "command": centre,
        "command_spread": tuple((high - low) / 2.0 for low, high in spans.values()),
    }


def _reward(part: dict[str, Any]) -> dict[str, Any]:
    """Weights of both tables of terms, which a file does not tell apart."""
    tables: dict[str, Any] = {"reward": RewardWeights, "further": FurtherWeights}
    names = {kind: [f.name for f in fields(of)] for kind, of in tables.items()}
    for key in part:
        if key not in (*names["reward"], *names["further"]):
            raise _unknown(f"reward.{key}", (*names["reward"], *names["further"]))
    given = {key: _number(f"reward.{key}", value) for key, value in part.items()}
    return {kind: of(**{n: given[n] for n in names[kind] if n in given}) for kind, of in tables.items()}


def _start_noise(part: dict[str, Any]) -> dict[str, Any]:
    for key in part:
        if key not in _STARTS:
            raise _unknown(f"start_noise.{key}", _STARTS)
    given = {key.replace("_deg", "_rad"): _STARTS[key] * _number(f"start_noise.{key}", v) for key, v in part.items()}
    return {"start_noise": StartNoise(**given)}


_TABLES: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    "command": _command,
    "reward": _reward,
    "start_noise": _start_noise,
    "vary": lambda part: {"vary": Variation.from_table(part)},
}


def task_option() -> Any:
    return option(
        DEFAULT_TASK, MAIN, "a task file: commands, reward, ends, latency, what varies; see docs/worlds.md",
        read=_task, metavar="FILE", sparse=True, shown="walk forward at 0.5 m/s",
    )  # fmt: skip


def vary_option() -> Any:
    return option(
        None, MAIN,
        "what differs from the robot, drawn for each episode, such as 'payload_kg=0:5, motor.FR=0.5'; in place of the "
        "task file's; see docs/worlds.md",
        read=_variation, metavar="TEXT", sparse=True, shown="nothing",
    )  # fmt: skip


def _task(value: Any) -> TaskConfig:
    return TaskConfig.from_json(value) if isinstance(value, dict) else read_task(value)


def _variation(value: Any) -> Variation:
    return value if isinstance(value, Variation) else Variation.parse(value)


def check_world(config: Any) -> None:
    """Put what varies into the task of a frozen configuration."""
    if config.vary is not None:
        object.__setattr__(config, "task", replace(config.task, vary=config.vary))
