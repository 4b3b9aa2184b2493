"""From the device to the host: a step's columns, one step late, so that neither waits for the other.

Owns the pinned buffers that the columns are copied to.  Knows nothing about what the columns mean; the collector pushes
them, and enters what comes out in its books.
"""

from __future__ import annotations

import numpy as np
import torch

from vintix_fast.service.regions import region

Columns = dict[str, np.ndarray]


class HostCopies:
    """Hands out steps in the order in which they were pushed: on CUDA each at the next push, on a CPU at once.

    On CUDA, columns are copied on a stream of their own into one of two sets of pinned buffers.  By the time a step is
    handed out the device has the next one to work on; the host waits only where it would be two steps ahead.

    Args:
        device: of the columns.
        late: hand out steps one push late; ``None``: on CUDA only. On a CPU it serves to test callers.
    """

    def __init__(self, device: torch.device, late: bool | None = None) -> None:
        self._late = device.type == "cuda" if late is None else late
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        self._buffers: list[dict[str, torch.Tensor]] = [{}, {}]  # of even and odd steps
        self._pushed = 0
        # What is being copied: columns that must live until then, where to, and when it is done.
        self._pending: tuple[dict[str, torch.Tensor], dict[str, torch.Tensor], torch.cuda.Event | None] | None = None

    def push(self, columns: dict[str, torch.Tensor]) -> list[Columns]:
        """Start to copy one step.

        Args:
            columns: the same names, shapes and dtypes at every push. Nothing may write to them until they are handed
                out.

        Returns:
            The steps that have arrived, at most one. Their arrays are C-contiguous, and on loan until the next push.
        """
        if not self._late:
            return [{name: np.ascontiguousarray(column.cpu().numpy()) for name, column in columns.items()}]
        buffers = self._buffers[self._pushed % 2]
        self._pushed += 1
        if self._stream is None:
            copied = self._copy(columns, buffers)
        else:
            self._stream.wait_stream(torch.cuda.current_stream(self._stream.device))
            with torch.cuda.stream(self._stream):
                copied = self._copy(columns, buffers)
        arrived = self.flush()
        self._pending = (columns, buffers, copied)
        return arrived

    def flush(self) -> list[Columns]:
        """Wait for what was pushed but not handed out, and return it: at most one step."""
        if self._pending is None:
            return []
        _, buffers, copied = self._pending
        if copied is not None:
            with region("wait"):
                copied.synchronize()
        self._pending = None
        return [{name: buffer.numpy() for name, buffer in buffers.items()}]

    def _copy(self, columns: dict[str, torch.Tensor], buffers: dict[str, torch.Tensor]) -> torch.cuda.Event | None:
        """Enqueue the copies on the current stream; returns what to wait for."""
        for name, column in columns.items():
            if name not in buffers:
                pinned = self._stream is not None
                buffers[name] = torch.empty(column.shape, dtype=column.dtype, device="cpu", pin_memory=pinned)
            buffers[name].copy_(column, non_blocking=True)
        return None if self._stream is None else self._stream.record_event()
