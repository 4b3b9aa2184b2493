"""Train an expert on one robot with PPO (rsl-rl-lib), on the walking task with the last action in the observation.

Where worlds differ it is told how, see `Privileged`.  All of PPO is the library's; here are its settings, the task in
the form that it wants, and the files.
"""

from __future__ import annotations

import contextlib
import io
import time
from pathlib import Path
from typing import Any

import torch
from rsl_rl.env import VecEnv
from rsl_rl.runners import OnPolicyRunner
from tensordict import TensorDict

from vintix_fast.evaluation import Evaluation, measure
from vintix_fast.outdir import RunDirectory
from vintix_fast.policy.expert import (
    AGAIN,
    CARD_FILE,
    TOLD,
    WEIGHTS_FILE,
    ExpertPolicy,
    expert_network,
    expert_observation,
    load_expert,
    told_of,
)
from vintix_fast.pretrain.config import MINI_BATCHES, ExpertConfig
from vintix_fast.service.device import check_device
from vintix_fast.service.errors import InputFileError, UsageError, VintixFastError, cause
from vintix_fast.service.files import load_tensors, save_tensors, versions, write_json
from vintix_fast.service.interrupt import check_interrupt, stop_on_interrupt, told_to_resume
from vintix_fast.service.progress import Progress
from vintix_fast.world.privileged import Privileged
from vintix_fast.world.robot import Robot
from vintix_fast.world.simulator import Simulator
from vintix_fast.world.task import WalkingTask

STATE_FILE = "training.pth"
ANEW = "--overwrite begins the expert anew"


class ExpertTask(VecEnv):
    """`WalkingTask` as rsl_rl sees it: the expert's observation, time-outs told apart from falls."""

    def __init__(self, task: WalkingTask, seed: int) -> None:
        self.num_envs, self.num_actions, self.max_episode_length = task.num_envs, task.layout.num_joints, task.max_steps
        self.device, self._task = task.device, task
        self.cfg: dict[str, Any] = {}
        self._told = told_of(task.config.vary, task)
        self._last_action = torch.zeros(self.num_envs, self.num_actions, device=self.device)
        self._observation = task.reset(seed, random_starts=True)

    @property
    def episode_length_buf(self) -> torch.Tensor:
        """Steps done in the running episodes; the runner sets it once, so that not all time out together."""
        return self._task.step_num

    @episode_length_buf.setter
    def episode_length_buf(self, value: torch.Tensor) -> None:
        self._task.step_num.copy_(value)

    def get_observations(self) -> TensorDict:
        told = None if self._told is None else self._told()
        policy = expert_observation(self._observation, self._last_action, told)
        return TensorDict({"policy": policy}, batch_size=[self.num_envs])

    def step(self, actions: torch.Tensor) -> tuple[TensorDict, torch.Tensor, torch.Tensor, dict[str, Any]]:
        check_interrupt()
        result = self._task.step(actions)
        self._observation = result.observation
        self._last_action = torch.where(result.done[:, None], 0.0, actions)
        return self.get_observations(), result.reward, result.done.long(), {"time_outs": result.truncated.float()}


