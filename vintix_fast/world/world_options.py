"""The two options of every command that acts: which task, and what differs from the nominal robot.

A configuration that has both as ``task`` and ``vary`` calls `check_world`; after that its ``task`` says all of it.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from vintix_fast.options import option
from vintix_fast.world.task_config import DEFAULT_TASK, TaskConfig
from vintix_fast.world.task_file import read_task
from vintix_fast.world.variation import Variation


def task_option(panel: str) -> Any:
    return option(
        DEFAULT_TASK, panel, "a task file: commands, reward, ends, latency, what varies; see docs/worlds.md",
        read=_task, metavar="FILE", sparse=True, shown="walk forward at 0.5 m/s",
    )  # fmt: skip


def vary_option(panel: str) -> Any:
    return option(
        None, panel,
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
