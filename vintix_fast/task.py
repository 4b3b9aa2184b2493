"""The walking task: what N robots observe, what they are rewarded for, and when an episode ends.

Data flows simulator -> state -> (observation, reward, end of episode).  Constants are those of the environments that
the pretrained models were trained in.  Knows nothing about policies, files or Genesis; the simulator is anything with
the methods of `vintix_fast.sim.Simulator`.

`PlainJudge` is the task in plain torch, the reference; `FusedJudge` is the same in one pass, compiled for tensors on a
CPU, one Triton launch for those on a GPU.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from vintix_fast import _core
from vintix_fast.kernels import reference
from vintix_fast.kernels.reference import rotate_into_body
from vintix_fast.robots import Robot
from vintix_fast.sim import DT_S, MAX_BASE_SPEED_M_S, MAX_JOINT_SPEED_RAD_S, RobotState
from vintix_fast.starts import Starts

ACTION_SCALE_RAD = 0.25
ACTION_CLIP = 100.0
MAX_TILT_RAD = math.radians(10.0)
COMMAND = (0.5, 0.0, 0.0)
"""Forward and lateral speed (m/s), yaw rate (rad/s)."""
TRACKING_SIGMA = 0.25
# Of the reward's terms, per second; following the speed command counts 1.
YAW_WEIGHT = 0.2
LIFT_WEIGHT = 1.0
HEIGHT_WEIGHT = 50.0
ACTION_CHANGE_WEIGHT = 0.005
POSE_WEIGHT = 0.1
MOST_REWARD = (1.0 + YAW_WEIGHT) * DT_S
"""What a step can give at most: exactly as commanded, at the height and in the pose that are asked for."""
MASKED_ENVS = 512
"""With fewer on a GPU, launching a step takes the host longer than the GPU needs for it, so it may as well ask it what
happened, and save what placing nobody costs: a third of the launches. Measured with 50."""


@dataclass(frozen=True)
class StepResult:
    """What one step of all environments gave; every field has N rows, and is the caller's: no later step writes to it.

    ``observation`` is that of the next step: where an episode ended it is the new episode's first.  ``reward``,
    ``terminated`` and ``truncated`` belong to the state before any reset.
    """

    observation: torch.Tensor  # [N, 33]
    reward: torch.Tensor  # [N]
    terminated: torch.Tensor  # bool [N]: fell, or failed
    truncated: torch.Tensor  # bool [N]: time ran out
    failed: torch.Tensor  # bool [N]: the simulation left the finite numbers; counted as terminated, reward 0

    @property
    def done(self) -> torch.Tensor:
        return self.terminated | self.truncated


def tilt(quat: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Roll and pitch in rad, each [N], of quaternions [N, 4] (w, x, y, z); rotation order z-y-x."""
    w, x, y, z = quat.unbind(1)
    roll = torch.atan2(2.0 * (w * x + y * z), 1.0 - 2.0 * (x * x + y * y))
    pitch = torch.asin((2.0 * (w * y - z * x)).clamp(-1.0, 1.0))
    return roll, pitch


