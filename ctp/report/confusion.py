"""The confusion matrix of a classifier as a picture."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from numpy.typing import NDArray

from ctp.report.figures import INK, new_figure, to_png
from ctp.score import format_share

NAME_LENGTH = 36
MAX_NAMED, MAX_NUMBERED = 120, 32
"""Numbers of classes up to which names are written beside the cells, and percentages in them."""
MAX_LISTED = 25
RIGHT_MAP, WRONG_MAP = "Blues", "Oranges"
NEVER, NO_VIDEOS = "#f7f8f9", "#d1d5db"


def confusion_png(counts: NDArray[np.int64], class_names: Sequence[str]) -> bytes:
    """Return `draw_confusion` as a PNG."""
    return to_png(draw_confusion(counts, class_names))


def draw_confusion(counts: NDArray[np.int64], class_names: Sequence[str]) -> Figure:
    """Draw the confusion matrix, each row in shares of its class's videos.

    Right answers are blue and wrong ones orange; a class without videos is a grey row. The most
    frequent confusions are listed beside it.

    Args:
        counts: int64 [C, C], videos by true class (row) and predicted class (column).
        class_names: C of them.
    """
    totals = counts.sum(axis=1, keepdims=True)
    # NaN for a class without videos, which is not the same as none right
    shares = np.divide(counts, totals, out=np.full(counts.shape, np.nan), where=totals > 0)
    # inches: grows with the classes, and fits on a screen for hundreds of them
    height = float(np.clip(3 + 0.3 * len(shares), 6, 12.6))
    figure = new_figure(height + 3.5, height, _summarize(counts, shares))
    axes, beside = figure.subplots(1, 2, width_ratios=(height - 1, 4))
    axes.imshow(_color(shares), interpolation="nearest")
    _label(axes, class_names)
    if len(shares) <= MAX_NUMBERED:
        for row, column in np.argwhere(shares > 0):
            share = shares[row, column]
            # readable on both ends of the map
            color = "white" if share > 0.4 else INK
            axes.text(column, row, f"{100 * share:.0f}", ha="center", va="center", color=color,
                      fontsize=min(9, 240 / len(shares)))  # fmt: skip
    _draw_key(beside)
    text = "\n".join(["grey: no videos", "", *_confusions(counts, class_names)])
    beside.text(0, 0.74, text, va="top", fontsize=8, color=INK, parse_math=False)
    return figure


def _draw_key(axes: Axes) -> None:
    """Draw what the colours mean."""
    axes.set_axis_off()
    for y, label, colors in ((0.95, "right", RIGHT_MAP), (0.82, "wrong", WRONG_MAP)):
        # drawn here, because a colour bar of matplotlib shows one map, linearly
        inset = axes.inset_axes((0, y, 1, 0.015))
        bar = _shade(np.linspace(0, 1, 200)[None], colors)
        inset.imshow(bar, aspect="auto", extent=(0, 1, 0, 1))
        inset.set_yticks([])
        inset.set_xticks([0, 0.25, 0.5, 1], ["0%", "25%", "50%", "100%"], fontsize=8)
        inset.set_title(f"{label}, share of the true class", fontsize=8, loc="left")


def _color(shares: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the colours of the cells, float64 [C, C, 3] in [0, 1]."""
    is_right = np.eye(len(shares), dtype=bool)[..., None]
    colors = np.where(is_right, _shade(shares, RIGHT_MAP), _shade(shares, WRONG_MAP))
    colors[shares == 0] = to_rgb(NEVER)
    colors[np.isnan(shares)] = to_rgb(NO_VIDEOS)
    return colors


def _shade(shares: NDArray[np.float64], name: str) -> NDArray[np.float64]:
    # by the square root: a few wrong ones among many classes stay visible
    shades: NDArray[np.float64] = colormaps[name](np.sqrt(np.nan_to_num(shares)))[..., :3]
    return shades


def _summarize(counts: NDArray[np.int64], shares: NDArray[np.float64]) -> str:
    found, total = np.diag(shares)[~np.isnan(np.diag(shares))], counts.sum()
    if not total:
        return "no videos"
    right = format_share(np.trace(counts) / total, int(total))
    return (
        f"{total:,} videos of {len(found)} classes: {right} right (chance {1 / len(counts):.1%}), "
        f"{found.mean():.1%} as the mean of classes"
    )


def _label(axes: Axes, class_names: Sequence[str]) -> None:
    axes.set_ylabel("true class", fontsize=9, color=INK)
    axes.set_xlabel("predicted class", fontsize=9, color=INK)
    number = len(class_names)
    if number <= MAX_NAMED:
        names = [_shorten(name) for name in class_names]
        # parse_math: a $ in the name of a class would start a formula
        font: dict[str, Any] = {"fontsize": min(8, 440 / number), "parse_math": False}
        axes.set_xticks(range(number), names, rotation=90, **font)
        axes.set_yticks(range(number), names, **font)


def _confusions(counts: NDArray[np.int64], class_names: Sequence[str]) -> list[str]:
    """Return the pairs of classes of which one is taken for the other, the most frequent first."""
    # without the diagonal, and as one row for each pair of classes
    wrong = pd.DataFrame(counts - np.diag(np.diag(counts))).stack()
    frequent = wrong[wrong > 0].sort_values(ascending=False, kind="stable")[:MAX_LISTED]
    totals = counts.sum(axis=1)
    lines = [
        f"{count} of {totals[true]}   {_shorten(class_names[true])} → "
        f"{_shorten(class_names[predicted])}"
        for (true, predicted), count in frequent.items()
    ]
    return ["most frequent confusions:", *lines] if lines else ["no confusions"]


def _shorten(name: str) -> str:
    """Return a name without its middle if it is too long: some differ in front, some at the end."""
    half = (NAME_LENGTH - 1) // 2
    return name if len(name) <= NAME_LENGTH else f"{name[:half]}…{name[-half:]}"
