"""What this process and all those below it use, as Linux tells it."""

from __future__ import annotations

import os
import sys
from collections import defaultdict
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")

PROC = Path("/proc")
CPU_TICKS_FIELDS = slice(11, 13)
"""Of /proc/PID/stat behind the name: ticks on a core for the process and for its system calls."""


@dataclass(frozen=True)
class Memory:
    """Memory of processes, what several share counted once (proportional set size).

    Attributes:
        mib: all of it.
        shared_mib: the part that is memory for sharing, as Ray's object store.
        file_mib: the part that is files, such as libraries. It falls when processes that are none
            of these begin to use the same.
    """

    mib: float
    shared_mib: float
    file_mib: float


def cpu_seconds() -> dict[int, float] | None:
    """Seconds of cores that this process and each below it has used since it began, by its number;
    None where the system does not tell."""
    found = _of_tree(lambda process: (process, sum(map(int, _stat(process)[CPU_TICKS_FIELDS]))))
    if found is None:
        return None
    return {process: ticks / os.sysconf("SC_CLK_TCK") for process, ticks in found}


def memory() -> Memory | None:
    """Of this process and all below it; None where the system does not tell. Takes some
    milliseconds for each process."""
    found = _of_tree(_memory)
    if found is None:
        return None
    return Memory(
        sum(each.mib for each in found),
        sum(each.shared_mib for each in found),
        sum(each.file_mib for each in found),
    )


def _of_tree(look: Callable[[int], T]) -> list[T] | None:
    if sys.platform != "linux":
        return None
    children, left, found = _children(), [os.getpid()], []
    while left:
        process = left.pop()
        left += children[process]
        with suppress(OSError):  # it has ended, or is another user's
            found.append(look(process))
    return found


def _children() -> dict[int, list[int]]:
    children: dict[int, list[int]] = defaultdict(list)
    for folder in PROC.iterdir():
        if folder.name.isdigit():
            with suppress(OSError):
                children[int(_stat(int(folder.name))[1])].append(int(folder.name))
    return children


def _stat(process: int) -> list[str]:
    """The fields of /proc/PID/stat behind the name: state, parent, …"""
    return (PROC / str(process) / "stat").read_text().rpartition(")")[2].split()


def _memory(process: int) -> Memory:
    lines = (PROC / str(process) / "smaps_rollup").read_text().splitlines()[1:]
    kib = {name: int(rest.split()[0]) for name, _, rest in (line.partition(":") for line in lines)}
    return Memory(*(kib[name] / 1024 for name in ("Pss", "Pss_Shmem", "Pss_File")))
