"""Other ways to teach the same robot to walk, which `adaptation.py` measures beside self-improvement.

- `from_scratch`: the same loop, noise, critic and gate, but a small network instead of Vintix, untrained at first.
- `ppo_from_expert`: another robot's expert, its joints turned as the adapter's are, trained further with PPO.

Each leaves in its run's directory what `adaptation.py` reads of an adapt run: config.json, metrics.jsonl, written last,
and models/.  The models are experts, see `vintix_fast.policy.expert`.
"""

from __future__ import annotations

import contextlib
import copy
import io
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from vintix_fast.config import AdaptConfig
from vintix_fast.data import History
from vintix_fast.data.windows import Targets
from vintix_fast.eval_config import EvalConfig
from vintix_fast.evaluation import Evaluation, measure
from vintix_fast.improve import make_improver
from vintix_fast.learning import seed_for
from vintix_fast.model import load_checkpoint
from vintix_fast.model.new_group import add_target
from vintix_fast.policy.expert import CARD_FILE, WEIGHTS_FILE, ExpertPolicy, expert_network, load_expert
from vintix_fast.pretrain.config import ExpertConfig
from vintix_fast.pretrain.expert import ExpertTask, OnPolicyRunner, ppo_settings
from vintix_fast.rollout import Noise, collect, ladder
from vintix_fast.rundir import METRICS_FILE, Run
from vintix_fast.service.errors import VintixFastError
from vintix_fast.service.files import save_tensors, versions, write_json, write_text
from vintix_fast.service.progress import Progress
from vintix_fast.world.layout import ObservationLayout
from vintix_fast.world.robot import joint_signs, load_robot
from vintix_fast.world.task import WalkingTask

HIDDEN_DIMS = [256, 256]
SMALL_LAST_LAYER = 0.01
"""What the last layer's random weights are multiplied by: the untrained robot stands still."""
SMALLEST_STD = 1e-2
"""The command never varies and must not be divided by its deviation."""
REGRESSION = {"steps": 2000, "batch_size": 512, "lr": 1e-3}
"""A loop's training of the small network; each step is far cheaper than one of Vintix."""
PPO = {"num_envs": 64, "steps_per_iteration": 24, "init_noise": 0.2, "lr": 3e-4, "entropy": 0.0}
"""Gentler than an expert's from nothing: what it can do already must survive until its critic has learned."""

Scenes = Callable[[int], Any]
"""Number of environments -> a simulator of the run's robot."""


def from_scratch(config: AdaptConfig, limits: tuple[int, ...], scenes: Scenes, experts: Path) -> None:
    """Self-improvement without a pretrained model; of that it takes only the statistics of what robots sense."""
    # Untrained, its last layer small: the robot stands still at first.
    run, task = _begin(config, scenes(config.envs))
    improver, (mean, std) = make_improver(config.improve), _statistics(config)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        best = expert_network(HIDDEN_DIMS, task.layout)
    with torch.no_grad():
        best[-1].weight.mul_(SMALL_LAST_LAYER)
        best[-1].bias.zero_()

    def policy(network: nn.Sequential) -> ExpertPolicy:
        return ExpertPolicy(standardised(network, mean, std), task.num_envs)

    def judge(loop: int, network: nn.Sequential) -> Evaluation:
        save_expert(run.model_dir(loop), standardised(network, mean, std), config, HIDDEN_DIMS)
        return measure(task, policy(network), config.gate_episodes, config.seed, True, Progress())

    # What the first model returns is what the first loop must beat.
    evaluation = judge(0, best)
    best_return, total, replay = evaluation.mean_return, 0, []
    rows = [{"loop": 0, "accepted": True, "total_env_steps": 0} | _numbers(evaluation)]
    for loop in range(1, config.num_improvement_loops + 1):
        # Collect as adapt does: the same ladder, seeds and numbers of steps.
        strengths = ladder(task.num_envs, config.collect.noise)
        noise = Noise(strengths, task.layout.num_joints, seed_for(config, loop - 1, "noise"))
        collection = collect(
            task, policy(best), config.collect.episodes_per_loop, seed=seed_for(config, loop - 1, "starts"),
            random_starts=config.collect.random_starts, min_steps=config.min_steps,
            noise=noise, keep=True,
        )  # fmt: skip
        # The critic learns of all collections since the last gain, the network of this one.
        replay.append(collection.histories)
        total += collection.env_steps
        started = time.perf_counter()
        everything = [h for histories in replay for h in histories]
        learn_from = replay[-1]
        targets = improver.targets(learn_from, everything, seed_for(config, loop, "critic"), on_step=lambda *_: None)
        network = regressed(best, learn_from, targets, mean, std, seed_for(config, loop, "windows"))
        row = {"loop": loop, "total_env_steps": total, "collect_seconds": collection.seconds}
        row["train_seconds"] = time.perf_counter() - started
        # The gate: a model that is no better is undone, and its data kept.
        evaluation = judge(loop, network)
        row["accepted"] = evaluation.mean_return > best_return
        improver.learn_of(row["accepted"])
        if row["accepted"]:
            best, best_return, replay = network, evaluation.mean_return, []
        rows.append(row | _numbers(evaluation))
    _finish(run, rows)


