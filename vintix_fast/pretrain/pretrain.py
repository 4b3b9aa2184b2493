"""Train a whole Vintix on several robots' histories, by next-action prediction.

Data flows histories -> windows of every robot -> one pass through the shared transformer -> squared action error.
"""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vintix_fast.data import Batch, History, Targets, Windows
from vintix_fast.model import Vintix, load_checkpoint, save_checkpoint
from vintix_fast.model.config import DEFAULT_GROUP
from vintix_fast.model.new_group import check_sizes
from vintix_fast.outdir import RunDirectory
from vintix_fast.pretrain.config import PretrainConfig
from vintix_fast.pretrain.histories import RobotHistories, known_task, read_histories
from vintix_fast.pretrain.ranks import Ranks
from vintix_fast.service.device import check_device
from vintix_fast.service.errors import InputFileError, UsageError, cause
from vintix_fast.service.files import load_tensors, save_tensors, versions, write_json
from vintix_fast.service.interrupt import check_interrupt, stop_on_interrupt, told_to_resume
from vintix_fast.service.metrics import write_losses
from vintix_fast.service.progress import Progress
from vintix_fast.train.finetune import TrainingStep, descend
from vintix_fast.train.losses import weighted_error

STATE_FILE, CARD_FILE, CURVE_FILE = "training.pth", "pretrain.json", "loss.png"
MODEL_DIR = "model"


def pretrain(config: PretrainConfig, *, progress: Progress | None = None) -> dict[str, Any]:
    """Train a model, from random weights or from a checkpoint's, and leave it in ``config.output_dir/model``.

    Args:
        progress: told what happens; None for silence.

    Returns:
        What ``pretrain.json`` says: data, losses, seconds; nothing in other ranks than the first of `torchrun`'s.

    Raises:
        UsageError, InputFileError: something in ``config`` or its data does not fit; nothing was written then.
        VintixFastError: the disk or the training failed; the last saved state stays.
        Interrupted: Ctrl-C; the run can be resumed, and then equals an unbroken one bit for bit.
    """
    # Everything that can be wrong is found before anything is written.
    check_device(config.device)
    ranks = Ranks(config.device)
    with ranks.connected(config.device):
        return _pretrain(config, ranks, progress if progress and ranks.rank == 0 else Progress())


def _pretrain(config: PretrainConfig, ranks: Ranks, progress: Progress) -> dict[str, Any]:
    """`pretrain` in one of its ranks, of which the first alone writes."""
    directory = run_directory(config)
    if ranks.rank == 0:
        directory.check()
    for step in (0, config.steps - 1):
        ranks.check_batches(window_sizes(config, step)[0])
    robots = read_histories(config.data, config.held_out, config.seed, progress.say)
    # A resumed training takes its state over the first model's.
    model = _first_model(config, robots, progress.say)
    if config.reward_dropout:
        for robot in robots:
            info = dataclasses.replace(model.tasks[robot.task_name], reward_told=robot.late_reward)
            model.set_task_info(robot.task_name, info)
    training = _Training(config, directory.path, model, robots, ranks)
    if config.resume:
        training.go_on()
    # From here on the directory is ours; Ctrl-C stops between two steps.
    with directory, stop_on_interrupt(progress.say):
        if ranks.rank == 0:
            directory.begin()
            write_losses(directory.path, training.rows)  # a killed process may have lost some, or have some too many
        with told_to_resume("from the last saved step"):
            with progress.training("pretraining", config.steps):
                training.run(progress)
    if ranks.rank > 0:
        return {}
    # The card comes last: where it is, the model is whole.
    save_checkpoint(model, directory.path / MODEL_DIR)
    card = {
        "robots": {
            robot.task_name: {
                "histories": len(robot.train),
                "held_out": len(robot.held_out),
                "env_steps": sum(map(len, robot.train)),
                "skipped": robot.skipped,
            }
            for robot in robots
        },
        "parameters": sum(p.numel() for p in model.parameters()),
        "steps": config.steps,
        "tokens": training.tokens,
        "seconds": training.seconds,
        "rows": training.rows,
        "options": config.to_json(),
        "versions": versions(),
    }
    write_json(directory.path / CARD_FILE, card)
    return card


def run_directory(config: PretrainConfig) -> RunDirectory:
    """Where a training goes."""
    return RunDirectory(config, (CARD_FILE, STATE_FILE, CURVE_FILE, MODEL_DIR, "tensorboard"))


