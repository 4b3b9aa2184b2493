"""Exports of small models, and inputs for them."""

import numpy as np

from vintix_fast.export.contract import make_contract
from vintix_fast.export.policy_file import policy_arrays, policy_bytes
from vintix_fast.world.task_config import DEFAULT_TASK

TASK = "go2_walking_ad"
# As in tests/policy/test_compiled.py: what rounding to 8 bits may change of an action of size 1.
TOLERANCE = {"float32": 1e-4, "int8": 8e-3}


def contract_of(model, robot, *, task=DEFAULT_TASK, context_len=None, dtype="float32", mass=0.01, reward="constant"):
    acting = {"context_len": context_len, "cache_dtype": dtype, "dropped_mass": mass, "reward": reward}
    return make_contract(model, robot, task, **acting)


def rounded(model):
    """The model with weights that the runner keeps as bfloat16, in place."""
    return model.bfloat16().float()


def write(path, model, contract, **changes):
    """A policy.bin in which some arrays have other values, or are left out where that is None."""
    arrays = policy_arrays(model, contract)
    arrays |= {name: value for name, value in changes.items() if value is not None}
    arrays = {n: np.atleast_1d(np.asarray(v, np.float32)) for n, v in arrays.items() if changes.get(n, v) is not None}
    path.write_bytes(policy_bytes(arrays, contract))
    return path


def replay_rows(steps, resets=(), seed=1):
    """[T, 33 + 12 + 3], see csrc/runner/replay.cpp; episodes of 9 steps."""
    rng = np.random.default_rng(seed)
    t = np.arange(steps)
    parts = rng.normal(0.0, 0.3, (steps, 33)), rng.normal(size=(steps, 12)), rng.normal(0.02, 0.01, (steps, 1))
    return np.hstack([*parts, (t % 9)[:, None], np.isin(t, resets)[:, None]]).astype(np.float32)
