"""Figures as tables for a terminal, and as JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table

from ctp.bench.timing import Figures, Timing


def figure_table(title: str, columns: Sequence[Figures]) -> Table:
    """Return a table with a column for each of `columns` and a row for each figure.

    A `Timing` is shown as its median. Series are left out. All columns have the same figures.
    """
    first, *names = columns[0]
    table = Table(title=title, title_justify="left")
    table.add_column(first, no_wrap=True)
    for figures in columns:
        table.add_column(str(figures[first]), justify="right", overflow="fold")
    for name in names:
        values = [figures[name] for figures in columns]
        # series over time are in the JSON file alone
        if not any(isinstance(value, list | tuple) for value in values):
            table.add_row(name.replace("_", " "), *map(_text, values))
    return table


def to_json(results: Mapping[str, Any]) -> str:
    """Return results as JSON; a `Timing` becomes its figures."""
    return json.dumps(results, indent=1, ensure_ascii=False, default=Timing.figures)


def _text(value: object) -> str:
    if isinstance(value, Timing):
        value = value.median
    if value is None:
        return "–"
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
