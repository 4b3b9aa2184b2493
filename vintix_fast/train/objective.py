"""The improvement operator: from histories to what the policy should have done at each step.

`clone` is the slow script's: the policy's own actions, a fixed point, kept as the control.  `CriticImprover` moves each
action a little up the gradient of a critic that was fitted to the same data.  Fine-tuning on the targets is the same
for both.  Knows nothing about Vintix's weights or about files.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np

from vintix_fast.data import History
from vintix_fast.data.windows import Targets


class Improver(Protocol):
    """Turns histories into training targets; may learn from them."""

    def targets(
        self, histories: list[History], replay: list[History], seed: int, on_step: Callable[[int, float], None]
    ) -> list[Targets]:
        """What the policy should have done.

        Args:
            histories: to make targets for.
            replay: to learn from; holds ``histories`` and those of earlier loops.
            seed: of whatever is random.
            on_step: called with the number of updates done and the loss; may raise to stop.

        Returns:
            One `Targets` for each of ``histories``.
        """
        ...

    def judge(self, accepted: bool) -> None:
        """Told after each gated loop whether its result was kept."""
        ...

    def numbers(self) -> dict[str, Any]:
        """What to log about the last call of `targets`."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs, as JSON types."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over a `state_dict`; an empty one changes nothing."""
        ...


class CloneImprover:
    """Behaviour cloning of the executed actions, exactly what the slow script does."""

    def targets(
        self, histories: list[History], replay: list[History], seed: int, on_step: Callable[[int, float], None]
    ) -> list[Targets]:
        return [Targets(h.action, np.ones(len(h), np.float32)) for h in histories]

    def judge(self, accepted: bool) -> None:
        pass

    def numbers(self) -> dict[str, Any]:
        return {}

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        pass
