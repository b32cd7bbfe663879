"""The settings of a sweep in one picture: our scores, and the paper's."""

from __future__ import annotations

from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ctp.report.figures import INK, new_figure, style, to_png
from ctp.score import Score
from ctp.sweeps.folder import Sweep

COLUMNS = 3
LONG_NAME_CHARS = 8
"""Longer names of settings are written at a slant."""
OURS, PAPER = "tab:blue", "tab:gray"
SAME_BASELINE = 0.005
"""Largest difference of baselines that are named as one."""
SEVERAL = "circle: mean over seeds ± standard deviation · dot: a trial · line: chance or baseline"
SINGLE = "circle: a single trial ± error of its videos or clips · line: chance or baseline"


def plot_png(sweep: Sweep) -> bytes:
    """Return `draw_sweep` as a PNG."""
    return to_png(draw_sweep(sweep))


def draw_sweep(sweep: Sweep) -> Figure:
    """Draw a panel for each score: means, their spread, a dot for each trial, and baselines; then
    the paper's numbers, if it has the settings.

    Axes start at 0, so that a difference looks as large as it is.
    """
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
    seeds = sweep.plan.config.seeds
    ours = f"ours at scale {sweep.plan.config.scale}, {seeds} seed{'s' * (seeds > 1)}"
    about = f"{ablation.about} ({ours})"
    figure = new_figure(max(4.6 * columns, 8), 3.7 * rows + 0.5, about)
    figure.supxlabel(SEVERAL if seeds > 1 else SINGLE, fontsize=8, color=INK, x=0.01, ha="left")
    panels = iter(figure.subplots(rows, columns, squeeze=False).flat)
    for score, axes in zip(shown, panels, strict=False):
        _prepare(axes, sweep, _title(sweep, score), "%" if score.is_percent else "")
        _draw(axes, sweep, score)
    for (name, percents), axes in zip(papers.items(), panels, strict=False):
        _prepare(axes, sweep, f"the paper: {name}", "%")
        axes.plot(percents, "D", color=PAPER)
        _start_at_zero(axes)
    # panels that are left over in the last row
    for axes in panels:
        axes.set_axis_off()
    return figure


def _title(sweep: Sweep, measure: Score) -> str:
    """Return the name of a score, what it is the mean of, and its baseline if all rows share it."""
    owns = [(setting, sweep.plan.score_of(setting, measure)) for setting in sweep.plan.settings]
    values = pd.concat([sweep.values(setting, own.baseline_key) for setting, own in owns])
    shared = len(values) and values.max() - values.min() < SAME_BASELINE and measure.key
    baseline = f"{measure.baseline_label} {measure.format(values.mean())}" if shared else ""
    facts = ", ".join(filter(None, [sweep.count(measure), baseline]))
    return "\n".join(filter(None, [measure.label or "held-out score", facts]))


def _draw(axes: Axes, sweep: Sweep, score: Score) -> None:
    scale = 100 if score.is_percent else 1
    for at, setting in enumerate(sweep.plan.settings):
        own = sweep.plan.score_of(setting, score)
        values = scale * sweep.values(setting, own.key)
        baseline = scale * sweep.values(setting, own.baseline_key)
        if values.empty:
            continue
        found = sweep.scores(setting, own)
        if len(values) > 1:
            spread = values.std()
            # beside the mean, so that its error bar does not hide them
            axes.plot([at + 0.12] * len(values), values, ".", color=PAPER)
        else:
            spread = scale * (own.error(found[0]) or 0)
        axes.errorbar(at, values.mean(), spread, fmt="o", color=OURS, capsize=4)
        if not baseline.empty:
            axes.plot(at, baseline.mean(), "_", color="black", markersize=24)
    _start_at_zero(axes)


def _start_at_zero(axes: Axes) -> None:
    # an axis that is cut off makes noise look like an effect
    axes.set_ylim(bottom=0)


def _prepare(axes: Axes, sweep: Sweep, title: str, unit: str) -> None:
    names = [setting.name for setting in sweep.plan.settings]
    is_long = max(map(len, names)) > LONG_NAME_CHARS
    slant: dict[str, Any] = {"rotation": 25, "ha": "right"} if is_long else {}
    style(axes, title, "", unit)
    axes.set_xticks(range(len(names)), names, fontsize=8, **slant)
    axes.set_xlim(-0.5, len(names) - 0.5)
    # room for the caps of error bars
    axes.margins(y=0.18)
    axes.grid(visible=False, axis="x")
