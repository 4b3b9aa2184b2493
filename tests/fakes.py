"""Stand-ins for what is slow: a simulator without physics, and a checkpoint of a few thousand parameters."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch

from vintix_fast.data import History
from vintix_fast.kernels import reference
from vintix_fast.model import ModelConfig, TaskInfo, Vintix, save_checkpoint
from vintix_fast.service.progress import Progress
from vintix_fast.world.drawn import Physics
from vintix_fast.world.layout import QUADRUPED
from vintix_fast.world.robot import Robot
from vintix_fast.world.simulator import DT_S, RobotState
from vintix_fast.world.task import task_constants
from vintix_fast.world.task_config import DEFAULT_TASK, TaskConfig
from vintix_fast.world.variation import NO_VARIATION, Variation

TINY = ModelConfig(
    action_emb_dim=15,
    observation_emb_dim=15,
    reward_emb_dim=2,
    hidden_dim=32,
    context_len=64,
    transformer_depth=2,
    transformer_heads=2,
    intermediate_size=32,
)
OBSERVATIONS, ACTIONS = QUADRUPED.size, QUADRUPED.num_joints


def quaternion(roll: torch.Tensor, pitch: torch.Tensor) -> torch.Tensor:
    """[N], [N] rad -> [N, 4] (w, x, y, z): first rolled, then pitched."""
    (cr, sr), (cp, sp) = (((a / 2).cos(), (a / 2).sin()) for a in (roll, pitch))
    return torch.stack([cr * cp, sr * cp, cr * sp, -sr * sp], dim=1)


def plain_step(robot: Robot, config: TaskConfig = DEFAULT_TASK, max_steps: int = 1000) -> SimpleNamespace:
    """A task's plain step, with what `WalkingTask` uses of the compiled one."""
    told = task_constants(robot, config, max_steps)
    step, observe = (functools.partial(f, told) for f in (reference.task_step, reference.task_observe))
    kernel = SimpleNamespace(statistics=None, command=None)
    kernel.step = lambda *args: step(*args, command=kernel.command)
    kernel.observe = lambda *args: observe(*args[:3], command=kernel.command)
    return kernel


