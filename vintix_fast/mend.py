"""What a run to go on with lacks, made again from what is there.

A killed run leaves whole files, but not always all of them; a finished one may have lost some.
"""

from __future__ import annotations

import filecmp

from vintix_fast.model import load_checkpoint, save_checkpoint
from vintix_fast.rundir import Run, is_checkpoint
from vintix_fast.service.metrics import settle_tensorboard, write_curve
from vintix_fast.service.progress import Progress


def mend(run: Run, progress: Progress) -> None:
    """Make again what a run to go on with lacks and what is there tells, whether it was killed or harmed."""
    for loop in settle_tensorboard(run.path / "tensorboard", run.rows):
        progress.say(f"TensorBoard's events of loop {loop} are missing: made again, but for single optimiser steps")
    if not run.rows:
        return
    write_curve(run.path / "curve.png", run.rows)
    for path, other in zip(run.current_copies, reversed(run.current_copies), strict=True):
        if not is_checkpoint(path):
            progress.say(f"{path} is missing: made again from {other}")
            save_checkpoint(load_checkpoint(other), path)
    # A killed loop may have left its own model as the best.
    if run.best and not filecmp.cmp(run.best_dir / "model.pth", run.current_dir / "model.pth", shallow=False):
        save_checkpoint(load_checkpoint(run.current_dir), run.best_dir)
