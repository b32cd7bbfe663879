"""Plots of runs from different initial weights: their score over what is varied (Fig. 3 and 4),
and how they learn (Fig. 6)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from ctp.report import figures
from ctp.score import Score
from ctp.training.run_folder import Row


def draw_lines(
    points: pd.DataFrame,
    score: Score,
    title: str,
    horizontal: str,
    *,
    is_share: bool = False,
    baseline: float | None = None,
) -> Figure:
    """Draw scores over what is varied, a line for each kind of initial weights.

    Args:
        points: columns "weights", "at", "mean", and "std", NaN for one run.
        score: the score, in whose unit the values are shown.
        title: above the lines.
        horizontal: name of what is varied.
        is_share: whether that is a share, shown in percent on a logarithmic axis.
        baseline: score of a trivial answer, as a dashed line.
    """
    figure = figures.new_figure(9.2, 4.8)
    axes = figure.subplots()
    figures.style(axes, title, horizontal, score.label)
    for number, (name, line) in enumerate(points.groupby("weights", sort=False, observed=True)):
        own = line.sort_values("at")
        color, marker = (each[number % len(each)] for each in (figures.COLORS, figures.MARKERS))
        axes.errorbar(
            own["at"], own["mean"], own["std"], color=color, marker=marker, linewidth=2,
            capsize=4, elinewidth=1.2, label=str(name),
        )  # fmt: skip
    for _, column in points.groupby("at"):
        _name_extremes(axes, column.sort_values("mean"), score)
    if baseline is not None:
        label = f"{score.baseline_label} {score.format(baseline)}"
        axes.axhline(baseline, color="black", linewidth=1, linestyle=figures.DASHED, label=label)
    if is_share:
        axes.set_xscale("log")  # a few labels matter most
        axes.xaxis.set_major_formatter(FuncFormatter(lambda share, _: f"{100 * share:g}%"))
    axes.xaxis.set_major_locator(FixedLocator(sorted(points["at"].unique())))
    # a logarithmic axis has minor ticks, whose labels would overlap ours
    axes.xaxis.set_minor_locator(NullLocator())
    # room for the numbers above and below the points
    axes.margins(y=0.12)
    figures.style_score(axes, score)
    # beside the lines, which would hide parts of it or be hidden
    axes.legend(
        frameon=False, fontsize=9, title="initial weights", loc="upper left", bbox_to_anchor=(1, 1)
    )
    return figure


def _name_extremes(axes: Axes, ranked: pd.DataFrame, score: Score) -> None:
    """Write the highest value above its point, and the lowest below: there is no room between."""
    named = [(ranked.iloc[-1], 1), (ranked.iloc[0], -1)][: len(ranked)]
    for point, side in named:
        spread = 0 if pd.isna(point["std"]) else point["std"]
        axes.annotate(
            score.format(point["mean"]), (point["at"], point["mean"] + side * spread),
            (0, 7 * side), textcoords="offset points", ha="center",
            va="bottom" if side > 0 else "top", fontsize=8, color=figures.INK,
        )  # fmt: skip


def draw_learning(
    logs: Mapping[str, Sequence[Sequence[Row]]], score: Score, title: str = ""
) -> Figure:
    """Draw loss and score over steps, a colour for each kind of initial weights.

    Lines are means over runs, with a band of their sample standard deviation.

    Args:
        logs: name of the initial weights -> the log of each run.
        score: the score.
        title: above the plots.
    """
    figure = figures.new_figure(12, 4.4, title)
    left, right = figure.subplots(1, 2)
    figures.style(left, "Training loss", "step", "loss")
    figures.style(right, score.label, "step", score.label)
    for number, (name, runs) in enumerate(logs.items()):
        color, marker = (each[number % len(each)] for each in (figures.COLORS, figures.MARKERS))
        _plot_mean(
            left, [figures.smooth(figures.series(rows, "loss")) for rows in runs], color, label=name
        )
        training = [figures.smooth(figures.series(rows, f"train_{score.key}")) for rows in runs]
        _plot_mean(right, training, color, linewidth=0.9, alpha=0.6)
        test = [figures.series(rows, score.key) for rows in runs]
        _plot_mean(right, test, color, label=name, marker=marker, markersize=4)
    # an entry of the legend that explains the thin lines
    right.plot([], [], color=figures.INK, linewidth=0.9, alpha=0.6, label="training clips (thin)")
    left.set_ylim(bottom=0)
    right.set_ylim(0, 1)
    figures.style_score(right, score)
    for axes in (left, right):
        figures.style_steps(axes)
        axes.legend(frameon=False, fontsize=8, loc="best")
    return figure


def _plot_mean(axes: Axes, runs: Sequence[pd.Series[float]], color: str, **look: Any) -> None:
    """Plot the mean of runs over the steps that all have."""
    # a mean over fewer runs would make a step in the curve where one of them ends
    values = pd.concat(runs, axis=1, join="inner").sort_index()
    mean, spread = figures.thin(values.mean(axis=1)), figures.thin(values.std(axis=1))
    if not len(mean):
        return
    axes.plot(mean, color=color, **{"linewidth": 2, **look})
    if len(runs) > 1:
        axes.fill_between(mean.index, mean - spread, mean + spread, color=color, alpha=0.15, lw=0)
