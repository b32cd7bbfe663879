"""Progress of a run: a live line in a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar
from rich.table import Column

from ctp.score import Score

PLAIN_LINE_SECONDS = 10.0
DATA_BOUND_SHARE = 0.3
"""A run that waits for data for more than this share of its time is limited by it."""

Row = Mapping[str, float | int | str]


class Progress:
    """Shows the log lines of a run, for use in a `with` statement."""

    def __init__(self, score: Score, console: Console | None = None):
        """Start.

        Args:
            score: the score that the run is judged by.
            console: where to print; None: standard output.
        """
        self._score = score
        self._console = console or Console()
        self._bar = Bar(
            TextColumn("step"),
            MofNCompleteColumn(),
            BarColumn(bar_width=16),
            # shortened in a narrow terminal
            TextColumn("{task.fields[line]}", table_column=Column(ratio=1, no_wrap=True)),
            TimeRemainingColumn(compact=True),
            console=self._console,
            disable=not self._console.is_terminal,
            speed_estimate_period=120,
            expand=True,
        )
        self._task = self._bar.add_task("", total=None, line="waiting for the first step")
        self._last_score = ""
        self._first: tuple[float, int] | None = None
        self._printed = float("-inf")

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def show(self, row: Row) -> None:
        """Show a log line."""
        step, total = int(row["step"]), int(row["total_steps"])
        score = self._score.describe(row)
        self._last_score = score or self._last_score
        line = self._line(row)
        self._bar.update(self._task, completed=step, total=total, line=line)
        if self._console.is_terminal:
            return
        now = time.monotonic()
        first_time, first_step = self._first = self._first or (now, step)
        if now - self._printed >= PLAIN_LINE_SECONDS or step == total or score:
            self._printed = now
            pace = (now - first_time) / (step - first_step) if step > first_step else None
            left = "" if pace is None else f" · {duration(pace * (total - step))} left"
            self._console.print(f"step {step}/{total} · {line}{left}", soft_wrap=True)

    def _line(self, row: Row) -> str:
        parts = [
            f"loss {row['loss']:.3f}{self._loss_parts(row)}",
            self._last_score,
            f"{row['clips_per_second']:.1f} clips/s",
            f"waiting for data {100 * float(row['wait_share']):.0f}%",
            f"{row['worker_memory_gib']:.1f} GiB",
            f"{row['quarantined']} quarantined" if row["quarantined"] else "",
        ]
        return " · ".join(part for part in parts if part)

    def _loss_parts(self, row: Row) -> str:
        parts = [
            f"{name.removeprefix('loss_')} {row[name]:.3f}"
            for name in self._score.loss_parts
            if name in row
        ]
        return f" ({', '.join(parts)})" if parts else ""


class VideoCounter:
    """Shows how many videos are done: a bar in a terminal, lines elsewhere. For use in a `with`
    statement."""

    def __init__(self, total: int):
        self._total, self._done = total, 0
        self._console = Console()
        self._bar = Bar(
            TextColumn("videos"),
            MofNCompleteColumn(),
            BarColumn(bar_width=24),
            TimeRemainingColumn(compact=True),
            console=self._console,
            disable=not self._console.is_terminal,
        )
        self._task = self._bar.add_task("", total=total)
        self._first: tuple[float, int] | None = None
        self._printed = float("-inf")

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def add(self, number: int) -> None:
        """Add `number` videos that are done."""
        self._done += number
        self._bar.update(self._task, completed=self._done)
        now = time.monotonic()
        first_time, first_done = self._first = self._first or (now, self._done)
        is_due = now - self._printed >= PLAIN_LINE_SECONDS or self._done == self._total
        if is_due and number and not self._console.is_terminal:
            self._printed = now
            since = self._done - first_done
            seconds = (now - first_time) / since * (self._total - self._done) if since else None
            left = "" if seconds is None else f" · {duration(seconds)} left"
            print(f"{self._done}/{self._total} videos{left}", flush=True)


def duration(seconds: float) -> str:
    """Return a time as text: '45 s', '12 min', '3 h 20 min', '2 d 4 h'."""
    minutes = round(seconds / 60)
    if seconds < 90:
        return f"{seconds:.0f} s"
    if minutes < 120:
        return f"{minutes} min"
    if minutes < 48 * 60:
        return f"{minutes // 60} h {minutes % 60} min"
    return f"{minutes // 1440} d {minutes % 1440 // 60} h"


def bottleneck(rows: Sequence[Row]) -> str:
    """Return a sentence on what limited the speed of a run, from its log lines."""
    spans = [row for row in rows if "wait_share" in row]
    if not spans:
        return "The run was too short to say what limited its speed."
    # the first interval holds the start of the actors
    spans = spans[1:] or spans
    wait = sum(float(row["wait_share"]) for row in spans) / len(spans)
    speed = sum(float(row["clips_per_second"]) for row in spans) / len(spans)
    text = f"{speed:.1f} clips/s, {100 * wait:.0f}% of the time waiting for data"
    if wait > DATA_BOUND_SHARE:
        return f"Bottleneck: the data ({text}); give it more scaling.num_actors, or faster storage."
    return f"Bottleneck: the training step ({text}); faster or more workers would speed it up."