class PlainJudge:
    """What comes of a state, in plain torch.

    Args:
        robot: default pose and target height.
        max_steps: an episode is truncated after this many steps.
        device: of every tensor.
    """

    def __init__(self, robot: Robot, max_steps: int, device: torch.device) -> None:
        self.robot, self.max_steps = robot, max_steps
        self._default = torch.tensor(robot.default_pose_rad, dtype=torch.float32, device=device)
        self._command = torch.tensor(COMMAND, device=device)

    def judge(
        self,
        state: RobotState,
        action: torch.Tensor,
        solver_failed: torch.Tensor,
        last_action: torch.Tensor,
        step_num: torch.Tensor,
    ) -> StepResult:
        """Reward, ends of episodes, and what the state as it is looks like.

        Args:
            state: after the physics of the step.
            action: [N, J], decided in this step; clipped here.
            solver_failed: bool [N].
            last_action: [N, J], decided one step before; becomes ``action``, clipped.
            step_num: int32 [N]; becomes one more.
        """
        action = action.clamp(-ACTION_CLIP, ACTION_CLIP)
        step_num += 1
        failed = solver_failed | state.exploded()
        reward = torch.where(failed, 0.0, self._reward(state, action, last_action))
        roll, pitch = tilt(state.base_quat)
        terminated = failed | (roll.abs() > MAX_TILT_RAD) | (pitch.abs() > MAX_TILT_RAD)
        truncated = ~terminated & (step_num >= self.max_steps)
        last_action.copy_(action)
        return StepResult(self._observe(state), reward, terminated, truncated, failed)

    def observe(self, state: RobotState, mask: torch.Tensor, observation: torch.Tensor) -> None:
        """Write the rows of ``observation`` [N, 9 + 2 J] whose ``mask``, bool [N], is set."""
        torch.where(mask[:, None], self._observe(state), observation, out=observation)

    def _observe(self, state: RobotState) -> torch.Tensor:
        return reference.observe(
            state.base_quat,
            state.base_ang_vel_rad_s,
            state.joint_pos_rad,
            state.joint_vel_rad_s,
            self._default,
            self._command,
        )

    def _reward(self, state: RobotState, action: torch.Tensor, last_action: torch.Tensor) -> torch.Tensor:
        velocity = rotate_into_body(state.base_quat, state.base_lin_vel_m_s)
        yaw_rate = rotate_into_body(state.base_quat, state.base_ang_vel_rad_s)[:, 2]
        speed_error = (self._command[:2] - velocity[:, :2]).square().sum(dim=1)
        yaw_error = (self._command[2] - yaw_rate).square()
        per_second = (
            torch.exp(-speed_error / TRACKING_SIGMA)
            + YAW_WEIGHT * torch.exp(-yaw_error / TRACKING_SIGMA)
            - LIFT_WEIGHT * velocity[:, 2].square()
            - HEIGHT_WEIGHT * (state.base_pos_m[:, 2] - self.robot.target_height_m).square()
            - ACTION_CHANGE_WEIGHT * (last_action - action).square().sum(dim=1)
            - POSE_WEIGHT * (state.joint_pos_rad - self._default).abs().sum(dim=1)
        )
        return per_second * DT_S


def _constants(robot: Robot, max_steps: int) -> dict[str, Any]:
    """Everything that a judge outside this file must be told."""
    return {
        "default_pose_rad": robot.default_pose_rad,
        "command": COMMAND,
        "command_scale": reference.COMMAND_SCALE,
        "ang_vel_scale": reference.ANG_VEL_SCALE,
        "joint_vel_scale": reference.JOINT_VEL_SCALE,
        "target_height_m": robot.target_height_m,
        "tracking_sigma": TRACKING_SIGMA,
        "yaw_weight": YAW_WEIGHT,
        "lift_weight": LIFT_WEIGHT,
        "height_weight": HEIGHT_WEIGHT,
        "action_change_weight": ACTION_CHANGE_WEIGHT,
        "pose_weight": POSE_WEIGHT,
        "dt_s": DT_S,
        "action_clip": ACTION_CLIP,
        "max_tilt_rad": MAX_TILT_RAD,
        "max_joint_speed_rad_s": MAX_JOINT_SPEED_RAD_S,
        "max_base_speed_m_s": MAX_BASE_SPEED_M_S,
        "max_steps": max_steps,
    }


class FusedJudge:
    """`PlainJudge` in one pass over the environments: the same methods, the same numbers but for rounding.

    Args:
        judge: has the same methods, over the parts of a state.
        enter, leave: make of a tensor what the judge takes, and of what it gives a tensor.
    """

    def __init__(self, judge: Any, enter: Callable[[torch.Tensor], Any], leave: Callable[[Any], torch.Tensor]) -> None:
        self._judge, self._enter, self._leave = judge, enter, leave

    def judge(self, state: RobotState, action: torch.Tensor, *rest: torch.Tensor) -> StepResult:
        """See `PlainJudge.judge`."""
        return StepResult(*map(self._leave, self._judge.judge(*self._parts(state, action.detach(), *rest))))

    def observe(self, state: RobotState, mask: torch.Tensor, observation: torch.Tensor) -> None:
        """See `PlainJudge.observe`."""
        self._judge.observe(*self._parts(state, mask, observation))

    def _parts(self, state: RobotState, *others: torch.Tensor) -> list[Any]:
        return [self._enter(t) for t in (*(getattr(state, name) for name in state.__dataclass_fields__), *others)]


