"""Learning histories by noise distillation: each environment goes from random actions to its expert's.

The executed action is ``eps random + (1 - eps) expert`` with eps falling over the history (AD-epsilon, arXiv
2312.12275).  Data flows expert -> collector -> one trajectory file for each environment.  Knows nothing about Vintix.
"""

from __future__ import annotations

import contextlib
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vintix_fast._core import TrajectoryWriter
from vintix_fast.data import open_writer
from vintix_fast.data.schema import DEMONSTRATOR
from vintix_fast.outdir import OPTIONS_FILE, RunDirectory
from vintix_fast.policy.expert import ExpertPolicy, load_expert, told_of, trained_in
from vintix_fast.pretrain.config import DistilConfig
from vintix_fast.rollout import collect
from vintix_fast.service.device import check_device
from vintix_fast.service.errors import UsageError
from vintix_fast.service.files import read_json, versions, write_json
from vintix_fast.service.interrupt import check_interrupt, stop_on_interrupt, told_to_resume
from vintix_fast.service.metrics import write_learning_history
from vintix_fast.service.progress import Progress
from vintix_fast.service.upload import upload
from vintix_fast.world.robot import Robot, load_robot
from vintix_fast.world.simulator import Simulator
from vintix_fast.world.task import WalkingTask

CARD_FILE, CURVE_FILE = "distil.json", "returns.png"
CURVE_BINS = 20


def random_share(step: int, steps: int, power: float, expert_fraction: float) -> float:
    """The noise's share eps(t) = (1 - (t / ((1 - f) T))^p)^(1/p) of an action, 0 over the last f T steps.

    The schedule of AD-epsilon (arXiv 2312.12275) with the exponent p that bends it.
    """
    progress = min(1.0, step / ((1.0 - expert_fraction) * steps))
    return (1.0 - progress**power) ** (1.0 / power)


class NoiseDistillation:
    """Mixes the expert's action with one drawn uniformly over the joints' range, less of it at each step.

    Args:
        task: whose robot's joint range.
        config: the schedule.
        seed: of the random actions.
    """

    def __init__(self, task: WalkingTask, config: DistilConfig, seed: int) -> None:
        range_rad = task.robot.joint_range_rad.T - task.robot.default_pose_rad
        lowest, highest = (range_rad / task.config.action_scale_rad).astype(np.float32)
        self._lowest, self._span = torch.from_numpy(lowest), torch.from_numpy(highest - lowest)
        self._generator = torch.Generator().manual_seed(seed)
        self._config = config

    def apply(self, action: torch.Tensor, step: int) -> torch.Tensor:
        """The expert's action [N, J] in a step, counted from 0 -> the one to execute."""
        config = self._config
        share = random_share(step, config.steps_per_env, config.power, config.expert_fraction)
        random = self._lowest + self._span * torch.rand(action.shape, generator=self._generator)
        return share * upload(random, action.device) + (1.0 - share) * action


class _HistoryFiles:
    """A writer for each environment, together in the place of one."""

    def __init__(self, writers: list[TrajectoryWriter]) -> None:
        self._writers = writers

    def append(self, arrays: dict[str, np.ndarray], active: np.ndarray) -> None:
        for env, writer in enumerate(self._writers):
            columns = {name: column[env : env + 1] for name, column in arrays.items()}
            columns[DEMONSTRATOR] = columns.pop("mean_action")
            writer.append(columns, active[env : env + 1])


def history_path(directory: Path, env: int) -> Path:
    """Where environment ``env``'s history lies; what it is of lies beside it, in a file of the same name and .json."""
    return directory / f"trajectories_env_{env:04d}.h5"


def folder_file(directory: Path) -> Path:
    """``<folder>/<folder>.json``, where older readers of Vintix look for the task of a folder's histories."""
    return directory / f"{directory.resolve().name}.json"


