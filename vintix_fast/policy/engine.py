"""Which policy acts: the compiled one on a CPU, the captured one on a GPU, or the plain one that both are held against.

Knows nothing about how any of them works.
"""

from __future__ import annotations

import torch

from vintix_fast.acting_config import DEFAULT_CACHE_DTYPE, DEFAULT_DROPPED_MASS
from vintix_fast.model import Vintix
from vintix_fast.policy.compiled import CompiledPolicy
from vintix_fast.policy.cuda_graph import GraphPolicy
from vintix_fast.policy.policy import Actor, Policy

BYTES = {"float32": 4, "int8": 1}
SCALE_BYTES = 4
"""Of a vector of int8."""
LANES = 16
"""What the compiled policy pads spans and heads to."""


def cache_bytes(model: Vintix, context_len: int, *, engine: str, cache_dtype: str, dropped_mass: float) -> int:
    """Bytes that the policy of `make_policy` keeps for one environment's context."""
    if engine == "torch":
        cache_dtype, dropped_mass = "float32", 0.0
    compiled = engine != "torch" and model.device.type == "cpu"
    unit = LANES if compiled else 1
    spans = model.transformer.spans(context_len, dropped_mass / 2 if compiled else 0.0)
    vectors = 2 * sum(_padded(span, unit) for layer in spans for span in layer)
    head_dim = _padded(model.config.head_dim, unit)
    return vectors * (head_dim * BYTES[cache_dtype] + SCALE_BYTES * (cache_dtype == "int8"))


def _padded(size: int, unit: int) -> int:
    return -(-size // unit) * unit


def make_policy(
    model: Vintix,
    task_name: str,
    num_envs: int,
    context_len: int,
    *,
    engine: str = "auto",
    cache_dtype: str = DEFAULT_CACHE_DTYPE,
    dropped_mass: float = DEFAULT_DROPPED_MASS,
) -> Actor:
    """The model acting in ``num_envs`` environments, as it is now.

    Args:
        task_name: whose group and statistics to act with.
        context_len: tokens (steps) of history that the model attends to.
        engine: "auto": what is fastest on the model's device; "torch": the plain reference, which keeps keys and values
            in float32, reads all of them, and takes no notice of the two options below.
        cache_dtype: "float32" or "int8", how keys and values are kept.
        dropped_mass: attention may leave unread what weighs less than this, relative to the softmax's sum.
    """
    if engine == "torch":
        return Policy(model, task_name, num_envs, context_len)
    if model.device.type == "cuda":
        return GraphPolicy(model, task_name, num_envs, context_len, getattr(torch, cache_dtype), dropped_mass)
    return CompiledPolicy(
        model, task_name, num_envs, context_len, cache_dtype=cache_dtype, dropped_mass=dropped_mass
    )  # fmt: skip
