"""The time limit of the work on a video.

The kernel ends the process when the limit has passed, whatever the process does; a thread would
need the interpreter, which a decoder may never give back.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager


class _Present(threading.local):
    is_limited = False


_present = _Present()


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """End the process by SIGALRM if this thread is inside the block for longer than `seconds`.

    A process has one limit at a time.
    """
    _present.is_limited = True
    renew(seconds)
    try:
        yield
    finally:
        renew(0)
        _present.is_limited = False


def renew(seconds: float) -> None:
    """Begin the limit anew, because the work has advanced."""
    signal.setitimer(signal.ITIMER_REAL, seconds)


@contextmanager
def paused() -> Iterator[None]:
    """Stop the limit inside the block, where this thread waits for the storage. Other threads, and
    those without a limit, are not affected."""
    if not _present.is_limited:
        yield
        return
    left, _ = signal.setitimer(signal.ITIMER_REAL, 0)
    try:
        yield
    finally:
        # 0 inside another pause, which then continues
        renew(left)
