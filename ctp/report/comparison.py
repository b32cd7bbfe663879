"""Runs from different initial weights in one picture: what they score over frozen stages (Fig. 3),
over the share of labels (Fig. 4), and how they learn (Fig. 6)."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import (
    EngFormatter,
    FixedLocator,
    FuncFormatter,
    MaxNLocator,
    NullLocator,
    PercentFormatter,
)

from ctp.report.curves import MAX_POINTS, WINDOW_SHARE, Floats, series, smooth
from ctp.training.run_folder import Row

_INK, _GRID = "#1f2937", "#e5e7eb"
_COLORS = ("#6b7280", "#f97316", "#2563eb", "#16a34a", "#a855f7", "#db2777")
_MARKERS = ("s", "^", "o", "D", "v", "P")


@dataclass(frozen=True)
class LinePoint:
    """What runs from the same initial weights score.

    Attributes:
        line: name of the initial weights.
        at: what is varied.
        mean: of the runs.
        spread: their sample standard deviation; None of one run.
    """

    line: str
    at: float
    mean: float
    spread: float | None = None


def frozen_png(points: Sequence[LinePoint], still: float, title: str = "") -> bytes:
    """mIoU by the number of frozen stages, a line for each kind of initial weights (Fig. 3).

    Args:
        points: of finished runs on the same videos, at least one; `at` is the number of stages.
        still: mIoU of first boxes that stay still.
        title: above the lines; nothing if empty.
    """
    figure, axes = _one_plot(title, "frozen stages of the encoder", "mIoU")
    _draw_lines(axes, points)
    axes.axhline(still, color="black", linewidth=1, linestyle=(0, (3, 2)))
    axes.annotate(
        f"first box stays still {still:.1%}", (0.99, still), (0, 3),
        xycoords=("axes fraction", "data"), textcoords="offset points", ha="right", fontsize=8,
    )  # fmt: skip
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    return _png(figure)


def labels_png(points: Sequence[LinePoint], title: str = "") -> bytes:
    """Accuracy by the share of labels, a line for each kind of initial weights (Fig. 4).

    Args:
        points: of finished runs on the same videos, at least one; `at` is the share, `mean` the
            accuracy, both in (0, 1].
        title: above the lines; nothing if empty.
    """
    figure, axes = _one_plot(title, "share of the training videos' labels", "top-1")
    _draw_lines(axes, points)
    axes.set_xscale("log")  # what few labels do is what it is about
    axes.xaxis.set_major_locator(FixedLocator(sorted({point.at for point in points})))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda share, _: f"{100 * share:g}%"))
    return _png(figure)


def learning_png(runs: Mapping[str, Sequence[Sequence[Row]]], title: str = "") -> bytes:
    """Training loss and accuracy over steps, a colour for each kind of initial weights (Fig. 6).

    Lines are means over runs, with a band of their sample standard deviation.

    Args:
        runs: name of the initial weights -> the metrics of each run, as
            `training.run_folder.read_metrics` gives them.
        title: above the plots; nothing if empty.
    """
    figure = Figure(figsize=(12, 4.4), dpi=110, layout="constrained", facecolor="white")
    if title:
        figure.suptitle(title, fontsize=12, fontweight="bold", color=_INK, x=0.01, ha="left")
    left, right = figure.subplots(1, 2)
    _dress(left, "Training loss", "step", "cross-entropy")
    _dress(right, "Top-1 accuracy", "step", "top-1")
    for number, (name, logs) in enumerate(runs.items()):
        color = _COLORS[number % len(_COLORS)]
        _draw_mean(left, [_smoothed(rows, "loss") for rows in logs], color, name)
        training = [_smoothed(rows, "train_top1") for rows in logs]
        _draw_mean(right, training, color, None, linewidth=0.9, alpha=0.6)
        test = [series(rows, "top1") for rows in logs]
        marker = _MARKERS[number % len(_MARKERS)]
        _draw_mean(right, test, color, name, marker=marker, markersize=4)
    right.plot([], [], color=_INK, linewidth=0.9, alpha=0.6, label="training clips (thin)")
    left.set_ylim(bottom=0)
    right.set_ylim(0, 1)
    right.yaxis.set_major_formatter(PercentFormatter(1.0))
    for axes in (left, right):
        axes.set_xlim(left=0)
        axes.xaxis.set_major_locator(MaxNLocator(7, integer=True))
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))
        axes.legend(frameon=False, fontsize=8, loc="best")
    return _png(figure)


def at_the_end(rows: Sequence[Row], name: str) -> float | None:
    """The mean of a value over the last steps of a run, as many as a point of a smoothed curve is
    made of; None if no step has it."""
    _, values = series(rows, name)
    return float(values[-_window(values) :].mean()) if len(values) else None


def _window(values: Floats) -> int:
    return max(round(len(values) * WINDOW_SHARE), 1)


def _smoothed(rows: Sequence[Row], name: str) -> tuple[Floats, Floats]:
    steps, values = series(rows, name)
    return steps, smooth(values, _window(values))


def _draw_mean(
    axes: Axes,
    runs: Sequence[tuple[Floats, Floats]],
    color: str,
    label: str | None,
    **style: Any,
) -> None:
    """The mean of runs over the steps that all of them have."""
    steps = reduce(np.intersect1d, [steps for steps, _ in runs])
    stride = -(-len(steps) // MAX_POINTS) or 1
    steps = steps[::stride]
    if not len(steps):
        return
    values = np.stack([found[np.isin(at, steps)] for at, found in runs])
    mean = values.mean(axis=0)
    axes.plot(steps, mean, color=color, label=label, **{"linewidth": 2, **style})
    if len(runs) > 1:
        spread = values.std(axis=0, ddof=1)
        axes.fill_between(steps, mean - spread, mean + spread, color=color, alpha=0.15, linewidth=0)


def _draw_lines(axes: Axes, points: Sequence[LinePoint]) -> None:
    names = list(dict.fromkeys(point.line for point in points))
    for number, name in enumerate(names):
        color, marker = (each[number % len(each)] for each in (_COLORS, _MARKERS))
        own = sorted((p for p in points if p.line == name), key=lambda point: point.at)
        axes.errorbar(
            [point.at for point in own],
            [point.mean for point in own],
            [math.nan if point.spread is None else point.spread for point in own],
            color=color, marker=marker, linewidth=2, capsize=4, elinewidth=1.2, label=name,
        )  # fmt: skip
    for at in {point.at for point in points}:
        _name_extremes(axes, [point for point in points if point.at == at])
    axes.margins(y=0.12)
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    axes.legend(frameon=False, fontsize=9, title="initial weights")


def _name_extremes(axes: Axes, points: Sequence[LinePoint]) -> None:
    """Write the highest value above its point, and the lowest below: between them is no room."""
    ranked = sorted(points, key=lambda point: point.mean)
    named = [(ranked[-1], 1), (ranked[0], -1)][: len(ranked)]
    for point, side in named:
        axes.annotate(
            f"{point.mean:.1%}", (point.at, point.mean + side * (point.spread or 0)), (0, 7 * side),
            textcoords="offset points", ha="center", va="bottom" if side > 0 else "top",
            fontsize=8, color=_INK,
        )  # fmt: skip


def _one_plot(title: str, horizontal: str, vertical: str) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(7.2, 4.6), dpi=120, layout="constrained", facecolor="white")
    axes = figure.subplots()
    _dress(axes, title, horizontal, vertical)
    return figure, axes


def _dress(axes: Axes, title: str, horizontal: str, vertical: str) -> None:
    axes.set_title(title, loc="left", fontsize=11, fontweight="bold", color=_INK)
    axes.set_xlabel(horizontal)
    axes.set_ylabel(vertical)
    axes.grid(axis="y", color=_GRID)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()
