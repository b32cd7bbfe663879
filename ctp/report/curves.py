"""The curves of a run, from its metrics to one picture."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, MaxNLocator, PercentFormatter
from numpy.typing import NDArray

from ctp.pretext.ctp.metrics import GROUPS
from ctp.training.run_folder import Row

WINDOW_SHARE = 1 / 25
"""Share of a run's steps that a smoothed point is the mean of."""
MAX_POINTS = 4000
"""Points of a raw curve that are drawn; more would be finer than the picture."""

_COLORS = ("#2563eb", "#f97316", "#16a34a", "#a855f7", "#0891b2", "#db2777")
_INK, _FAINT = "#1f2937", "#9ca3af"
_LEGEND: dict[str, Any] = {"frameon": False, "fontsize": 8, "labelcolor": _INK}

Floats = NDArray[np.float64]


def curves_png(rows: Sequence[Row], title: str = "") -> bytes:
    """Loss, held-out score, learning rate and speed over the steps of a run, as a PNG.

    The score is top-1 accuracy where there is one, the IoU of tracked boxes else.

    Args:
        rows: as `training.run_folder.read_metrics` gives them; what they lack is left out.
        title: above all; nothing if empty.
    """
    # a Figure of its own, not pyplot: it leaves no state behind and needs no screen
    figure = Figure(figsize=(12, 7.4), dpi=110, layout="constrained", facecolor="white")
    if title:
        figure.suptitle(title, fontsize=13, fontweight="bold", color=_INK, x=0.01, ha="left")
    (loss, score), (rate, speed) = figure.subplots(2, 2)
    if any("top1" in row or "train_top1" in row for row in rows):
        _draw_loss(loss, rows, "cross-entropy")
        _draw_accuracy(score, rows)
    else:
        _draw_loss(loss, rows, "smooth L1, offsets in units of σ")
        _draw_overlap(score, rows)
    _draw_rate(rate, rows)
    _draw_speed(speed, rows)
    last = max((float(row["step"]) for row in rows), default=1.0)
    for axes in (loss, score, rate, speed):
        axes.set_xlim(0, max(last, 1.0))
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


def series(rows: Sequence[Row], name: str) -> tuple[Floats, Floats]:
    """The steps that have a value of a name, and the values, float64 [n] each."""
    found = [(float(row["step"]), float(row[name])) for row in rows if name in row]
    steps, values = np.array(found, np.float64).reshape(-1, 2).T
    return steps, values


def smooth(values: Floats, window: int) -> Floats:
    """The mean over a window around each value, cut off at the ends, float64 [n]."""
    reach = min(window, len(values)) // 2
    sums = np.concatenate([[0.0], np.cumsum(values)])
    low = np.maximum(np.arange(len(values)) - reach, 0)
    high = np.minimum(np.arange(len(values)) + reach + 1, len(values))
    mean: Floats = (sums[high] - sums[low]) / (high - low)
    return mean


def _draw_loss(axes: Axes, rows: Sequence[Row], unit: str) -> None:
    _dress(axes, "Loss", unit)
    names = {"loss": "total", "loss_center": "centre", "loss_size": "size"}
    for (name, label), color in zip(names.items(), _COLORS, strict=False):
        _raw_and_smooth(axes, *series(rows, name), label, color)
    axes.set_ylim(bottom=0)
    _legend_or_nothing(axes, "no steps yet")


def _draw_overlap(axes: Axes, rows: Sequence[Row]) -> None:
    _dress(axes, "Tracking of held-out clips", "mean IoU")
    for group, color in zip(GROUPS, _COLORS, strict=False):
        suffix = "" if group == "all" else f"_{group}"
        width = 2.4 if group == "all" else 0.9
        label = "all frames" if group == "all" else group
        for name, style in ((f"iou{suffix}", "-"), (f"still_iou{suffix}", (0, (3, 2)))):
            steps, values = series(rows, name)
            if not len(steps):
                continue
            marker = "o" if style == "-" else ""
            axes.plot(
                steps, values, color=color, linewidth=width, linestyle=style, marker=marker,
                markersize=2.5 * width**0.5, label=label if style == "-" else None,
            )  # fmt: skip
    _name_last(axes, *series(rows, "iou"), "{:.2f}")
    if axes.lines:
        axes.plot([], [], color=_FAINT, linestyle=(0, (3, 2)), label="box that stays still")
    steps, shares = series(rows, "knn_top1")
    if len(steps):
        right = _right_axis(axes, "kNN accuracy of labelled videos", _INK)
        right.plot(steps, shares, color=_INK, linewidth=1.8, marker="s", markersize=4)
        axes.plot([], [], color=_INK, marker="s", markersize=4, label="kNN accuracy")
    axes.set_ylim(0, 1)
    _legend_or_nothing(axes, "no held-out clip was tracked", loc="best", ncols=2)


