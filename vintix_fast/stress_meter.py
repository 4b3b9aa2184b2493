"""What `stress` measures while robots walk: reward and speed, by the episode's number and by second of context; speeds.

Takes whole steps of all environments as a rollout writes them, and reads the robots' speeds of the simulator as they
arrive.  Knows nothing about models or files.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch

from vintix_fast.kernels.reference import rotate_into_body
from vintix_fast.world.simulator import DT_S
from vintix_fast.world.task import WalkingTask

SECONDS = (0.0, 1.0, 2.0, 5.0, 10.0, 20.0, 40.0, 80.0, math.inf)
"""Where the context's age is cut."""
SLOWEST = 0.05
"""Commands below are no speed to compare with."""
SETTLED_S = 1.0
"""From an episode's start, a drop from the start height, until speeds are compared with the commanded ones."""


def speeds(task: WalkingTask) -> torch.Tensor:
    """[N, 3] now: forward and lateral m/s, yaw rate rad/s, in the body's frame."""
    state = task.simulator.state()
    velocity = rotate_into_body(state.base_quat, state.base_lin_vel_m_s)[:, :2]
    turning = rotate_into_body(state.base_quat, state.base_ang_vel_rad_s)[:, 2:]
    return torch.cat([velocity, turning], dim=1)


class Meter:
    """Takes what a rollout writes, and adds speeds: by episode's number, by the context's age, and all together.

    Args:
        task: whose simulator and commands are read as each step arrives.
        episodes: numbers of episodes, at most.
    """

    def __init__(self, task: WalkingTask, episodes: int) -> None:
        self._task = task
        shape = task.num_envs
        # Sums of reward, steps, and what each has of (speed, yaw rate) over the commanded one; with falls at the end.
        self.by_second = np.zeros((shape, len(SECONDS) - 1, 5))
        self.by_episode = np.zeros((shape, episodes, 5))
        self._age, self._number = np.zeros(shape, int), np.zeros(shape, int)
        self._speeds, self._settled = np.zeros((shape, 3)), np.zeros(shape)  # sums, and of how many steps
        self._envs = np.arange(shape)

    def append(self, arrays: dict[str, np.ndarray], active: np.ndarray) -> None:
        done = (arrays["terminated"] | arrays["truncated"]).astype(bool)
        moving = speeds(self._task)
        ratio = self._ratios(moving)
        speed_counts = active & ~done  # the state of an episode that is over is gone
        row = np.zeros((len(active), 5))
        row[:, 0], row[:, 1] = arrays["reward"], 1.0
        row[:, 2:4] = np.where(speed_counts[:, None], ratio, 0.0)
        row[:, 4] = speed_counts
        row *= active[:, None]
        cut = np.searchsorted(SECONDS, self._age * DT_S, side="right") - 1
        self.by_second[self._envs, cut] += row
        number = np.minimum(self._number, self.by_episode.shape[1] - 1)
        self.by_episode[self._envs, number] += row
        self._age += active
        self._number += active & done
        settled = speed_counts & (arrays["step_num"] * DT_S >= SETTLED_S)
        self._speeds[settled] += moving.cpu().numpy()[settled]
        self._settled += settled

    @property
    def mean_speeds(self) -> np.ndarray:
        """Of each environment [N, 3] when it has settled; NaN where never."""
        with np.errstate(invalid="ignore"):
            return self._speeds / self._settled[:, None]

    def _ratios(self, moving: torch.Tensor) -> np.ndarray:
        """[N, 2]: speed along the command over its speed, yaw rate over the commanded; NaN where none is asked for."""
        command = self._task.command
        asked = command[:, :2].norm(dim=1)
        speed = (moving[:, :2] * command[:, :2]).sum(dim=1) / asked.square()
        speed = torch.where(asked >= SLOWEST, speed, torch.nan)
        turning = torch.where(command[:, 2].abs() >= SLOWEST, moving[:, 2] / command[:, 2], torch.nan)
        return torch.stack([speed, turning], dim=1).cpu().numpy()


def with_errors(parts: dict[str, np.ndarray]) -> dict[str, Any]:
    """Means over environments, and by ``<name>_error`` their standard errors; None where there is none."""
    row: dict[str, Any] = {}
    for name, values in parts.items():
        known = values[np.isfinite(values)]
        row[name] = float(known.mean()) if len(known) else None
        row[f"{name}_error"] = float(known.std() / math.sqrt(len(known) - 1)) if len(known) > 1 else None
    return row


def rates(sums: np.ndarray) -> dict[str, Any]:
    """Of sums [N, 5] as `Meter` has them: reward in a second, and what part of the commanded speeds."""
    with np.errstate(invalid="ignore", divide="ignore"):
        parts = {
            "reward_per_s": sums[:, 0] / (sums[:, 1] * DT_S),
            "speed_ratio": sums[:, 2] / sums[:, 4],
            "yaw_ratio": sums[:, 3] / sums[:, 4],
        }
    return {"environments": int((sums[:, 1] > 0).sum())} | with_errors(parts)
