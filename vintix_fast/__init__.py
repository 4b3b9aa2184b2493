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
import sys
import types
from typing import TYPE_CHECKING, Any

from vintix_fast.home import ensure_home

if TYPE_CHECKING:
    from vintix_fast.adapt import adapt
    from vintix_fast.config import AdaptConfig, EvalConfig
    from vintix_fast.data import read_trajectories
    from vintix_fast.evaluate import evaluate
    from vintix_fast.model import load_checkpoint as load_model

__all__ = ["AdaptConfig", "EvalConfig", "adapt", "evaluate", "load_model", "read_trajectories"]

ensure_home()  # before anything imports a library that looks for a home folder


class _Lazy:
    """An attribute imported on first use.

    Assignments are ignored: importing the submodule ``adapt`` would otherwise put the module where users expect the
    function.
    """

    def __init__(self, module: str, attribute: str) -> None:
        self._module, self._attribute = module, attribute

    def __get__(self, package: Any, owner: type) -> Any:
        return getattr(importlib.import_module(self._module), self._attribute)

    def __set__(self, package: Any, value: Any) -> None:
        pass


class _Package(types.ModuleType):
    AdaptConfig = _Lazy("vintix_fast.config", "AdaptConfig")
    EvalConfig = _Lazy("vintix_fast.config", "EvalConfig")
    adapt = _Lazy("vintix_fast.adapt", "adapt")
    evaluate = _Lazy("vintix_fast.evaluate", "evaluate")
    load_model = _Lazy("vintix_fast.model", "load_checkpoint")
    read_trajectories = _Lazy("vintix_fast.data", "read_trajectories")


sys.modules[__name__].__class__ = _Package
