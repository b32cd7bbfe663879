"""The settings of a sweep in one picture: our scores, and the paper's."""

from __future__ import annotations

from typing import Any

from matplotlib.axes import Axes

from ctp.report.figures import new_figure, style, to_png
from ctp.score import Score
from ctp.sweeps.folder import Sweep
from ctp.sweeps.scores import heading

COLUMNS = 3
LONG_NAME_CHARS = 8
"""Longer names of settings are written at a slant."""
OURS, PAPER = "tab:blue", "tab:gray"


def plot_png(sweep: Sweep) -> bytes:
    """Return a PNG with a panel for each score: means, sample standard deviations over seeds, a dot
    for each trial, and baselines; then the paper's numbers, if it has the settings."""
    shown, settings, ablation = sweep.plan.measures, sweep.plan.settings, sweep.plan.ablation
    papers = {
        name: [setting.paper_percent(*column) for setting in settings]
        for name, column in ablation.columns.items()
    }
    papers = {name: percents for name, percents in papers.items() if any(percents)}
    number = len(shown) + len(papers)
    columns = min(number, COLUMNS)
    # rounded up
    rows = -(-number // columns)
    about = f"{ablation.about} (ours at scale {sweep.plan.config.scale})"
    figure = new_figure(4.6 * columns, 3.7 * rows, about)
    panels = iter(figure.subplots(rows, columns, squeeze=False).flat)
    for score, axes in zip(shown, panels, strict=False):
        _prepare(axes, sweep, heading(score) + (" in %" if score.is_percent else ""))
        _draw(axes, sweep, score)
    for (name, percents), axes in zip(papers.items(), panels, strict=False):
        _prepare(axes, sweep, f"the paper: {name} in %")
        axes.plot(percents, "D", color=PAPER)
    # panels that are left over in the last row
    for axes in panels:
        axes.set_axis_off()
    return to_png(figure)


def _draw(axes: Axes, sweep: Sweep, score: Score) -> None:
    scale = 100 if score.is_percent else 1
    for at, setting in enumerate(sweep.plan.settings):
        own = sweep.plan.score_of(setting, score)
        values = scale * sweep.values(setting, own.key)
        baseline = scale * sweep.values(setting, own.baseline_key)
        if values.empty:
            continue
        spread = values.std() if len(values) > 1 else 0
        # beside the mean, so that its error bar does not hide them
        axes.plot([at + 0.12] * len(values), values, ".", color=PAPER)
        axes.errorbar(at, values.mean(), spread, fmt="o", color=OURS, capsize=4)
        if not baseline.empty:
            axes.plot(at, baseline.mean(), "_", color="black", markersize=24)


def _prepare(axes: Axes, sweep: Sweep, title: str) -> None:
    names = [setting.name for setting in sweep.plan.settings]
    is_long = max(map(len, names)) > LONG_NAME_CHARS
    slant: dict[str, Any] = {"rotation": 25, "ha": "right"} if is_long else {}
    style(axes, title, "", "")
    axes.set_xticks(range(len(names)), names, fontsize=8, **slant)
    axes.set_xlim(-0.5, len(names) - 0.5)
    # room for the caps of error bars
    axes.margins(y=0.18)
    axes.grid(visible=False, axis="x")