class FakeSimulator:
    """The methods of `vintix_fast.world.simulator.Simulator`, with a robot made of arithmetic.

    Joints go half of the way to their targets in a step.  The base goes about as fast as commanded, at the height that
    is asked for, and leans as the joints do, more in later environments; lean adds up, so that some sequences of
    actions fall soon and others never.

    Args:
        fall_after: for each environment the step after a placement in which it falls, not earlier nor later whatever is
            done; 0: see above.
        faults: (step since `reset_scene`, environment) -> "nan", "speed" (of light, nearly) or "solver".
        frozen: steps change nothing; a test sets the state by hand.
    """

    def __init__(
        self,
        robot: Robot,
        num_envs: int,
        device: str = "cpu",
        say: Callable[[str], None] = print,
        vary: Variation = NO_VARIATION,
        *,
        fall_after: Sequence[int] = (),
        faults: Mapping[tuple[int, int], str] | None = None,
        frozen: bool = False,
    ) -> None:
        self.robot, self.num_envs, self.device, self.told_to_vary = robot, num_envs, torch.device(device), vary
        self.fall_after = torch.tensor(list(fall_after) or [0] * num_envs)
        self.faults, self.frozen = dict(faults or {}), frozen
        self.default = torch.tensor(robot.default_pose_rad)
        self.targets: list[torch.Tensor] = []
        self.placed: list[torch.Tensor] = []
        self.bodies: list[tuple[torch.Tensor, Physics]] = []
        self.pushed: list[torch.Tensor] = []
        self.resets = 0
        self._all = torch.ones(num_envs, dtype=torch.bool)
        self._gain = 1.0 + torch.arange(num_envs) / num_envs
        self.reset_scene()

    def reset_scene(self) -> None:
        n = self.num_envs
        self.pos, self.lin, self.ang = torch.zeros(n, 3), torch.zeros(n, 3), torch.zeros(n, 3)
        self.quat, self.joint_pos, self.joint_vel = torch.zeros(n, 4), *torch.zeros(2, n, len(self.default))
        self.roll, self.pitch = torch.zeros(n), torch.zeros(n)
        self.age = torch.zeros(n, dtype=torch.long)
        self.steps = 0
        self.resets += 1
        self._put(self._all, torch.tensor([1.0, 0.0, 0.0, 0.0]).expand(n, 4), self.default.expand(n, -1))

    def place(self, mask: torch.Tensor, base_quat: torch.Tensor, joint_pos_rad: torch.Tensor, base_xy_m=0.0) -> None:
        self.placed.append(mask.clone())
        self._put(mask, base_quat, joint_pos_rad)
        self.pos[mask, :2] = (torch.zeros(self.num_envs, 2) + base_xy_m)[mask]

    def _put(self, mask: torch.Tensor, quat: torch.Tensor, joint_pos: torch.Tensor) -> None:
        self.pos[mask] = torch.tensor([0.0, 0.0, self.robot.start_height_m])
        self.quat[mask], self.joint_pos[mask] = quat[mask], joint_pos[mask]
        for rates in (self.lin, self.ang, self.joint_vel):
            rates[mask] = 0.0
        self.roll[mask] = 2.0 * quat[mask, 1]
        self.pitch[mask] = 2.0 * quat[mask, 2]
        self.age[mask] = 0

    def step(self, joint_target_rad: torch.Tensor) -> torch.Tensor:
        self.targets.append(joint_target_rad.clone())
        if not self.frozen:
            self._move(joint_target_rad)
        solver_failed = torch.zeros(self.num_envs, dtype=torch.bool)
        for (step, env), kind in self.faults.items():
            if step != self.steps:
                continue
            if kind == "nan":
                self.pos[env], self.joint_vel[env] = float("nan"), float("nan")
            elif kind == "speed":
                self.lin[env] = 1e8
            else:
                solver_failed[env] = True
        self.steps += 1
        return solver_failed

    def _move(self, target: torch.Tensor) -> None:
        self.age += 1
        way = 0.5 * (target - self.joint_pos)
        self.joint_pos, self.joint_vel = self.joint_pos + way, way / DT_S
        error, half = self.joint_pos - self.default, len(self.default) // 2  # [N, J]
        turn_roll = 0.5 * self._gain * (error[:, :half].mean(dim=1) - 0.5 * error[:, half:].mean(dim=1))
        turn_pitch = 0.5 * self._gain * (error[:, ::2].mean(dim=1) + 0.25 * error[:, 1::2].mean(dim=1))
        self.roll, self.pitch = 0.98 * self.roll + turn_roll, 0.98 * self.pitch + turn_pitch
        planned = self.fall_after > 0
        self.roll = torch.where(planned, 0.5 * (self.age >= self.fall_after), self.roll)
        self.pitch = torch.where(planned, 0.0, self.pitch)
        self.quat = quaternion(self.roll, self.pitch)
        self.lin = torch.stack([0.4 + error[:, 0], 0.1 + error[:, 3], 0.1 * error[:, 6]], dim=1)
        self.ang = torch.stack([turn_roll, turn_pitch, error[:, -3]], dim=1) / DT_S
        self.pos = self.pos + DT_S * self.lin * torch.tensor([1.0, 1.0, 0.0])
        self.pos[:, 2] = self.robot.target_height_m

    def vary(self, mask: torch.Tensor, physics: Physics) -> None:
        self.bodies.append((mask.clone(), Physics(*(None if part is None else part.clone() for part in physics))))

    def push(self, mask: torch.Tensor, speed_m_s: torch.Tensor) -> None:
        self.pushed.append(speed_m_s * mask[:, None])

    def foot_force_n(self) -> torch.Tensor:
        """Standing legs carry 30 N each."""
        return 30.0 * self.foot_contact()[..., None] * torch.tensor([0.0, 0.0, 1.0])

    def joint_torque_nm(self) -> torch.Tensor:
        return self.robot.kp * (self.joint_pos - self.default)

    def foot_contact(self) -> torch.Tensor:
        """A leg stands while its thigh is behind its default."""
        thighs = slice(1, None, len(self.default) // 4)
        return self.joint_pos[:, thighs] <= self.default[thighs]

    def state(self) -> RobotState:
        parts = (self.pos, self.quat, self.lin, self.ang, self.joint_pos, self.joint_vel)
        return RobotState(*(part.clone() for part in parts))


class StandingSimulator(FakeSimulator):
    """A robot that stands in its default pose: it goes the slower, the farther its joints are from `STANCE_RAD`.

    It never falls, unless a test sets ``falls`` to say in which joint positions [N, J] it does.
    """

    STANCE_RAD = torch.tensor([0.0, 0.375, 0.0] * 2 + [0.0, -0.25, 0.0] * 2)
    """Offsets of the best pose, in the joints' own directions: front thighs 1.5 action units, hind ones -1."""

    falls = staticmethod(lambda offset_rad: torch.zeros(len(offset_rad), dtype=torch.bool))

    def _move(self, target: torch.Tensor) -> None:
        super()._move(target)
        offset = self.joint_pos - self.default
        far = (offset - self.STANCE_RAD).norm(dim=1)
        self.roll, self.pitch = 0.5 * self.falls(offset), torch.zeros(self.num_envs)
        self.quat = quaternion(self.roll, self.pitch)
        self.lin, self.ang = torch.zeros(self.num_envs, 3), torch.zeros(self.num_envs, 3)
        self.lin[:, 0] = 0.5 - far


def tiny_model(tasks: Mapping[str, str] | None = None, seed: int = 1, **options) -> Vintix:
    """A random model that shares nothing with a trained one but its form.

    Args:
        tasks: task name -> group name; None: go2's and go1's.
        options: of `ModelConfig`, over `TINY`.
    """
    tasks = tasks or {"go2_walking_ad": "go2_locomotion", "go1_walking_ad": "go1_locomotion"}
    rng = np.random.default_rng(seed)
    infos = {}
    for name, group in tasks.items():
        mean, std = rng.normal(0.0, 0.05, OBSERVATIONS), rng.uniform(0.1, 0.4, OBSERVATIONS)
        mean[QUADRUPED.command], std[QUADRUPED.command] = (1.0, 0.0, 0.0), 0.0  # it never varies
        infos[name] = TaskInfo(
            observation_dim=OBSERVATIONS, action_dim=ACTIONS, group_name=group, obs_mean=tuple(mean.tolist()),
            obs_std=tuple(std.tolist()), acs_mean=(0.0,) * ACTIONS, acs_std=(1.0,) * ACTIONS,
        )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Vintix(ModelConfig(**(TINY.to_dict() | options)), infos)
        with torch.no_grad():
            for parameter in model.parameters():  # biases and norms away from their neutral values
                parameter.add_(0.05 * torch.randn_like(parameter))
    return model.eval()


def save_tiny(path: Path, tasks: Mapping[str, str] | None = None, **options) -> Path:
    """`tiny_model` as a checkpoint directory; returns ``path``."""
    save_checkpoint(tiny_model(tasks, **options), path)
    return path


def make_history(episodes: Sequence[int], *, seed: int = 0, env: int = 0, first_step: int = 0) -> History:
    """Random transitions in finished episodes of these lengths; the last step of each but the last one fell.

    Args:
        first_step: of the first episode; not 0 where a stream begins inside one.
    """
    rng = np.random.default_rng(seed)
    n = sum(episodes)
    starts = [first_step] + [0] * (len(episodes) - 1)
    step_num = np.concatenate([np.arange(s, s + k) for s, k in zip(starts, episodes, strict=True)]).astype(np.int32)
    fell = np.zeros(n, np.uint8)
    fell[np.cumsum(episodes)[:-1] - 1] = 1
    action = rng.normal(0.0, 0.5, (n, ACTIONS)).astype(np.float32)
    observation = rng.normal(0.0, 0.2, (n, OBSERVATIONS)).astype(np.float32)
    reward = rng.normal(0.01, 0.005, n).astype(np.float32)
    meant = action + rng.normal(0.0, 0.1, (n, ACTIONS)).astype(np.float32)
    return History(
        observation=observation,
        action=action,
        reward=reward,
        step_num=step_num,
        extras={
            "mean_action": meant,
            "terminated": fell,
            "truncated": np.zeros(n, np.uint8),
            "failed": np.zeros(n, np.uint8),
        },
        env=env,
    )


class Listener(Progress):
    """Keeps what a run says."""

    def __init__(self):
        super().__init__()
        self.said = []

    def say(self, text):
        self.said.append(text)