def standardised(network: nn.Sequential, mean: torch.Tensor, std: torch.Tensor) -> nn.Sequential:
    """A network that answers to x as ``network`` does to (x - mean) / std."""
    folded = copy.deepcopy(network)
    with torch.no_grad():
        folded[0].weight.div_(std)
        folded[0].bias.sub_(folded[0].weight @ mean)
    return folded


def sensed(history: History) -> np.ndarray:
    """What the small network was shown in each step, [n, O + J]: observation and last action, as `ExpertPolicy` is."""
    last = np.roll(history.action, 1, axis=0)
    last[history.step_num == 0] = 0.0
    return np.concatenate([history.observation, last], axis=1)


def regressed(
    network: nn.Sequential, histories: list[History], targets: list[Targets], mean: torch.Tensor, std: torch.Tensor,
    seed: int,
) -> nn.Sequential:  # fmt: skip
    """A copy of the network, trained towards the targets on standardised states."""
    network = copy.deepcopy(network)
    state = (torch.from_numpy(np.concatenate([sensed(h) for h in histories])) - mean) / std
    action = torch.from_numpy(np.concatenate([t.action for t in targets]))
    weight = torch.from_numpy(np.concatenate([t.weight for t in targets]))
    optimiser = torch.optim.Adam(network.parameters(), lr=REGRESSION["lr"])
    generator = torch.Generator().manual_seed(seed)
    for _ in range(REGRESSION["steps"]):
        rows = torch.randint(len(state), (REGRESSION["batch_size"],), generator=generator)
        error = (network(state[rows]) - action[rows]).square().mean(dim=1)
        loss = (error * weight[rows]).sum() / weight[rows].sum().clamp_min(1e-8)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
    return network


def ppo_from_expert(config: AdaptConfig, limits: tuple[int, ...], scenes: Scenes, experts: Path) -> None:
    """PPO that begins with the reference robot's expert; loop i is what it had learned at the i-th limit above 0."""
    robot, reference = load_robot(config.robot_type), load_robot(config.reference_robot)
    path = experts / reference.name
    if not (path / CARD_FILE).is_file():
        make = f"vintix-fast expert --robot-type {reference.name} --output-dir {path}"
        print(f"{config.robot_type}: PPO from expert is left out, there is no expert in {path}; make one: {make}")
        return
    # The expert as it would be for this robot's joints is the first model.
    network, card = load_expert(path, reference)
    network = converted(network, joint_signs(robot, reference))
    settings = ExpertConfig(
        robot_type=robot.name, output_dir=config.output_dir, seed=config.seed, device=config.engine.device,
        max_steps_per_episode=config.max_steps_per_episode, hidden_dims=card["hidden_dims"], **PPO,
    )  # fmt: skip
    run, task = _begin(config, scenes(settings.num_envs))
    save_expert(run.model_dir(0), network, config, card["hidden_dims"])
    rows, done, per_iteration = [], 0, settings.num_envs * settings.steps_per_iteration
    env = ExpertTask(task, config.seed)
    silence = contextlib.redirect_stdout(io.StringIO())  # the library prints its networks
    with torch.random.fork_rng(devices=[]), silence:
        torch.manual_seed(config.seed)
        runner = OnPolicyRunner(env, ppo_settings(settings), None, config.engine.device)
        # Only the actor begins with the expert's weights; PPO's critic starts from nothing.
        actor = runner.alg.get_policy()
        actor.load_state_dict(actor.state_dict() | {f"mlp.{k}": v for k, v in network.state_dict().items()})
        for loop, limit in enumerate((limit for limit in limits if limit), start=1):
            # As many whole iterations as fit below the limit.
            started, iterations = time.perf_counter(), limit // per_iteration - done
            try:
                runner.learn(iterations, init_at_random_ep_len=loop == 1)
            except ValueError as error:  # the library's check of what it is given
                raise VintixFastError(f"PPO diverged: {error}") from error
            done += iterations
            weights = {k.removeprefix("mlp."): v for k, v in actor.state_dict().items() if k.startswith("mlp.")}
            network.load_state_dict(weights)
            save_expert(run.model_dir(loop), network, config, card["hidden_dims"])
            seconds = time.perf_counter() - started
            rows.append({"loop": loop, "total_env_steps": done * per_iteration, "train_seconds": seconds})
    _finish(run, rows)


