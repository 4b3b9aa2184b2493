"""The walking task: what N robots observe, what they are rewarded for, and when an episode ends.

Data flows simulator -> state -> (observation, reward, end of episode).  What is asked for is a `TaskConfig`, what an
observation holds an `ObservationLayout`.  The arithmetic is done by one of two kernels, compiled for tensors on a CPU,
Triton's on a GPU; `vintix_fast.kernels.reference` has it in plain torch.  Where a task asks for more, commands are
drawn by `Commands`, bodies by `Drawn`, further terms come from `FurtherReward`, noise and pushes from `Disturbances`;
else none of them is there.  Knows nothing about policies, files or Genesis; the simulator is any `Simulation`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from vintix_fast import _core
from vintix_fast.kernels.reference import TaskConstants, standardise
from vintix_fast.world.disturbances import Disturbances
from vintix_fast.world.drawn import Drawn, Physics
from vintix_fast.world.further_reward import FurtherReward
from vintix_fast.world.robot import Robot
from vintix_fast.world.simulator import DT_S, MAX_BASE_SPEED_M_S, MAX_JOINT_SPEED_RAD_S, RobotState
from vintix_fast.world.starts import Commands, Starts
from vintix_fast.world.task_config import DEFAULT_TASK, TaskConfig

MASKED_ENVS = 512
"""With fewer on a GPU, launching a step takes the host longer than the GPU needs for it, so it may as well ask it what
happened, and save what placing nobody costs: a third of the launches. Measured with 50."""


@dataclass(frozen=True)
class StepResult:
    """What one step of all environments gave; every field has N rows, and is the caller's: no later step writes to it.

    ``observation`` is that of the next step: where an episode ended it is the new episode's first.  ``reward``,
    ``terminated`` and ``truncated`` belong to the state before any reset.
    """

    observation: torch.Tensor  # [N, O]
    reward: torch.Tensor  # [N]
    terminated: torch.Tensor  # bool [N]: fell, or failed
    truncated: torch.Tensor  # bool [N]: time ran out
    failed: torch.Tensor  # bool [N]: the simulation left the finite numbers; counted as terminated, reward 0
    standardised: torch.Tensor | None = None  # [N, O]: the observation, see `WalkingTask.standardise_by`

    @property
    def done(self) -> torch.Tensor:
        return self.terminated | self.truncated


class Simulation(Protocol):
    """What the task, and a recording of it, need of `vintix_fast.world.simulator.Simulator`."""

    robot: Robot
    num_envs: int
    device: torch.device

    def reset_scene(self) -> None: ...
    def place(
        self, mask: torch.Tensor, base_quat: torch.Tensor, joint_pos_rad: torch.Tensor, base_xy_m: torch.Tensor, /
    ) -> None: ...
    def step(self, joint_target_rad: torch.Tensor, /) -> torch.Tensor: ...
    def state(self) -> RobotState: ...
    def foot_contact(self) -> torch.Tensor: ...
    def foot_force_n(self) -> torch.Tensor: ...
    def joint_torque_nm(self) -> torch.Tensor: ...
    def vary(self, mask: torch.Tensor, physics: Physics, /) -> None: ...
    def push(self, mask: torch.Tensor, speed_m_s: torch.Tensor, /) -> None: ...


def task_constants(robot: Robot, config: TaskConfig, max_steps: int) -> TaskConstants:
    """Everything that the kernels must be told."""
    return TaskConstants(
        config=config,
        layout=robot.layout,
        default_pose_rad=robot.default_pose_rad,
        target_height_m=robot.target_height_m,
        max_steps=max_steps,
        dt_s=DT_S,
        max_joint_speed_rad_s=MAX_JOINT_SPEED_RAD_S,
        max_base_speed_m_s=MAX_BASE_SPEED_M_S,
    )


class CompiledStep:
    """`vintix_fast._core.TaskStep` for tensors on a CPU; the methods of `vintix_fast.kernels.task.TaskStep`.

    Standardises nothing: a CPU's policy does so while it reads an observation.
    """

    statistics: tuple[torch.Tensor, torch.Tensor] | None = None
    command: torch.Tensor | None = None
    """[N, 3], where environments have commands of their own."""

    def __init__(self, constants: TaskConstants) -> None:
        self._core = _core.TaskStep(constants)

    def step(self, state: Sequence[torch.Tensor], action: torch.Tensor, *rest: torch.Tensor) -> list[torch.Tensor]:
        arrays = [*(tensor.numpy() for tensor in (action.detach(), *rest)), self._commands()]
        made = self._core.step([tensor.numpy() for tensor in state], *arrays)
        return [torch.from_numpy(array) for array in made]

    def observe(
        self, state: Sequence[torch.Tensor], mask: torch.Tensor, observation: torch.Tensor, _: object = None
    ) -> None:
        self._core.observe([tensor.numpy() for tensor in state], mask.numpy(), observation.numpy(), self._commands())

    def _commands(self) -> Any:
        return None if self.command is None else self.command.numpy()


def triton_step(constants: TaskConstants, device: torch.device) -> Any:
    """`vintix_fast.kernels.task.TaskStep`; triton is not installed everywhere."""
    from vintix_fast.kernels.task import TaskStep

    return TaskStep(constants, device)


class WalkingTask:
    """The task in ``simulator.num_envs`` environments.

    Args:
        simulator: see `Simulation`.
        robot: target height and default pose.
        max_steps: an episode is truncated after this many steps, or the task's time limit if that is shorter.
        masked: in every step place the environments whose episode ended, be it none, so that the host need not know
            whether any did; ``None``: on CUDA with `MASKED_ENVS` environments or more. On a CPU it serves to test.
        task_config: what is asked for.
    """

    def __init__(
        self,
        simulator: Simulation,
        robot: Robot,
        max_steps: int = 1000,
        masked: bool | None = None,
        *,
        task_config: TaskConfig = DEFAULT_TASK,
    ) -> None:
        if task_config.time_limit_s is not None:
            max_steps = min(max_steps, max(1, round(task_config.time_limit_s / DT_S)))
        self.simulator, self.robot, self.max_steps, self.config = simulator, robot, max_steps, task_config
        self.num_envs, self.device = simulator.num_envs, torch.device(simulator.device)
        on_gpu = self.device.type == "cuda"
        self._masked = on_gpu and self.num_envs >= MASKED_ENVS if masked is None else masked
        constants = task_constants(robot, task_config, max_steps)
        self.layout = constants.layout
        self._kernel = triton_step(constants, self.device) if on_gpu else CompiledStep(constants)
        self._default = torch.tensor(robot.default_pose_rad, dtype=torch.float32, device=self.device)
        self._last_action = torch.zeros(self.num_envs, self.layout.num_joints, device=self.device)
        # What was decided before the last action and is still to be executed, the oldest first.
        waiting = max(0, task_config.latency_steps - 1)
        self._waiting = deque(torch.zeros_like(self._last_action) for _ in range(waiting))
        self.step_num = torch.zeros(self.num_envs, dtype=torch.int32, device=self.device)
        self._starts = Starts(self._default, self.num_envs, task_config.start_noise)
        # What only some tasks ask for.
        self._commands: Commands | None = None
        self.drawn: Drawn | None = None
        self._disturbances: Disturbances | None = None
        if task_config.commands_vary:
            self._commands = Commands(task_config, self.num_envs, DT_S, self.device)
            self._kernel.command = self._commands.values
        if task_config.vary:
            self.drawn = Drawn(task_config.vary, robot, self.num_envs, self.device)
            self._disturbances = Disturbances(self.drawn, self.layout, DT_S)
        self._further = FurtherReward(
            task_config.further, self.num_envs, self.layout.num_joints, DT_S, self.device
        )  # fmt: skip

        drawers: list[Any] = [self._commands, self.drawn, self._disturbances]
        beginners: list[Any] = [self._commands, self._disturbances, self._further or None]
        self._drawers, self._beginners = ([p for p in parts if p is not None] for parts in (drawers, beginners))

    @property
    def varied_columns(self) -> tuple[str, ...]:
        """What an episode's values of what varies are called."""
        return tuple(self.drawn.columns) if self.drawn is not None else ()

    @property
    def command(self) -> torch.Tensor:
        """What is asked of each environment now, [N, 3]: forward and lateral speed in m/s, yaw rate in rad/s."""
        if self._kernel.command is not None:
            return self._kernel.command
        return torch.tensor(self.config.command, device=self.device).expand(self.num_envs, 3)

    def ask(self, command: torch.Tensor) -> None:
        """Ask for ``command`` [N, 3] from the next step on, whatever the task says; rewards go by it too."""
        self._kernel.command = command.to(self.device, torch.float32)

    @property
    def most_reward(self) -> float:
        """What a step can give at most."""
        return self.config.most_reward_per_s * DT_S

    def standardise_by(self, statistics: tuple[torch.Tensor, torch.Tensor] | None) -> None:
        """On a GPU, let steps also give observations standardised by mean and deviation, [O] each, in the same launch.

        ``None``: no longer.  Elsewhere `StepResult.standardised` stays None.
        """
        self._kernel.statistics = statistics

    def reset(self, seed: int = 0, random_starts: bool = False) -> torch.Tensor:
        """Start anew in every environment; what follows depends on ``seed`` and the actions alone.

        Args:
            seed: of the starts' noise.
            random_starts: every episode starts within the task's `StartNoise`; otherwise in the default pose, level.

        Returns:
            observation [N, O].
        """
        for drawer in self._drawers:
            drawer.seed(seed)
        self._starts.seed(seed, random_starts)
        self.simulator.reset_scene()
        observation = torch.zeros(self.num_envs, self.layout.size, device=self.device)
        everyone = torch.ones(self.num_envs, dtype=torch.bool, device=self.device)
        if self.drawn is not None and not self.drawn.changes:  # one body for good
            self.drawn.draw(everyone)
            self.simulator.vary(everyone, self.drawn.physics())
        self._restart(everyone, observation)
        self._blur(observation)
        return observation

    def step(self, action: torch.Tensor) -> StepResult:
        """`begin` and `finish`: execute an earlier step's action and remember this one [N, J]."""
        self.begin()
        return self.finish(action)

    def begin(self) -> None:
        """Simulate one step under the action that is due.

        With a latency of one step or more, that was decided before, so this needs nothing of what the policy decides
        now: the two can run side by side.  Without, the step is simulated in `finish`.
        """
        if self.config.latency_steps:
            self._simulate(self._due())

    def finish(self, action: torch.Tensor) -> StepResult:
        """Say what came of the step, given the action [N, J] that was decided in it."""
        config = self.config
        if not config.latency_steps:
            self._simulate(action.detach().clamp(-config.action_clip, config.action_clip))
        memory = (self._solver_failed, self._last_action, self.step_num)
        state = self.simulator.state()
        result = StepResult(*self._kernel.step(state, action, *memory))
        if self._further:
            further = self._further.of_step(self.simulator, state.joint_vel_rad_s, self.command)
            result.reward.add_(torch.where(result.failed, 0.0, further))
        done = result.done
        if self._masked or done.any():
            self._restart(done, result.observation, result.standardised)
        if self.drawn is not None and (other := self.drawn.again(self.step_num, DT_S)) is not None:
            self.simulator.vary(other, self.drawn.physics())
        if self._commands is not None and (again := self._commands.again(self.step_num)) is not None:
            self._kernel.observe(self.simulator.state(), again, result.observation, result.standardised)
        self._blur(result.observation, result.standardised)
        return result

    def _simulate(self, action: torch.Tensor) -> None:
        if self._disturbances is not None:
            action = self._disturbances.late(action)
            if self._disturbances.pushes:
                self.simulator.push(*self._disturbances.push(self.step_num))
        self._solver_failed = self.simulator.step(self._default + self.config.action_scale_rad * action)

    def _blur(self, observation: torch.Tensor, standardised: torch.Tensor | None = None) -> None:
        """Add the sensors' noise."""
        if self._disturbances is not None and self._disturbances.is_noisy:
            observation.add_(self._disturbances.noise())
            statistics = self._kernel.statistics
            if standardised is not None and statistics is not None:
                standardised.copy_(standardise(observation, *statistics))

    def _due(self) -> torch.Tensor:
        """The action to execute now [N, J]; the last one begins to wait."""
        if not self._waiting:
            return self._last_action
        self._waiting.append(self._last_action.clone())
        return self._waiting.popleft()

    def _restart(self, mask: torch.Tensor, observation: torch.Tensor, standardised: torch.Tensor | None = None) -> None:
        """Begin episodes where ``mask`` is set, and write their first observations over those rows."""
        if self.drawn is not None and self.drawn.changes:
            self.drawn.draw(mask)
            self.simulator.vary(mask, self.drawn.physics())
        for part in self._beginners:
            part.begin(mask)
        self.simulator.place(mask, *self._starts.draw(mask))
        for action in (self._last_action, *self._waiting):
            action.masked_fill_(mask[:, None], 0.0)
        self.step_num.masked_fill_(mask, 0)
        self._kernel.observe(self.simulator.state(), mask, observation, standardised)
