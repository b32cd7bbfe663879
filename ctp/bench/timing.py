"""Time pieces of work one after the other, and describe the machine."""

from __future__ import annotations

import platform
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch

from ctp.machine import usable_cpus

ON_DEVICE = "device: "
"""Prefix of the names of stages on the worker's device."""
DEVICE_STAGES = tuple(ON_DEVICE + name for name in ("transfer", "paste", "colours"))
UNITS_PER_SECOND = {"ms": 1e3, "µs": 1e6}
Figures = Mapping[str, Any]
"""The measured values of one item, by name; the first value is the item's name."""


@dataclass(frozen=True)
class Case:
    """A piece of work to time.

    Attributes:
        name: in tables.
        work: is called with the number of the repeat; 0 is the warm-up.
        count: how many times `work` does the piece of work.
        unit: of the figure, a key of `UNITS_PER_SECOND`.
    """

    name: str
    work: Callable[[int], object]
    count: int
    unit: str = "ms"


@dataclass(frozen=True)
class Timing:
    """The time that a piece of work took.

    Attributes:
        name: name of the work.
        unit: unit of the repeats.
        repeats: the time of each repeat.
    """

    name: str
    unit: str
    repeats: tuple[float, ...]

    @property
    def median(self) -> float:
        """Return the median of the repeats."""
        return statistics.median(self.repeats)

    def ratio(self, other: Timing) -> Timing:
        """Return how many times the time of `other` it is, repeat by repeat."""
        pairs = zip(self.repeats, other.repeats, strict=True)
        return Timing(f"× {other.name}", "×", tuple(own / its for own, its in pairs))

    def figures(self) -> dict[str, Any]:
        """Return all figures, as JSON values."""
        summary = {"median": self.median, "min": min(self.repeats), "max": max(self.repeats)}
        return {**asdict(self), **summary}


def measure(cases: Sequence[Case], repeats: int) -> list[Timing]:
    """Time all cases in turn, so that a slow minute of the machine affects all of them.

    Each case is run once before, untimed. Work on a GPU must call `wait_for`.
    """
    taken: list[list[float]] = [[] for _ in cases]
    for case in cases:
        # fills caches, compiles, and lets the GPU choose its kernels
        case.work(0)
    for repeat in range(1, repeats + 1):
        for case, times in zip(cases, taken, strict=True):
            # a clock that never goes back
            began = time.perf_counter()
            case.work(repeat)
            seconds = (time.perf_counter() - began) / case.count
            times.append(UNITS_PER_SECOND[case.unit] * seconds)
    return [
        Timing(case.name, case.unit, tuple(times)) for case, times in zip(cases, taken, strict=True)
    ]


@contextmanager
def one_thread() -> Iterator[None]:
    """Let torch use one thread, as in an actor."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def default_device() -> torch.device:
    """Return the GPU, or the CPU if there is none."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def wait_for(device: torch.device) -> None:
    """Wait until a GPU has finished its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


class Machine(NamedTuple):
    """What figures depend on: CPU, usable CPU cores, GPUs ("" and 0 if there is none), versions."""

    cpu: str
    cores: int
    gpu: str
    num_gpus: int
    torch: str
    python: str
    system: str

    @property
    def gpus(self) -> str:
        """Return e.g. "8 × NVIDIA H100" or "no GPU"."""
        return f"{self.num_gpus} × {self.gpu}" if self.num_gpus else "no GPU"


def machine() -> Machine:
    """Return the description of this machine."""
    has_gpu = torch.cuda.is_available()
    return Machine(
        cpu=_cpu_model(),
        cores=usable_cpus(),
        gpu=torch.cuda.get_device_name() if has_gpu else "",
        num_gpus=torch.cuda.device_count() if has_gpu else 0,
        torch=torch.__version__,
        python=platform.python_version(),
        system=platform.system(),
    )


def _cpu_model() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor() or platform.machine()
