"""A run that is killed at one of its file events goes on as if nothing had happened, and nothing is left over.

As a program it tries more of them: `python tests/test_kills.py --kills 60 --seed 1`; `--real` kills `vintix-fast adapt`
in the real simulator, at file events and at moments, and takes minutes.
"""

import argparse
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
import torch
from fakes import save_tiny
from killed import FileEvents, differences, forked
from runs import run_small

from vintix_fast.service.progress import Progress

CHOSEN = ["open config.json.tmp"]


class Steps(Progress):
    """A step of a collection or a training is an event too: the compiled writer's files grow meanwhile."""

    def __init__(self, events):
        self.events = events

    def on_rollout_step(self, collection):
        self.events.happens("step of a rollout")

    def on_training_step(self, step, loss):
        self.events.happens("step of a training")


def run_fake(out, checkpoint, at=0, resume=False):
    """A small run in a process of its own, killed at an event; its exit code, and its events where it got to its end."""
    import tensorboard.summary.writer.event_file_writer  # noqa: F401  once, not in every process

    told = out.parent / "events"

    def run():
        torch.set_num_threads(1)  # those of the parent are not here
        events = FileEvents(out, at)
        run_small(out, checkpoint, progress=Steps(events), resume=resume)
        told.write_text("\n".join(events.seen))

    code = forked(run, out.parent / "stderr")
    return code, told.read_text().splitlines() if code == 0 else [(out.parent / "stderr").read_text()]


def killed_and_resumed(out, checkpoint, at):
    """What went wrong, if anything."""
    code, said = run_fake(out, checkpoint, at)
    if code != -signal.SIGKILL:
        return [f"not killed, but ended with {code}", *said]
    # Before its options are there it is no run yet, and the same command begins it.
    code, said = run_fake(out, checkpoint, resume=(out / "config.json").is_file())
    return [] if code == 0 else said


@pytest.fixture(scope="module")
def whole(tmp_path_factory, tiny_checkpoint):
    out = tmp_path_factory.mktemp("whole") / "run"
    code, events = run_fake(out, tiny_checkpoint)
    assert code == 0, events
    return out, events
