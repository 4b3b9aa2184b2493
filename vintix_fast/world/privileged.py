"""What of its world an expert is told beside what it senses: the values of what varies, which no sensor shows.

Owns their order and scale, which follow from the variation that the expert was trained in.  They are the world's,
however it is spelt: an expert that was trained with ``motor.any_leg=0.5:1`` knows what ``motor.FR=0.5`` is.
"""

from __future__ import annotations

import math

import torch

from vintix_fast.service.errors import UsageError
from vintix_fast.world.task import WalkingTask
from vintix_fast.world.variation import KINDS, Variation


class Privileged:
    """Scales the values of a world to about [-1, 1], the range of ``variation``; outside of it they are beyond.

    Args:
        variation: that the expert was trained in; what does not differ between its episodes is nothing to be told.
        num_joints: J.
    """

    def __init__(self, variation: Variation, num_joints: int) -> None:
        self._joints = num_joints
        self._ranges: dict[str, tuple[float, float]] = {}
        for name in dict.fromkeys(entry.name for entry in variation.entries if entry.drawn):
            of_it, kind = [entry for entry in variation.entries if entry.name == name], KINDS[name]
            if kind.chance:
                self._ranges[name] = (0.0, 1.0)
            elif kind.of_joints:  # factors that meet in a joint are multiplied; where none does it is 1
                low, high = ([getattr(entry, end) for entry in of_it] for end in ("low", "high"))
                self._ranges[name] = (math.prod(min(1.0, x) for x in low), math.prod(max(1.0, x) for x in high))
            else:
                self._ranges[name] = (of_it[0].low, of_it[0].high)

    @property
    def size(self) -> int:
        """Columns: one for each name that varies, for what joints have one for each joint."""
        return sum(self._joints if KINDS[name].of_joints else 1 for name in self._ranges)

    def check(self, world: Variation) -> None:
        """Raise UsageError where a world does not say what it must."""
        for name in self._ranges:
            if KINDS[name].own is None and all(entry.name != name for entry in world.entries):
                raise UsageError(f"the expert was trained with {name} varied, and must know it; give it in --vary")

    def of(self, task: WalkingTask) -> torch.Tensor:
        """[N, size], of the running episodes."""
        columns = [torch.zeros(task.num_envs, 0, device=task.device)]
        for name, (low, high) in self._ranges.items():
            value, kind = None, KINDS[name]
            if task.drawn is not None:
                read = task.drawn.where if kind.chance else task.drawn.of_joints if kind.of_joints else task.drawn.value
                value = read(name)
            if value is None:
                assert kind.own is not None  # see `check`
                value = torch.full((task.num_envs, self._joints if kind.of_joints else 1), kind.own, device=task.device)
            columns.append((2.0 * value.float() - low - high).reshape(task.num_envs, -1) / (high - low))
        return torch.cat(columns, dim=1)
