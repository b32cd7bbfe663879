"""The score that a kind of run is judged by, and what it is compared with."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

COUNTS = {"tested": "videos", "heldout_clips": "clips"}
"""Entry of a log line that says how many a score is the mean of -> what it counts."""

ERROR = (
    "± beside a share is half of Wilson's 68% interval for its n videos or clips, about "
    "√(p (1 - p) / n); beside an IoU it is the standard error of the mean"
)
"""What `describe_value` writes beside a score."""


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
        """Return e.g. "top-1 41.0% ± 4.9% of 100 videos (chance 10.0%)" or "tracking IoU 0.612 ±
        0.021 of 64 clips (still box 0.510)"; "" if the log line has no score."""
        if self.key not in row:
            return ""
        parts = [self.label, self.describe_value(row), self.describe_count(row)]
        baseline = self.describe_baseline(row)
        return " ".join(filter(None, [*parts, f"({baseline})" if baseline else ""]))

    def describe_value(self, row: Mapping[str, float | int | str]) -> str:
        """Return the score of a log line with its unit and, if it is known, its error."""
        text, error = self.format(float(row[self.key])), self.error(row)
        return text if error is None else f"{text} ± {self.format(error)}"

    @property
    def error_key(self) -> str:
        """Return the entry with the standard error of a score that is no share."""
        prefix, name = self._split_key
        return f"{prefix}error_{name}"  # "iou_error" would look like the IoU of some clips

    def error(self, row: Mapping[str, float | int | str]) -> float | None:
        """Return the error of the score of a log line: that of a share from the number of answers,
        see `share_error`; of another the standard error of the mean. None if unknown."""
        number, _ = self.counted(row)
        if self.is_percent:
            return share_error(float(row[self.key]), number) if number else None
        return float(row[self.error_key]) if self.error_key in row else None

    def describe_count(self, row: Mapping[str, float | int | str]) -> str:
        """Return what the score of a log line is the mean of, e.g. "of 100 videos"; "" if the line
        does not say."""
        number, counted = self.counted(row)
        return f"of {number} {counted}" if number else ""

    def counted(self, row: Mapping[str, float | int | str]) -> tuple[int, str]:
        """Return how many the score of a log line is the mean of, 0 if unknown, and of what."""
        # of scores with a prefix, such as linear.top1, the entry has it, too
        prefix, _ = self._split_key
        found = ((int(row.get(prefix + key, 0)), counted) for key, counted in COUNTS.items())
        return next((each for each in found if each[0]), (0, ""))

    def describe_baseline(self, row: Mapping[str, float | int | str]) -> str:
        """Return e.g. "chance 10.0%"; "" if the log line has no baseline."""
        if self.baseline_key not in row:
            return ""
        return f"{self.baseline_label} {self.format(float(row[self.baseline_key]))}"

    @property
    def _split_key(self) -> tuple[str, str]:
        start = self.key.rfind(".") + 1
        return self.key[:start], self.key[start:]

    def format(self, value: float) -> str:
        """Return the score as text, with its unit."""
        return f"{100 * value:.1f}%" if self.is_percent else f"{value:.3f}"


def share_error(share: float, number: int) -> float:
    """Return half the width of Wilson's score interval with z = 1 (68%) of a share of `number`
    independent answers.

    It is close to the standard error √(p (1 - p) / n), but not 0 if all answers are right or all
    are wrong, when a few more could still be otherwise:

        √(p (1 - p) / n + 1 / 4n²) / (1 + 1 / n)
    """
    variance = max(share * (1 - share), 0) / number
    return math.sqrt(variance + 1 / (4 * number**2)) / (1 + 1 / number)


def mean_error(groups: Sequence[Sequence[float]]) -> float | None:
    """Return the standard error of the mean of values of which those of a group depend on each
    other, such as clips of the same video.

    With groups of one value it is the sample standard deviation over √n. Otherwise it is the
    cluster-robust one: √(g / (g - 1) Σ r²) / n, where r is the sum of the deviations of each of the
    g groups (Liang and Zeger, 1986). None for fewer than two groups.
    """
    values = [value for group in groups for value in group]
    if len(groups) < 2:
        return None
    mean = sum(values) / len(values)
    sums = [sum(value - mean for value in group) for group in groups]
    variance = len(groups) / (len(groups) - 1) * sum(each**2 for each in sums)
    return math.sqrt(variance) / len(values)


def format_share(share: float, number: int | None) -> str:
    """Return a share of `number` answers in percent, with its error if they are known."""
    return f"{share:.1%}" + (f" ± {share_error(share, number):.1%}" if number else "")
