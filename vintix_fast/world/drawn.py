"""The values of a variation, drawn for N environments and each of their episodes.

Owns their random numbers, which are drawn on the CPU, so that a seed means the same on every device.  Values go to the
simulator as `Physics`, to `disturbances.py` by name, and to whoever records them as columns.  Knows no simulator.
"""

from __future__ import annotations

import functools
import zlib
from collections.abc import Iterator
from typing import NamedTuple

import torch

from vintix_fast.service.errors import UsageError
from vintix_fast.world.robot import LEGS, Robot
from vintix_fast.world.starts import Draws
from vintix_fast.world.variation import KINDS, Variation, Varied

ANY_LEG, ANY_JOINT = "any_leg", "any_joint"


class Physics(NamedTuple):
    """Bodies of N robots of J joints; None where a robot has its own."""

    payload: torch.Tensor | None  # [N, 4] kg, and where: x, y, z in m from the base link's origin
    base_mass_kg: torch.Tensor | None  # [N]
    com_m: torch.Tensor | None  # [N, 3] moved by so much
    friction: torch.Tensor | None  # [N]
    kp: torch.Tensor | None  # [N, J], factors, in the robot file's order, like the next four
    kd: torch.Tensor | None
    torque: torch.Tensor | None  # of the limits
    joint_range: torch.Tensor | None
    locked: torch.Tensor | None  # bool: at the default pose


