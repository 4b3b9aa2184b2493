"""The initial policy: the pretrained model with a group for the target robot.

Decides what that group starts from, and says so in words.  Knows nothing about simulation or training.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np

from vintix_fast.model import TaskInfo, Vintix, add_group
from vintix_fast.model.config import DEFAULT_GROUP
from vintix_fast.service.errors import InputFileError, UsageError
from vintix_fast.service.files import read_json
from vintix_fast.world.joint_map import JointMap
from vintix_fast.world.layout import ObservationLayout
from vintix_fast.world.robot import Robot, find_task, joint_signs
from vintix_fast.world.transplant import joint_map

SMALLEST_STD = 1e-3


def check_sizes(task_name: str, info: TaskInfo, layout: ObservationLayout) -> None:
    """Raise InputFileError unless the task observes and acts like a robot of this layout in the walking task."""
    if (info.observation_dim, info.action_dim) != (layout.size, layout.num_joints):
        raise InputFileError(
            f"task {task_name} of the checkpoint has {info.observation_dim} observations and {info.action_dim} "
            f"actions; the robot has {layout.size} and {layout.num_joints}"
        )


def task_of(model: Vintix, robot: Robot) -> str | None:
    """The model's task for this robot, or None; that of a single-group checkpoint serves any robot."""
    task = find_task(robot, model.tasks)
    return next(iter(model.tasks)) if task is None and model.groups == (DEFAULT_GROUP,) else task


def reference_task(model: Vintix, reference: Robot) -> str:
    """The task whose adapter is copied; raises InputFileError where the checkpoint has none for the robot."""
    task = task_of(model, reference)
    if task is None:
        task = next((name for name, info in model.tasks.items() if info.group_name == reference.group_name), None)
    if task is None:
        raise InputFileError(
            f"the checkpoint has no group for the reference robot {reference.name}; it has the groups "
            f"{', '.join(model.groups)} (tasks {', '.join(model.tasks)}). Choose one of their robots with "
            "--reference-robot"
        )
    return task


def add_target(
    model: Vintix,
    robot: Robot,
    reference: Robot,
    say: Callable[[str], None],
    *,
    init_map: str = "convert",
    group: str = "own",
    obs_stats: Path | None = None,
    reinitialize: bool = False,
) -> str:
    """Give ``model`` a task for ``robot``, with a group of its own unless it is to share one; returns its name.

    Args:
        robot, reference: the new robot, and the one whose group is copied.
        say: told what is done.
        init_map, group, obs_stats, reinitialize: see `AdaptConfig`.

    Raises:
        InputFileError: the reference group is missing, or sizes do not fit.
        UsageError: the robots' joints cannot be matched.
    """
    if group == "shared":
        name = _join_group(model, robot, reference, say)
    else:
        name = _have_own(model, robot, reference, say, init_map, reinitialize)
    if obs_stats is not None:
        _set_statistics(model, name, obs_stats)
    return name


def _have_own(
    model: Vintix, robot: Robot, reference: Robot, say: Callable[[str], None], init_map: str, reinitialize: bool
) -> str:
    """The robot's task with a group that no other uses: the one that it has, or a copy."""
    existing = find_task(robot, model.tasks)
    if existing is not None and not reinitialize:
        check_sizes(existing, model.tasks[existing], robot.layout)
        name = model.tasks[existing].group_name
        if not model.sharing(existing):
            say(
                f"The checkpoint already has {robot.name}'s own group {name}: going on from it "
                "(--reinitialize copies the reference robot's instead)."
            )
            return existing
        # The other robots of a shared group must stay as they are, so this robot leaves with a copy of it.
        say(f"{robot.name} shares the group {name} in the checkpoint: adapting a copy of it.")
        return _own_group(model, existing, robot, existing, JointMap.of_signs(np.ones(len(robot.joints))))

    # A robot that the model does not know, or is to forget, begins as a copy of the reference robot.
    source = reference_task(model, reference)
    check_sizes(source, model.tasks[source], reference.layout)
    if source == existing:
        raise UsageError(f"--reference-robot is {robot.name} itself, of which a copy changes nothing; give another")
    joints = joint_map(robot, reference, init_map)
    how = f", {joints.words()}" if joints.words() else ""
    say(f"New group for {robot.name}: a copy of {model.tasks[source].group_name}{how}.")
    return _own_group(model, existing, robot, source, joints)


def _join_group(model: Vintix, robot: Robot, reference: Robot, say: Callable[[str], None]) -> str:
    """The robot's task in a group that others may use too: where it is, or where the reference robot's is."""
    existing = find_task(robot, model.tasks)
    name = existing or robot.task_names[0]
    if existing is None:
        source = reference_task(model, reference)
        check_sizes(source, model.tasks[source], robot.layout)
        model.add_task(name, model.tasks[source])
        turned = int((joint_signs(robot, reference) < 0).sum())
        if turned:
            say(
                f"{turned} of {robot.name}'s joints turn the other way than {reference.name}'s; a shared group "
                "cannot be converted, --group own can."
            )
    check_sizes(name, model.tasks[name], robot.layout)
    group, sharing = model.tasks[name].group_name, model.sharing(name)
    changes = (
        f"{', '.join(sharing)} share it and change too; --group own changes nobody" if sharing else "no other has it"
    )
    say(f"Adapting the group {group} for {name}: {changes}.")
    return name


def _own_group(model: Vintix, existing: str | None, robot: Robot, source: str, joints: JointMap) -> str:
    """A new group copied from ``source``; a task that the robot already has gives its name up to the new one."""
    name = existing or robot.task_names[0]
    if existing is not None and existing != source:
        model.remove_task(existing)
    group = robot.group_name
    while group in model.groups:
        group += "_adapted"
    if existing == source:
        add_group(model, name + "_new", group, source, joints)
        model.remove_task(name)
        model.rename_task(name + "_new", name)
    else:
        add_group(model, name, group, source, joints)
    return name


def _set_statistics(model: Vintix, task_name: str, path: Path) -> None:
    """Replace a task's observation statistics by those of a JSON file."""
    size = model.tasks[task_name].observation_dim
    remedy = f"it must be a JSON object with obs_mean and obs_std, {size} numbers each"
    given = read_json(path, remedy, {"obs_mean": list, "obs_std": list}, "--obs-stats")
    try:
        info = dataclasses.replace(model.tasks[task_name], obs_mean=given["obs_mean"], obs_std=given["obs_std"])
    except InputFileError as error:
        raise InputFileError(f"--obs-stats {path}: {error}; {remedy}") from None
    if min(info.obs_std) < SMALLEST_STD:
        where = int(np.argmin(info.obs_std))
        raise InputFileError(
            f"--obs-stats {path}: obs_std[{where}] is {info.obs_std[where]}: an observation that hardly varied would "
            f"be divided by it. Use at least {SMALLEST_STD} (1.0 for a constant such as the command)"
        )
    model.set_task_info(task_name, info)
