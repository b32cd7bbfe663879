"""A picture of query videos and their nearest neighbours."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from matplotlib.axes import Axes

from ctp.downstream.retrieval import Retrieval
from ctp.report.figures import FAINT, INK, new_figure, to_png
from ctp.report.preview import Pixels
from ctp.score import format_share

RIGHT_COLOR, WRONG_COLOR = "#15803d", "#be123c"
MEANING = "frames: solid green, of the query's class; dashed red, of another class"
MAX_TEXT = 24
SHARES_SHOWN = 2
"""Accuracies in the title, of the smallest numbers of neighbours."""


class Shown(NamedTuple):
    """A video in the picture.

    Attributes:
        picture: uint8 [S, S, 3].
        label: class name.
        note: text below, e.g. its similarity.
    """

    picture: Pixels
    label: str
    note: str


class Row(NamedTuple):
    """A query and its neighbours, the nearest first."""

    query: Shown
    neighbours: Sequence[Shown]


def describe_retrieval(found: Retrieval, number: int) -> str:
    """Return the accuracies of a retrieval of `number` queries, with those of chance."""
    shares = (
        f"{format_share(share, number)} at {k} (chance {found.chance[k]:.1%})"
        for k, share in found.accuracy.items()
    )
    return f"{number} queries: {', '.join([*shares][:SHARES_SHOWN])}"


def neighbours_png(rows: Sequence[Row], title: str = "") -> bytes:
    """Return a PNG with a row for each query; frames show which neighbours have its class.

    Args:
        rows: at least one; all have the same number of neighbours.
        title: above the pictures.
    """
    columns = 1 + len(rows[0].neighbours)
    # inches, so that a pixel of the pictures is about one of the figure
    cell = rows[0].query.picture.shape[0] / 110 + 0.1
    figure = new_figure(columns * cell, len(rows) * (cell + 0.4) + 0.8, title)
    figure.supxlabel(MEANING, fontsize=8, color=INK, x=0.01, ha="left")
    grid = figure.subplots(len(rows), columns, squeeze=False)
    for axes, row in zip(grid, rows, strict=True):
        for column, shown in enumerate((row.query, *row.neighbours)):
            is_right = shown.label == row.query.label
            color = INK if not column else RIGHT_COLOR if is_right else WRONG_COLOR
            _draw(axes[column], shown, color, "solid" if is_right else (0, (2, 1)))
    for column, axes in enumerate(grid[0]):
        axes.set_title(f"nearest {column}" if column else "query", fontsize=8, color=FAINT)
    return to_png(figure)


def _draw(axes: Axes, shown: Shown, color: str, dashes: str | tuple[int, tuple[int, int]]) -> None:
    axes.imshow(shown.picture)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set(edgecolor=color, linewidth=3, linestyle=dashes, capstyle="butt")
    text = "\n".join(
        # the end of an id distinguishes it; its beginning is often the folder of all
        each if len(each) <= MAX_TEXT else f"…{each[-MAX_TEXT:]}"
        for each in shown[1:]
    )
    axes.set_xlabel(text, fontsize=7, color=color, parse_math=False)
