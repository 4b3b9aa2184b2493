"""Collections on disk of which every number is known."""

import numpy as np
from fakes import make_history

from vintix_fast.data import open_writer
from vintix_fast.world.task_config import TaskConfig


def write_collection(path, episodes, robot="go2", seed=0, task=None):
    """Random episodes of these lengths in one environment; returns the history that was written."""
    history = make_history(episodes, seed=seed)
    columns = {"proprio_observation": history.observation, "action": history.action, "reward": history.reward}
    columns |= {"step_num": history.step_num} | history.extras
    path.parent.mkdir(exist_ok=True)
    with open_writer(path, 1, {"robot": robot, "task": (task or TaskConfig()).to_json()}) as writer:
        for step in range(len(history)):
            writer.append({name: column[step : step + 1] for name, column in columns.items()}, np.ones(1, np.uint8))
    return history
