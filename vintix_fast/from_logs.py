"""`improve`: what a robot's logs teach, one call between two walks.

The same operator as `adapt`'s, with logs in the place of collections and the next log in that of the gate: it tells
whether the model that made it is better than the best so far.  No simulator is built.  Where things lie on disk is
`rundir.py`'s, what a log is `logs.py`'s, how is learnt `learning.py`'s.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vintix_fast.adaptation import WALKING, seed_for
from vintix_fast.data import History
from vintix_fast.evaluation import task_for
from vintix_fast.from_logs_config import FromLogsConfig
from vintix_fast.improve import Improver, make_improver
from vintix_fast.learning import Lesson, learn
from vintix_fast.logs import Log, measured, pieces, read_log
from vintix_fast.model import Vintix, fingerprint, load_checkpoint, save_checkpoint
from vintix_fast.rundir import Run, is_checkpoint
from vintix_fast.service.device import check_device
from vintix_fast.service.errors import Interrupted, UsageError, VintixFastError
from vintix_fast.service.files import versions, write_json
from vintix_fast.service.interrupt import stop_on_interrupt
from vintix_fast.service.metrics import write_curve
from vintix_fast.service.progress import Progress
from vintix_fast.train import check_compiler
from vintix_fast.world.simulator import DT_S

COMPARED_STEPS = 200
"""Of a log's first episode, by which is told who made it."""
SAME_ACTIONS = 0.1
"""Root mean square, in action units: a model's own actions are nearer, but for the rounding of its context."""
OTHER_EXPLORATION = 1.5
"""Logs whose noise differs by this factor are hardly compared by their returns."""


@dataclass(frozen=True)
class Improved:
    """What a call found, and left."""

    row: dict[str, Any]
    verdict: str
    next_model: Path
    """To walk with next."""
    best_model: Path


class LogsRun(Run[FromLogsConfig]):
    """The output directory of `improve`: that of `adapt`, with logs for collections."""

    @property
    def next_dir(self) -> Path:
        """The newest model, which no log has judged."""
        return self.path / "models" / "next"

    def log(self, collection: int, number: int) -> Path:
        """Where the ``number``-th log of a call lies, from 1."""
        name = "trajectories.h5" if number == 1 else f"trajectories_{number}.h5"
        return self.data_dir(collection) / name

    def record(self, collection: int) -> dict[str, Any]:
        """What a finished call noted of its logs."""
        file = self.collection_file(collection)
        keys = {"made_by": int, "collection": dict, "sha256": list}
        return self._read(str(file.relative_to(self.path)), keys)

    def name(self, loop: int) -> str:
        return f"models/{self.model_dir(loop).name}"


def improve(config: FromLogsConfig, *, improver: Improver | None = None, progress: Progress | None = None) -> Improved:
    """Judge the model that made the logs ``config.data``, and make the next one, in ``config.output_dir``.

    Args:
        config: see `FromLogsConfig.of_call`.
        improver: the improvement operator; None: `adapt`'s.
        progress: told what happens; None for silence.

    Raises:
        UsageError, InputFileError: the options or the logs do not fit; nothing was written then.
        VintixFastError: the disk or the training failed; the same call can be made again.
        Interrupted: Ctrl-C; the same.
    """
    progress = progress or Progress()
    check_device(config.device)
    check_compiler(config.finetune, config.device)
    run = LogsRun(config)
    run.check()
    logs = [read_log(path, run.robot, config.task) for path in config.data]
    _check_new(run, logs)
    began = run.model_dir(0) if is_checkpoint(run.model_dir(0)) and config.resume else config.model
    say = progress.say if began == config.model else lambda text: None
    models = {0: load_checkpoint(began, config.device, config.token_order, say)}
    for loop in {run.loops_done, run.current_loop} - {0}:
        models[loop] = load_checkpoint(run.model_dir(loop), config.device)
    task_name = task_for(models[0], run.robot)
    context_len = models[0].config.context_len
    if config.window_len(context_len) > context_len:
        raise UsageError(f"--window-len is {config.finetune.window_len}; the model sees only {context_len} steps")
    made_by = _maker(run, models, task_name, logs)

    with run, stop_on_interrupt(progress.say):
        run.begin()
        if not is_checkpoint(run.model_dir(0)):
            save_checkpoint(models[0], run.model_dir(0))
        improver = improver or make_improver(config.improve, config.device)
        improver.load_state_dict(run.improver_state)
        try:
            return Call(config, run, task_name, improver, progress).improve(models, logs, made_by)
        except (Interrupted, KeyboardInterrupt) as stop:
            again = f"vintix-fast improve {run.path} --data {config.data[0]}"
            raise Interrupted(f"stopped; `{again}` begins this call again") from stop


