"""Named regions of a run: what took how long, on which thread.

Code that may be profiled marks its work with ``with region("simulate"):``, which costs next to nothing until somebody
records.  A `Recording` keeps every region's begin and end, and turns them into times by nesting, or into a trace for
Chrome (chrome://tracing) and Perfetto (ui.perfetto.dev).  Knows nothing about what the regions mean.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

_NOTHING = contextlib.nullcontext()
_recording: Recording | None = None


def region(name: str) -> contextlib.AbstractContextManager:
    """A context that is recorded under ``name`` if anybody records; regions may nest."""
    return _NOTHING if _recording is None else _Region(_recording, name)


@contextlib.contextmanager
def recording() -> Iterator[Recording]:
    """Record the regions of all threads until the block ends."""
    global _recording
    before, _recording = _recording, Recording()
    try:
        yield _recording
    finally:
        _recording.end()
        _recording = before


class _Region:
    __slots__ = ("_recording", "_name", "_start_ns")

    def __init__(self, recording: Recording, name: str) -> None:
        self._recording, self._name = recording, name

    def __enter__(self) -> None:
        self._start_ns = time.perf_counter_ns()

    def __exit__(self, *error: object) -> None:
        self._recording.add(self._name, self._start_ns, time.perf_counter_ns(), threading.current_thread().name)


@dataclass
class RegionTime:
    """What all regions with one path on one thread took together."""

    thread: str
    path: tuple[str, ...]
    """Names from the outermost region to this one."""
    calls: int = 0
    seconds: float = 0.0
    self_seconds: float = 0.0
    """Without the regions inside."""
    longest_seconds: float = 0.0


class Recording:
    """Regions that ended, with their times."""

    def __init__(self) -> None:
        self.thread = threading.current_thread().name
        """The one that records; shares of the run are shares of its time."""
        self._start_ns = time.perf_counter_ns()
        self.seconds = 0.0
        """From the recording's begin to its end."""
        self._spans: list[tuple[str, int, int, str]] = []  # name, start, end, thread

    def add(self, name: str, start_ns: int, end_ns: int, thread: str) -> None:
        """A region that ended, in times of ``time.perf_counter_ns``.  Any thread may call this."""
        self._spans.append((name, start_ns, end_ns, thread))

    def end(self) -> None:
        """Stop the clock."""
        self.seconds = (time.perf_counter_ns() - self._start_ns) / 1e9

    def times(self) -> list[RegionTime]:
        """Times by thread and path, in the order in which they first began."""
        found: dict[tuple[str, tuple[str, ...]], RegionTime] = {}
        around: dict[str, list[tuple[RegionTime, int]]] = {}  # for each thread the regions that are open, and their end
        for name, start, end, thread in self._by_start():
            outer = around.setdefault(thread, [])
            while outer and outer[-1][1] <= start:
                outer.pop()
            path = (*outer[-1][0].path, name) if outer else (name,)
            entry = found.setdefault((thread, path), RegionTime(thread, path))
            seconds = (end - start) / 1e9
            entry.calls += 1
            entry.seconds += seconds
            entry.self_seconds += seconds
            entry.longest_seconds = max(entry.longest_seconds, seconds)
            if outer:
                outer[-1][0].self_seconds -= seconds
            outer.append((entry, end))
        return list(found.values())

    def totals(self) -> dict[str, float]:
        """Seconds of each name on the recording's thread, wherever it was nested, without the regions inside."""
        totals: dict[str, float] = {}
        for entry in self.times():
            if entry.thread == self.thread:
                totals[entry.path[-1]] = totals.get(entry.path[-1], 0.0) + entry.self_seconds
        return totals

    def trace(self) -> dict[str, Any]:
        """The regions as a JSON object of the Trace Event Format ("complete" events, microseconds).

        https://docs.google.com/document/d/1CvAClvFfyA5R-PhYUmn5OOQtYMH4h6I0nSsKchNAySU
        """
        spans = self._by_start()
        numbers = {thread: at for at, thread in enumerate(dict.fromkeys([self.thread, *(span[3] for span in spans)]))}
        names = [
            {"name": "thread_name", "ph": "M", "pid": 0, "tid": number, "args": {"name": thread}}
            for thread, number in numbers.items()
        ]
        regions = [
            {
                "name": name, "ph": "X", "pid": 0, "tid": numbers[thread],
                "ts": (start - self._start_ns) / 1e3, "dur": (end - start) / 1e3,
            }
            for name, start, end, thread in spans
        ]  # fmt: skip
        return {"traceEvents": names + regions, "displayTimeUnit": "ms"}

    def _by_start(self) -> list[tuple[str, int, int, str]]:
        """An outer region before those that it holds."""
        return sorted(self._spans, key=lambda span: (span[1], -span[2]))
