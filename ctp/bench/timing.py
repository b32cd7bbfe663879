"""Timing of small pieces of work, one against the other, and on what machine."""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

UNITS_PER_SECOND = {"s": 1.0, "ms": 1e3, "µs": 1e6}


@dataclass(frozen=True)
class Case:
    """A piece of work to time.

    Attributes:
        name: what it is.
        work: does it `count` times over; is given the number of the repeat, 0 for the one that
            warms up, so that it need not do the same thing twice.
        count: how often `work` does it.
        unit: of the figure, a key of `UNITS_PER_SECOND`.
        note: what to know when reading the figure.
    """

    name: str
    work: Callable[[int], object]
    count: int
    unit: str = "ms"
    note: str = ""


@dataclass(frozen=True)
class Timing:
    """What one piece of work took, for each repeat in `unit`."""

    name: str
    unit: str
    repeats: tuple[float, ...]
    note: str

    @property
    def median(self) -> float:
        """The middle of the repeats."""
        return statistics.median(self.repeats)

    def as_row(self) -> dict[str, object]:
        """All of it, with median, least and greatest, as JSON takes it."""
        extremes = {"median": self.median, "least": min(self.repeats), "most": max(self.repeats)}
        return {"name": self.name, "unit": self.unit, **extremes, "note": self.note,
                "repeats": list(self.repeats)}  # fmt: skip


def measure(cases: Sequence[Case], repeats: int) -> list[Timing]:
    """Time all cases, a repeat of each in turn, so that a slow minute of the machine meets all.

    Each is done once before, untimed. Work on a GPU must wait for it.
    """
    taken: list[list[float]] = [[] for _ in cases]
    for case in cases:
        case.work(0)
    for repeat in range(1, repeats + 1):
        for case, seconds in zip(cases, taken, strict=True):
            began = time.perf_counter()
            case.work(repeat)
            seconds.append((time.perf_counter() - began) / case.count)
    return [
        Timing(c.name, c.unit, tuple(UNITS_PER_SECOND[c.unit] * s for s in seconds), c.note)
        for c, seconds in zip(cases, taken, strict=True)
    ]


@contextmanager
def one_thread() -> Iterator[None]:
    """Let torch use one thread, as an actor with one core has."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def wait_for(device: torch.device) -> None:
    """Let a GPU finish what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def slope(x: Sequence[float], y: Sequence[float]) -> float:
    """By how much y grows with x: the slope of the least-squares line.

    Raises:
        ValueError: there are not two different x.
    """
    if len(set(x)) < 2:
        raise ValueError(f"a slope needs two different x at least, got {list(x)}")
    from_mean = np.asarray(x) - np.mean(x)
    return float(from_mean @ np.asarray(y) / (from_mean @ from_mean))


def machine() -> dict[str, str | int]:
    """What the figures were taken on."""
    has_gpu = torch.cuda.is_available()
    return {
        "cpu": _cpu_model(),
        "cores": usable_cores(),
        "device": torch.cuda.get_device_name() if has_gpu else "cpu",
        "torch": torch.__version__,
        "python": platform.python_version(),
        "system": platform.system(),
    }


def usable_cores() -> int:
    """Cores that this process may run on, which a container can have fewer of."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _cpu_model() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
