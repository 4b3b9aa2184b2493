"""Policy, exploration noise and the loop that runs them in N environments."""

from vintix_fast.rollout.books import Collection, Episode, episodes_per_env, standard_error
from vintix_fast.rollout.collector import collect
from vintix_fast.rollout.compiled import CompiledPolicy
from vintix_fast.rollout.engine import cache_bytes, make_policy
from vintix_fast.rollout.graph import GraphPolicy
from vintix_fast.rollout.host_copies import HostCopies
from vintix_fast.rollout.noise import Noise, ladder
from vintix_fast.rollout.policy import Actor, Policy

__all__ = [
    "Actor",
    "Collection",
    "CompiledPolicy",
    "Episode",
    "GraphPolicy",
    "HostCopies",
    "Noise",
    "Policy",
    "cache_bytes",
    "collect",
    "episodes_per_env",
    "ladder",
    "make_policy",
    "standard_error",
]
