"""Processes of a run that has a session of its own: held, or lost all at once."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path

import pytest


def _processes_of(session: int, title: str = "") -> list[int]:
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            state, _, _, own_session, *_ = (folder / "stat").read_text().rpartition(")")[2].split()
            is_of_it = int(own_session) == session and state != "Z"
            if is_of_it and title in (folder / "cmdline").read_bytes().decode():
                found.append(int(folder.name))
    return found


def _send(signal_number: int, processes: list[int]) -> None:
    for process in processes:
        with suppress(ProcessLookupError):
            os.kill(process, signal_number)


@pytest.fixture(scope="session")
def processes_of() -> Callable[..., list[int]]:
    """`processes_of(session, title="")`: those that live and have `title` in their command line."""
    return _processes_of


@pytest.fixture(scope="session")
def kill_session() -> Callable[[int], None]:
    """`kill_session(process.pid)`: what it started is lost with it, and gone when this returns. A
    kill of its process group is not enough: a worker of Ray's has a group of its own, and may have
    taken many a step before it finds out."""

    def kill(session: int) -> None:
        while left := _processes_of(session):
            _send(signal.SIGKILL, left)

    return kill


@pytest.fixture(scope="session")
def held() -> Callable[[int, str], AbstractContextManager[None]]:
    """`with held(session, title)`: those processes stand still while this lasts."""

    @contextmanager
    def hold(session: int, title: str) -> Iterator[None]:
        processes = _processes_of(session, title)
        assert processes, title
        _send(signal.SIGSTOP, processes)
        try:
            yield
        finally:
            _send(signal.SIGCONT, processes)

    return hold
