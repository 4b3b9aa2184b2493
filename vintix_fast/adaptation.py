"""Self-improvement: collect episodes with the current policy, fine-tune the robot's own parts on them, repeat.

This file is the algorithm.  Where things lie on disk is `rundir.py`'s, what the targets are `improve/`'s, how episodes
are run `rollout/`'s.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vintix_fast.acting_config import AUDITION, DEFAULT_REFERENCE
from vintix_fast.audition import candidates, hold_audition
from vintix_fast.collecting import collect_loop
from vintix_fast.config import AdaptConfig
from vintix_fast.data import History, read_trajectories
from vintix_fast.evaluation import Evaluation, check_context_len, measure, task_for
from vintix_fast.improve import Improver, make_improver
from vintix_fast.improve.posture import leave_standing, refine_stance, stands_still
from vintix_fast.learning import Lesson, learn, seed_for, walks
from vintix_fast.mend import mend
from vintix_fast.model import Vintix, fingerprint, load_checkpoint, save_checkpoint
from vintix_fast.model.new_group import add_target
from vintix_fast.policy import Actor, cache_bytes, make_policy
from vintix_fast.rundir import Run
from vintix_fast.service.device import check_device
from vintix_fast.service.errors import Interrupted, VintixFastError
from vintix_fast.service.files import write_json
from vintix_fast.service.interrupt import check_interrupt, stop_on_interrupt
from vintix_fast.service.memory import check_memory
from vintix_fast.service.metrics import write_curve, write_tensorboard
from vintix_fast.service.progress import Progress
from vintix_fast.service.regions import region
from vintix_fast.service.wandb_log import wandb_run
from vintix_fast.train import TrainingStep, check_compiler
from vintix_fast.world.robot import Robot, find_task, load_robot
from vintix_fast.world.simulators import make_simulator
from vintix_fast.world.task import Simulation, WalkingTask

SHARES = (1.0, 0.5, 0.25)
"""Of what a loop changed in the weights: the gate tries them in turn until the model is better than the best."""
ENV_STEPS = ("env_steps", "eval_env_steps", "audition_env_steps", "posture_env_steps")
"""A loop's steps of an environment: collected, evaluated, and tried before there was anything to collect."""


@dataclass(frozen=True)
class AdaptResult:
    """What a run gave: one row of metrics for each loop, and where the models are."""

    rows: list[dict[str, Any]]
    last_model: Path
    best_model: Path


def adapt(
    config: AdaptConfig,
    *,
    simulator: Simulation | None = None,
    improver: Improver | None = None,
    progress: Progress | None = None,
) -> AdaptResult:
    """Teach the pretrained model to walk on a robot, and leave its models and data in ``config.output_dir``.

    Args:
        simulator: of this robot with ``config.envs`` environments; None builds one.
        improver: the improvement operator; None: the one that ``config`` names.
        progress: told what happens; None for silence.

    Raises:
        UsageError, InputFileError: something in ``config`` does not fit; nothing was written then.
        VintixFastError: the disk, the simulator or the training failed; what was finished stays.
        Interrupted: Ctrl-C; the run can be resumed.
    """
    progress = progress or Progress()
    # Everything that can be wrong with the options or their files is found before anything is written or built.
    check_device(config.engine.device)
    check_compiler(config.finetune, config.engine.device)
    run = Run(config)
    run.check()
    config = run.config
    # The model is read before the simulator is built: whether it fits is known in seconds.
    robot = run.robot
    with region("start-up"):
        model, task_name = _initial_model(config, run, robot, progress)
    check_context_len(config.context_len, model)
    cache = cache_bytes(model, config.context_len, **config.engine.policy_options)
    check_memory(config.envs, cache, config.engine.device)

    with run, stop_on_interrupt(progress.say), wandb_run(config, config.wandb) as log:
        # The simulator takes longest to build, so the directory is touched only once it stands.
        with region("compile"):
            simulator = simulator or make_simulator(
                config.simulator, robot, config.envs, config.engine.device, config.task, progress.say
            )
        config = run.config = replace(config, num_envs=simulator.num_envs)
        task = WalkingTask(simulator, robot, config.max_steps_per_episode, task_config=config.task)
        check_interrupt()
        run.begin()
        mend(run, progress)
        if task_name is None:
            with region("audition"):
                seed = seed_for(config, 0, "audition")
                held = hold_audition(
                    model, task, config.context_len, config.engine, seed, progress.say, config.obs_stats
                )  # fmt: skip
                write_json(run.audition_file, held.to_json())
                task_name = held.task_name
        if not run.model_dir(0).is_dir():
            save_checkpoint(model, run.model_dir(0))
        # From here on whatever stops the run leaves one that can be resumed.
        try:
            improver = improver or make_improver(config.improve, config.engine.device)
            Adaptation(config, run, task, task_name, improver, progress, log).improve(model)
        except (Interrupted, KeyboardInterrupt) as stop:
            raise Interrupted(
                f"stopped after {run.loops_done} finished loops; the same command with --resume"
                f"{' in place of --overwrite' * config.overwrite} goes on"
            ) from stop
    # Without a gate nobody knows which model is best: the last one counts as it.
    best = run.best_dir if config.gate.on else run.model_dir(run.loops_done)
    return AdaptResult(run.rows, run.model_dir(run.loops_done), best)


