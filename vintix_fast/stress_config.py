"""Options of `stress`, and the worlds that it measures by itself."""

from __future__ import annotations

from dataclasses import MISSING, dataclass
from pathlib import Path

from vintix_fast.acting_config import (
    AUDITION,
    EPISODES,
    EngineConfig,
    checkpoint_option,
    copied_map_option,
    copied_option,
    token_order_option,
)
from vintix_fast.options import option
from vintix_fast.run_config import MAIN, MAX_ENVS, ROBOTS, TIME_LIMIT, RunConfig, seed_option
from vintix_fast.service.errors import UsageError
from vintix_fast.world.task_config import TaskConfig
from vintix_fast.world.task_file import task_option
from vintix_fast.world.variation import Variation

STANDARD = (
    *("payload_kg=3", "payload_kg=5", "motor=0.85", "motor=0.7", "motor.FR=0.5", "limp.FR_{last}=1"),
    *("locked.FR_{last}=1", "joint_range=0.6", "joint_range=0.4", "joint_range=0.2", "friction=0.4", "friction=0.2"),
    *("push_m_s=0.5", "push_m_s=1", "noise_joint_rad=0.02, noise_joint_rad_s=1", "latency_steps=1", "latency_steps=2"),
)
"""The field's protocol; ``{last}`` is a leg's lowest joint."""


@dataclass(frozen=True)
class StressConfig(RunConfig):
    """One table: ``episodes_per_env`` episodes in a row in each of ``num_envs`` environments, in each of the worlds.

    Raises:
        UsageError: a value is out of range, or a world cannot be.
    """

    command = "stress"

    vintix_path: Path = checkpoint_option(
        MISSING, MAIN, "checkpoint directory, builtin:<name>, or an expert's directory"
    )
    robot_type: str = option(MISSING, MAIN, ROBOTS, short="-r")
    output_dir: Path = option(MISSING, MAIN, "where the table goes", may_change=True)
    reference_robot: str | None = copied_option()
    init_map: str = copied_map_option()
    worlds: str | None = option(
        None, MAIN, "what varies, as in eval --vary, with ; from one world to the next; the plain one comes first",
        shown="payloads, weak motors, damage, friction, pushes, noise, latency",
    )  # fmt: skip
    task: TaskConfig = task_option()
    num_envs: int = option(100, MAIN, "environments side by side", least=1, most=MAX_ENVS)
    max_steps: int = option(1000, MAIN, TIME_LIMIT, least=1)
    episodes_per_env: int = option(4, EPISODES, "successive episodes in each environment, in one context", least=1)
    context_len: int | None = option(None, EPISODES, "steps of history that the policy sees", least=1, shown="all")
    forget_s: float | None = option(
        None, EPISODES, "control: clear the context after each so many seconds", least=0.02, shown="never"
    )
    seed: int = seed_option(EPISODES)
    engine: EngineConfig = EngineConfig()
    token_order: str | None = token_order_option()

    def _check(self) -> None:
        super()._check()
        if self.task.vary:
            raise UsageError(f"--task varies {self.task.vary}; stress has --worlds for that: leave the table out")
        if self.worlds is not None:
            self.variations()
        if self.reference_robot == AUDITION:
            raise UsageError(
                f"--reference-robot {AUDITION} tries copies in the plain world alone; name the robot to copy, which "
                "`vintix-fast eval` finds"
            )

    def variations(self, lowest_joint: str = "calf") -> list[Variation]:
        """The worlds, the plain one first; ``lowest_joint`` is what the robot's legs call theirs."""
        texts = self.worlds.split(";") if self.worlds else [text.format(last=lowest_joint) for text in STANDARD]
        return list(dict.fromkeys([Variation(), *map(Variation.parse, texts)]))

    def commands(self) -> list[tuple[float, float, float]]:
        """Of a task whose commands are ranges: five values of each, with the others in their middle."""
        made = []
        for axis, spread in enumerate(self.task.command_spread):
            for share in (-1.0, -0.5, 0.0, 0.5, 1.0) if spread else ():
                forward, lateral, yaw = (c + share * spread * (i == axis) for i, c in enumerate(self.task.command))
                made.append((forward, lateral, yaw))
        return list(dict.fromkeys(made))
