"""The walking task as gymnasium sees it: `WalkVectorEnv`, many robots in one scene, and `WalkEnv`, one.

    gymnasium.make_vec("vintix_fast:Walk-v0", num_envs=64, robot="go2")

Owns how an episode ends and begins there, and the seeds; observation, action and reward are `WalkingTask`'s.  Knows
nothing about policies.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from vintix_fast.run_config import MAX_ENVS
from vintix_fast.service.errors import UsageError
from vintix_fast.service.extras import need
from vintix_fast.service.gym_ids import WALK, register_walk
from vintix_fast.world.layout import ObservationLayout
from vintix_fast.world.robot import load_robot
from vintix_fast.world.simulator import DT_S, Simulator
from vintix_fast.world.task import Simulation, WalkingTask
from vintix_fast.world.task_config import DEFAULT_TASK, TaskConfig

need("gym", "vintix_fast.gym")

import gymnasium  # noqa: E402
from gymnasium.envs.registration import EnvSpec  # noqa: E402
from gymnasium.spaces import Box  # noqa: E402
from gymnasium.vector import AutoresetMode, VectorEnv  # noqa: E402
from gymnasium.vector.utils import batch_space  # noqa: E402

register_walk()
ENDLESS = 2**31 - 1
ABOUT = {"render_modes": [], "render_fps": round(1 / DT_S)}


def single_spaces(layout: ObservationLayout, task: TaskConfig) -> tuple[Box, Box]:
    """Observation and action of one robot; an action is cut to the task's ``action_clip``."""
    clip = task.action_clip
    return Box(-np.inf, np.inf, (layout.size,), np.float32), Box(-clip, clip, (layout.num_joints,), np.float32)


def env_spec(robot: str, task: TaskConfig) -> EnvSpec:
    """What gymnasium makes the same environment of."""
    spec = copy.deepcopy(gymnasium.spec(WALK))
    spec.kwargs = {"robot": robot} | ({} if task == DEFAULT_TASK else {"task": task.to_json()})
    return spec


class _Task(WalkingTask):
    """Keeps what was observed when an episode ended; a step gives the next one's first observation instead."""

    last: torch.Tensor  # [N, O]

    def _restart(self, mask: torch.Tensor, observation: torch.Tensor, standardised: torch.Tensor | None = None) -> None:
        self.last = observation.clone()
        super()._restart(mask, observation, standardised)


class WalkVectorEnv(VectorEnv):
    """N robots side by side; an episode that ends is followed by the next one in the same step.

    ``infos["final_obs"]`` and ``infos["final_info"]`` then tell of the one that ended, as gymnasium's
    `AutoresetMode.SAME_STEP` says.  ``final_info["failed"]``: the simulation left the finite numbers.

    Args:
        num_envs: environments side by side.
        robot: a robot's name, or a file: .toml, URDF or MJCF.
        max_episode_steps: an episode is truncated after this many.
        random_starts: begin within the task's start noise; otherwise always level and in the default pose.
        task: a `TaskConfig`, or its record; None for the default.
        device: cpu or cuda.
        simulator: of this robot and number; None builds one.

    Raises:
        UsageError, InputFileError: robot, task or device cannot be; before a scene is built.
    """

    metadata = ABOUT | {"autoreset_mode": AutoresetMode.SAME_STEP}

    def __init__(
        self,
        num_envs: int = 1,
        robot: str = "go2",
        max_episode_steps: int = 1000,
        random_starts: bool = True,
        task: TaskConfig | Mapping[str, Any] | None = None,
        device: str = "cpu",
        simulator: Simulation | None = None,
    ) -> None:
        for name, value, most in (("num_envs", num_envs, MAX_ENVS), ("max_episode_steps", max_episode_steps, ENDLESS)):
            if not 1 <= value <= most:
                raise UsageError(f"{name} is {value}; it must be at least 1 and at most {most}")
        asked = task if isinstance(task, TaskConfig) else TaskConfig.from_json(task or {})
        found = load_robot(robot)
        self.num_envs, self._random_starts = num_envs, random_starts
        self.single_observation_space, self.single_action_space = single_spaces(found.layout, asked)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        simulator = simulator or Simulator(found, num_envs, device, lambda text: print(text, file=sys.stderr))
        self._task: _Task | None = _Task(simulator, found, max_episode_steps, task_config=asked)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Begin anew in every environment.

        Args:
            seed: decides all that follows, as `vintix-fast eval`'s does; None: drawn from the last one.
            options: there are none.
        """
        super().reset(seed=seed)
        if options:
            raise UsageError(f"the walking task has no reset options, got {', '.join(options)}; leave them out")
        drawn = int(self.np_random.integers(2**31)) if seed is None else seed
        return _array(self.task.reset(drawn, self._random_starts)), {}

    def step(self, actions: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """One step of 0.02 s under actions [N, J] (see `TaskConfig`)."""
        given = np.asarray(actions, np.float32)
        if given.shape != self.action_space.shape:
            raise UsageError(f"actions have the shape {given.shape}; it must be {self.action_space.shape}")
        result = self.task.step(torch.from_numpy(given.copy()).to(self.task.device))
        terminated, truncated = _array(result.terminated), _array(result.truncated)
        infos: dict[str, Any] = {}
        if (ended := terminated | truncated).any():
            last, failed = _array(self.task.last), _array(result.failed)
            for env in np.flatnonzero(ended).tolist():
                final = {"final_obs": last[env], "final_info": {"failed": bool(failed[env])}}
                infos = self._add_info(infos, final, env)
        return _array(result.observation), _array(result.reward), terminated, truncated, infos

    @property
    def task(self) -> _Task:
        if self._task is None:
            raise UsageError("the environment was closed; make another")
        return self._task

    def close_extras(self, **options: Any) -> None:
        self._task = None  # and with it the scene, if nobody else has it


class WalkEnv(gymnasium.Env):
    """One robot; see `WalkVectorEnv`, whose arguments but ``num_envs`` it takes.

    ``info["failed"]``: the simulation left the finite numbers.  An episode's time limit is `gymnasium.make`'s; without
    that there is none.
    """

    metadata = ABOUT

    def __init__(self, max_episode_steps: int = ENDLESS, **options: Any) -> None:
        self._robots = WalkVectorEnv(1, max_episode_steps=max_episode_steps, **options)
        self.observation_space = self._robots.single_observation_space
        self.action_space = self._robots.single_action_space
        self._ended = True

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Begin an episode; ``seed`` as in `WalkVectorEnv.reset`."""
        super().reset(seed=seed)
        observation, _ = self._robots.reset(seed=seed, options=options)
        self._ended = False
        return observation[0], {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """One step of 0.02 s under an action [J]."""
        if self._ended:
            raise UsageError("the episode has ended, or none has begun: call reset()")
        observation, reward, terminated, truncated, infos = self._robots.step(np.asarray(action)[None])
        self._ended = bool(terminated[0] or truncated[0])
        last = infos["final_obs"][0] if self._ended else observation[0]
        failed = self._ended and bool(infos["final_info"]["failed"][0])
        return last, float(reward[0]), bool(terminated[0]), bool(truncated[0]), {"failed": failed}

    def close(self) -> None:
        self._robots.close()


def _array(tensor: torch.Tensor) -> np.ndarray:
    return tensor.cpu().numpy()
