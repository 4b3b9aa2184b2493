"""How episodes of the walking task begin: at rest, in the default pose and level, or a little beside both.

Owns the random numbers of the starts.  They are drawn on the CPU, so that a seed means the same on every device.
"""

from __future__ import annotations

import math

import torch

from vintix_fast.upload import upload

START_JOINT_NOISE_RAD = 0.1
START_POSITION_NOISE_M = 0.1
START_TILT_NOISE_RAD = math.radians(5.0)
BLOCK = 256
"""Draws uploaded at a time."""


class Starts:
    """Poses to begin episodes in.

    Random ones are drawn for all environments whenever any of them begins an episode.  Only the device knows when that
    is; where the host is not to ask, it uploads draws ahead, the device counts those that it used, and the host looks
    at the count once in `BLOCK` steps.

    Args:
        default_pose_rad: [J].
        num_envs: N.
        ahead: upload draws ahead.
    """

    def __init__(self, default_pose_rad: torch.Tensor, num_envs: int, ahead: bool) -> None:
        device = default_pose_rad.device
        self._pose = default_pose_rad.expand(num_envs, -1)  # [N, J]
        self._level = torch.tensor([1.0, 0.0, 0.0, 0.0], device=device).expand(num_envs, 4)
        self._origin = torch.zeros(num_envs, 2, device=device)
        self._random, self._ahead = False, ahead
        # Where a robot stands changes nothing on a plane, so it does not move the other draws.
        self._generator, self._position_generator = torch.Generator(), torch.Generator()
        self._used = torch.zeros(1, dtype=torch.long, device=device)

    def seed(self, seed: int, random: bool) -> None:
        """What `draw` gives from here on depends on ``seed`` alone.

        Args:
            random: move joints by up to 0.1 rad, tilt the base by up to 5 degrees and move it by up to 0.1 m to the
                sides, uniformly.
        """
        self._generator.manual_seed(seed)
        self._position_generator.manual_seed(seed)
        self._random = random
        if random and self._ahead:
            self._block, self._asked = upload(self._uniform(BLOCK), self._pose.device), 0
            self._used.zero_()

    def draw(self, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Quaternions [N, 4] (w, x, y, z), joint positions [N, J] and base positions x, y [N, 2] (m) for the
        environments in ``mask``, bool [N].

        Where nothing is drawn ahead some of the mask must be set.
        """
        if not self._random:
            return self._level, self._pose, self._origin
        noise = self._next(mask) if self._ahead else upload(self._uniform(1)[0], self._pose.device)
        half = 0.5 * START_TILT_NOISE_RAD * noise[:, :2]  # of roll and pitch
        (cos_r, cos_p), (sin_r, sin_p) = half.cos().unbind(1), half.sin().unbind(1)
        quat = torch.stack([cos_r * cos_p, sin_r * cos_p, cos_r * sin_p, -sin_r * sin_p], dim=1)
        joints = slice(2, 2 + self._pose.shape[1])
        return (
            quat,
            self._pose + START_JOINT_NOISE_RAD * noise[:, joints],
            START_POSITION_NOISE_M * noise[:, joints.stop :],
        )

    def _next(self, mask: torch.Tensor) -> torch.Tensor:
        """The first draw [N, 2 + J + 2] that is not used up; used up if any of ``mask`` is set."""
        if self._asked == BLOCK:
            used = int(self._used)
            self._block = torch.cat([self._block[used:], upload(self._uniform(used), self._pose.device)])
            self._used.zero_()
            self._asked = 0
        self._asked += 1
        noise = self._block.index_select(0, self._used)[0]
        self._used += mask.any()
        return noise

    def _uniform(self, draws: int) -> torch.Tensor:
        """Numbers from -1 to 1, [draws, N, 2 + J + 2]."""
        num_envs, num_joints = self._pose.shape
        pose = torch.rand(draws, num_envs, 2 + num_joints, generator=self._generator)
        position = torch.rand(draws, num_envs, 2, generator=self._position_generator)
        return 2.0 * torch.cat([pose, position], dim=2) - 1.0
