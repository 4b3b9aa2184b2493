"""``sweep``: `adapt` and `eval` for every trial, then one table and one plot of all.

Data flows options -> trials -> a run's directory and an evaluation each -> table.  Knows nothing about Ray.
"""

from __future__ import annotations

import contextlib
import functools
import os
from dataclasses import replace
from typing import Any

from vintix_fast.adaptation import adapt
from vintix_fast.config import AdaptConfig
from vintix_fast.evaluation import check_context_len, evaluate
from vintix_fast.model import load_checkpoint
from vintix_fast.outdir import OPTIONS_FILE, RunDirectory
from vintix_fast.rundir import Run
from vintix_fast.service.device import check_device
from vintix_fast.service.errors import VintixFastError
from vintix_fast.service.progress import Progress
from vintix_fast.sweep.config import SweepConfig, Trial
from vintix_fast.sweep.table import TABLES, read_trial, write_tables
from vintix_fast.sweep.trials import ADDRESS, cluster


def sweep(config: SweepConfig, *, progress: Progress | None = None) -> list[dict[str, Any]]:
    """Do what is not done yet of a sweep's trials, and write its tables and plot.

    Args:
        progress: told what happens; None for silence.

    Returns:
        A row of numbers for each trial, see `read_trial`.

    Raises:
        UsageError, InputFileError: something does not fit; nothing was begun then.
        VintixFastError: trials failed; the others are done and in the table.
    """
    progress = progress or Progress()
    trials = {trial.name: trial for trial in config.trials()}
    directory = RunDirectory(config, (*TABLES, *(f"{name}{end}" for name in trials for end in ("", ".eval", ".log"))))
    directory.check()
    _check(list(trials.values()), config.overwrite)
    done = {} if config.overwrite else {name: trial for name, trial in trials.items() if trial.eval_file.is_file()}
    left = {name: functools.partial(run_trial, trial) for name, trial in trials.items() if name not in done}
    with contextlib.ExitStack() as stack:
        if left:
            room = cluster(progress.say, config.cores, config.gpus, config.retries)
            run_trials = stack.enter_context(room)
        stack.enter_context(directory)
        directory.begin()
        progress.say(f"{len(trials)} trials, {len(done)} of them done before")
        try:
            if left:
                run_trials(left, config.output_dir)
            if missing := [name for name, trial in trials.items() if not trial.eval_file.is_file()]:
                raise VintixFastError(
                    f"{missing[0]} was done, but {config.output_dir} does not have it; --output-dir must be on a file "
                    "system that all nodes share, by a path that begins with /"
                )
        finally:
            rows = [read_trial(trial) for trial in trials.values() if trial.eval_file.is_file()]
            write_tables(config.output_dir, rows)
    return rows


def run_trial(trial: Trial, again: bool, progress: Progress) -> None:
    """Adapt and evaluate, from wherever an earlier process was stopped."""
    adapted = adapt(_going_on(trial), progress=progress)
    evaluate(replace(trial.eval, vintix_path=adapted.best_model), progress=progress)


def _going_on(trial: Trial) -> AdaptConfig:
    """The trial's options, with --resume where its run was begun."""
    return replace(trial.adapt, resume=(trial.adapt.output_dir / OPTIONS_FILE).is_file())


def _check(trials: list[Trial], overwrite: bool) -> None:
    """What each trial would find wrong when it begins."""
    models = {path: load_checkpoint(path) for path in {trial.adapt.pretrained_path for trial in trials}}
    for trial in trials:
        config = trial.adapt
        if not os.environ.get(ADDRESS):
            check_device(config.engine.device)
        check_context_len(config.context_len, models[config.pretrained_path])
        Run(replace(config, overwrite=True) if overwrite else _going_on(trial)).check()
