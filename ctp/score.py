"""The score that a kind of run is judged by, and what it is compared with."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

COUNTS = {"tested": "videos", "heldout_clips": "clips"}
"""Entry of a log line that says how many a score is the mean of -> what it counts."""


@dataclass(frozen=True)
class Score:
    """Names an entry of a run's log lines that says how good the model is; higher is better.

    Attributes:
        key: name of the entry, e.g. "iou".
        label: its name in texts, e.g. "tracking IoU".
        baseline_key: entry of the same line that holds the score of a trivial answer; "" if none.
        baseline_label: name of the trivial answer in texts, e.g. "still box".
        loss_parts: entries that the loss consists of, shown beside it.
        is_percent: whether the score, a share in [0, 1], is shown in percent.
    """

    key: str
    label: str
    baseline_key: str = ""
    baseline_label: str = ""
    loss_parts: tuple[str, ...] = ()
    is_percent: bool = False

    def describe(self, row: Mapping[str, float | int | str]) -> str:
        """Return e.g. "top-1 41.0% ± 4.9% of 100 videos (chance 10.0%)" or "tracking IoU 0.612 of
        64 clips (still box 0.510)"; "" if the log line has no score."""
        if self.key not in row:
            return ""
        parts = [self.label, self.describe_value(row), self.describe_count(row)]
        baseline = self.describe_baseline(row)
        return " ".join(filter(None, [*parts, f"({baseline})" if baseline else ""]))

    def describe_value(self, row: Mapping[str, float | int | str]) -> str:
        """Return the score of a log line with its unit, that of a share with its standard error."""
        value, (number, _) = float(row[self.key]), self.counted(row)
        return format_share(value, number) if self.is_percent else self.format(value)

    def describe_count(self, row: Mapping[str, float | int | str]) -> str:
        """Return what the score of a log line is the mean of, e.g. "of 100 videos"; "" if the line
        does not say."""
        number, counted = self.counted(row)
        return f"of {number} {counted}" if number else ""

    def counted(self, row: Mapping[str, float | int | str]) -> tuple[int, str]:
        """Return how many the score of a log line is the mean of, 0 if unknown, and of what."""
        # of scores with a prefix, such as linear.top1, the entry has it, too
        prefix = self.key[: self.key.rfind(".") + 1]
        found = ((int(row.get(prefix + key, 0)), counted) for key, counted in COUNTS.items())
        return next((each for each in found if each[0]), (0, ""))

    def describe_baseline(self, row: Mapping[str, float | int | str]) -> str:
        """Return e.g. "chance 10.0%"; "" if the log line has no baseline."""
        if self.baseline_key not in row:
            return ""
        return f"{self.baseline_label} {self.format(float(row[self.baseline_key]))}"

    def format(self, value: float) -> str:
        """Return the score as text, with its unit."""
        return f"{100 * value:.1f}%" if self.is_percent else f"{value:.3f}"


def standard_error(share: float, number: int) -> float:
    """Return the standard error of a share of `number` independent answers, √(p (1 - p) / n)."""
    return math.sqrt(max(share * (1 - share), 0) / number)


def format_share(share: float, number: int | None) -> str:
    """Return a share of `number` answers in percent, with its standard error if they are known."""
    return f"{share:.1%}" + (f" ± {standard_error(share, number):.1%}" if number else "")
