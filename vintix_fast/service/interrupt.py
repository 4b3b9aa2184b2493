"""Ctrl-C as a request: the first asks a run to stop at its next step, the second stops at once.

Loops that last call `check_interrupt` in every step, wherever they are.  Without a run that listens it does nothing.
"""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator

from vintix_fast.service.errors import Interrupted

_asked = threading.Event()


def check_interrupt() -> None:
    """Raise `Interrupted` if SIGINT or SIGTERM arrived while a run listens."""
    if _asked.is_set():
        raise Interrupted("stopped on request")


@contextlib.contextmanager
def told_to_resume(where: str) -> Iterator[None]:
    """Whoever stops what runs in it is told that --resume goes on ``where``, such as "from the last saved step"."""
    try:
        yield
    except (Interrupted, KeyboardInterrupt) as stop:
        raise Interrupted(f"stopped; the same command with --resume goes on {where}") from stop


@contextlib.contextmanager
def stop_on_interrupt(say: Callable[[str], None]) -> Iterator[None]:
    """While this lasts, SIGINT and SIGTERM make `check_interrupt` raise; outside of the main thread nothing changes.

    Args:
        say: told that the first of them was heard, since steps can be minutes away.
    """

    def handle(signum: int, frame: object) -> None:
        if _asked.is_set():
            raise KeyboardInterrupt
        _asked.set()
        say("Stopping at the next step; Ctrl-C once more stops at once.")

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        _asked.clear()
        for number, handler in previous.items():
            signal.signal(number, handler)