def distil(config: DistilConfig, *, simulator=None, progress: Progress | None = None) -> dict[str, Any]:
    """Collect learning histories, and leave them in ``config.output_dir`` with a plot of the return along them.

    Histories are collected in rounds of ``config.num_envs``; a resumed run collects those rounds that lack a file.

    Args:
        simulator: of the expert's robot with ``config.num_envs`` environments; None builds one.
        progress: told what happens; None for silence.

    Returns:
        What ``distil.json`` says.

    Raises:
        UsageError, InputFileError: something in ``config`` does not fit; nothing was written then.
        VintixFastError: the disk failed; finished files stay.
        Interrupted: Ctrl-C; the run can be resumed.
    """
    # Everything that can be wrong is found before anything is written.
    progress = progress or Progress()
    check_device(config.device)
    directory = RunDirectory(config, ("trajectories_env_*", folder_file(config.output_dir).name, CARD_FILE, CURVE_FILE))
    if folder_file(config.output_dir).name == OPTIONS_FILE:
        raise UsageError(
            f"--output-dir {config.output_dir}: a folder called config would hold two files of that name, the run's "
            "options and what older readers look for; give it another name"
        )
    directory.check()
    robot = directory.robot if config.robot_type else None
    network, expert = load_expert(config.expert, robot)
    robot = robot or load_robot(expert["robot"])
    # Building the scene takes longest; what is written comes after it.
    started = time.perf_counter()
    with directory, stop_on_interrupt(progress.say):
        simulator = simulator or Simulator(robot, config.num_envs, config.device, progress.say, config.task.vary)
        task = WalkingTask(simulator, robot, config.max_steps_per_episode, task_config=config.task)
        policy = ExpertPolicy(network, config.num_envs, config.device, told_of(trained_in(expert), task))
        check_interrupt()
        directory.begin()
        # A round that is all there is passed over, so that a resumed run goes on where it stopped.
        collecting = time.perf_counter()
        with told_to_resume("from the last finished round"):
            for index in range(config.histories // config.num_envs):
                _round(config, directory.path, index, task, policy, progress)
    # The report reads all rounds, also those of earlier runs.
    seconds = {"collect_seconds": time.perf_counter() - collecting, "seconds": time.perf_counter() - started}
    return _report(config, directory.path, robot, seconds)


def _round(
    config: DistilConfig, directory: Path, index: int, task: WalkingTask, policy: ExpertPolicy, progress: Progress
) -> None:
    """The histories of one set of environments side by side, unless they are all there."""
    first = index * config.num_envs
    envs = range(first, first + config.num_envs)
    files = [history_path(directory, env).with_suffix(suffix) for env in envs for suffix in (".h5", ".json")]
    if all(file.is_file() for file in files):
        progress.say(f"Histories {envs[0]} to {envs[-1]} were finished before")
        return
    # Each round has starts and random actions of its own.
    robot, seed = task.robot, int(np.random.SeedSequence([config.seed, index]).generate_state(1)[0])
    about: dict[str, Any] = {"robot": robot.name, "task_name": robot.task_names[0], "seed": config.seed}
    about |= {"task": task.config.to_json(), **versions()}
    # A file for each environment: all are closed in place when the round is whole, or left partial.
    with contextlib.ExitStack() as stack:
        what = f"{robot.name}: histories {envs[0]} to {envs[-1]}"
        stack.enter_context(progress.rollout(what, 0, config.steps_per_env))
        writers = [
            stack.enter_context(
                open_writer(
                    history_path(directory, env), 1, about | {"env": env}, True, task.layout, task.varied_columns
                )
            )
            for env in envs
        ]
        collection = collect(
            task,
            policy,
            seed=seed,
            random_starts=True,
            steps_per_env=config.steps_per_env,
            noise=NoiseDistillation(task, config, seed),
            writer=_HistoryFiles(writers),
            on_step=progress.on_rollout_step,
        )
    # What says that a history is finished comes after it.
    write_json(folder_file(directory), _task_info(robot))
    for env in envs:
        episodes = [(e.return_, e.length, e.terminated) for e in collection.episodes if e.env == env - first]
        history = {"robot": robot.name, "env": env, "transitions": config.steps_per_env}
        write_json(
            history_path(directory, env).with_suffix(".json"),
            _task_info(robot) | history | {"episodes": episodes, "seed": config.seed},
        )


def _task_info(robot: Robot) -> dict[str, Any]:
    layout = robot.layout
    return {
        "task_name": robot.task_names[0],
        "group_name": robot.group_name,
        "observation_shape": {"proprio": [layout.size]},
        "action_dim": layout.num_joints,
        "action_type": "continuous",
    }


def return_along_history(histories: list[list[tuple[float, int, bool]]], steps: int) -> list[dict[str, float]]:
    """Mean return and length of the episodes that begin in each twentieth of the histories.

    Args:
        histories: for each its episodes in order: return, length, whether it ended by a fall.
        steps: in a history.
    """
    rows = []
    begun = [
        (np.cumsum([0] + [length for _, length, _ in episodes])[:-1], episodes) for episodes in histories if episodes
    ]
    for k in range(CURVE_BINS):
        low, high = k * steps / CURVE_BINS, (k + 1) * steps / CURVE_BINS
        inside = [e for starts, episodes in begun for at, e in zip(starts, episodes, strict=True) if low <= at < high]
        if inside:
            rows.append(
                {
                    "from_step": low,
                    "to_step": high,
                    "episodes": len(inside),
                    "mean_return": float(np.mean([e[0] for e in inside])),
                    "mean_length": float(np.mean([e[1] for e in inside])),
                    "fell": float(np.mean([e[2] for e in inside])),
                }
            )
    return rows


def _report(config: DistilConfig, directory: Path, robot: Robot, seconds: dict[str, float]) -> dict[str, Any]:
    files = [history_path(directory, env).with_suffix(".json") for env in range(config.histories)]
    histories = [read_json(file, "--overwrite begins anew", {"episodes": list})["episodes"] for file in files]
    rows = return_along_history(histories, config.steps_per_env)
    write_learning_history(directory / CURVE_FILE, robot.name, rows)
    steps = config.histories * config.steps_per_env
    # With the task, because the folder may be called like this file; see `folder_file`.
    card = _task_info(robot) | {"robot": robot.name, "histories": config.histories, "env_steps": steps}
    card |= seconds | {"return_along_history": rows, "options": config.to_json(), "versions": versions()}
    write_json(directory / CARD_FILE, card)
    return card