def _draw_accuracy(axes: Axes, rows: Sequence[Row]) -> None:
    _dress(axes, "Accuracy", "top-1")
    _raw_and_smooth(axes, *series(rows, "train_top1"), "training clips", _COLORS[1])
    steps, values = series(rows, "top1")
    if len(steps):
        axes.plot(
            steps, values, color=_COLORS[0], linewidth=2.4, marker="o", markersize=4,
            label="held-out videos",
        )  # fmt: skip
    _name_last(axes, steps, values, "{:.1%}")
    axes.set_ylim(0, 1)
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    _legend_or_nothing(axes, "nothing was classified yet")


def _name_last(axes: Axes, steps: Floats, values: Floats, form: str) -> None:
    """Write the last value beside its point."""
    if len(steps):
        axes.annotate(
            form.format(values[-1]), (steps[-1], values[-1]), (6, 0), textcoords="offset points",
            va="center", fontsize=10, fontweight="bold", color=_COLORS[0], annotation_clip=False,
        )  # fmt: skip


def _draw_rate(axes: Axes, rows: Sequence[Row]) -> None:
    _dress(axes, "Schedule", "learning rate")
    steps, values = series(rows, "learning_rate")
    axes.plot(*_thin(steps, values), color=_COLORS[0], linewidth=1.8, label="learning rate")
    axes.set_ylim(bottom=0)
    steps, shares = series(rows, "other_clip_share")
    if len(steps):
        right = _right_axis(axes, "clips with patches of another clip", _COLORS[1])
        right.plot(steps, shares, color=_COLORS[1], linewidth=1.8, label="share of other clips")
        axes.plot([], [], color=_COLORS[1], linewidth=1.8, label="patches of another clip")
    _legend_or_nothing(axes, "no steps yet")


def _draw_speed(axes: Axes, rows: Sequence[Row]) -> None:
    _dress(axes, "Speed", "clips/s")
    steps, values = series(rows, "clips_per_second")
    waits, shares = series(rows, "wait_share")
    if len(steps):
        _raw_and_smooth(axes, steps, values, "clips/s", _COLORS[0])
        axes.set_ylim(0, 1.15 * max(float(values.max()), 1e-9))
    if len(waits):
        right = _right_axis(axes, "time spent waiting for data", _COLORS[1])
        _raw_and_smooth(right, waits, shares, "waiting", _COLORS[1])
        axes.plot([], [], color=_COLORS[1], linewidth=1.8, label="waiting for data")
    _legend_or_nothing(axes, "no speed was measured yet")


def _raw_and_smooth(axes: Axes, steps: Floats, values: Floats, label: str, color: str) -> None:
    """The values as a faint line, their moving mean as a strong one."""
    if not len(steps):
        return
    window = max(round(len(values) * WINDOW_SHARE), 1)
    axes.plot(*_thin(steps, values), color=color, linewidth=0.7, alpha=0.3)
    axes.plot(*_thin(steps, smooth(values, window)), color=color, linewidth=1.8, label=label)


def _thin(steps: Floats, values: Floats) -> tuple[Floats, Floats]:
    stride = -(-len(steps) // MAX_POINTS) or 1
    return steps[::stride], values[::stride]


def _dress(axes: Axes, title: str, unit: str) -> None:
    axes.set_title(title, loc="left", fontsize=11, fontweight="bold", color=_INK)
    axes.set_ylabel(unit, fontsize=9, color=_INK)
    axes.set_xlabel("step", fontsize=9, color=_INK)
    axes.grid(color="#e5e7eb", linewidth=0.7)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(_FAINT)
    axes.tick_params(colors=_INK, labelsize=8, length=0)
    axes.xaxis.set_major_locator(MaxNLocator(7, integer=True))
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))


def _right_axis(axes: Axes, unit: str, color: str) -> Axes:
    """A second axis of shares, from 0 to 100 %."""
    right: Axes = axes.twinx()
    right.set_ylim(0, 1.05)
    right.set_ylabel(unit, fontsize=9, color=color)
    right.yaxis.set_major_formatter(PercentFormatter(1.0))
    right.tick_params(colors=color, labelsize=8, length=0)
    right.spines[:].set_visible(False)
    return right


def _legend_or_nothing(axes: Axes, nothing: str, **place: Any) -> None:
    """The legend, above on the right unless placed; or where there is nothing to explain, why."""
    above = {"loc": "lower right", "bbox_to_anchor": (1, 0.99), "ncols": 3, "borderaxespad": 0}
    if any(len(np.atleast_1d(line.get_xdata())) for line in axes.lines):
        axes.legend(**_LEGEND, **(place or above))
    else:
        axes.text(
            0.5, 0.5, nothing, transform=axes.transAxes, ha="center", color=_FAINT, fontsize=10
        )
