"""How a model walks: what a robot did in a short rollout, and a few numbers of its gait.

Owns the rollout for a report's traces and videos.  Knows nothing about runs on disk or how things are drawn.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vintix_fast.evaluation import task_for
from vintix_fast.kernels.reference import rotate_into_body
from vintix_fast.model import load_checkpoint
from vintix_fast.policy import Actor, make_policy
from vintix_fast.rollout import Episode, collect
from vintix_fast.service.progress import Progress
from vintix_fast.world.simulator import DT_S
from vintix_fast.world.task import Simulation, WalkingTask
from vintix_fast.world.task_config import DEFAULT_TASK, TaskConfig

NUM_ENVS = 4
STEPS = 300
SHOWN_STEPS = 100
"""The last two seconds: the robot has landed from its start and walks, if it can."""


@dataclass(frozen=True)
class Recording:
    """T steps of N robots, from a cold context, without exploration noise.  Legs and joints in the robot file's order.

    Where a robot fell, the step's state is the next episode's start.
    """

    base_pos_m: np.ndarray  # [T, N, 3]
    base_quat: np.ndarray  # [T, N, 4] (w, x, y, z)
    forward_speed_m_s: np.ndarray  # [T, N], in the body's frame
    joint_pos_rad: np.ndarray  # [T, N, J]
    contact: np.ndarray  # bool [T, N, 4]
    reward: np.ndarray  # [T, N]
    falls: tuple[tuple[int, int], ...]
    """(step, environment) of each fall."""
    task: TaskConfig = DEFAULT_TASK

    def gait(self) -> dict[str, float]:
        """Numbers of the last `SHOWN_STEPS` steps over all robots; falls are of the whole recording."""
        last = slice(-SHOWN_STEPS, None)
        contact = self.contact[last]
        touch_downs = (contact[1:] & ~contact[:-1]).sum() / contact[1:, :, 0].size / contact.shape[2]
        return {
            "falls": len(self.falls),
            f"forward speed (m/s; {_asked(self.task)} asked for)": float(self.forward_speed_m_s[last].mean()),
            "base height (m)": float(self.base_pos_m[last, :, 2].mean()),
            "reward per 1000 steps": float(1000.0 * self.reward[last].mean()),
            "duty factor (share of time on the ground)": float(contact.mean()),
            "touch-downs per leg and second": float(touch_downs / DT_S),
        }


def _asked(task: TaskConfig) -> str:
    speed, spread = task.command[0], task.command_spread[0]
    return f"{speed - spread:g} to {speed + spread:g} are" if spread else f"{speed:g} is"


def record(
    model_dir: Path,
    simulator: Simulation,
    context_len: int,
    seed: int,
    progress: Progress,
    task_config: TaskConfig = DEFAULT_TASK,
) -> Recording:
    """Let a checkpoint walk for `STEPS` steps in every environment of ``simulator``; a seed's starts are the same."""
    model = load_checkpoint(model_dir, str(simulator.device))
    context_len = min(context_len, model.config.context_len)
    policy = make_policy(model, task_for(model, simulator.robot), simulator.num_envs, context_len)
    return record_actor(policy, simulator, seed, progress, task_config=task_config)


def record_actor(
    policy: Actor,
    simulator: Simulation,
    seed: int,
    progress: Progress,
    random_starts: bool = True,
    task_config: TaskConfig = DEFAULT_TASK,
) -> Recording:
    """Let an actor walk for `STEPS` steps from a cold context in every environment of ``simulator``."""
    task = WalkingTask(simulator, simulator.robot, max_steps=STEPS + 1, task_config=task_config)
    steps: list[dict[str, np.ndarray]] = []
    collection = collect(
        task, policy, seed=seed, random_starts=random_starts, steps_per_env=STEPS, keep=True,
        on_step=lambda _: steps.append(seen(simulator)),
    )  # fmt: skip
    columns = {name: np.stack([step[name] for step in steps]) for name in steps[0]}
    reward = np.stack([history.reward for history in collection.histories], axis=1)
    return Recording(**columns, reward=reward, falls=tuple(_falls(collection.episodes)), task=task_config)


def seen(simulator: Simulation) -> dict[str, np.ndarray]:
    """What a `Recording` keeps of a step, but its reward."""
    state = simulator.state()
    speed = rotate_into_body(state.base_quat, state.base_lin_vel_m_s)[:, 0]
    columns = {name: getattr(state, name) for name in ("base_pos_m", "base_quat", "joint_pos_rad")}
    columns |= {"forward_speed_m_s": speed, "contact": simulator.foot_contact()}
    return {name: values.cpu().numpy().copy() for name, values in columns.items()}


def _falls(episodes: list[Episode]) -> list[tuple[int, int]]:
    """Steps, from 0, in which episodes ended: every environment runs one after another without a gap."""
    ran: dict[int, int] = {}
    falls = []
    for episode in episodes:
        ran[episode.env] = ran.get(episode.env, 0) + episode.length
        falls.append((ran[episode.env] - 1, episode.env))
    return falls