def converted(network: nn.Sequential, sign: np.ndarray) -> nn.Sequential:
    """An expert for joints that turn by ``sign`` [J]: new(S * observation, s * last action) = s * old(both)."""
    network = copy.deepcopy(network)
    joint = torch.as_tensor(sign, dtype=torch.float32)
    sensed = torch.as_tensor(
        np.concatenate([ObservationLayout.extended(np.diag(sign)).diagonal(), sign]), dtype=torch.float32
    )
    with torch.no_grad():
        network[0].weight.mul_(sensed)
        network[-1].weight.mul_(joint[:, None])
        network[-1].bias.mul_(joint)
    return network


def save_expert(path: Path, network: nn.Sequential, config: AdaptConfig, hidden_dims: list[int]) -> None:
    """Leave a network where `load_expert` finds it."""
    path.mkdir(parents=True, exist_ok=True)
    save_tensors(path / WEIGHTS_FILE, network.state_dict())
    write_json(path / CARD_FILE, {"robot": load_robot(config.robot_type).name, "hidden_dims": list(hidden_dims)})


def measure_expert(config: EvalConfig, *, simulator: Any) -> Evaluation:
    """`vintix_fast.evaluate` for a directory that holds an expert."""
    network, _ = load_expert(config.vintix_path, simulator.robot)
    task = WalkingTask(simulator, simulator.robot, config.max_steps)
    episodes = config.num_envs * config.episodes_per_env
    policy = ExpertPolicy(network, task.num_envs, task.device)
    return measure(task, policy, episodes, config.seed, config.random_starts, Progress())


def _begin(config: AdaptConfig, simulator: Any) -> tuple[Run, WalkingTask]:
    run = Run(config)
    run.path.mkdir(parents=True, exist_ok=True)
    write_json(run.path / "config.json", {"options": config.to_json(), "versions": versions()})
    return run, WalkingTask(simulator, load_robot(config.robot_type), config.max_steps_per_episode)


def _finish(run: Run, rows: list[dict[str, Any]]) -> None:
    write_text(run.path / METRICS_FILE, "".join(json.dumps(row) + "\n" for row in rows))


def _numbers(evaluation: Evaluation) -> dict[str, Any]:
    return {
        "eval_return": evaluation.mean_return,
        "eval_env_steps": evaluation.env_steps,
        "eval_seconds": evaluation.seconds,
    }


def _statistics(config: AdaptConfig) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and deviation [O + J] of observation and last action, as the converted adapter has them."""
    model = load_checkpoint(config.pretrained_path)
    robot, reference = load_robot(config.robot_type), load_robot(config.reference_robot)
    info = model.tasks[add_target(model, robot, reference, lambda text: None)]
    mean, std = torch.tensor([*info.obs_mean, *info.acs_mean]), torch.tensor([*info.obs_std, *info.acs_std])
    return mean, std.clamp_min(SMALLEST_STD)


RIVALS = {"from scratch": from_scratch, "PPO from expert": ppo_from_expert}
