"""The data of the page: runs, panels of curves, and the options in which runs differ."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from ctp.report.runs import differing, in_words, value_in_words
from ctp.score import Score
from ctp.watch.run import WatchedRun
from ctp.watch.series import Point, points

KNN, WAIT = "knn_top1", "wait_share"
MAX_DIFFERENCES = 40


@dataclass(frozen=True)
class Line:
    """A curve of a run.

    Attributes:
        run: number of the run.
        label: what it shows, beside the name of the run.
        style: solid, or dashed for a baseline, or dotted for a further score.
        points: see `ctp.watch.series.Point`.
    """

    run: int
    label: str
    style: Literal["solid", "dashed", "dotted"]
    points: Sequence[Point]


@dataclass(frozen=True)
class Panel:
    """A plot of curves of several runs over their steps.

    Attributes:
        title: what the curves show.
        unit: of the values; "%": they are shares, shown in percent.
        lines: the curves, at least one.
        has_markers: whether each value has a marker, since there are few.
        from_zero: whether the vertical axis starts at 0.
        is_main: whether it is above the pictures of predictions.
    """

    title: str
    unit: str
    lines: Sequence[Line]
    has_markers: bool = False
    from_zero: bool = True
    is_main: bool = True


class PageData:
    """The data of the page, of which the curves are computed when a log has changed."""

    def __init__(self, runs: Sequence[WatchedRun]):
        self._runs = runs
        self._versions: object = None
        self._curves: dict[str, Any] = {}

    def refresh(self) -> dict[str, Any]:
        """Read what is new in the run folders, and return JSON values, without the pictures."""
        for run in self._runs:
            run.refresh()
        versions = [(run.log.version, run.knn.version, run.about) for run in self._runs]
        if versions != self._versions:
            self._versions = versions
            curves = [asdict(panel) for panel in panels(self._runs)]
            self._curves = {"panels": curves, "differences": differences(self._runs)}
        return {"runs": [asdict(run.view) for run in self._runs], **self._curves}


def panels(runs: Sequence[WatchedRun]) -> list[Panel]:
    """Return the plots that have at least one curve."""
    found = [_panel(runs, "Loss", "", "loss", smooth=True)]
    # runs of different tasks have different scores, which share no axis
    scores = dict.fromkeys(run.about.score for run in runs if run.about)
    found += [_score_panel(runs, score) for score in scores]
    found += [
        _panel(runs, "Speed", "clips/s", "clips_per_second", smooth=True),
    ]
    further = [
        _panel(runs, "Time spent waiting for data", "%", WAIT, smooth=True),
        _panel(runs, "Effective rank of the features", "", "effective_rank", has_markers=True),
        _panel(runs, "Learning rate", "", "learning_rate"),
    ]
    found += [replace(panel, is_main=False) for panel in further]
    return [panel for panel in found if panel.lines]


def _panel(
    runs: Sequence[WatchedRun],
    title: str,
    unit: str,
    name: str,
    *,
    smooth: bool = False,
    has_markers: bool = False,
) -> Panel:
    lines = [
        Line(number, "", "solid", curve)
        for number, run in enumerate(runs)
        if (curve := points(*run.log.series(name), smooth=smooth))
    ]
    return Panel(title, unit, lines, has_markers)


def _score_panel(runs: Sequence[WatchedRun], score: Score) -> Panel:
    lines = []
    for number, run in enumerate(runs):
        if run.about is None or run.about.score != score:
            continue
        curves: dict[tuple[str, Literal["solid", "dashed", "dotted"]], Any] = {
            ("", "solid"): run.log.series(score.key),
            (score.baseline_label, "dashed"): run.log.series(score.baseline_key),
            ("nearest neighbours", "dotted"): run.knn.series(KNN),
        }
        lines += [
            Line(number, label, style, curve)
            for (label, style), series in curves.items()
            if (curve := points(*series))
        ]
    unit = "%" if score.is_percent else ""
    return Panel(f"Held-out {score.label}", unit, lines, has_markers=True, from_zero=False)


def differences(runs: Sequence[WatchedRun]) -> list[dict[str, Any]]:
    """Return the options that differ between runs, each with its values in words.

    Returns:
        for each option "option" and "values", one for each run, "" for a run without a config.
    """
    options = [run.about.options if run.about else {} for run in runs]
    present = [each for each in options if each]
    # what only some have follows from what they have in common, such as the task
    names = [name for name in differing(present) if all(name in each for each in present)]
    return [
        {
            "option": in_words(name.removesuffix(".name")),
            "values": [value_in_words(each[name]) if each else "" for each in options],
        }
        for name in names[:MAX_DIFFERENCES]
    ]
