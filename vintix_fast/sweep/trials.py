"""Trials, each in a process of its own, on a Ray cluster or on this machine; a killed one goes on elsewhere.

Owns Ray, which is imported here alone.  Knows nothing about robots, options or directories: a trial is a function that
is told whether it was begun before.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from rich.console import Console

from vintix_fast.service.errors import UsageError, VintixFastError, cause
from vintix_fast.service.progress import Progress

Trial = Callable[[bool, Progress], Any]
"""(whether a killed process has begun it, whom to tell) -> its result; must go on with what it finds then."""
ADDRESS = "RAY_ADDRESS"
OBJECT_STORE_BYTES = 80 * 2**20
"""Results are a few numbers."""
KEPT = ("GOMP_SPINCOUNT", "PYTHONSAFEPATH")
"""Of the environment, for workers on other machines; see ``cli/__init__.py``."""


def run_here_or_on_cluster(
    trials: Mapping[str, Trial], logs: Path, progress: Progress | None = None, gpus: float = 0.0
) -> dict[str, Any]:
    """Trials that each take a whole machine: on the nodes of RAY_ADDRESS, without it one after another in this process.

    Args:
        logs: folder for what trials on a cluster say.
        gpus: that each trial has of its node's.

    Returns:
        Results by name.

    Raises:
        VintixFastError: a trial failed; in this process as it raised it, on a cluster after the others ended.
    """
    progress = progress or Progress()
    if not (trials and os.environ.get(ADDRESS)):
        return {name: trial(False, progress) for name, trial in trials.items()}
    with cluster(progress.say, None, gpus) as run_trials:
        return run_trials(trials, logs)


@contextlib.contextmanager
def cluster(
    say: Callable[[str], None], cores: float | None = 1.0, gpus: float = 0.0, retries: int = 3
) -> Iterator[Callable[[Mapping[str, Trial], Path], dict[str, Any]]]:
    """The Ray cluster that RAY_ADDRESS names, or one of this machine's cores for as long as the context lasts.

    Gives a function of trials and of the folder for their logs, ``<name>.log``, that does as many at a time as there is
    room for, and returns their results by name.  It raises VintixFastError where some failed; the others were done.

    Args:
        cores: of each trial, which has as many threads; None: all of a node's.
        gpus: of each trial; a part of one is shared.
        retries: how often a trial whose process was killed is begun again.

    Raises:
        UsageError: Ray is not installed or not reached, or no node has so many cores and GPUs.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # it would tell its makers
    try:
        import ray
    except ImportError:
        raise UsageError("Ray is not installed; install it: pip install 'vintix-fast[sweep]'") from None
    address = os.environ.get(ADDRESS) or "local"
    local: dict[str, Any] = (
        {"include_dashboard": False, "object_store_memory": OBJECT_STORE_BYTES} if address == "local" else {}
    )
    try:
        ray.init(address, logging_level=logging.ERROR, log_to_driver=False, **local)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise UsageError(
            f"{ADDRESS}={address}: no Ray cluster is reached there ({cause(error)}); one that asks for a token wants "
            "RAY_AUTH_MODE=token here too"
        ) from error
    try:
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        cores = min(node.get("CPU", 1.0) for node in nodes) if cores is None else cores
        if not any(node.get("CPU", 0) >= cores and node.get("GPU", 0) >= gpus for node in nodes):
            found = "; ".join(f"{node.get('CPU', 0):g} cores, {node.get('GPU', 0):g} GPUs" for node in nodes)
            raise UsageError(f"no machine has a trial's {cores:g} cores and {gpus:g} GPUs; there are: {found}")
        environment = {"OMP_NUM_THREADS": str(max(1, int(cores)))}
        environment |= {name: os.environ[name] for name in KEPT if name in os.environ}
        # A worker ends with its trial, so that no two share the simulator's globals.
        limits: dict[str, Any] = {"num_cpus": cores, "num_gpus": gpus, "max_calls": 1, "max_retries": 0}
        worker = ray.remote(**limits, runtime_env={"env_vars": environment})(_call)
        yield lambda trials, logs: _run(ray, worker, trials, logs, retries, say)
    finally:
        ray.shutdown()  # kills what runs; whatever is killed can be resumed


def _run(
    ray: Any, worker: Any, trials: Mapping[str, Trial], logs: Path, retries: int, say: Callable[[str], None]
) -> dict[str, Any]:
    folder = Path.cwd()
    pending = {worker.remote(trial, folder, logs / f"{name}.log", False): name for name, trial in trials.items()}
    kills = dict.fromkeys(trials, 0)
    results: dict[str, Any] = {}
    failed: dict[str, str] = {}
    while pending:
        (done,), _ = ray.wait(list(pending), num_returns=1)
        name = pending.pop(done)
        try:
            results[name], error = ray.get(done)
        except ray.exceptions.RayTaskError:  # a defect
            raise
        except ray.exceptions.RayError as killed:
            kills[name] += 1
            error = f"its process was killed {kills[name]} times ({cause(killed)})"
            if kills[name] <= retries:
                say(f"{name}: its process was killed; it goes on in another")
                pending[worker.remote(trials[name], folder, logs / f"{name}.log", True)] = name
                continue
        if error:
            failed[name] = error
        say(f"{name}: {f'failed: {error}' if error else 'done'} ({len(trials) - len(pending)} of {len(trials)})")
    if failed:
        listed = "; ".join(f"{name}: {error}" for name, error in failed.items())
        raise VintixFastError(f"{len(failed)} of {len(trials)} trials failed ({listed}); their logs are {logs}/*.log")
    return {name: results[name] for name in trials}


def _call(trial: Trial, folder: Path, log: Path, again: bool) -> tuple[Any, str]:
    """In a worker: a trial's result, or why it failed; relative paths begin in ``folder``, if this node has it."""
    from vintix_fast.service.console import ConsoleProgress

    with contextlib.suppress(OSError):
        os.chdir(folder)  # a cluster's workers begin where each node was started
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("a", buffering=1) as file, contextlib.redirect_stdout(file), contextlib.redirect_stderr(file):
        for stream in (1, 2):  # of compiled code and of child processes; the worker ends with its trial
            os.dup2(file.fileno(), stream)
        try:
            return trial(again, ConsoleProgress(Console(file=file, width=160))), ""
        except (VintixFastError, OSError) as error:
            print(f"error: {error}", file=file)
            return None, str(error)
