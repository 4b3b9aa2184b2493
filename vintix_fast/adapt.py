"""Self-improvement: collect episodes with the current policy, fine-tune the robot's own parts on them, repeat.

This file is the algorithm.  Where things lie on disk is `run.py`'s, what the targets are `train/objective.py`'s, how
episodes are run `rollout/`'s.
"""

from __future__ import annotations

import functools
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vintix_fast.calibrate import build_simulator
from vintix_fast.config import AdaptConfig
from vintix_fast.data import History, Windows, open_writer, read_trajectories
from vintix_fast.errors import Interrupted, VintixFastError
from vintix_fast.evaluate import check_context_len, check_device, standard_error
from vintix_fast.gate import gate, measure_initial
from vintix_fast.initial import add_target
from vintix_fast.interrupt import stop_on_interrupt
from vintix_fast.memory import check_memory
from vintix_fast.model import Vintix, fingerprint, load_checkpoint, save_checkpoint
from vintix_fast.posture import leave_standing, stands_still
from vintix_fast.regions import region
from vintix_fast.report.metrics import write_curve, write_tensorboard
from vintix_fast.report.progress import Progress
from vintix_fast.robots import Robot, find_task, load_robot
from vintix_fast.rollout import Noise, cache_bytes, collect, ladder, make_policy
from vintix_fast.run import Run, versions, write_json
from vintix_fast.task import WalkingTask
from vintix_fast.train import (
    AwrImprover,
    CloneImprover,
    CriticConfig,
    CriticImprover,
    FinetuneConfig,
    Improver,
    ImproverConfig,
    TopKImprover,
    TrainingStep,
    finetune,
    multiplies_bf16,
)

WALKING = 0.8
"""A model that earns this part of what an episode can give walks."""
PURPOSES = ("starts", "noise", "critic", "windows", "posture")


@dataclass(frozen=True)
class AdaptResult:
    """What a run gave: one row of numbers for each loop, and where the models are."""

    rows: list[dict[str, Any]]
    last_model: Path
    best_model: Path


def seed_for(config: AdaptConfig, loop: int, purpose: str) -> int:
    """An independent seed for each use in each loop, so that a resumed run draws what an unbroken one would."""
    return int(np.random.SeedSequence([config.seed, loop, PURPOSES.index(purpose)]).generate_state(1)[0])


def adapt(config: AdaptConfig, *, simulator=None, progress: Progress | None = None) -> AdaptResult:
    """Teach the pretrained model to walk on a robot, and leave its models and data in ``config.output_dir``.

    Args:
        config: see `AdaptConfig`.
        simulator: of this robot with ``config.envs`` environments; None builds one.
        progress: told what happens; None for silence.

    Raises:
        UsageError, InputFileError: something in ``config`` does not fit; nothing was written then.
        VintixFastError: the disk, the simulator or the training failed; what was finished stays.
        Interrupted: Ctrl-C; the run can be resumed.
    """
    progress = progress or Progress()
    check_device(config.device)
    run = Run(config)
    run.check()
    config = run.config
    robot = load_robot(config.robot_type)
    with region("start-up"):
        model, task_name = _initial_model(config, run, robot, progress)
    check_context_len(config.context_len, model)

    fit = check_memory(config.envs, cache_bytes(model, config.context_len, **config.engine_options), config.device)

    with run, stop_on_interrupt(progress.say) as progress.check:
        with region("compile"):
            simulator = simulator or build_simulator(config, robot, fit, progress.say)
        config = run.config = replace(config, num_envs=simulator.num_envs)
        task = WalkingTask(simulator, robot, config.max_steps_per_episode)
        progress.check()
        run.begin()
        if not run.model_dir(0).is_dir():
            save_checkpoint(model, run.model_dir(0))
        try:
            _improve(config, run, task, task_name, progress)
        except (Interrupted, KeyboardInterrupt) as stop:
            raise Interrupted(
                f"stopped after {run.loops_done} finished loops; the same command with --resume"
                f"{' in place of --overwrite' * config.overwrite} goes on"
            ) from stop
    best = run.best_dir if config.gate else run.model_dir(run.loops_done)
    return AdaptResult(run.rows, run.model_dir(run.loops_done), best)


def _initial_model(config: AdaptConfig, run: Run, robot: Robot, progress: Progress) -> tuple[Vintix, str]:
    """The pretrained model with the robot's own group, and the robot's task; of a resumed run as it was then."""
    begun = run.model_dir(0)
    if config.resume and begun.is_dir():
        model = load_checkpoint(begun, config.device)
        return model, find_task(robot, model.tasks)
    model = load_checkpoint(config.pretrained_path, config.device, config.token_order, progress.say)
    task_name = add_target(
        model, robot, load_robot(config.reference_robot), progress.say,
        init_map=config.init_map, group=config.group, obs_stats=config.obs_stats, reinitialize=config.reinitialize,
    )  # fmt: skip
    return model, task_name