class _Runner(OnPolicyRunner):
    """The library's runner, which saves where we want it, tells how it goes, and lets exploration fade."""

    def __init__(self, env: ExpertTask, config: ExpertConfig, directory: Path, progress: Progress) -> None:
        super().__init__(env, ppo_settings(config), str(directory / "tensorboard"), config.device)
        self._config, self._state, self._progress = config, directory / STATE_FILE, progress
        # It would store a diff of whatever repository encloses this installation.
        self.logger._store_code_state = lambda: []
        self.iterations, self.seconds = 0, 0.0
        self._started = time.perf_counter()

    def save(self, path: str, infos: dict | None = None) -> None:
        """Called by the library after every iteration, and after the last one once more."""
        done, config = self.current_learning_iteration + 1, self._config
        if done == self.iterations:
            return
        self.iterations = done
        self.alg.entropy_coef = entropy_weight(config, done)
        returns, lengths = self.logger.rewbuffer, self.logger.lenbuffer
        mean_return = sum(returns) / len(returns) if returns else float("nan")
        self._progress.on_iteration(done, mean_return, sum(lengths) / len(lengths) if lengths else float("nan"))
        if done % config.save_interval == 0 or done == config.iterations:
            now = time.perf_counter()
            self.seconds, self._started = self.seconds + now - self._started, now
            save_tensors(self._state, self.alg.save() | {"iterations": done, "seconds": self.seconds})

    def go_on(self, state: dict[str, Any], other: Path | None = None) -> None:
        """Take over the saved state of an interrupted run; of an ``other`` expert network, critic and noise alone."""
        try:
            self.alg.load(state, {"actor": True, "critic": True} if other else None, True)
            if other is None:
                self.iterations, self.seconds = state["iterations"], state["seconds"]
                self.current_learning_iteration = self.iterations
                self.alg.learning_rate = self.alg.optimizer.param_groups[0]["lr"]
                self.alg.entropy_coef = entropy_weight(self._config, self.iterations)
        except (ValueError, KeyError, TypeError, RuntimeError) as error:
            path, remedy = (other, AGAIN) if other else (self._state, ANEW)
            raise InputFileError(f"{path} is broken ({cause(error)}); {remedy}") from error


def entropy_weight(config: ExpertConfig, iteration: int) -> float:
    """``config.entropy`` for the first half of the training, then down to a tenth of it, linearly.

    Strong noise at first keeps the robot from learning to stand still; little at the end lets it walk cleanly.
    """
    return config.entropy * min(1.0, 1.9 - 1.8 * iteration / config.iterations)


def ppo_settings(config: ExpertConfig) -> dict[str, Any]:
    """Those of Genesis' locomotion example, but for the network and the exploration."""
    network = {"class_name": "MLPModel", "hidden_dims": list(config.hidden_dims), "activation": "elu"}
    noise = {"class_name": "GaussianDistribution", "init_std": config.init_noise}
    return {
        "num_steps_per_env": config.steps_per_iteration,
        "save_interval": 1,
        "obs_groups": {"actor": ["policy"], "critic": ["policy"]},
        "actor": network | {"distribution_cfg": noise},
        "critic": dict(network),
        "algorithm": {
            "class_name": "PPO", "num_learning_epochs": 5, "num_mini_batches": MINI_BATCHES, "clip_param": 0.2,
            "gamma": 0.99, "lam": 0.95, "value_loss_coef": 1.0, "entropy_coef": config.entropy,
            "learning_rate": config.lr, "max_grad_norm": 1.0, "use_clipped_value_loss": True, "schedule": "adaptive",
            "desired_kl": config.desired_kl,
        },
    }  # fmt: skip