def _check_new(run: LogsRun, logs: list[Log]) -> None:
    """Raise UsageError for a log that was learnt from before."""
    seen = {digest: c for c in range(run.loops_done) for digest in run.record(c)["sha256"]}
    for log in logs:
        if log.sha256 in seen:
            raise UsageError(
                f"{log.path} was learnt from before: {run.log(seen[log.sha256], 1).parent} has it; give the log of a "
                f"walk with {run.next_dir}"
            )
        seen[log.sha256] = run.loops_done


def _maker(run: LogsRun, models: dict[int, Vintix], task_name: str, logs: list[Log]) -> int:
    """Which model made the logs, by its loop: the newest, or the best once more.

    Raises:
        UsageError: another one did, or they were made by different ones.
    """
    candidates = {loop: models[loop] for loop in sorted({run.loops_done, run.current_loop}, reverse=True)}
    makers = set()
    for log in logs:
        distance = {loop: _distance(model, task_name, log) for loop, model in candidates.items()}
        nearest = min(distance, key=lambda loop: distance[loop])
        if distance[nearest] > SAME_ACTIONS:
            named = " nor ".join(run.name(loop) if run.rows else str(run.config.model) for loop in candidates)
            raise UsageError(
                f"{log.path} was not made by {named}: the log's policy meant to act otherwise, by "
                f"{distance[nearest]:.2f} action units; give the log of a walk with "
                f"{run.next_dir if run.rows else 'that model'}"
            )
        makers.add(nearest)
    if len(makers) > 1:
        raise UsageError(
            f"--data names logs of different models ({', '.join(map(run.name, sorted(makers)))}); give them one call "
            "each, the older model's first"
        )
    return makers.pop()


def _distance(model: Vintix, task_name: str, log: Log) -> float:
    """Root mean square between what a model means to do and what the log's policy meant; 0 where nothing tells."""
    history = log.shown[0]
    start, stop = history.episodes()[0]
    n = min(stop, COMPARED_STEPS, model.config.context_len)
    if history.step_num[start] != 0:  # the log begins in the middle of something
        return 0.0
    prev_action, prev_reward = np.zeros_like(history.action[:n]), np.zeros_like(history.reward[:n])
    prev_action[1:], prev_reward[1:] = history.action[: n - 1], history.reward[: n - 1]
    meant = model.predict_actions(
        history.observation[:n], prev_action, prev_reward, history.step_num[:n], task_name=task_name
    )
    return float(np.sqrt(np.square(meant - history.extras["mean_action"][:n]).mean()))


