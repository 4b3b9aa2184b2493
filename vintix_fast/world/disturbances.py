"""What a variation does to a robot beyond its body: late actions, noisy sensors, pushes.

Owns the random numbers of noise and pushes, drawn on the CPU from the seed.  Knows no simulator.
"""

from __future__ import annotations

import math
import zlib

import torch

from vintix_fast.service.upload import upload
from vintix_fast.world.drawn import Drawn
from vintix_fast.world.layout import ObservationLayout
from vintix_fast.world.variation import PUSH_EVERY_S


class Disturbances:
    """Late actions, noise and pushes in N environments, as much as `drawn` says.

    Args:
        drawn: the values, which change as episodes begin.
        layout: of the observation [N, O].
        dt_s: time of a step.
    """

    def __init__(self, drawn: Drawn, layout: ObservationLayout, dt_s: float) -> None:
        self._drawn, self._layout, self._dt_s = drawn, layout, dt_s
        num_envs, device = len(drawn.values), drawn.values.device
        self._env = torch.arange(num_envs, device=device)
        late = [entry for entry in drawn.variation.entries if entry.name == "latency_steps"]
        most = max((int(entry.high) for entry in late), default=0)
        # The latest actions, [most + 1, N, J]; the newest at ``_newest``.
        self._actions = torch.zeros(most + 1, num_envs, layout.num_joints, device=device)
        self._newest = 0
        self.is_noisy = any(entry.name.startswith("noise_") for entry in drawn.variation.entries)
        self.pushes = drawn.value("push_m_s") is not None

    def seed(self, seed: int) -> None:
        """Noise and pushes from here on depend on ``seed`` alone; nothing waits to be executed."""
        self._generator = torch.Generator().manual_seed(seed ^ zlib.crc32(b"disturbances"))
        self._actions.zero_()

    def begin(self, mask: torch.Tensor) -> None:
        """Episodes begin in ``mask``, bool [N]: nothing waits to be executed there."""
        self._actions.masked_fill_(mask[None, :, None], 0.0)

    def late(self, action: torch.Tensor) -> torch.Tensor:
        """The action to execute now, [N, J], given the one that were due without further latency; asked every step."""
        if len(self._actions) == 1:
            return action
        self._newest = (self._newest + 1) % len(self._actions)
        self._actions[self._newest] = action
        late = self._drawn.value("latency_steps")
        assert late is not None
        return self._actions[(self._newest - late.long()) % len(self._actions), self._env]

    def push(self, step_num: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Whom to push now, bool [N], and how, [N, 2] m/s; asked in every step.

        Args:
            step_num: [N], steps done in the running episodes.
        """
        speed, every = self._drawn.value("push_m_s"), self._drawn.value("push_every_s")
        assert speed is not None
        every_s = torch.full_like(speed, PUSH_EVERY_S) if every is None else every
        steps = (every_s / self._dt_s).round().clamp(min=1.0).long()
        angle = upload(2.0 * math.pi * torch.rand(len(speed), generator=self._generator), speed.device)
        mask = (step_num > 0) & (step_num % steps == 0)
        return mask, speed[:, None] * torch.stack([angle.cos(), angle.sin()], dim=1)

    def noise(self) -> torch.Tensor:
        """What to add to an observation [N, O] of all environments."""
        layout = self._layout
        drawn = torch.randn(len(self._env), layout.size, generator=self._generator)
        noise = upload(drawn, self._env.device)
        places = {
            "noise_gyro_rad_s": (layout.ang_vel, layout.ang_vel_scale),
            "noise_gravity": (layout.gravity, 1.0),
            "noise_joint_rad": (layout.joint_pos, 1.0),
            "noise_joint_rad_s": (layout.joint_vel, layout.joint_vel_scale),
        }
        noise[:, layout.command] = 0.0
        for name, (place, scale) in places.items():
            sigma = self._drawn.value(name)
            noise[:, place] *= 0.0 if sigma is None else scale * sigma[:, None]
        return noise
