"""How long fine-tuning lasts, and how large its steps are.

Both depend on what was measured so far and on nothing else, so that a resumed training decides as an unbroken one.
Knows nothing about models or windows.
"""

from __future__ import annotations

import math
from typing import Any

CHECK_EVERY = 20
"""Steps between two measurements of the loss of what is held out."""
SMALL_GAIN = 0.02
"""Two checks that lowered that loss by less than this part of the first one's: little is left to learn."""
COOLING_STEPS = 20
"""Then so many steps more, ever smaller ones."""


def cooling_from(held_out: list[float], most: int) -> int:
    """The step from which on the learning rate falls to the end, `COOLING_STEPS` later.

    Args:
        held_out: losses of what is held out, before every `CHECK_EVERY`-th step from the first.
        most: steps that a training may take.
    """
    for check in range(3, len(held_out)):
        if held_out[check - 2] - held_out[check] < SMALL_GAIN * held_out[0]:
            return min(check * CHECK_EVERY, max(0, most - COOLING_STEPS))
    return max(0, most - COOLING_STEPS)


def learning_rate(step: int, config: Any, cooling: int | None = None) -> float:
    """Linear warm-up to ``lr``, then down to ``final_lr_fraction`` of it.

    Args:
        step: from 0.
        config: has `FinetuneConfig`'s ``steps``, ``lr``, ``warmup_steps``, ``final_lr_fraction``.
        cooling: the step at which the fall begins, linear over `COOLING_STEPS`; None: at once, as a cosine that ends
            with the last of ``steps``.
    """
    floor = config.final_lr_fraction
    if cooling is not None:
        warm = min(1.0, (step + 1) / min(config.warmup_steps, CHECK_EVERY))
        fall = min(1.0, max(0, step + 1 - cooling) / COOLING_STEPS)
        return config.lr * warm * (1.0 - (1.0 - floor) * fall)
    warmup = min(config.warmup_steps, max(1, config.steps // 10))
    if step < warmup:
        return config.lr * (step + 1) / warmup
    progress = (step - warmup) / max(1, config.steps - 1 - warmup)
    return config.lr * (floor + (1.0 - floor) * 0.5 * (1.0 + math.cos(math.pi * progress)))