@dataclass
class Call:
    """One call's verbs."""

    config: FromLogsConfig
    run: LogsRun  # begun
    task_name: str
    improver: Improver
    progress: Progress

    def improve(self, models: dict[int, Vintix], logs: list[Log], made_by: int) -> Improved:
        """Keep the logs, judge their model, and train the next one from the best."""
        run, loop = self.run, self.run.loops_done + 1
        found = measured([h for log in logs for h in log.histories], self.config.max_steps_per_episode)
        self.keep(loop - 1, logs, made_by, found)
        before = run.rows[-1]["exploration"] if run.rows else found["exploration"]
        if max(before, found["exploration"]) > OTHER_EXPLORATION * min(before, found["exploration"]):
            self.progress.say(
                f"Note: this log explored by {found['exploration']:.3f} action units, the last one by {before:.3f}; "
                "returns are compared best where that is the same"
            )
        verdict, judged = self.judge(made_by, found, models)
        self.progress.say(verdict)
        model, began_as = models[run.current_loop], run.current_loop
        constant = self._fingerprint(model)
        trained = self.train(loop, model, logs)
        if self._fingerprint(model) != constant:
            raise VintixFastError("fine-tuning changed tensors outside the robot's own group; this is a defect")
        for path in (run.model_dir(loop), run.next_dir):
            run.check_still_there()
            save_checkpoint(model, path)
        total = int(run.total("env_steps")) + found["env_steps"]
        row = {"loop": loop, "made_by": made_by, **judged, "from_loop": began_as} | found | trained
        row |= {"total_env_steps": total, "weights": fingerprint(model)}
        write_curve(run.path / "curve.png", [*run.rows, row])
        run.finish_loop(row, self.improver.state_dict())
        self.progress.on_loop(row)
        return Improved(row, verdict, run.next_dir, run.best_dir)

    def keep(self, collection: int, logs: list[Log], made_by: int, found: dict[str, Any]) -> None:
        """Copy the logs, since later calls may learn from them too."""
        folder = self.run.data_dir(collection)
        try:
            if folder.is_dir():  # of a call that was stopped
                shutil.rmtree(folder)
            folder.mkdir()
            for number, log in enumerate(logs, start=1):
                path = self.run.log(collection, number)
                beside = path.with_name(path.name + ".tmp")
                shutil.copyfile(log.path, beside)
                beside.rename(path)
        except OSError as error:
            raise VintixFastError(f"cannot copy the log to {folder}: {error}") from error
        record = {"task_name": self.task_name, "made_by": made_by, "collection": found}
        record |= {"sha256": [log.sha256 for log in logs], "logs": [str(log.path) for log in logs]}
        write_json(self.run.collection_file(collection), record | {"versions": versions()})

    def judge(self, made_by: int, found: dict[str, Any], models: dict[int, Vintix]) -> tuple[str, dict[str, Any]]:
        """Whether the model that made the logs is the best so far; what to say, and what to record."""
        run, returned = self.run, found["mean_return"]
        if run.best is None:
            run.best = {"loop": 0, "return": returned}
            save_checkpoint(models[0], run.best_dir)
            if self._walks():
                self.improver.begin_walking()
            return f"{run.name(0)} returned {returned:.2f}: what the next walk is to beat", {}
        if made_by == run.current_loop:
            steps = [run.record(c)["collection"] for c in self._made_by(made_by)]
            pooled = np.average([s["mean_return"] for s in steps], weights=[s["env_steps"] for s in steps])
            run.best = {"loop": made_by, "return": float(pooled)}
            return f"{run.name(made_by)} once more: it returned {returned:.2f}, {pooled:.2f} over all its logs", {}
        best, before = run.name(run.current_loop), run.best_return
        accepted = returned > before
        if accepted:
            run.best = {"loop": made_by, "return": returned}
            save_checkpoint(models[made_by], run.best_dir)
        self.improver.learn_of(accepted, self._walks())
        verdict = (
            f"{run.name(made_by)} returned {returned:.2f}, better than {before:.2f} of {best}: kept"
            if accepted
            else f"{run.name(made_by)} returned {returned:.2f}, no better than {before:.2f} of {best}: back to that, "
            "with a smaller step"
        )
        return verdict, {"accepted": accepted}

    def train(self, loop: int, model: Vintix, logs: list[Log]) -> dict[str, Any]:
        """Train the best model from its own logs, in place; with --replay all the critic learns from every log."""
        config, run = self.config, self.run
        known = {loop - 1: logs}

        def of(collection: int) -> list[Log]:
            if collection not in known:
                paths = [run.log(collection, n + 1) for n in range(len(run.record(collection)["sha256"]))]
                known[collection] = [read_log(path, run.robot, config.task) for path in paths]
            return known[collection]

        own = [log for c in self._made_by(run.current_loop) for log in of(c)]
        rest = [c for c in range(loop) if config.improve.replay == "all" and c not in self._made_by(run.current_loop)]
        histories = pieces([h for log in own for h in log.histories])
        others: list[History] = [h for c in rest for log in of(c) for h in log.histories]
        lesson = Lesson(
            config.finetune, config.window_len(model.config.context_len), True, config.improve.critic.updates,
            config.device, critic_seed=seed_for(config, loop, "critic"), windows_seed=seed_for(config, loop, "windows"),
        )  # fmt: skip
        shown = pieces([h for log in own for h in log.shown])
        learnt, _ = learn(
            model, self.task_name, histories, [*others, *histories], self.improver, lesson, f"loop {loop}",
            self.progress, shown,
        )  # fmt: skip
        return learnt

    def _made_by(self, loop: int) -> list[int]:
        """The collections that a model made, this call's too."""
        return [c for c in range(self.run.loops_done + 1) if self.run.record(c)["made_by"] == loop]

    def _walks(self) -> bool:
        most = self.config.task.most_reward_per_s * DT_S * self.config.max_steps_per_episode
        return self.run.best_return >= WALKING * most

    def _fingerprint(self, model: Vintix) -> str:
        """Of everything but the group that is trained."""
        return fingerprint(model, model.tasks[self.task_name].group_name)
