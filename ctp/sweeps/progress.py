"""The progress of a sweep while it runs."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from ctp.progress import duration

LINE_SECONDS = 30.0


@dataclass(frozen=True)
class TrialProgress:
    """The progress of a running trial.

    Attributes:
        phase: "pretrain", or the name of a score.
        step, total_steps: of the phase's run; 0 before its first log line.
        score: the newest score as text; "" before the first.
    """

    phase: str
    step: int = 0
    total_steps: int = 0
    score: str = ""

    @property
    def steps(self) -> str:
        """Return e.g. "30/300"; "" before the first log line."""
        return f"{self.step}/{self.total_steps}" if self.total_steps else ""

    def __str__(self) -> str:
        return " ".join(filter(None, (self.phase, self.steps, self.score)))


@dataclass
class SweepProgress:
    """The progress of a sweep.

    Attributes:
        total: number of trials.
        ended: name of a trial -> status, for trials that have ended.
        running: name of a trial -> its progress, for trials that run.
        ended_before: number of trials that had ended when this process started.
        started: `time.monotonic` when this process started.
    """

    total: int
    ended: dict[str, str]
    running: dict[str, TrialProgress] = field(default_factory=dict)
    ended_before: int = 0
    started: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        self.ended_before = len(self.ended)

    def summary(self, now: float) -> str:
        """Return e.g. "3 finished, 1 failed of 8 trials · 3 min left"."""
        counts = Counter(self.ended.values())
        text = ", ".join(f"{number} {status}" for status, number in counts.items()) or "0 finished"
        left = self._seconds_left(now)
        return f"{text} of {self.total} trials" + (f" · {duration(left)} left" if left else "")

    def line(self, now: float) -> str:
        """Return the summary and the progress of each running trial on one line."""
        running = (f"{name}: {trial}" for name, trial in self.running.items())
        return " · ".join((self.summary(now), *running))

    def _seconds_left(self, now: float) -> float:
        """Return an estimate from the pace so far; 0 before a trial has ended here."""
        # trials that ended before this start say nothing about its pace
        here = len(self.ended) - self.ended_before
        return (now - self.started) / here * (self.total - len(self.ended)) if here else 0.0


ShowProgress = Callable[[SweepProgress], None]
"""Called after every change, in the process that runs the sweep."""


class ProgressPrinter:
    """Prints a line whenever a trial ends, and every `every_seconds`."""

    def __init__(self, every_seconds: float = LINE_SECONDS):
        self._every, self._printed, self._ended = every_seconds, float("-inf"), -1

    def __call__(self, progress: SweepProgress) -> None:
        """Print a line if a trial has ended or `every_seconds` have passed."""
        now = time.monotonic()
        if len(progress.ended) != self._ended or now - self._printed >= self._every:
            self._ended, self._printed = len(progress.ended), now
            print(progress.line(now), flush=True)
