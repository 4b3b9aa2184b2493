"""A trained expert: a small network that maps what the robot senses, and its last action, to joint targets.

One that was trained in worlds that differ is also told what differs, see `Privileged`.  Owns the expert's two files and
its observation.  Knows nothing about how it was trained.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from vintix_fast.policy import Actor
from vintix_fast.service.errors import InputFileError, UsageError, cause, shown
from vintix_fast.service.files import load_tensors, read_json
from vintix_fast.world.layout import QUADRUPED, ObservationLayout
from vintix_fast.world.privileged import Privileged
from vintix_fast.world.robot import Robot
from vintix_fast.world.task import WalkingTask
from vintix_fast.world.variation import Variation

WEIGHTS_FILE, CARD_FILE = "expert.pth", "expert.json"
TOLD = "told"
"""In the card of an expert that is told of its world: the variation that it was trained in."""
AGAIN = "train it again with `vintix-fast expert`"


def expert_network(hidden_dims: Sequence[int], layout: ObservationLayout = QUADRUPED, told: int = 0) -> nn.Sequential:
    """ELU network from the expert's observation [N, O + J + told] to its action [N, J]; layers as rsl_rl's MLP names
    them."""
    widths = [layout.size + layout.num_joints + told, *hidden_dims]
    layers: list[nn.Module] = []
    for inputs, outputs in zip(widths[:-1], widths[1:], strict=True):
        layers += [nn.Linear(inputs, outputs), nn.ELU()]
    return nn.Sequential(*layers, nn.Linear(widths[-1], layout.num_joints))


def expert_observation(
    observation: torch.Tensor, last_action: torch.Tensor, told: torch.Tensor | None = None
) -> torch.Tensor:
    """[N, O] and [N, J] -> [N, O + J]: the task's observation and the action of the step before, 0 at a start.

    With what it is told of its world, [N, told], after them.
    """
    return torch.cat([observation, last_action] + ([] if told is None else [told]), dim=1)


class ExpertPolicy(Actor):
    """Acts in N environments without noise; the collector drives it like a `vintix_fast.policy.Policy`.

    Args:
        network: see `expert_network`.
        num_envs: environments side by side.
        device: where the observations come from.
        told: gives what it is told of the running episodes' worlds, [N, told], see `told_of`; None: nothing.
    """

    def __init__(
        self,
        network: nn.Sequential,
        num_envs: int,
        device: torch.device | str = "cpu",
        told: Callable[[], torch.Tensor] | None = None,
    ) -> None:
        self._network, self._told = network.to(device).eval(), told
        actions: int = network[-1].out_features  # type: ignore[assignment]  # of a linear layer
        self._last_action = torch.zeros(num_envs, actions, device=device)

    def reset(self, mask: torch.Tensor | None = None) -> None:
        self._last_action[slice(None) if mask is None else mask] = 0.0

    def act(self, observation: torch.Tensor, step_num: torch.Tensor) -> torch.Tensor:
        self._last_action[step_num == 0] = 0.0
        with torch.inference_mode():
            told = None if self._told is None else self._told()
            return self._network(expert_observation(observation, self._last_action, told))

    def observe(self, action: torch.Tensor, reward: torch.Tensor) -> None:
        self._last_action.copy_(action)


def told_of(trained: Variation, task: WalkingTask) -> Callable[[], torch.Tensor] | None:
    """What an expert that was trained in variations is told in a task; None where that is nothing.

    Raises:
        UsageError: the task does not say what the expert must know.
    """
    privileged = Privileged(trained, task.layout.num_joints)
    if not privileged.size:
        return None
    privileged.check(task.config.vary)
    return lambda: privileged.of(task)


def trained_in(card: dict[str, Any]) -> Variation:
    """The variation whose values an expert with this card must be told; of a plain one nothing."""
    return Variation.parse(card.get(TOLD, ""))


def load_expert(
    path: Path, robot: Robot | None = None, option: str = "--expert"
) -> tuple[nn.Sequential, dict[str, Any]]:
    """Read an expert's directory.

    Args:
        path: holds ``expert.pth`` and ``expert.json``.
        robot: whose expert it must be; None for any.
        option: by which the path was given, for messages.

    Returns:
        The network, and what ``expert.json`` says.

    Raises:
        InputFileError: a file is missing or broken.
        UsageError: it is the expert of another robot.
    """
    # An unfinished training has no card yet.
    path = Path(path)
    absent = [name for name in (WEIGHTS_FILE, CARD_FILE) if not (path / name).is_file()]
    if absent:
        raise InputFileError(
            f"expert {path} lacks {', '.join(absent)}; give the --output-dir of a finished `vintix-fast expert`"
        )
    # The weights' last bias says for how many joints it was trained.
    card = read_json(path / CARD_FILE, AGAIN, {"robot": str, "hidden_dims": list})
    weights = load_tensors(path / WEIGHTS_FILE, remedy=AGAIN)
    try:
        if not all(isinstance(value, torch.Tensor) and value.is_floating_point() for value in weights.values()):
            raise ValueError("it holds something other than weights")
        if not all(type(width) is int and width > 0 for width in card["hidden_dims"]):
            raise ValueError(f"hidden_dims are {shown(card['hidden_dims'])}")
        joints = len(weights[f"{2 * len(card['hidden_dims'])}.bias"])
        if joints == 0:
            raise ValueError("it has no joints")
        told = Privileged(trained_in(card), joints).size
        with torch.device("meta"):  # sizes are compared before there is memory for them
            name, network = card["robot"], expert_network(card["hidden_dims"], ObservationLayout(joints), told)
        network.load_state_dict({key: value.float() for key, value in weights.items()}, assign=True)
        if not all(torch.isfinite(value).all() for value in weights.values()):
            raise ValueError("its weights hold NaN or infinity")
    except (AttributeError, ValueError, KeyError, TypeError, RuntimeError, UsageError) as error:
        raise InputFileError(f"expert {path} is broken ({cause(error)}); {AGAIN}") from error
    # Joints of another robot may be as many, and turn the other way.
    if robot is not None and name != robot.name:
        raise UsageError(f"{option} {path} is an expert of {name}, not of {robot.name}; give --robot-type {name}")
    return network, card
