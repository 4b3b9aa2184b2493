"""The loop that runs a policy in N environments, exploration noise, and the account of what happened."""

from typing import Any

from vintix_fast.rollout.books import Collection, Episode, StepWriter, episodes_per_env, standard_error
from vintix_fast.rollout.collector import collect
from vintix_fast.rollout.host_copies import HostCopies
from vintix_fast.rollout.noise import Noise, ladder

__all__ = [
    "Collection", "Episode", "HostCopies", "Noise", "StepWriter", "collect", "episodes_per_env", "ladder",
    "standard_error",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    from vintix_fast.service.old_names import old_name

    return old_name(__name__, name)