def _improve(config: AdaptConfig, run: Run, task: WalkingTask, task_name: str, progress: Progress) -> None:
    """The loop of the algorithm, from wherever the run stands."""
    improver = make_improver(config)
    improver.load_state_dict(run.improver_state)
    for done in range(run.loops_done):
        run.training_state(done).unlink(missing_ok=True)  # where the run was killed between the two
    first = run.current_loop if config.replay == "current" else 0
    replay = {i: read_trajectories(run.trajectories(i)).histories for i in range(first, run.loops_done)}
    if config.gate and run.best is None:
        with region("gate"):
            row = measure_initial(config, run, task, task_name, progress)
        _finish(run, row, [], improver, progress)

    for loop in range(run.loops_done + 1, config.num_improvement_loops + 1):
        if _reached(config, run, progress):
            break
        model = load_checkpoint(run.current_dir, config.device)
        frozen = fingerprint(model, model.tasks[task_name].group_name)

        with region("posture"):
            model, moved = _leave_standing(config, run, loop, task, model, task_name, progress)
        if moved:
            replay = {}  # from another stance
        with region("collect"):
            histories, collected = _collect(config, run, loop - 1, task, model, task_name, progress)
        replay[loop - 1] = histories
        if config.replay == "current":
            replay = {i: kept for i, kept in replay.items() if i >= run.current_loop}
        with region("train"):
            trained, steps = _finetune(config, run, loop, model, task_name, list(replay.values()), improver, progress)
        row = {"loop": loop} | moved | collected | trained

        if fingerprint(model, model.tasks[task_name].group_name) != frozen:
            raise VintixFastError("fine-tuning changed tensors outside the robot's own group; this is a defect")
        save_checkpoint(model, run.model_dir(loop))
        if config.gate:
            with region("gate"):
                row |= gate(config, run, loop, task, model, task_name, progress)
        improver.judge(row.get("accepted", True), _walks(config, run, task))
        _finish(run, row, steps, improver, progress)
        run.training_state(loop - 1).unlink(missing_ok=True)


def _reached(config: AdaptConfig, run: Run, progress: Progress) -> bool:
    if config.target_return is None or run.best["return"] < config.target_return:
        return False
    progress.say(f"A return of {run.best['return']:.2f} reaches --target-return {config.target_return:g}: done.")
    return True


def _walks(config: AdaptConfig, run: Run, task: WalkingTask) -> bool:
    """Whether the best model so far earns so much that it is smaller faults that are left; without a gate, always."""
    return not config.gate or run.best["return"] >= WALKING * task.most_reward * task.max_steps


def make_improver(config: AdaptConfig) -> Improver:
    """The improvement operator that the configuration names."""
    if config.improver in ("clone", "topk"):
        return CloneImprover() if config.improver == "clone" else TopKImprover()
    settings = ImproverConfig(CriticConfig(updates=config.critic_updates), step=config.improvement_step)
    return (CriticImprover if config.improver == "critic" else AwrImprover)(settings, config.device)


def _leave_standing(
    config: AdaptConfig, run: Run, loop: int, task: WalkingTask, model: Vintix, task_name: str, progress: Progress
) -> tuple[Vintix, dict[str, Any]]:
    """The model to collect with: where the best one so far stands still, one that moves; see `posture`."""
    best = next((row for row in run.rows if row["loop"] == run.current_loop), {})
    still = config.gate and stands_still(best["eval_return"], best["eval_length"], task)
    if not still:
        return model, {}
    if sharing := model.sharing(task_name):
        progress.say(f"The model stands still; its stance stays as it is, since {', '.join(sharing)} would change too")
        return model, {}
    progress.say(f"The model stands still (return {best['eval_return']:.2f}): looking for a stance that moves")
    make_actor = functools.partial(
        make_policy,
        task_name=task_name,
        num_envs=task.num_envs,
        context_len=config.context_len,
        **config.engine_options,
    )
    seed = seed_for(config, loop, "posture")
    return leave_standing(model, task_name, task, make_actor, config.init_map == "convert", seed, progress)


