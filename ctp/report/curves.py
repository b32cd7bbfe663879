"""The curves of a run: loss, score, schedule and speed over its steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from ctp.report import figures
from ctp.score import Score
from ctp.training.run_folder import Row

KNN, WAIT = "knn_top1", "wait_share"


def curves_png(rows: Sequence[Row], score: Score) -> bytes:
    """Return `draw_curves` as a PNG."""
    return figures.to_png(draw_curves(rows, score))


def draw_curves(rows: Sequence[Row], score: Score) -> Figure:
    """Draw loss, score, schedule and speed over the steps of a run.

    Beside the score are its baseline, its values on training clips ("train_…"), its values on parts
    of the clips (its name and a suffix), and the accuracy of nearest neighbours. Beside the
    learning rate are the shares that the task logs.

    Args:
        rows: of the run's log; entries that are missing are not drawn.
        score: the score of the run.
    """
    figure = figures.new_figure(12, 7.4)
    loss, quality, schedule, speed = figure.subplots(2, 2).flat
    _draw_loss(loss, rows, score)
    _draw_score(quality, rows, score)
    _draw_schedule(schedule, rows)
    _draw_speed(speed, rows)
    for axes in (loss, quality, schedule, speed):
        # from 0, so that curves of several runs can be compared by eye
        axes.set_ylim(bottom=0)
        figures.style_steps(axes)
        _add_legend(axes)
    return figure


def _draw_loss(axes: Axes, rows: Sequence[Row], score: Score) -> None:
    figures.style(axes, "Loss", "step", "loss")
    for name, color in zip(("loss", *score.loss_parts), figures.COLORS, strict=False):
        _plot_smooth(axes, rows, name, color)


def _draw_score(axes: Axes, rows: Sequence[Row], score: Score) -> None:
    figures.style(axes, f"Held-out {score.label}", "step", score.label)
    _plot_parts(axes, rows, score)
    _plot_smooth(axes, rows, f"train_{score.key}", figures.COLORS[-1], "training clips")
    _plot_shares(axes, rows, {KNN: "accuracy of nearest neighbours"}, figures.INK)
    axes.set_ylim(0, 1)
    figures.style_score(axes, score)


def _draw_schedule(axes: Axes, rows: Sequence[Row]) -> None:
    figures.style(axes, "Schedule", "step", "learning rate")
    _plot(axes, figures.series(rows, "learning_rate"), figures.COLORS[0], "learning rate")
    names = dict.fromkeys(name for row in rows for name in row if name.endswith("_share"))
    _plot_shares(axes, rows, {n: n.replace("_", " ") for n in names if n != WAIT})


def _draw_speed(axes: Axes, rows: Sequence[Row]) -> None:
    figures.style(axes, "Speed", "step", "clips/s")
    _plot_smooth(axes, rows, "clips_per_second", figures.COLORS[0], "clips/s")
    _plot_shares(axes, rows, {WAIT: "time spent waiting for data"})


def _plot_parts(axes: Axes, rows: Sequence[Row], score: Score) -> None:
    """Plot the score, its parts by suffix, and of each the baseline, dashed."""
    names = dict.fromkeys(n for row in rows for n in row if n.startswith(f"{score.key}_"))
    for suffix, color in zip(
        ["", *(name.removeprefix(score.key) for name in names)], figures.COLORS, strict=False
    ):
        width = 0.9 if suffix else 2.4
        values = figures.series(rows, score.key + suffix)
        label = suffix.strip("_").replace("_", " ") or "held-out clips"
        _plot(axes, values, color, label, linewidth=width, marker="o", markersize=2 * width**0.5)
        if score.baseline_key:
            baseline = figures.series(rows, score.baseline_key + suffix)
            label = "" if suffix else score.baseline_label
            _plot(axes, baseline, color, label, linewidth=width, linestyle=figures.DASHED)
    # its value is beside the curve, where the legend cannot say it
    for row in [row for row in rows if score.key in row][-1:]:
        axes.annotate(
            score.describe_value(row).replace(" ±", "\n±"), (row["step"], row[score.key]), (6, 0),
            textcoords="offset points", va="center", fontsize=10, fontweight="bold",
            color=figures.COLORS[0], annotation_clip=False,
        )  # fmt: skip


def _plot_shares(
    axes: Axes, rows: Sequence[Row], labels: Mapping[str, str], color: str = figures.COLORS[1]
) -> None:
    """Plot shares, name -> label, on an axis of percent on the right, if there are any."""
    found = {
        label: values for name, label in labels.items() if len(values := figures.series(rows, name))
    }
    if not found:
        return
    # an axis of its own: shares would be flat lines beside clips/s
    right = axes.twinx()
    for (label, values), style_ in zip(found.items(), ("-", "--", ":", "-."), strict=False):
        right.plot(
            figures.thin(figures.smooth(values)), color=color, linestyle=style_, linewidth=1.8
        )
        # twin axes have a legend each, one over the other; an empty line puts this one into the
        # first
        axes.plot([], [], color=color, linestyle=style_, label=label)
    # a share of 1 would lie under the upper border
    right.set_ylim(0, 1.05)
    right.set_ylabel(", ".join(found), fontsize=9, color=color)
    right.yaxis.set_major_formatter(PercentFormatter(1.0))
    right.tick_params(colors=color, labelsize=8, length=0)
    right.spines[:].set_visible(False)


def _plot_smooth(axes: Axes, rows: Sequence[Row], name: str, color: str, label: str = "") -> None:
    """Plot values as a faint line, their moving mean as a strong line."""
    values = figures.series(rows, name)
    _plot(axes, values, color, "", linewidth=0.7, alpha=0.3)
    _plot(axes, figures.smooth(values), color, label or name.replace("_", " "))


def _plot(axes: Axes, values: pd.Series[float], color: str, label: str, **options: Any) -> None:
    if len(values):
        look: dict[str, Any] = {"linewidth": 1.8, "label": label or None, **options}
        axes.plot(figures.thin(values), color=color, **look)


def _add_legend(axes: Axes) -> None:
    if not axes.lines:
        axes.text(
            0.5, 0.5, "no values yet", transform=axes.transAxes, ha="center", color=figures.FAINT
        )
        return
    look: dict[str, Any] = {"frameon": False, "fontsize": 8, "labelcolor": figures.INK}
    if len(axes.get_legend_handles_labels()[0]) > 3:
        axes.legend(loc="best", ncols=2, **look)
    else:  # in the line of the title
        axes.legend(loc="lower right", bbox_to_anchor=(1, 0.99), ncols=3, borderaxespad=0, **look)
