"""How episodes of the walking task begin: at rest, in the default pose and level, or a little beside both.

Owns the random numbers of the starts.  They are drawn on the CPU, so that a seed means the same on every device.
"""

from __future__ import annotations

import torch

from vintix_fast.service.upload import upload
from vintix_fast.world.task_config import StartNoise

BLOCK = 256
"""Episodes of an environment whose starts differ; the next ones begin like the first again."""


class Starts:
    """Poses to begin episodes in.

    An environment's n-th episode begins alike whatever happened before, so two models can be compared start by start.
    The draws are uploaded ahead and each environment counts its own, so that a host need not know when one begins.

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
        self._env = torch.arange(num_envs, device=device)
        self._random, self._spread = False, spread

    def seed(self, seed: int, random: bool) -> None:
        """What `draw` gives from here on depends on ``seed`` alone.

        Args:
            random: move joints, tilt the base and move it to the sides, each uniformly within its spread.
        """
        self._random = random
        self._number.zero_()
        if random:
            num_envs, num_joints = self._pose.shape
            generator = torch.Generator().manual_seed(seed)
            noise = 2.0 * torch.rand(BLOCK, num_envs, 2 + num_joints + 2, generator=generator) - 1.0
            self._block = upload(noise.flatten(0, 1), self._pose.device)  # [BLOCK * N, 2 + J + 2]

    def draw(self, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Quaternions [N, 4] (w, x, y, z), joint positions [N, J] and base positions x, y [N, 2] (m).

        Those of the environments in ``mask``, bool [N], are used up.
        """
        if not self._random:
            return self._level, self._pose, self._origin
        noise = self._block.index_select(0, self._number % BLOCK * len(self._env) + self._env)  # [N, 2 + J + 2]
        self._number += mask
        half = 0.5 * self._spread.tilt_rad * noise[:, :2]  # of roll and pitch
        (cos_r, cos_p), (sin_r, sin_p) = half.cos().unbind(1), half.sin().unbind(1)
        quat = torch.stack([cos_r * cos_p, sin_r * cos_p, cos_r * sin_p, -sin_r * sin_p], dim=1)
        joints, position = noise[:, 2:-2], noise[:, -2:]
        return quat, self._pose + self._spread.joints_rad * joints, self._spread.position_m * position