def _collect(
    config: AdaptConfig, run: Run, index: int, task: WalkingTask, model: Vintix, task_name: str, progress: Progress
) -> tuple[list[History], dict[str, Any]]:
    """Run a loop's episodes, or read them if an interrupted run had finished them."""
    finished = run.collected(index)
    if finished is not None:
        progress.say(f"Collection {index:02d} was finished before: {run.trajectories(index)}")
        return read_trajectories(run.trajectories(index)).histories, finished["collection"]

    policy = make_policy(model, task_name, task.num_envs, config.context_len, **config.engine_options)
    sigma = ladder(task.num_envs, config.noise) if config.noise_ladder else torch.full((task.num_envs,), config.noise)
    noise = Noise(sigma, task.layout.num_joints, seed_for(config, index, "noise")) if config.noise else None
    attributes = {"robot": task.robot.name, "task_name": task_name, "seed": config.seed, "loop": index}
    attributes |= {"task": task.config.to_json()} | versions()
    run.data_dir(index).mkdir(exist_ok=True)
    with progress.rollout(f"loop {index + 1}: collecting", config.episodes_per_loop, config.max_steps_per_episode):
        with open_writer(run.trajectories(index), task.num_envs, attributes, layout=task.layout) as writer:
            collection = collect(
                task,
                policy,
                config.episodes_per_loop,
                seed=seed_for(config, index, "starts"),
                random_starts=config.random_starts,
                min_steps=config.min_steps_per_loop,
                noise=noise,
                writer=writer,
                keep=True,
                on_step=progress.on_rollout_step,
            )
    returns = np.array([e.return_ for e in collection.episodes])
    numbers = {
        "episodes": len(collection.episodes),
        "env_steps": collection.env_steps,
        "mean_return": float(returns.mean()),
        "std_return": float(returns.std()),
        "standard_error": standard_error(returns.tolist()),
        "mean_length": collection.mean_length,
        "failures": collection.failures,
        "collect_seconds": collection.seconds,
        "env_steps_per_s": collection.env_steps / collection.seconds,
        "writer_waits": writer.stats["waits"],
        "writer_wait_seconds": writer.stats["wait_seconds"],
    }
    info = model.tasks[task_name].to_dict()
    described = {key: info[key] for key in ("observation_shape", "action_dim", "action_type")}
    episodes = [e.__dict__ for e in collection.episodes]
    write_json(
        run.collection_file(index),
        {"task_name": task_name} | described | {"collection": numbers, "episodes": episodes, "versions": versions()},
    )
    return collection.histories, numbers


def _finetune(
    config: AdaptConfig,
    run: Run,
    loop: int,
    model: Vintix,
    task_name: str,
    replay: list[list[History]],
    improver: Improver,
    progress: Progress,
) -> tuple[dict[str, Any], list[TrainingStep]]:
    """Ask the improver what the policy should have done, and train the robot's own parts towards it."""
    started = time.perf_counter()
    everything = [h for histories in replay for h in histories]
    learn_from = everything if config.train_on == "all" else replay[-1]
    with region("critic"), progress.training(f"loop {loop}: critic", config.critic_updates):
        targets = improver.targets(
            learn_from, everything, seed_for(config, loop, "critic"), on_step=progress.on_training_step
        )
    improve_seconds = time.perf_counter() - started

    windows = Windows(learn_from, targets, config.window_len or config.context_len, config.device)
    settings = FinetuneConfig(
        steps=config.finetune_steps_per_loop, batch_size=config.batch_size, lr=config.lr,
        decoder_only=config.train == "decoder",
        bf16=multiplies_bf16(config.device) if config.bf16 is None else config.bf16,
    )  # fmt: skip
    with progress.training(f"loop {loop}: fine-tuning", settings.steps):
        steps = finetune(
            model, task_name, windows, settings, seed_for(config, loop, "windows"),
            on_step=lambda s: progress.on_training_step(s.step + 1, s.loss),
            state_file=run.training_state(loop - 1),
        )  # fmt: skip
    tail = steps[-max(1, len(steps) // 10) :]
    numbers = {
        "loss_first": steps[0].loss,
        "loss": float(np.mean([s.loss for s in tail])),
        "grad_norm": float(np.mean([s.grad_norm for s in tail])),
        "lr": config.lr,
        "bf16": settings.bf16,
        "train_seconds": time.perf_counter() - started,
        "improve_seconds": improve_seconds,
    }
    return numbers | improver.numbers(), steps


def _finish(run: Run, row: dict[str, Any], steps: list[TrainingStep], improver: Improver, progress: Progress) -> None:
    row["total_env_steps"] = int(run.total("env_steps") + row.get("env_steps", 0))
    run.finish_loop(row, improver.state_dict())
    write_tensorboard(run.path / "tensorboard", row, steps)
    write_curve(run.path / "curve.png", run.rows)
    progress.on_loop(row)
