"""One training by several processes, as `torchrun` starts them: each has a part of every batch, rank 0 alone writes.

Owns torch.distributed.  Knows nothing about robots or files.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from dataclasses import fields
from typing import Any

import torch
from torch import distributed

from vintix_fast.data import Batch
from vintix_fast.service.errors import UsageError, VintixFastError

Losses = Callable[[Any, dict[str, Batch], bool], dict[str, torch.Tensor]]


class Ranks:
    """This process among those of a training; without `torchrun` it is the only one, and nothing here does anything.

    Raises:
        UsageError: this rank has no GPU of its own.
    """

    def __init__(self, device: str) -> None:
        self.rank, self.size = 0, 1
        if not distributed.is_torchelastic_launched():
            return
        self.rank, self.size, local = (int(os.environ[name]) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"))
        if device == "cuda":
            if local >= torch.cuda.device_count():
                raise UsageError(
                    f"--device cuda: rank {local} of this machine has no GPU, torch finds {torch.cuda.device_count()}; "
                    "give torchrun as many --nproc-per-node"
                )
            torch.cuda.set_device(local)

    @contextlib.contextmanager
    def connected(self, device: str) -> Iterator[None]:
        """While it lasts, ranks may exchange; raises VintixFastError if another one ends early."""
        if self.size == 1:
            yield
            return
        try:
            distributed.init_process_group("nccl" if device == "cuda" else "gloo")
            yield
        except RuntimeError as error:
            if not isinstance(error, distributed.DistError) and "gloo" not in str(error):
                raise
            raise VintixFastError(
                f"rank {self.rank}: another of the {self.size} ranks ended, so this training has ended; the same "
                "command with --resume goes on from the last saved step, with any number of ranks"
            ) from error
        finally:
            if distributed.is_initialized():
                distributed.destroy_process_group()

    def check_batches(self, windows: int) -> None:
        """Raise UsageError if the least batch has fewer windows than there are ranks."""
        if windows < self.size:
            raise UsageError(
                f"a step has {windows} windows for {self.size} ranks; give a larger --batch-size or fewer ranks"
            )

    def wrap(self, model: torch.nn.Module, losses: Losses) -> Losses:
        """``losses``, called with all of a batch: computed of this rank's windows, each a part of the mean over all.

        Their gradients are summed over the ranks, as they come.
        """
        if self.size == 1:
            return losses
        # A rank may have no window of some robot.
        summed = torch.nn.parallel.DistributedDataParallel(_Losses(model, losses), find_unused_parameters=True)

        def parts(model: torch.nn.Module, batches: dict[str, Batch], bf16: bool) -> dict[str, torch.Tensor]:
            mine = self._share(batches)
            found = summed(mine, bf16)
            # The mean over ranks, which DDP takes, of these is the mean over all tokens.
            return {
                name: loss * (self.size * mine[name].weight.sum() / batches[name].weight.sum())
                for name, loss in found.items()
            }

        return parts

    def _share(self, batches: dict[str, Batch]) -> dict[str, Batch]:
        """Every ``size``-th window of all, from the ``rank``-th."""
        mine, before = {}, 0
        for name, batch in batches.items():
            first = (self.rank - before) % self.size
            before += len(batch.weight)
            if first < len(batch.weight):
                columns = {f.name: getattr(batch, f.name) for f in fields(batch)}
                kept: dict[str, Any] = {n: c if c is None else c[first :: self.size] for n, c in columns.items()}
                mine[name] = Batch(**kept)
        return mine

    def mean(self, value: float, device: torch.device) -> float:
        """Over all ranks."""
        if self.size == 1:
            return value
        total = torch.tensor(value, dtype=torch.float64, device=device)
        distributed.all_reduce(total)
        return float(total) / self.size


class _Losses(torch.nn.Module):
    """What DDP wraps: a model whose ``forward`` is its losses."""

    def __init__(self, model: torch.nn.Module, losses: Losses) -> None:
        super().__init__()
        self.model, self._losses = model, losses

    def forward(self, batches: dict[str, Batch], bf16: bool) -> dict[str, Any]:
        return self._losses(self.model, batches, bf16)
