"""What a run tells whoever watches.  `Progress` is silent; the console's is in `console.py`."""

from __future__ import annotations

import contextlib
from typing import Any


class Progress:
    """Receives what happens in a run; every method may be left as it is, and may raise to stop the run."""

    def say(self, text: str) -> None:
        """A line for the user."""

    def rollout(self, what: str, num_episodes: int, max_steps: int) -> contextlib.AbstractContextManager:
        """Wraps a rollout of so many episodes."""
        return contextlib.nullcontext()

    def on_rollout_step(self, collection: Any) -> None:
        """After each step of all environments, with the `Collection` so far."""

    def training(self, what: str, steps: int) -> contextlib.AbstractContextManager:
        """Wraps so many optimiser steps."""
        return contextlib.nullcontext()

    def on_training_step(self, step: int, loss: float) -> None:
        """After each optimiser step."""

    def on_iteration(self, iteration: int, mean_return: float, mean_length: float) -> None:
        """After each iteration of an expert's training, with the means of its latest episodes (NaN before any)."""

    def on_validation(self, row: dict[str, Any]) -> None:
        """After each validation of a pretraining, with its numbers."""

    def on_loop(self, row: dict[str, Any]) -> None:
        """After each loop, with its numbers."""
