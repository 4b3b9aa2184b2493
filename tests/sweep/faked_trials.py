"""What a sweep's workers run in tests: `run_trial` in a simulator without physics, some processes killed on the way."""

import os
import signal

from fakes import FakeSimulator

from vintix_fast.sweep import sweep
from vintix_fast.world import simulators

KILLED = "minicheetah-long-6"
real_run_trial = sweep.run_trial


def run_trial(trial, again, progress):
    """The real one; the first process of one trial is killed when its first loop is done."""
    simulators.Simulator = FakeSimulator
    told = progress.on_loop

    def on_loop(row):
        told(row)
        if trial.name == KILLED and row["loop"] == 1 and not again:
            os.kill(os.getpid(), signal.SIGKILL)

    progress.on_loop = on_loop
    real_run_trial(trial, again, progress)


def killed(again, progress):
    """A trial that nobody survives."""
    os.kill(os.getpid(), signal.SIGKILL)


def fails(again, progress):
    raise OSError("no space left")


def process(again, progress):
    """Which process does this, and with how many threads."""
    print("in a worker")
    return os.getpid(), os.environ["OMP_NUM_THREADS"]


def folder(again, progress):
    """Where relative paths begin."""
    return os.getcwd()