def _first_model(config: PretrainConfig, robots: list[RobotHistories], say: Callable[[str], None]) -> Vintix:
    """The model before the first step: random, or the checkpoint to go on from with a group for each new robot."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        if config.init_from is None:
            tasks = {r.task_name: r.statistics(DEFAULT_GROUP if config.shared_group else r.group_name) for r in robots}
            return Vintix(config.architecture(), tasks).to(config.device)
        model = load_checkpoint(config.init_from, config.device, say=say)
        for robot in robots:
            same = [name for name in model.tasks if known_task(name)[0] == robot.task_name]
            known = robot.task_name if robot.task_name in same else next(iter(same), None)
            if known is None:
                group = robot.group_name
                while group in model.groups:
                    group += "_new"
                model.add_task(robot.task_name, robot.statistics(group))
                say(f"{robot.task_name} is new to {config.init_from}: it gets the group {group}")
                continue
            check_sizes(known, model.tasks[known], robot.layout)
            if known != robot.task_name:
                model.rename_task(known, robot.task_name)
        return model.to(config.device)


def _windows(config: PretrainConfig, robots: list[RobotHistories], part: str) -> dict[str, Windows]:
    windows = {}
    for robot in robots:
        histories = getattr(robot, part)
        if histories:
            targets = [_targets(config, robot.task_name, history) for history in histories]
            windows[robot.task_name] = Windows(histories, targets, config.window_len, config.device)
    return windows


def _targets(config: PretrainConfig, task_name: str, history: History) -> Targets:
    if config.target == "expert" and "mean_action" not in history.extras:
        raise UsageError(
            f"--target expert: the histories of {task_name} do not say what the expert would have done (no dataset "
            "mean_action); give --target action"
        )
    action = history.extras["mean_action"] if config.target == "expert" else history.action
    return Targets(action, np.ones(len(action), np.float32))


def shares(batch_size: int, num_tasks: int, step: int) -> list[int]:
    """How many of a batch's windows each task gets: as many as the others, the remainder in turns."""
    base, extra = divmod(batch_size, num_tasks)
    return [base + ((task + step * extra) % num_tasks < extra) for task in range(num_tasks)]


