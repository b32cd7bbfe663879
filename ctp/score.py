"""The score that a kind of run is judged by, and what it is compared with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


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
        """Return e.g. "tracking IoU 0.612 (still box 0.510)"; "" if the log line has no score."""
        if self.key not in row:
            return ""
        text = f"{self.label} {self.format(float(row[self.key]))}"
        if self.baseline_key in row:
            text += f" ({self.baseline_label} {self.format(float(row[self.baseline_key]))})"
        return text

    def format(self, value: float) -> str:
        """Return the score as text, with its unit."""
        return f"{100 * value:.1f}%" if self.is_percent else f"{value:.3f}"
