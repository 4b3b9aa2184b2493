"""Teach a pretrained in-context reinforcement-learning transformer to walk on a quadruped it has never seen.

    model = vintix_fast.load_model("OUT/models/best")
    actions = model.predict_actions(observation, prev_action, prev_reward, step_num, task_name="go2_walking_ad")
    result = vintix_fast.adapt(vintix_fast.AdaptConfig(robot_type="minicheetah", output_dir="OUT"))
    evaluation = vintix_fast.evaluate(vintix_fast.EvalConfig("OUT/models/best", "minicheetah"))
    trajectories = vintix_fast.read_trajectories("OUT/loop_00/trajectories.h5")

Names are imported when they are first used, so that ``import vintix_fast`` costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from vintix_fast.service.gym_ids import register_walk
from vintix_fast.service.home import ensure_home
from vintix_fast.service.old_names import find_old_names
from vintix_fast.service.threads import unbind_threads

if TYPE_CHECKING:
    from vintix_fast.adaptation import adapt
    from vintix_fast.config import AdaptConfig
    from vintix_fast.data import read_trajectories
    from vintix_fast.eval_config import EvalConfig
    from vintix_fast.evaluation import evaluate
    from vintix_fast.model import load_checkpoint as load_model

__all__ = ["AdaptConfig", "EvalConfig", "adapt", "evaluate", "load_model", "read_trajectories"]

find_old_names()
ensure_home()  # before anything imports a library that looks for a home folder
unbind_threads()  # before anything imports torch
register_walk()

_LIVE_IN = {"AdaptConfig": "config", "EvalConfig": "eval_config", "adapt": "adaptation", "evaluate": "evaluation"}
_LIVE_IN |= {"load_model": "model", "read_trajectories": "data"}


def __getattr__(name: str) -> Any:
    if name not in _LIVE_IN:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = importlib.import_module(f"{__name__}.{_LIVE_IN[name]}")
    return getattr(module, "load_checkpoint" if name == "load_model" else name)
