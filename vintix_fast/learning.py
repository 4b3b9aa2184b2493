"""What a loop learns: from episodes to what the policy should have done, and the robot's own parts trained towards it.

The same for episodes that `adapt` has collected and for a robot's logs.  Knows nothing about where episodes come from,
nor who decides whether the result is kept.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vintix_fast.config import FinetuneConfig
from vintix_fast.data import History, Windows
from vintix_fast.improve import Improver
from vintix_fast.model import Vintix
from vintix_fast.service.progress import Progress
from vintix_fast.service.regions import region
from vintix_fast.train import TrainingStep, finetune, with_precision
from vintix_fast.world.simulator import DT_S
from vintix_fast.world.task_config import TaskConfig

if TYPE_CHECKING:
    from vintix_fast.config import AdaptConfig
    from vintix_fast.from_logs_config import FromLogsConfig

WALKING = 0.8
"""A model that earns this part of what an episode can give walks."""
PURPOSES = ("starts", "noise", "critic", "windows", "posture", "audition", "practice")
"""What is drawn at random in a loop."""


def walks(mean_return: float, task: TaskConfig, max_steps: int) -> bool:
    """Whether who earns so much in an episode of ``max_steps`` walks, so that it is smaller faults that are left."""
    return mean_return >= WALKING * (task.most_reward_per_s * DT_S * max_steps)


@dataclass(frozen=True)
class Lesson:
    """How to learn; see `vintix_fast.config`."""

    finetune: FinetuneConfig
    window_len: int
    until_done: bool
    """Hold windows out, and end when they gain little more."""
    critic_updates: int
    device: str
    critic_seed: int
    windows_seed: int
    state_file: Path | None = None
    """An interrupted fine-tuning goes on from it."""


def learn(
    model: Vintix,
    task_name: str,
    histories: list[History],
    replay: list[History],
    improver: Improver,
    lesson: Lesson,
    what: str,
    progress: Progress,
    shown: list[History] | None = None,
) -> tuple[dict[str, Any], list[TrainingStep]]:
    """Ask the improver what the policy should have done, and train the task's group of ``model`` towards it, in place.

    Args:
        histories: to be done better.
        replay: what the improver learns from; holds ``histories``.
        what: the loop, for the progress.
        shown: ``histories`` with the rewards that the policy was shown, where those are not the true ones.

    Returns:
        Metrics, and what each optimiser step gave.
    """
    started = time.perf_counter()
    with region("critic"), progress.training(f"{what}: critic", lesson.critic_updates):
        targets = improver.targets(histories, replay, lesson.critic_seed, on_step=progress.on_training_step)
    improve_seconds = time.perf_counter() - started

    settings = with_precision(lesson.finetune, lesson.device)
    windows = Windows(shown or histories, targets, lesson.window_len, lesson.device, hold_out=lesson.until_done)
    with progress.training(f"{what}: fine-tuning", settings.steps):
        steps = finetune(
            model, task_name, windows, settings, lesson.windows_seed,
            on_step=lambda s: progress.on_training_step(s.step + 1, s.loss), state_file=lesson.state_file,
        )  # fmt: skip
    # A single step's loss says little: the last tenth of them are averaged.
    last = steps[-max(1, len(steps) // 10) :]
    metrics = {
        "loss_first": steps[0].loss,
        "loss": float(np.mean([s.loss for s in last])),
        "grad_norm": float(np.mean([s.grad_norm for s in last])),
        "finetune_steps": len(steps),
        "lr": settings.lr,
        "bf16": settings.bf16,
        "train_seconds": time.perf_counter() - started,
        "improve_seconds": improve_seconds,
    }
    return metrics | improver.metrics(), steps


def seed_for(config: AdaptConfig | FromLogsConfig, loop: int, purpose: str) -> int:
    """An independent seed for each use in each loop, so that a resumed run draws what an unbroken one would."""
    return int(np.random.SeedSequence([config.seed, loop, PURPOSES.index(purpose)]).generate_state(1)[0])
