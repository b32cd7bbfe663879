"""The rows of a sweep in one picture: ours by score, and the paper's."""

from __future__ import annotations

import io
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ctp.report.papers import DATASETS
from ctp.sweeps.folder import Sweep
from ctp.sweeps.scores import PAPERS_DATASETS
from ctp.sweeps.table import Measure, measures, paper_percent

COLUMNS = 3
LONG = 8
"""Names of rows that are longer are written at a slant."""
_INK, _GRID, _OURS, _PAPER, _FAINT = "#1f2937", "#e5e7eb", "#2563eb", "#6b7280", "#9ca3af"


def plot_png(sweep: Sweep) -> bytes:
    """A panel for each score, its mean and sample standard deviation over seeds, with a dot for
    each trial; then the paper's numbers, if it has the rows. A PNG."""
    shown = measures(sweep.plan)
    papers = [d for d in PAPERS_DATASETS if any(_papers(sweep, d))]
    columns = min(len(shown) + len(papers), COLUMNS)
    rows = -(-(len(shown) + len(papers)) // columns)
    figure = Figure(
        figsize=(4.6 * columns, 3.7 * rows), dpi=110, layout="constrained", facecolor="white"
    )
    title = f"{sweep.plan.ablation.about} (ours at scale {sweep.plan.config.scale})"
    figure.suptitle(title, fontsize=12, fontweight="bold", color=_INK, x=0.01, ha="left")
    panels = iter(figure.subplots(rows, columns, squeeze=False).flat)
    for measure, axes in zip(shown, panels, strict=False):
        _draw_ours(axes, sweep, measure)
    for dataset, axes in zip(papers, panels, strict=False):
        _draw_papers(axes, sweep, dataset)
    for axes in panels:
        axes.set_axis_off()
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


def _draw_ours(axes: Axes, sweep: Sweep, measure: Measure) -> None:
    _dress(axes, sweep, measure.heading.partition(" (")[0])
    scale = 100 if measure.in_percent else 1
    has_baseline = False
    for at, cell in enumerate(sweep.plan.cells):
        mean, beside = measure.of(sweep, cell), sweep.values(cell, measure.baseline)
        if mean is None:
            axes.annotate("none", (at, 0.02), xycoords=("data", "axes fraction"), ha="center",
                          fontsize=8, color=_FAINT)  # fmt: skip
            continue
        values = sweep.values(cell, measure.key)
        axes.plot([at + 0.12] * len(values), [scale * v for v in values], ".", color=_FAINT)
        axes.errorbar(
            at, scale * mean.value, scale * (mean.spread or 0), color=_OURS, marker="o",
            markersize=7, capsize=4,
        )  # fmt: skip
        if beside:
            has_baseline = True
            level = scale * sum(beside) / len(beside)
            axes.plot([at - 0.3, at + 0.3], [level, level], color=_INK, linestyle=(0, (3, 2)))
    if has_baseline:
        name = measure.heading.partition(" (")[2].rstrip(")")
        axes.plot([], [], color=_INK, linestyle=(0, (3, 2)), label=name)
        axes.legend(frameon=False, fontsize=8)


def _draw_papers(axes: Axes, sweep: Sweep, dataset: str) -> None:
    _dress(axes, sweep, f"the paper: fine-tuned top-1 %, {DATASETS[dataset]}")
    found = [(at, value) for at, value in enumerate(_papers(sweep, dataset)) if value is not None]
    axes.plot(*zip(*found, strict=True), "D", color=_PAPER, markersize=7)
    for at, value in found:
        axes.annotate(f"{value:.1f}", (at, value), (0, 7), textcoords="offset points",
                      ha="center", fontsize=8, color=_INK)  # fmt: skip


def _papers(sweep: Sweep, dataset: str) -> list[float | None]:
    return [paper_percent(cell, dataset) for cell in sweep.plan.cells]


def _dress(axes: Axes, sweep: Sweep, title: str) -> None:
    names = [cell.name for cell in sweep.plan.cells]
    slant: dict[str, Any] = {"rotation": 25, "ha": "right"} if max(map(len, names)) > LONG else {}
    axes.set_title(title, loc="left", fontsize=10, color=_INK)
    axes.set_xticks(range(len(names)), names, fontsize=8, **slant)
    axes.set_xlim(-0.5, len(names) - 0.5)
    axes.margins(y=0.18)
    axes.grid(axis="y", color=_GRID)
    axes.set_axisbelow(True)
    axes.tick_params(colors=_INK, labelsize=8, length=0)
    axes.spines[["top", "right"]].set_visible(False)