def train_expert(config: ExpertConfig, *, simulator=None, progress: Progress | None = None) -> Evaluation:
    """Train an expert, evaluate it without noise from randomised starts, and leave it in ``config.output_dir``.

    The directory gets ``expert.pth`` and ``expert.json`` (see `load_expert`), ``training.pth`` to resume from, and
    ``tensorboard/``.  A resumed run goes on from the last saved iteration with fresh episodes, so that it does not
    equal an unbroken one bit for bit.

    Args:
        simulator: of this robot with ``config.num_envs`` environments; None builds one.
        progress: told what happens; None for silence.

    Raises:
        UsageError, InputFileError: something in ``config`` does not fit; nothing was written then.
        VintixFastError: the disk or the training failed; what was saved stays.
        Interrupted: Ctrl-C; the run can be resumed.
    """
    # Everything that can be wrong is found before anything is written.
    progress = progress or Progress()
    check_device(config.device)
    directory = RunDirectory(config, (WEIGHTS_FILE, CARD_FILE, STATE_FILE, "tensorboard"))
    directory.check()
    robot = directory.robot
    saved = directory.path / STATE_FILE
    state = load_tensors(saved, config.device, ANEW) if config.resume and saved.is_file() else None
    first = _first_state(config, robot) if state is None and config.init_from is not None else None
    with directory, stop_on_interrupt(progress.say):
        simulator = simulator or Simulator(robot, config.num_envs, config.device, progress.say, config.task.vary)
        task = WalkingTask(simulator, robot, config.max_steps_per_episode, task_config=config.task)
        check_interrupt()  # the scene took a while; nothing is written yet
        directory.begin()
        with told_to_resume("from the last saved iteration"):
            runner = _train(config, directory.path, state, first, task, progress)
            # The actor's own layers, without its noise, are the expert.
            told = Privileged(config.task.vary, task.layout.num_joints).size
            network = expert_network(config.hidden_dims, task.layout, told)
            actor = runner.alg.get_policy().state_dict()
            network.load_state_dict({k.removeprefix("mlp."): v for k, v in actor.items() if k.startswith("mlp.")})
            policy = ExpertPolicy(network, config.num_envs, task.device, told_of(config.task.vary, task))
            # The library steps the task in inference mode, whose tensors can be written to in that mode only.
            what = progress.rollout("evaluating", config.eval_episodes, config.max_steps_per_episode)
            with torch.inference_mode(), what:
                evaluation = measure(task, policy, config.eval_episodes, config.seed, True, progress)
    # The card comes last: where it is, the expert is whole.
    save_tensors(directory.path / WEIGHTS_FILE, network.state_dict())
    card = {
        "robot": robot.name,
        "hidden_dims": list(config.hidden_dims),
        **({TOLD: str(config.task.vary)} if told else {}),
        "iterations": runner.iterations,
        "env_steps": runner.iterations * config.num_envs * config.steps_per_iteration,
        "train_seconds": runner.seconds,
        "evaluation": evaluation.summary(),
    }
    write_json(directory.path / CARD_FILE, card | {"options": config.to_json(), "versions": versions()})
    return evaluation


def _first_state(config: ExpertConfig, robot: Robot) -> dict[str, Any]:
    """What the expert to go on from has learned, if it fits this one."""
    path = config.init_from
    assert path is not None
    network, card = load_expert(path, option="--init-from")
    told = Privileged(config.task.vary, robot.layout.num_joints).size
    own = expert_network(config.hidden_dims, robot.layout, told)
    sizes = [[tuple(weight.shape) for weight in one.parameters()] for one in (network, own)]
    if sizes[0] != sizes[1]:
        (_, had), (_, has) = (shapes[0] for shapes in sizes)
        why = f"takes {had} numbers, this one {has}" if had != has else "has other layers"
        raise UsageError(
            f"--init-from {path}: that expert of {card['robot']} {why}; give one with as many joints, trained in "
            "worlds that vary alike"
        )
    if not (path / STATE_FILE).is_file():
        raise InputFileError(f"--init-from {path} lacks {STATE_FILE}, which has its critic; {AGAIN}")
    return load_tensors(path / STATE_FILE, config.device, AGAIN)


def _train(
    config: ExpertConfig,
    directory: Path,
    state: dict[str, Any] | None,
    first: dict[str, Any] | None,
    task: WalkingTask,
    progress: Progress,
) -> _Runner:
    """Go on with ``state``, else begin with what another expert, ``first``, has learned, else with random weights."""
    env = ExpertTask(task, config.seed)
    silence = contextlib.redirect_stdout(io.StringIO())  # the library prints its networks, and a page an iteration
    with torch.random.fork_rng(devices=[]), silence:
        torch.manual_seed(config.seed)
        runner = _Runner(env, config, directory, progress)
        if state is not None:
            runner.go_on(state)
        elif first is not None:
            assert config.init_from is not None
            runner.go_on(first, config.init_from / STATE_FILE)
        if runner.iterations >= config.iterations:
            return runner
        try:
            with progress.training(f"{task.robot.name}: PPO iterations", config.iterations):
                runner.learn(config.iterations - runner.iterations, init_at_random_ep_len=True)
        except ValueError as error:  # the library's check of what it is given
            raise VintixFastError(f"the training diverged: {error}; try a smaller --lr") from error
        finally:
            if runner.logger.writer is not None:
                runner.logger.writer.close()
    return runner
