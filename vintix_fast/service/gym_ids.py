"""The name by which gymnasium knows the walking task.  Imports nothing of it but gymnasium, where that is there."""

from __future__ import annotations

import sys

WALK = "Walk-v0"
MAX_STEPS = 1000


def register_walk() -> None:
    """Tell gymnasium, if the process has imported it, of the walking task; once."""
    if "gymnasium" not in sys.modules:
        return
    import gymnasium

    if WALK not in gymnasium.registry:
        gymnasium.register(
            WALK,
            "vintix_fast.gym:WalkEnv",
            max_episode_steps=MAX_STEPS,
            vector_entry_point="vintix_fast.gym:WalkVectorEnv",
        )
