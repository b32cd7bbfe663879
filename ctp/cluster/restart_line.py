"""Keep a line of Ray about restarted actors from the terminal.

When a process creates the first actor that may be restarted and has an argument in the object
store, Ray prints an error from C++, once per process: the argument could be lost. Every actor of
Ray Data is one, since Ray Data puts its context and the function into the object store (Ray 2.60,
`ActorPoolMapOperator._start_actor`). It keeps both as long as the actors exist, so that nothing can
be lost. No option of Ray avoids the line.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import ray

LINE = b"has constructor arguments in the object store and max_restarts > 0"
STDERR = 2


class _Nothing:
    """An actor that is not started."""

    def __init__(self, argument: None):
        del argument


def take_restart_line() -> None:
    """Let Ray print the line now, where nobody sees it. This process is connected to Ray."""
    actor: Any = ray.remote(num_cpus=0, max_restarts=1)(_Nothing)
    argument = ray.put(None)
    with line_hidden(LINE):
        handle = actor.remote(argument)
    ray.kill(handle)  # before it gets a process


@contextmanager
def line_hidden(part: bytes) -> Iterator[None]:
    """Hide the lines of the file descriptor of stderr that contain `part`; others come at the end.

    Lines from C++ do not pass `sys.stderr`.
    """
    if sys.stderr is None:  # closed
        yield
        return
    sys.stderr.flush()
    kept = os.dup(STDERR)
    with tempfile.TemporaryFile() as file:
        os.dup2(file.fileno(), STDERR)
        try:
            yield
        finally:
            os.dup2(kept, STDERR)
            os.close(kept)
            file.seek(0)
            os.write(STDERR, b"".join(line for line in file if part not in line))
