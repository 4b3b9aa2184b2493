"""Ctrl-C as a request: the first asks the loop to stop at the next step, the second stops at once."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator

from vintix_fast.errors import Interrupted


@contextlib.contextmanager
def stop_on_interrupt(say: Callable[[str], None]) -> Iterator[Callable[[], None]]:
    """Yields a function to call once a step; it raises `Interrupted` after SIGINT or SIGTERM.

    Args:
        say: told that the first of them was heard, since steps can be minutes away.
    """
    asked = threading.Event()

    def handle(signum: int, frame: object) -> None:
        if asked.is_set():
            raise KeyboardInterrupt
        asked.set()
        say("Stopping at the next step; Ctrl-C once more stops at once.")

    def check() -> None:
        if asked.is_set():
            raise Interrupted("stopped on request")

    if threading.current_thread() is not threading.main_thread():
        yield check
        return
    previous = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield check
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
