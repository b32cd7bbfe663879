"""Progress of a run: a live line in a terminal, plain lines elsewhere."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
from rich.progress import Progress as Bar
from rich.table import Column

from ctp.score import Score

PLAIN_LINE_SECONDS = 10.0
DATA_BOUND_SHARE = 0.3
"""A run that waits for data for more than this share of its time is limited by it."""
MIN_GAIN_SHARE = 0.02
"""Least gain over the baseline, as a share of the gain of a perfect score; below it, a run is on a
plateau."""
MIN_EFFECTIVE_RANK = 1.05
"""Features of a lower effective rank have collapsed; 1 means that they are all alike."""
MAX_DEAD_UNIT_SHARE = 0.95
OTHER_TIMES = {
    "start": "a longer run has it only once",
    "evaluation": "evaluate less often, or on fewer videos",
}
"""What a run does besides training, NAME_seconds in log lines, and what shortens it."""

Row = Mapping[str, float | int | str]


class _Bar:
    """A bar in a terminal, lines elsewhere; for use in a `with` statement."""

    def __init__(self, unit: str, console: Console | None = None):
        self._console = console or Console()
        self._bar = Bar(
            TextColumn(unit),
            MofNCompleteColumn(),
            BarColumn(bar_width=16),
            # takes the room that is left; cut off in a narrow terminal, so that the bar stays one
            # line
            TextColumn("{task.fields[text]}", table_column=Column(ratio=1, no_wrap=True)),
            TextColumn("{task.fields[left]}"),
            console=self._console,
            disable=not self._console.is_terminal,
            expand=True,
        )
        self._task = self._bar.add_task("", total=None, text="", left="")
        self._first: tuple[float, int] | None = None
        self._printed = float("-inf")

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def _update(
        self, line: str, done: int, total: int, text: str = "", *, is_news: bool = False
    ) -> None:
        """Move the bar. Without a terminal, print `line` and `text`, at most every
        `PLAIN_LINE_SECONDS` unless this is the last one or news."""
        now = time.monotonic()
        # the time before the first call is the start of the cluster, not work
        self._first = self._first or (now, done)
        left = ""
        if done > self._first[1]:
            left = f"{duration(self._pace(now, done) * (total - done))} left"
        self._bar.update(self._task, completed=done, total=total, text=text, left=left)
        if self._console.is_terminal:
            return
        if now - self._printed >= PLAIN_LINE_SECONDS or done == total or is_news:
            self._printed = now
            parts = [line, text, left]
            self._console.print(" · ".join(filter(None, parts)), soft_wrap=True)

    def _pace(self, now: float, done: int) -> float:
        """Return the mean seconds of a unit since the first call."""
        assert self._first is not None
        first_time, first_done = self._first
        return (now - first_time) / (done - first_done)


class Progress(_Bar):
    """Shows the log lines of a run."""

    def __init__(self, score: Score, console: Console | None = None):
        """Start.

        Args:
            score: the score that the run is judged by.
            console: where to print; None: standard output.
        """
        super().__init__("step", console)
        self._bar.update(self._task, text="waiting for the first step")
        self._score, self._last_score, self._has_warned = score, "", False
        # of the evaluations after the first log line: their seconds, and the step of the last one
        self._evaluations = 0.0, 0

    def show(self, row: Row) -> None:
        """Show a log line."""
        step, total = int(row["step"]), int(row["total_steps"])
        score = self._score.describe(row)
        self._last_score = score or self._last_score
        line = f"step {step}/{total}"
        # workers that restart may repeat the first log line's step, and earlier ones
        if self._first is not None and step > self._first[1] and "evaluation_seconds" in row:
            self._evaluations = self._evaluations[0] + float(row["evaluation_seconds"]), step
        self._update(line, step, total, self._describe(row), is_news=bool(score))
        warning = learning_warning(row, self._score, step / total)
        # once: the next evaluations will mostly find the same
        if warning and not self._has_warned and step < total:  # the end has a line of its own
            self._has_warned = True
            self._console.print(warning, soft_wrap=True)

    def _pace(self, now: float, done: int) -> float:
        """Return the mean seconds of a step, with its share of the evaluations."""
        assert self._first is not None
        (first_time, first_done), (seconds, evaluated) = self._first, self._evaluations
        training = (now - first_time - seconds) / (done - first_done)
        # not their share of all steps so far, with which the time left would jump at each of them
        return training + (seconds / (evaluated - first_done) if seconds else 0)

    def _describe(self, row: Row) -> str:
        score, training = self._score, row.get(f"train_{self._score.key}")
        parts = [
            f"loss {row['loss']:.3f}{self._loss_parts(row)}",
            "" if training is None else f"training {score.label} {score.format(float(training))}",
            self._last_score,
            f"{row['clips_per_second']:.1f} clips/s",
            f"waiting for data {100 * float(row['wait_share']):.0f}%",
            f"{row['worker_memory_gib']:.1f} GiB",
            f"{row['quarantined']} quarantined" if row["quarantined"] else "",
        ]
        return " · ".join(filter(None, parts))

    def _loss_parts(self, row: Row) -> str:
        parts = [
            f"{name.removeprefix('loss_')} {row[name]:.3f}"
            for name in self._score.loss_parts
            if name in row
        ]
        return f" ({', '.join(parts)})" if parts else ""


class VideoCounter(_Bar):
    """Shows how many videos are done."""

    def __init__(self, total: int):
        super().__init__("videos")
        self._total, self._done = total, 0

    def add(self, number: int) -> None:
        """Add `number` videos that are done."""
        if number:
            self._done += number
            self._update(f"{self._done}/{self._total} videos", self._done, self._total)


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


def learning_warning(row: Row, score: Score, progress: float = 1.0) -> str:
    """Return a sentence if a run has collapsed or is on a plateau, "" otherwise.

    Args:
        row: a log line; one without an evaluation gives "".
        score: the score that the run is judged by.
        progress: share of the run that is done, in (0, 1]. A plateau in its first half is usual.
    """
    rank, dead = float(row.get("effective_rank", math.inf)), float(row.get("dead_unit_share", 0))
    if rank < MIN_EFFECTIVE_RANK:
        return (
            f"Warning: the encoder has collapsed: the effective rank of its held-out features is "
            f"{rank:.2f}, so that all clips look alike. Lower optimizer.learning_rate, or add "
            "schedule.warmup_steps."
        )
    has_baseline = score.key in row and score.baseline_key in row
    if has_baseline:
        reached, baseline = float(row[score.key]), float(row[score.baseline_key])
        # a run that learns may have many dead units: the others pass the gradient on
        if reached - baseline >= MIN_GAIN_SHARE * (1 - baseline):
            return ""
    if dead > MAX_DEAD_UNIT_SHARE:
        return (
            f"Warning: {100 * dead:.0f}% of the units of a layer of the head are 0 for every "
            "held-out clip, so that nearly no gradient reaches the encoder. Start again with a "
            "lower optimizer.learning_rate, or add schedule.warmup_steps."
        )
    if not has_baseline or progress < 0.5:
        return ""
    return (
        f"Warning: the run is on a plateau: {score.describe(row)} is no gain after "
        f"{100 * progress:.0f}% of its steps (loss {row['loss']:.3f}, encoder_gradient_norm "
        f"{float(row.get('encoder_gradient_norm', math.nan)):.3g}). Train for longer, or make "
        "the task easier at first."
    )


def bottleneck(rows: Sequence[Row], first_clip: int = 0) -> str:
    """Return a sentence on what limited the speed of a run, from its log lines.

    The speed is that of training; evaluations and the start of the actors are named if they took
    longer than it.

    Args:
        rows: the log.
        first_clip: the clips that the run had when it was resumed; what was before does not count.
    """
    rows = [row for row in rows if int(row["clips"]) > first_clip]
    # only the last row of each interval has its speed
    spans = [row for row in rows if "wait_share" in row]
    if not spans:
        return "The run was too short to say what limited its speed."
    # the first interval contains the start of the actors
    spans = spans[1:] or spans
    wait = sum(float(row["wait_share"]) for row in spans) / len(spans)
    speed = sum(float(row["clips_per_second"]) for row in spans) / len(spans)
    text = f"{speed:.1f} clips/s, {100 * wait:.0f}% of the time waiting for data"
    training = _training_seconds(rows, first_clip)
    for name, remedy in OTHER_TIMES.items():
        seconds = sum(float(row.get(f"{name}_seconds", 0)) for row in rows)
        if seconds > training:
            return (
                f"Bottleneck: the {name}, {duration(seconds)} beside {duration(training)} of "
                f"training ({text}); {remedy}."
            )
    if wait > DATA_BOUND_SHARE:
        return f"Bottleneck: the data ({text}); give it more scaling.num_actors, or faster storage."
    return f"Bottleneck: the training step ({text}); faster or more workers would speed it up."


def _training_seconds(rows: Sequence[Row], first_clip: int) -> float:
    """Return how long a run has trained, without evaluations and starts."""
    seconds, clips = 0.0, float(first_clip)
    for row in rows:
        if "clips_per_second" in row:
            seconds += (float(row["clips"]) - clips) / float(row["clips_per_second"])
            clips = float(row["clips"])
    return seconds