def _initial_model(
    config: AdaptConfig, run: Run[AdaptConfig], robot: Robot, progress: Progress
) -> tuple[Vintix, str | None]:
    """The pretrained model with the robot's own group, and the robot's task; of a resumed run as it was then.

    No task, and no group, where an audition is to say which the robot gets.
    """
    begun = run.model_dir(0)
    if config.resume and begun.is_dir():
        model = load_checkpoint(begun, config.engine.device)
        return model, task_for(model, robot)
    model = load_checkpoint(config.pretrained_path, config.engine.device, config.token_order, progress.say)
    reference = config.reference_robot or DEFAULT_REFERENCE
    if reference == AUDITION:
        if find_task(robot, model.tasks) is None or config.reinitialize:
            candidates(model, robot)  # there must be some
            return model, None
        reference = DEFAULT_REFERENCE  # not asked for: the robot has its own group
    task_name = add_target(
        model, robot, load_robot(reference), progress.say,
        init_map=config.init_map, group=config.group, obs_stats=config.obs_stats, reinitialize=config.reinitialize,
    )  # fmt: skip
    return model, task_name


@dataclass
class Adaptation:
    """The loop of the algorithm and its verbs."""

    config: AdaptConfig
    run: Run[AdaptConfig]  # begun; the loop goes on from wherever it stands
    task: WalkingTask
    task_name: str  # the robot's task in the model; its group is what is trained
    improver: Improver
    progress: Progress
    log: Callable[[dict[str, Any]], None]  # takes each loop's row, see `wandb_run`

    def improve(self, model: Vintix) -> None:
        """The loop, until the run has its loops or its target.

        Args:
            model: the initial one; a resumed run goes on from its own.
        """
        model, replay = self._begin(model)
        for loop in range(self.run.loops_done + 1, self.config.num_improvement_loops + 1):
            if self._reached_target():
                break
            constant = self._fingerprint(model)
            with region("posture"):
                model, moved = self.leave_standing(loop, model)
            if moved:
                replay = {}  # was collected with another robot's adapter, or far away
            with region("collect"):
                replay[loop - 1], collected = self.collect(loop - 1, model)
            before = self._weights(model)
            with region("train"):
                trained, steps = self.finetune(loop, model, replay)
            if self._fingerprint(model) != constant:
                raise VintixFastError("fine-tuning changed tensors outside the robot's own group; this is a defect")
            row = {"loop": loop} | moved | collected | trained
            if self.config.gate.on:
                with region("gate"):
                    row |= self.gate(loop, model, before, (*SHARES, 0.0) if moved else SHARES)
                model, row = self.refine_stance(loop, model, row)
            self._save(model, self.run.model_dir(loop))
            row["weights"] = fingerprint(model)  # of what models/loop_NN holds; `verify` compares
            model, replay = self._finish(loop, row, steps, model, replay)

    def leave_standing(self, loop: int, model: Vintix) -> tuple[Vintix, dict[str, Any]]:
        """The model to collect with, moved if it stands still, and what to record of that."""
        config, progress, best = self.config, self.progress, self.run.current_row
        if not config.gate.on or not stands_still(best["eval_return"], best["eval_length"], self.task):
            return model, {}
        # A stance belongs to the group, so robots that share it would be moved too.
        if sharing := ", ".join(model.sharing(self.task_name)):
            progress.say(f"The model stands still; its stance stays as it is, since {sharing} would change too")
            return model, {}
        seed = seed_for(config, loop, "posture")
        progress.say(f"The model stands still (return {best['eval_return']:.2f}): looking for a stance that moves")
        return leave_standing(model, self.task_name, self.task, self._policy, config.init_map, seed, progress)

    def refine_stance(self, loop: int, model: Vintix, row: dict[str, Any]) -> tuple[Vintix, dict[str, Any]]:
        """Move the best model, if it walks, to the stance where it earns most, if the gate agrees.

        Args:
            row: the loop's, after its gate.

        Returns:
            The loop's model and row, with that.
        """
        config, run, accepted = self.config, self.run, row["accepted"]
        best = row if accepted else run.current_row
        falls = best["eval_length"] <= self.task.max_steps / 2
        still = stands_still(best["eval_return"], best["eval_length"], self.task)  # the next loop's `leave_standing`
        # A stance moves encoders too, the control learns of nothing but imitation, and where environments differ the
        # best of them would be taken for the best stance.
        kept = config.finetune.train == "decoder" or config.improve.improver == "clone" or config.task.episodes_differ
        # After a loop that was undone the model is the same, and so would be the stance.
        searched = not accepted and any("posture" in one for one in run.rows if one["loop"] >= run.current_loop)
        if falls or still or kept or searched or model.sharing(self.task_name) or self._target_is_reached():
            return model, row
        candidate = copy.deepcopy(model) if accepted else load_checkpoint(run.current_dir, config.engine.device)
        with region("posture"):
            moved = refine_stance(candidate, self.task_name, self.task, self._policy, self.progress)
        row |= {key: row.get(key, 0) + moved.pop(key) for key in ("posture_env_steps", "posture_seconds")}
        if any(moved["posture"]):
            with region("gate"):
                found = self.gate(loop, candidate)
            row |= {key: row[key] + found.pop(key) for key in ("eval_env_steps", "eval_seconds")}
            if found["accepted"]:
                total = np.add(row.get("posture", 0.0), moved["posture"]).tolist()
                return candidate, row | found | {"kept_share": row["kept_share"], "posture": total}
        return model, {"posture": [0.0] * len(moved["posture"])} | row

    def collect(self, index: int, model: Vintix) -> tuple[list[History], dict[str, Any]]:
        """The ``index``-th collection, from 0, and its metrics; from disk where an interrupted run had finished it."""
        finished = self.run.collected(index)
        if finished is not None:
            path = self.run.trajectories(index)
            self.progress.say(f"Collection {index:02d} was finished before: {path}")
            return read_trajectories(path).histories, finished["collection"]
        info = model.tasks[self.task_name].to_dict()
        about: dict[str, Any] = {"task_name": self.task_name}
        about |= {key: info[key] for key in ("observation_shape", "action_dim", "action_type")}
        return collect_loop(self.run, index, self.task, self._policy(model), about, self.progress)

    def finetune(
        self, loop: int, model: Vintix, replay: dict[int, list[History]]
    ) -> tuple[dict[str, Any], list[TrainingStep]]:
        """Ask the improver what the policy should have done, and train the robot's own parts of ``model`` towards it.

        Args:
            replay: collections by number, the loop's own last.

        Returns:
            Metrics, and what each optimiser step gave.
        """
        # The improver learns from all of the replay, and says of the loop's own steps what they should have been.
        config, everything = self.config, [h for collection in replay.values() for h in collection]
        updates = config.improve.critic.updates_for(sum(map(len, everything)))
        lesson = Lesson(
            config.finetune, config.window_len, config.until_done, updates, config.engine.device,
            critic_seed=seed_for(config, loop, "critic"), windows_seed=seed_for(config, loop, "windows"),
            # An interrupted fine-tuning goes on from its state file; the loop's end deletes it.
            state_file=self.run.training_state(loop - 1),
        )  # fmt: skip
        return learn(
            model, self.task_name, replay[loop - 1], everything, self.improver, lesson, f"loop {loop}", self.progress
        )

    def gate(
        self,
        loop: int,
        model: Vintix,
        before: dict[str, torch.Tensor] | None = None,
        shares: tuple[float, ...] = SHARES,
    ) -> dict[str, Any]:
        """Evaluate, always from the same randomised starts, and keep the model if it is the best so far.

        A step that was too long, which is common, is shortened: where the model became worse, half and then a quarter
        of its change are tried (a backtracking line search).  An environment's first episode has a cold context, its
        later ones the episodes before; the mean of all decides.

        Args:
            model: what fine-tuning made; left with the share of its change that was tried last.
            before: the group's weights before that; None: there is nothing to shorten.
            shares: of the change, in the order in which they are tried; 0 where ``before`` is new itself.

        Returns:
            The loop's metrics: of the best share, with the steps and seconds of all.
        """
        config, run, after = self.config, self.run, self._weights(model)
        what = f"loop {loop}: evaluating" if loop else "evaluating the initial policy"
        tried: list[tuple[float, Evaluation]] = []
        accepted = False
        for share in shares if before else shares[:1]:
            if before:
                model.load_state_dict({name: before[name].lerp(after[name], share) for name in after}, strict=False)
            with self.progress.rollout(what, config.gate_episodes, config.max_steps_per_episode):
                evaluation = measure(
                    self.task, self._policy(model), config.gate_episodes, config.seed, True, self.progress
                )
            tried.append((share, evaluation))
            accepted = evaluation.mean_return > run.best_return
            if accepted:
                run.best = {"loop": loop, "return": evaluation.mean_return}
                self._save(model, run.best_dir)
                break
        share, evaluation = max(tried, key=lambda pair: pair[1].mean_return)
        return {
            "accepted": accepted,
            "kept_share": share if accepted else 0.0,
            **evaluation.gate_metrics(),
            "eval_env_steps": sum(one.env_steps for _, one in tried),
            "eval_seconds": sum(one.seconds for _, one in tried),
        }

    # -- around the verbs --------------------------------------------------------------------------------------------

    def _begin(self, model: Vintix) -> tuple[Vintix, dict[int, list[History]]]:
        """Where the run stands: the model to go on from, and the collections that it may learn from.

        A run that has just begun gets its row 0 here, of the initial policy.
        """
        run, config = self.run, self.config
        self.improver.load_state_dict(run.improver_state)
        for done in range(run.loops_done):
            run.training_state(done).unlink(missing_ok=True)  # where the run was killed between the two
        if config.gate.on and run.best is None:
            with region("gate"):
                row = {"loop": 0} | self.gate(0, model) | run.audition_metrics()
            if self._walks():
                self.improver.begin_walking()
            self._record(row, [])
        if run.current_loop > 0:
            model = load_checkpoint(run.current_dir, config.engine.device)
        first = run.current_loop if config.improve.replay == "current" else 0
        return model, {i: read_trajectories(run.trajectories(i)).histories for i in range(first, run.loops_done)}

    def _finish(
        self, loop: int, row: dict[str, Any], steps: list[TrainingStep], model: Vintix, replay: dict[int, list[History]]
    ) -> tuple[Vintix, dict[int, list[History]]]:
        """Count a loop as done; returns the next one's model and what it may learn from besides its own collection."""
        run, config = self.run, self.config
        self.improver.learn_of(row.get("kept_share", 1.0), self._walks())
        self._record(row, steps)
        run.training_state(loop - 1).unlink(missing_ok=True)
        if run.current_loop != loop:
            model = load_checkpoint(run.current_dir, config.engine.device)
        if config.improve.replay == "current":
            replay = {i: kept for i, kept in replay.items() if i >= run.current_loop}
        return model, replay

    def _record(self, row: dict[str, Any], steps: list[TrainingStep]) -> None:
        run = self.run
        row["total_env_steps"] = int(sum(run.total(key) + row.get(key, 0) for key in ENV_STEPS))
        # Whoever is killed before the loop counts does it again, and this with it.
        run.check_still_there()
        write_tensorboard(run.path / "tensorboard", row, steps)
        write_curve(run.path / "curve.png", [*run.rows, row])
        run.finish_loop(row, self.improver.state_dict())
        self.progress.on_loop(row)
        self.log(row)

    def _save(self, model: Vintix, path: Path) -> None:
        self.run.check_still_there()
        save_checkpoint(model, path)

    def _reached_target(self) -> bool:
        target = self.config.gate.target_return
        if reached := self._target_is_reached():
            self.progress.say(f"A return of {self.run.best_return:.2f} reaches --target-return {target:g}: done.")
        return reached

    def _target_is_reached(self) -> bool:
        target = self.config.gate.target_return
        return target is not None and self.run.best_return >= target

    def _walks(self) -> bool:
        """Whether the best model does; without a gate, always."""
        return not self.config.gate.on or walks(self.run.best_return, self.task.config, self.task.max_steps)

    def _policy(self, model: Vintix) -> Actor:
        """``model`` with a cold context, acting in the task's environments."""
        options = self.config.engine.policy_options
        return make_policy(model, self.task_name, self.task.num_envs, self.config.context_len, **options)

    def _weights(self, model: Vintix) -> dict[str, torch.Tensor]:
        """A copy of what is trained, by name."""
        group = model.group_parameters(model.tasks[self.task_name].group_name)
        return {name: weight.detach().clone() for name, weight in group}

    def _fingerprint(self, model: Vintix) -> str:
        """Of everything but the group that is trained."""
        return fingerprint(model, model.tasks[self.task_name].group_name)
