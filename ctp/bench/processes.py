"""CPU time and memory of this process and of all processes below it, from Linux's /proc."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

PROC = Path("/proc")
CPU_TICKS = slice(11, 13)
"""Indices of user and system time in the fields of /proc/PID/stat after the name."""


class Memory(NamedTuple):
    """Memory of several processes; what they share is counted once (proportional set size).

    Attributes:
        mib: all of it.
        shared_mib: the part in shared memory, as Ray's object store.
        file_mib: the part that is files, e.g. libraries. It also depends on other processes that
            use the same files.
    """

    mib: float
    shared_mib: float
    file_mib: float


def cpu_seconds() -> dict[int, float]:
    """Return process id -> CPU seconds used; empty if there is no /proc."""
    found = {}
    for process in _process_tree():
        with suppress(OSError):  # it has ended
            found[process] = sum(map(int, _stat(process)[CPU_TICKS])) / os.sysconf("SC_CLK_TCK")
    return found


def memory() -> Memory | None:
    """Return the memory in use, or None if there is no /proc. Takes milliseconds per process."""
    found = []
    for process in _process_tree():
        with suppress(OSError):  # it has ended, or belongs to another user
            found.append(_memory(process))
    return Memory(*map(sum, zip(*found, strict=True))) if found else None


def _process_tree() -> Iterator[int]:
    """Yield this process and all below it."""
    children: dict[int, list[int]] = defaultdict(list)
    for folder in PROC.glob("[0-9]*"):
        with suppress(OSError):
            children[int(_stat(int(folder.name))[1])].append(int(folder.name))
    left = [os.getpid()] if children else []
    while left:
        process = left.pop()
        left += children[process]
        yield process


def _stat(process: int) -> list[str]:
    """Return the fields of /proc/PID/stat after the name: state, parent, …"""
    # from the last bracket: a process may have brackets in its name
    return (PROC / str(process) / "stat").read_text().rpartition(")")[2].split()


def _memory(process: int) -> Memory:
    lines = (PROC / str(process) / "smaps_rollup").read_text().splitlines()[1:]
    # the first line names the range of addresses
    kib = {name: int(rest.split()[0]) for name, _, rest in (line.partition(":") for line in lines)}
    return Memory(*(kib[name] / 1024 for name in ("Pss", "Pss_Shmem", "Pss_File")))
