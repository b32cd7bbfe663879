"""Helpers of all plots: their style, series of a run's log, and smoothing."""

from __future__ import annotations

import io
from collections.abc import Sequence

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, MaxNLocator

from ctp.score import Score
from ctp.training.run_folder import Row

INK, FAINT, GRID = "#1f2937", "#9ca3af", "#e5e7eb"
COLORS = (
    "#2563eb", "#f97316", "#16a34a", "#a855f7", "#0891b2", "#854d0e", "#4b5563", "#db2777",
)  # fmt: skip
MARKERS = ("s", "^", "o", "D", "v", "X", "<", "P")
DASHED = (0, (3, 2))
WINDOW_SHARE = 1 / 25
"""Share of a run's log lines in the window of the moving mean."""
MAX_POINTS = 4000
"""Points of a curve; more would be finer than the picture."""


def new_figure(width: float, height: float, title: str = "") -> Figure:
    """Return an empty figure of a size in inches; it needs no screen and leaves no state."""
    # not pyplot, whose list of open figures grows and which picks a backend by the screen
    figure = Figure(figsize=(width, height), dpi=110, layout="constrained", facecolor="white")
    if title:
        figure.suptitle(title, fontsize=12, fontweight="bold", color=INK, x=0.01, ha="left")
    return figure


def to_png(figure: Figure) -> bytes:
    """Return a figure as a PNG."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


def style(axes: Axes, title: str, horizontal: str, vertical: str) -> None:
    """Give a plot its title, the names of its axes, and the look of all plots."""
    axes.set_title(title, loc="left", fontsize=11, fontweight="bold", color=INK)
    axes.set_xlabel(horizontal, fontsize=9, color=INK)
    axes.set_ylabel(vertical, fontsize=9, color=INK)
    axes.grid(color=GRID, linewidth=0.7)
    # the grid behind the curves
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(colors=INK, labelsize=8, length=0)


def style_steps(axes: Axes) -> None:
    """Label a horizontal axis of steps."""
    axes.set_xlim(left=0)
    axes.xaxis.set_major_locator(MaxNLocator(7, integer=True))
    # 20k instead of 20000
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))


def style_score(axes: Axes, score: Score) -> None:
    """Label a vertical axis with values of a score, in its unit."""
    axes.yaxis.set_major_formatter(lambda value, _: score.format(value))


def series(rows: Sequence[Row], name: str) -> pd.Series[float]:
    """Return the values of an entry of a run's log by their steps; rows without it are left out."""
    found = {int(row["step"]): float(row[name]) for row in rows if name in row}
    return pd.Series(found, dtype=float)


def smooth(values: pd.Series[float]) -> pd.Series[float]:
    """Return the mean over a window around each value, cut off at the ends."""
    # centred, or the curve would lag behind its values
    return values.rolling(window(values), center=True, min_periods=1).mean()


def window(values: pd.Series[float]) -> int:
    """Return the length of the window of the moving mean."""
    return max(round(len(values) * WINDOW_SHARE), 1)


def thin(values: pd.Series[float]) -> pd.Series[float]:
    """Return at most `MAX_POINTS` of the values, evenly chosen."""
    # rounded up; 1 if there are no values
    return values.iloc[:: -(-len(values) // MAX_POINTS) or 1]
