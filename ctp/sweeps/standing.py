"""How a sweep stands while it goes on."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from ctp.progress import duration

LINE_SECONDS = 30.0


@dataclass(frozen=True)
class Running:
    """A trial that runs.

    Attributes:
        phase: "pretrain", or the name of a score.
        step, total_steps: of that run; 0 before its first log line.
        score: the newest there is, to be read; empty before the first.
    """

    phase: str
    step: int = 0
    total_steps: int = 0
    score: str = ""

    @classmethod
    def of(cls, phase: str, row: Mapping[str, float | int | str]) -> Running:
        """What a log line of a phase tells, as far as it has it."""
        score = ""
        if "iou" in row:
            score = f"IoU {row['iou']:.3f}"
        elif "top1" in row:
            score = f"top-1 {100 * float(row['top1']):.1f}%"
        return cls(phase, int(row.get("step", 0)), int(row.get("total_steps", 0)), score)

    @property
    def steps(self) -> str:
        """How far that run is; empty before its first log line."""
        return f"{self.step}/{self.total_steps}" if self.total_steps else ""

    def __str__(self) -> str:
        return " ".join(filter(None, (self.phase, self.steps, self.score)))


@dataclass
class Standing:
    """How a sweep stands.

    Attributes:
        total: trials in all.
        ended: trial's name -> status, of those that have.
        running: trial's name -> what it is at.
        ended_before: how many of `ended` had when the sweep was started here.
        began: when that was, of `time.monotonic`.
    """

    total: int
    ended: dict[str, str]
    running: dict[str, Running] = field(default_factory=dict)
    ended_before: int = 0
    began: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        self.ended_before = len(self.ended)

    def seconds_left(self, now: float) -> float | None:
        """At the pace so far; None before a trial has ended here."""
        here = len(self.ended) - self.ended_before
        return (now - self.began) / here * (self.total - len(self.ended)) if here else None

    @property
    def counts(self) -> str:
        """How many trials have ended, and how."""
        counts = Counter(self.ended.values())
        told = ", ".join(f"{number} {status}" for status, number in counts.items()) or "0 finished"
        return f"{told} of {self.total} trials"

    def left(self, now: float) -> str:
        """How long it will take; empty if that is not known, or nothing is left."""
        seconds = self.seconds_left(now)
        return f"{duration(seconds)} left" if seconds else ""

    def line(self, now: float) -> str:
        """In a line."""
        running = (f"{name}: {at}" for name, at in self.running.items())
        return " · ".join(filter(None, (self.counts, *running, self.left(now))))


Show = Callable[[Standing], None]
"""Is called whenever something is new, in the process that runs the sweep."""


class Lines:
    """Prints a line when a trial has ended, and now and then."""

    def __init__(self, every_seconds: float = LINE_SECONDS):
        self._every, self._printed, self._ended = every_seconds, float("-inf"), -1

    def __call__(self, standing: Standing) -> None:
        """Take in how the sweep stands."""
        now = time.monotonic()
        if len(standing.ended) != self._ended or now - self._printed >= self._every:
            self._ended, self._printed = len(standing.ended), now
            print(standing.line(now), flush=True)
