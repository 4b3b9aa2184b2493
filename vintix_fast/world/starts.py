"""What is drawn for episodes: how they begin, a little beside the default pose, and the commands that N robots walk by.

Owns these random numbers.  They are drawn on the CPU, so that a seed means the same on every device.  Knows no robot.
"""

from __future__ import annotations

import zlib

import torch

from vintix_fast.service.upload import upload
from vintix_fast.world.task_config import StartNoise, TaskConfig

BLOCK = 256
"""Episodes of an environment whose starts differ; the next ones begin like the first again."""
STRIDE = 17
"""From a command to the episode's next in the block of draws: not the next episode's."""


class Draws:
    """Numbers from ``low`` to 1 for each of N environments and their turns; the n-th turn's are always the same.

    They are uploaded ahead and each environment counts its turns, so that a host need not know when one begins.
    """

    def __init__(self, num_envs: int, columns: int, device: torch.device, low: float = -1.0) -> None:
        self._shape, self._low, self._env = (BLOCK, num_envs, columns), low, torch.arange(num_envs, device=device)

    def seed(self, seed: int) -> None:
        """What `of` gives from here on depends on ``seed`` alone."""
        share = torch.rand(self._shape, generator=torch.Generator().manual_seed(seed))
        self._block = upload((self._low + (1.0 - self._low) * share).flatten(0, 1), self._env.device)

    def of(self, turn: torch.Tensor) -> torch.Tensor:
        """[N, columns] of each environment's turn, [N] integers from 0."""
        return self._block.index_select(0, turn % BLOCK * len(self._env) + self._env)


class Starts:
    """Poses to begin episodes in.

    An environment's n-th episode begins alike whatever happened before, so two models can be compared start by start.

    Args:
        default_pose_rad: [J].
        num_envs: N.
        spread: of random starts.
    """

    def __init__(self, default_pose_rad: torch.Tensor, num_envs: int, spread: StartNoise) -> None:
        device = default_pose_rad.device
        self._pose = default_pose_rad.expand(num_envs, -1)  # [N, J]
        self._level = torch.tensor([1.0, 0.0, 0.0, 0.0], device=device).expand(num_envs, 4)
        self._origin = torch.zeros(num_envs, 2, device=device)
        self._number = torch.zeros(num_envs, dtype=torch.long, device=device)  # of the next episode
        self._draws = Draws(num_envs, 2 + self._pose.shape[1] + 2, device)
        self._random, self._spread = False, spread

    def seed(self, seed: int, random: bool) -> None:
        """What `draw` gives from here on depends on ``seed`` alone.

        Args:
            random: move joints, tilt the base and move it to the sides, each uniformly within its spread.
        """
        self._random = random
        self._number.zero_()
        if random:
            self._draws.seed(seed)

    def draw(self, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Quaternions [N, 4] (w, x, y, z), joint positions [N, J] and base positions x, y [N, 2] (m).

        Those of the environments in ``mask``, bool [N], are used up.
        """
        if not self._random:
            return self._level, self._pose, self._origin
        noise = self._draws.of(self._number)  # [N, 2 + J + 2]
        self._number += mask
        half = 0.5 * self._spread.tilt_rad * noise[:, :2]  # of roll and pitch
        (cos_r, cos_p), (sin_r, sin_p) = half.cos().unbind(1), half.sin().unbind(1)
        quat = torch.stack([cos_r * cos_p, sin_r * cos_p, cos_r * sin_p, -sin_r * sin_p], dim=1)
        joints, position = noise[:, 2:-2], noise[:, -2:]
        return quat, self._pose + self._spread.joints_rad * joints, self._spread.position_m * position


class Commands:
    """Commands [N, 3]; the k-th of an environment's n-th episode is alike whatever happened before.

    Args:
        config: the range, and when it is drawn from again.
        num_envs: N.
        dt_s: time of a step.
        device: of `values`.
    """

    def __init__(self, config: TaskConfig, num_envs: int, dt_s: float, device: torch.device) -> None:
        self._centre, self._spread = torch.tensor([config.command, config.command_spread], device=device)
        self.values = self._centre.repeat(num_envs, 1)  # [N, 3] forward and lateral m/s, yaw rad/s
        self._every = max(1, round(config.resample_s / dt_s)) if config.resample_s else 0
        self._number = torch.zeros(num_envs, dtype=torch.long, device=device)  # of the running episode
        self._draws = Draws(num_envs, 3, device)

    def seed(self, seed: int) -> None:
        """What is drawn from here on depends on ``seed`` alone."""
        self._number.fill_(-1)
        self._draws.seed(seed ^ zlib.crc32(b"commands"))

    def begin(self, mask: torch.Tensor) -> None:
        """Commands of the episodes that begin in ``mask``, bool [N]."""
        self._number += mask
        self._draw(mask, self._number)

    def again(self, step_num: torch.Tensor) -> torch.Tensor | None:
        """New commands where their time has come; where that is, bool [N], None where it never comes.

        Args:
            step_num: [N], steps done in the running episodes.
        """
        if not self._every:
            return None
        mask = (step_num > 0) & (step_num % self._every == 0)
        self._draw(mask, self._number + STRIDE * (step_num // self._every))
        return mask

    def _draw(self, mask: torch.Tensor, turn: torch.Tensor) -> None:
        drawn = self._centre + self._spread * self._draws.of(turn.long())
        torch.where(mask[:, None], drawn, self.values, out=self.values)
