"""The settings of a sweep in one picture: our scores, and the paper's."""

from __future__ import annotations

import textwrap

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ctp.report.figures import INK, new_figure, style, to_png
from ctp.score import Score
from ctp.sweeps.folder import Sweep

COLUMNS = 4
NAME_CHARS = 26
"""Longer names of settings are broken into lines."""
OURS, PAPER = "tab:blue", "tab:gray"
SAME_BASELINE = 0.005
"""Largest difference of baselines that are named as one."""
SEVERAL = "circle: mean over seeds ± standard deviation · dot: a trial · dashes: chance or baseline"
SINGLE = "circle: a single trial ± error of its videos or clips · dashes: chance or baseline"


def plot_png(sweep: Sweep) -> bytes:
    """Return `draw_sweep` as a PNG."""
    return to_png(draw_sweep(sweep))


def draw_sweep(sweep: Sweep) -> Figure:
    """Draw a row for each setting, and a panel for each score: means, their spread, a dot for each
    trial, and baselines; then the paper's numbers, if it has several of the settings.

    Axes start at 0, so that a difference looks as large as it is.
    """
    shown, settings, ablation = sweep.plan.measures, sweep.plan.settings, sweep.plan.ablation
    papers = {
        name: [setting.paper_percent(*column) for setting in settings]
        for name, column in ablation.columns.items()
    }
    # a single number has nothing to be compared with
    papers = {name: each for name, each in papers.items() if sum(v is not None for v in each) > 1}
    number = len(shown) + len(papers)
    columns = min(number, COLUMNS)
    # rounded up
    rows = -(-number // columns)
    seeds = sweep.plan.config.seeds
    ours = f"ours at scale {sweep.plan.config.scale}, {seeds} seed{'s' * (seeds > 1)}"
    about = f"{ablation.about} ({ours})"
    names = [_broken(setting.name) for setting in settings]
    # a quarter of an inch for each line of a name
    lines = sum(name.count("\n") + 1 for name in names)
    figure = new_figure(max(3.2 * columns + 2, 8), (0.25 * lines + 1.2) * rows + 0.6, about)
    figure.supxlabel(SEVERAL if seeds > 1 else SINGLE, fontsize=8, color=INK, x=0.01, ha="left")
    grid = figure.subplots(rows, columns, squeeze=False, sharey=True)
    panels = iter(grid.flat)
    for score, axes in zip(shown, panels, strict=False):
        _prepare(axes, _title(sweep, score), "%" if score.is_percent else "")
        _draw(axes, sweep, score)
    for (name, percents), axes in zip(papers.items(), panels, strict=False):
        _prepare(axes, f"the paper:\n{name}", "%")
        axes.plot(percents, range(len(percents)), "D", color=PAPER)
        _start_at_zero(axes)
    # panels that are left over in the last row
    for axes in panels:
        axes.set_axis_off()
    for axes in grid[:, 0]:
        axes.set_yticks(range(len(names)), names)
        # the first setting on top
        axes.set_ylim(len(names) - 0.5, -0.5)
    return figure


def _broken(name: str) -> str:
    """Return a name in lines that are short where spaces allow it."""
    return textwrap.fill(name, NAME_CHARS, break_long_words=False, break_on_hyphens=False)


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
            # below the mean, so that its error bar does not hide them
            axes.plot(values, [at + 0.22] * len(values), ".", color=PAPER)
        else:
            spread = scale * (own.error(found[0]) or 0)
        axes.errorbar(values.mean(), at, xerr=spread, fmt="o", color=OURS, capsize=4)
        if not baseline.empty:
            axes.vlines(baseline.mean(), at - 0.4, at + 0.4, color="black", linestyle=(0, (3, 2)))
    _start_at_zero(axes)


def _start_at_zero(axes: Axes) -> None:
    # an axis that is cut off makes noise look like an effect
    axes.set_xlim(left=0)


def _prepare(axes: Axes, title: str, unit: str) -> None:
    style(axes, title, unit, "")
    # room for the caps of error bars
    axes.margins(x=0.1)
    axes.grid(visible=False, axis="y")
