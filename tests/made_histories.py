"""Histories whose every number is known."""

import numpy as np
from fakes import ACTIONS, OBSERVATIONS

from vintix_fast.data import History


def history_of(step_num, terminated=(), truncated=(), failed=(), **columns):
    """A history with flags at the given rows; action, mean and observation tell the row unless given."""
    n = len(step_num)
    number = np.arange(n, dtype=np.float32)

    def flags(at):
        return np.isin(np.arange(n), at).astype(np.uint8)

    columns = {
        "observation": np.repeat(number[:, None], OBSERVATIONS, axis=1),
        "action": np.repeat(number[:, None] + 0.25, ACTIONS, axis=1),
        "mean_action": np.repeat(number[:, None] + 0.5, ACTIONS, axis=1),
        "reward": number + 0.75,
    } | columns
    columns = {name: np.asarray(column, dtype=np.float32) for name, column in columns.items()}
    mean = columns.pop("mean_action")
    extras = {"terminated": flags(terminated), "truncated": flags(truncated), "failed": flags(failed)}
    return History(**columns, step_num=np.asarray(step_num, np.int32), extras=extras | {"mean_action": mean}, env=0)


BEST = np.where(np.arange(ACTIONS) % 3 == 0, 0.6, -0.4).astype(np.float32)


def tries(step_num, seed=0, **flags):
    """Actions scattered around 0; the reward is how near they come to BEST."""
    rng = np.random.default_rng(seed)
    n = len(step_num)
    action = rng.normal(0.0, 0.5, (n, ACTIONS)).astype(np.float32)
    return history_of(
        step_num,
        **flags,
        observation=rng.normal(0.0, 0.3, (n, OBSERVATIONS)),
        action=action,
        mean_action=np.zeros((n, ACTIONS)),
        reward=-0.02 * ((action - BEST) ** 2).sum(axis=1),
    )
