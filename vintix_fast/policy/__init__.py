"""Models acting in N environments: plain, compiled for a CPU, captured on a GPU; and a robot's expert."""

from vintix_fast.policy.compiled import CompiledPolicy
from vintix_fast.policy.cuda_graph import GraphPolicy
from vintix_fast.policy.engine import cache_bytes, make_policy
from vintix_fast.policy.policy import Actor, Policy

__all__ = ["Actor", "CompiledPolicy", "GraphPolicy", "Policy", "cache_bytes", "make_policy"]
