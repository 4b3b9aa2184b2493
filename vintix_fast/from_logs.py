"""`improve`: what a robot's logs teach, one call between two walks.

The same operator as `adapt`'s, with logs in the place of collections and the next log in that of the gate.  No
simulator is built.  Where things lie on disk is `rundir.py`'s, what a log is `logs.py`'s, what it says of its model
`from_logs_gate.py`'s, how is learnt `learning.py`'s.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vintix_fast.data import History
from vintix_fast.evaluation import task_for
from vintix_fast.from_logs_config import FromLogsConfig
from vintix_fast.from_logs_gate import Estimate, Verdict, judge, quiet_return
from vintix_fast.improve import Improver, make_improver
from vintix_fast.learning import Lesson, learn, seed_for, walks
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


@dataclass(frozen=True)
class Walk:
    """What one call was given."""

    made_by: int
    """The loop whose model it was."""
    logs: list[Log]

    @property
    def histories(self) -> list[History]:
        return [history for log in self.logs for history in log.histories]


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

    def past(self) -> list[Walk]:
        """What all finished calls were given."""
        return [self._walk(c, self.record(c)) for c in range(self.loops_done)]

    def _walk(self, collection: int, record: dict[str, Any]) -> Walk:
        paths = [self.log(collection, n + 1) for n in range(len(record["sha256"]))]
        return Walk(record["made_by"], [read_log(path, self.robot, self.config.task) for path in paths])

    def name(self, loop: int) -> str:
        return f"models/{self.model_dir(loop).name}"


def improve(config: FromLogsConfig, *, progress: Progress | None = None) -> Improved:
    """Judge the model that made the logs ``config.data``, and make the next one, in ``config.output_dir``.

    Args:
        config: see `FromLogsConfig.of_call`.
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
    given = [*run.past(), Walk(_maker(run, models, task_name, logs), logs)]
    found = _estimates(given, config.max_steps_per_episode)
    verdict = judge(given[-1].made_by, run.best["loop"] if run.best else None, found, run.name)
    if verdict.loop not in models:
        models[verdict.loop] = load_checkpoint(run.model_dir(verdict.loop), config.device)

    with run, stop_on_interrupt(progress.say):
        run.begin()
        if not is_checkpoint(run.model_dir(0)):
            save_checkpoint(models[0], run.model_dir(0))
        improver = make_improver(config.improve, config.device)
        improver.load_state_dict(run.improver_state)
        try:
            return Call(config, run, task_name, improver, progress).improve(models, given, verdict, found)
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


def _estimates(given: list[Walk], max_steps: int) -> dict[int, Estimate]:
    """What each model earns by all its logs, by its loop."""
    by_model: dict[int, list[History]] = {}
    for walk in given:
        by_model.setdefault(walk.made_by, []).extend(walk.histories)
    return {loop: quiet_return(histories, max_steps) for loop, histories in by_model.items()}


@dataclass
class Call:
    """One call's verbs."""

    config: FromLogsConfig
    run: LogsRun  # begun
    task_name: str
    improver: Improver
    progress: Progress

    def improve(
        self, models: dict[int, Vintix], given: list[Walk], verdict: Verdict, found: dict[int, Estimate]
    ) -> Improved:
        """Keep the newest logs, go by the verdict on their model, and train the next one."""
        run, loop, walk = self.run, self.run.loops_done + 1, given[-1]
        logged = measured(walk.histories, self.config.max_steps_per_episode)
        self.keep(loop - 1, walk, logged)
        before = run.rows[-1]["exploration"] if run.rows else logged["exploration"]
        if max(before, logged["exploration"]) > OTHER_EXPLORATION * min(before, logged["exploration"]):
            self.progress.say(
                f"Note: this log explored by {logged['exploration']:.3f} action units, the last one by {before:.3f}; "
                "returns are compared best where that is the same"
            )
        self.progress.say(verdict.words)
        self.go_by(verdict, found, models)
        model, began_as = models[run.current_loop], run.current_loop
        constant = self._fingerprint(model)
        trained = self.train(loop, model, given)
        if self._fingerprint(model) != constant:
            raise VintixFastError("fine-tuning changed tensors outside the robot's own group; this is a defect")
        for path in (run.model_dir(loop), run.next_dir):
            run.check_still_there()
            save_checkpoint(model, path)
        mine = found[walk.made_by]
        judged: dict[str, Any] = {"quiet_return": mine.mean, "quiet_standard_error": mine.error}
        if verdict.accepted is not None:
            judged["accepted"] = verdict.accepted
        total = int(run.total("env_steps")) + logged["env_steps"]
        row = {"loop": loop, "made_by": walk.made_by, **judged, "from_loop": began_as} | logged | trained
        row |= {"total_env_steps": total, "weights": fingerprint(model)}
        write_curve(run.path / "curve.png", [*run.rows, row])
        run.finish_loop(row, self.improver.state_dict())
        self.progress.on_loop(row)
        return Improved(row, verdict.words, run.next_dir, run.best_dir)

    def keep(self, collection: int, walk: Walk, logged: dict[str, Any]) -> None:
        """Copy the logs, since later calls may learn from them too."""
        folder = self.run.data_dir(collection)
        try:
            if folder.is_dir():  # of a call that was stopped
                shutil.rmtree(folder)
            folder.mkdir()
            for number, log in enumerate(walk.logs, start=1):
                path = self.run.log(collection, number)
                beside = path.with_name(path.name + ".tmp")
                shutil.copyfile(log.path, beside)
                beside.rename(path)
        except OSError as error:
            raise VintixFastError(f"cannot copy the log to {folder}: {error}") from error
        record = {"task_name": self.task_name, "made_by": walk.made_by, "collection": logged}
        record |= {"sha256": [log.sha256 for log in walk.logs], "logs": [str(log.path) for log in walk.logs]}
        write_json(self.run.collection_file(collection), record | {"versions": versions()})

    def go_by(self, verdict: Verdict, found: dict[int, Estimate], models: dict[int, Vintix]) -> None:
        """Make the verdict's model the best, and tell the improver."""
        run, first, best = self.run, self.run.best is None, found[verdict.loop]
        save_checkpoint(models[verdict.loop], run.best_dir)
        run.best = {"loop": verdict.loop, "return": best.mean}
        # Long steps soon make a robot that walks fall, so it counts as one unless its logs show that it does not.
        walking = walks(best.mean + best.error, self.config.task, self.config.max_steps_per_episode)
        if verdict.accepted is not None:
            self.improver.learn_of(verdict.accepted, walking)
        elif first and walking:
            self.improver.begin_walking()

    def train(self, loop: int, model: Vintix, given: list[Walk]) -> dict[str, Any]:
        """Train the best model from its own logs, in place; with --replay all the critic learns from every log."""
        config = self.config
        own = [log for walk in given if walk.made_by == self.run.current_loop for log in walk.logs]
        rest = [walk for walk in given if config.improve.replay == "all" and walk.made_by != self.run.current_loop]
        histories = pieces([h for log in own for h in log.histories])
        others: list[History] = [h for walk in rest for h in walk.histories]
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

    def _fingerprint(self, model: Vintix) -> str:
        """Of everything but the group that is trained."""
        return fingerprint(model, model.tasks[self.task_name].group_name)