class Drawn:
    """Values of what varies, [N, columns]; an environment's n-th draw is alike whatever happened before.

    Args:
        variation: what varies.
        robot: whose joints.
        num_envs: N.
        device: of the values.
    """

    def __init__(self, variation: Variation, robot: Robot, num_envs: int, device: torch.device) -> None:
        self.variation, self._num_joints = variation, len(robot.joints)
        self.columns: list[str] = []
        """Names of the values: what varies as it is spelt, ``.which`` where one of several joints or legs is drawn."""
        self._of: list[tuple[Varied, torch.Tensor, int, int | None]] = []
        for entry in variation.entries:
            groups = joints_of(entry.where, robot) if KINDS[entry.name].of_joints else [[]]
            masks = torch.zeros(len(groups), self._num_joints, device=device)  # [groups, J]
            for mask, joints in zip(masks, groups, strict=True):
                mask[joints] = 1.0
            value, which = len(self.columns), None
            self.columns.append(entry.key)
            if len(groups) > 1:
                which = len(self.columns)
                self.columns.append(f"{entry.key}.which")
            self._of.append((entry, masks, value, which))
        self.values = torch.zeros(num_envs, len(self.columns), device=device)  # [N, columns]
        self._number = torch.zeros(num_envs, dtype=torch.long, device=device)  # of the next episode
        self._draws = Draws(num_envs, len(self.columns), device, low=0.0)

    @property
    def changes(self) -> bool:
        """Whether an environment's later episodes may have other values than its first."""
        return self.variation.redraw_episodes > 0 and any(entry.drawn for entry in self.variation.entries)

    def seed(self, seed: int) -> None:
        """What `draw` gives from here on depends on ``seed`` alone."""
        self._number.zero_()
        # Not the starts' numbers: who varies nothing starts in the same way.
        self._draws.seed(seed ^ zlib.crc32(b"variation"))

    def draw(self, mask: torch.Tensor) -> None:
        """New values in the environments in ``mask``, bool [N], where their turn has come."""
        turn = self._number // self.variation.redraw_episodes if self.variation.redraw_episodes else self._number * 0
        share = self._draws.of(turn)  # [N, columns]
        self._number += mask
        drawn = torch.empty_like(self.values)
        for entry, masks, value, which in self._of:
            kind, u = KINDS[entry.name], share[:, value]
            if kind.chance:
                drawn[:, value] = (u < entry.low).float()
            elif kind.whole:
                drawn[:, value] = torch.floor(entry.low + u * (entry.high - entry.low + 1.0)).clamp(max=entry.high)
            else:
                drawn[:, value] = entry.low + u * (entry.high - entry.low)
            if which is not None:
                drawn[:, which] = torch.floor(share[:, which] * len(masks)).clamp(max=len(masks) - 1)
        torch.where(mask[:, None], drawn, self.values, out=self.values)

    def again(self, step_num: torch.Tensor, dt_s: float) -> torch.Tensor | None:
        """New values within episodes where their time has come; where that is, bool [N], None where nowhere.

        Args:
            step_num: [N], steps done in the running episodes.
            dt_s: time of a step.
        """
        if self.variation.redraw_s is None:
            return None
        mask = (step_num > 0) & (step_num % max(1, round(self.variation.redraw_s / dt_s)) == 0)
        if not mask.any():
            return None
        self.draw(mask)
        return mask

    def value(self, name: str) -> torch.Tensor | None:
        """[N], of what is no joint's; None where it does not vary."""
        return next((self.values[:, value] for entry, _, value, _ in self._of if entry.name == name), None)

    def of_joints(self, name: str) -> torch.Tensor | None:
        """Factors [N, J], 1 where a joint has its own; several that meet in a joint are multiplied."""
        factors = [1.0 + touched * (value - 1.0) for touched, value in self._touched(name)]
        return functools.reduce(torch.mul, factors) if factors else None

    def where(self, name: str) -> torch.Tensor | None:
        """Joints, bool [N, J], that are locked or limp."""
        found = [touched * value > 0 for touched, value in self._touched(name)]
        return functools.reduce(torch.logical_or, found) if found else None

    def _touched(self, name: str) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Which joints each entry of this name means, [N or 1, J] of 0 and 1, and its values, [N, 1]."""
        for entry, masks, value, which in self._of:
            if entry.name == name:
                touched = masks if which is None else masks[self.values[:, which].long()]
                yield touched, self.values[:, value : value + 1]

    def physics(self) -> Physics:
        """The bodies that the simulator is to give the robots."""
        motor, limp = self.of_joints("motor"), self.where("limp")
        if limp is not None:
            motor = (torch.ones_like(limp, dtype=torch.float32) if motor is None else motor) * ~limp
        gains = [_product(self.of_joints(name), motor) for name in ("kp", "kd")]
        place, com = ([self.value(f"{what}_{axis}_m") for axis in "xyz"] for what in ("payload", "com"))
        payload = self.value("payload_kg")
        return Physics(
            payload=None if payload is None else _columns([payload, *place], payload),
            base_mass_kg=self.value("base_mass_kg"),
            com_m=_columns(com, self._number) if any(shift is not None for shift in com) else None,
            friction=self.value("friction"),
            kp=gains[0],
            kd=gains[1],
            torque=motor,
            joint_range=self.of_joints("joint_range"),
            locked=self.where("locked"),
        )


def _columns(parts: list[torch.Tensor | None], like: torch.Tensor) -> torch.Tensor:
    """[N, parts], 0 where one is None."""
    return torch.stack([torch.zeros(len(like), device=like.device) if p is None else p for p in parts], dim=1)


def _product(one: torch.Tensor | None, other: torch.Tensor | None) -> torch.Tensor | None:
    return one * other if one is not None and other is not None else other if one is None else one


def check_joints(variation: Variation, robot: Robot) -> None:
    """Raise UsageError where the robot has no such joints."""
    for entry in variation.entries:
        if KINDS[entry.name].of_joints:
            joints_of(entry.where, robot)


def joints_of(where: str, robot: Robot) -> list[list[int]]:
    """The joints, by index, that ``where`` means; several lists where one of them is drawn.

    Raises:
        UsageError: the robot has no such joints.
    """
    legs, kinds = [list(leg) for leg in robot.legs], robot.joints_of_a_leg
    index = {name: i for i, name in enumerate(robot.joints)}
    named = {"": list(range(len(index)))}
    named |= {leg: [index[j] for j in joints] for leg, joints in zip(LEGS, legs, strict=True)}
    named |= {kind: [index[leg[i]] for leg in legs] for i, kind in enumerate(kinds)}
    single = {f"{leg}_{kind}": index[legs[n][i]] for n, leg in enumerate(LEGS) for i, kind in enumerate(kinds)}
    named |= {name: [i] for name, i in (single | index).items()}
    if where == ANY_LEG:
        return [named[leg] for leg in LEGS]
    if where == ANY_JOINT:
        return [[i] for i in named[""]]
    if where.removeprefix("any_") in kinds and where.startswith("any_"):
        return [[i] for i in named[where.removeprefix("any_")]]
    if where not in named:
        known = [*LEGS, *kinds, *single, ANY_LEG, ANY_JOINT, *(f"any_{kind}" for kind in kinds)]
        raise UsageError(f"--vary names {where!r}, which are no joints of {robot.name}; known are {', '.join(known)}")
    return [named[where]]