def compiled_judge(robot: Robot, max_steps: int) -> FusedJudge:
    """For tensors on a CPU: one pass of C++."""
    return FusedJudge(_core.WalkingJudge(**_constants(robot, max_steps)), torch.Tensor.numpy, torch.from_numpy)


def triton_judge(robot: Robot, max_steps: int, device: torch.device) -> FusedJudge:
    """For tensors on a GPU: one launch."""
    from vintix_fast.kernels.judge import WalkingJudge  # triton is not installed everywhere

    return FusedJudge(WalkingJudge(device, **_constants(robot, max_steps)), lambda t: t, lambda t: t)


class WalkingTask:
    """The task in ``simulator.num_envs`` environments.

    Args:
        simulator: see `vintix_fast.sim.Simulator`.
        robot: target height and default pose.
        max_steps: an episode is truncated after this many steps.
        masked: in every step place the environments whose episode ended, be it none, so that the host need not know
            whether any did; ``None``: on CUDA with `MASKED_ENVS` environments or more. On a CPU it serves to test.
    """

    def __init__(self, simulator, robot: Robot, max_steps: int = 1000, masked: bool | None = None) -> None:
        self.simulator, self.robot, self.max_steps = simulator, robot, max_steps
        self.num_envs, self.device = simulator.num_envs, torch.device(simulator.device)
        on_gpu = self.device.type == "cuda"
        self._masked = on_gpu and self.num_envs >= MASKED_ENVS if masked is None else masked
        self._judge = triton_judge(robot, max_steps, self.device) if on_gpu else compiled_judge(robot, max_steps)
        self._default = torch.tensor(robot.default_pose_rad, dtype=torch.float32, device=self.device)
        self._last_action = torch.zeros(self.num_envs, len(self._default), device=self.device)
        self.step_num = torch.zeros(self.num_envs, dtype=torch.int32, device=self.device)
        self._starts = Starts(self._default, self.num_envs)

    def reset(self, seed: int = 0, random_starts: bool = False) -> torch.Tensor:
        """Start anew in every environment; what follows depends on ``seed`` and the actions alone.

        Args:
            seed: of the starts' noise.
            random_starts: every episode starts with joints moved by up to 0.1 rad, the base tilted by up to 5 degrees
                and moved by up to 0.1 m to the sides, uniformly; otherwise in the default pose, level.

        Returns:
            observation [N, 33].
        """
        self._starts.seed(seed, random_starts)
        self.simulator.reset_scene()
        observation = torch.zeros(self.num_envs, 9 + 2 * len(self._default), device=self.device)
        self._restart(torch.ones(self.num_envs, dtype=torch.bool, device=self.device), observation)
        return observation

    def step(self, action: torch.Tensor) -> StepResult:
        """`advance` and `judge`: execute the previous step's action and remember this one [N, 12]."""
        self.advance()
        return self.judge(action)

    def advance(self) -> None:
        """Simulate one step under the previous step's action.

        Actions have one step of latency, so this needs nothing of what the policy decides now: the two can run side by
        side.
        """
        self._solver_failed = self.simulator.step(self._default + ACTION_SCALE_RAD * self._last_action)

    def judge(self, action: torch.Tensor) -> StepResult:
        """Say what came of `advance`, given this step's action [N, 12], which the next one will execute."""
        result = self._judge.judge(
            self.simulator.state(), action, self._solver_failed, self._last_action, self.step_num
        )
        done = result.done
        if self._masked or done.any():
            self._restart(done, result.observation)
        return result

    def _restart(self, mask: torch.Tensor, observation: torch.Tensor) -> None:
        """Begin episodes where ``mask`` is set, and write their first observations over those rows."""
        self.simulator.place(mask, *self._starts.draw(mask))
        self._last_action.masked_fill_(mask[:, None], 0.0)
        self.step_num.masked_fill_(mask, 0)
        self._judge.observe(self.simulator.state(), mask, observation)