def window_sizes(config: PretrainConfig, step: int) -> tuple[int, int]:
    """How many windows of how many steps: short ones at first, long ones in the last ``config.long_steps``.

    Where a training is short, long windows take the last fifth of it.
    """
    if step < config.steps - min(config.long_steps, config.steps // 5):
        return config.batch_size, config.window_len
    return max(1, config.batch_size * config.window_len // config.long_window_len), config.long_window_len


def mixed_loss(model: Vintix, batches: dict[str, Batch], bf16: bool) -> dict[str, torch.Tensor]:
    """Squared action error of each task, from one pass of the transformer over all windows.

    Args:
        batches: of each task; windows of different length are padded at their end.
        bf16: multiply matrices in bfloat16.

    Returns:
        The mean over a task's real tokens and the action's dimensions.
    """
    longest = max(batch.weight.shape[1] for batch in batches.values())
    with torch.autocast(model.device.type, torch.bfloat16, enabled=bf16):
        tokens = []
        for task_name, batch in batches.items():
            token = model.encode(task_name, batch.observation, batch.prev_action, batch.prev_reward, batch.step_num)
            tokens.append(torch.nn.functional.pad(token, (0, 0, 0, longest - token.shape[1])))
        hidden = model.transformer(torch.cat(tokens)).split([len(token) for token in tokens])
        predicted = {name: model.act(name, part) for name, part in zip(batches, hidden, strict=True)}
    return {
        name: weighted_error(predicted[name][:, : batch.weight.shape[1]], batch.target, batch.weight)
        for name, batch in batches.items()
    }


class _Training:
    """The optimiser's loop, from wherever it stands; every step's randomness comes from its number."""

    def __init__(
        self, config: PretrainConfig, directory: Path, model: Vintix, robots: list[RobotHistories], ranks: Ranks
    ) -> None:
        self._config, self._directory, self._model, self._ranks = config, directory, model, ranks
        self._losses = ranks.wrap(model, mixed_loss)
        self._windows = _windows(config, robots, "train")
        self._told = {robot.task_name: robot.late_reward for robot in robots}
        held_out = _windows(config, robots, "held_out")
        rng = np.random.default_rng([config.seed, 1])
        drawn = [
            {name: windows.batch(max(1, config.batch_size // len(held_out)), rng) for name, windows in held_out.items()}
            for _ in range(config.eval_batches if held_out else 0)
        ]
        self._held_out = {"held_out_loss": drawn} if drawn else {}
        if drawn and config.reward_dropout:
            told = [{name: batch.told(self._told[name]) for name, batch in batches.items()} for batches in drawn]
            self._held_out["held_out_loss_without_rewards"] = told
        self._optimiser = torch.optim.AdamW(
            model.parameters(), lr=config.lr, weight_decay=config.weight_decay, betas=(0.9, 0.99)
        )
        self._step, self.tokens, self.seconds = 0, 0, 0.0
        self.rows: list[dict[str, Any]] = []

    def run(self, progress: Progress) -> None:
        config, recent = self._config, []
        started, before = time.perf_counter(), self.seconds
        while self._step < config.steps:
            entry = self._descend()
            recent.append(entry)
            self._step += 1
            self.seconds = before + time.perf_counter() - started
            if self._step % config.eval_interval == 0 or self._step == config.steps:
                self._evaluate(recent, progress)
                recent = []
            progress.on_training_step(self._step, entry.loss)
            check_interrupt()

    def _descend(self) -> TrainingStep:
        config, step = self._config, self._step
        rng = np.random.default_rng([config.seed, 2, step])
        dropout_seed = int(rng.integers(2**62))
        batch_size, window_len = window_sizes(config, step)
        counts = shares(batch_size, len(self._windows), step)
        drawn = zip(self._windows.items(), counts, strict=True)
        batches = {name: windows.batch(count, rng, window_len) for (name, windows), count in drawn if count}
        self.tokens += sum(int((batch.weight > 0).sum()) for batch in batches.values())
        if config.reward_dropout:
            # A stream of its own, so that the windows are those of a training without it.
            rng = np.random.default_rng([config.seed, 3, step])
            for name, batch in batches.items():
                hidden = rng.random(len(batch.weight)) < config.reward_dropout
                batches[name] = batch.told(self._told[name], hidden)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(dropout_seed + self._ranks.rank)
            losses = self._losses(self._model.train(), batches, config.bf16)
        weighted = (len(batches[name].weight) / batch_size * value for name, value in losses.items())
        loss = sum(weighted, start=torch.tensor(0.0))
        return descend(loss, self._optimiser, step, config)

    def _evaluate(self, recent: list[TrainingStep], progress: Progress) -> None:
        """Add a row of numbers, and save everything that a resumed run needs."""
        row = {
            "step": self._step,
            "loss": self._ranks.mean(float(np.mean([entry.loss for entry in recent])), self._model.device),
            "grad_norm": float(np.mean([entry.grad_norm for entry in recent])),
            "lr": recent[-1].lr,
            "tokens_per_s": self.tokens / self.seconds,
        }
        self._model.eval()
        for key, held_out in self._held_out.items():
            with torch.no_grad():
                losses = [mixed_loss(self._model, batches, self._config.bf16) for batches in held_out]
            each = {name: float(np.mean([float(loss[name]) for loss in losses])) for name in losses[0]}
            row |= {f"{key}/{name}": loss for name, loss in each.items()} | {key: float(np.mean(list(each.values())))}
        self.rows.append(row)
        if self._ranks.rank > 0:
            return
        state = {"model": self._model.state_dict(), "optimiser": self._optimiser.state_dict(), "step": self._step}
        progress_so_far = {"tokens": self.tokens, "seconds": self.seconds, "rows": json.dumps(self.rows)}
        save_tensors(self._directory / STATE_FILE, state | progress_so_far)
        write_losses(self._directory, self.rows)
        progress.on_validation(row)

    def go_on(self) -> None:
        """Take over the saved state of an interrupted run, if there is one."""
        path = self._directory / STATE_FILE
        if not path.is_file():
            return
        anew = "--overwrite begins the training anew"
        state = load_tensors(path, self._config.device, anew)
        try:
            self._model.load_state_dict(state["model"])
            self._optimiser.load_state_dict(state["optimiser"])
            self._step, self.tokens, self.seconds = state["step"], state["tokens"], state["seconds"]
            self.rows = json.loads(state["rows"])
        except (ValueError, KeyError, TypeError, RuntimeError) as error:
            raise InputFileError(f"{path} is broken ({cause(error)}); {anew}") from error
