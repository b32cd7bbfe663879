"""Pictures of runs from different initial weights: what is drawn depends on what is given."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from ctp.report.compare_plots import draw_learning, draw_lines
from ctp.report.figures import to_png
from ctp.score import Score
from ctp.training.run_folder import Row

SCORE = Score("iou", "mIoU", "still_iou", "still box")
POINTS = pd.DataFrame(
    [
        {"weights": line, "at": stages, "mean": 0.7 - 0.02 * stages - number / 10, "std": spread}
        for number, (line, spread) in enumerate((("random", None), ("pretrained", 0.02)))
        for stages in (5, 0, 3)
    ]
)


def log(offset: float, *, steps: int = 100, every: int = 20) -> list[Row]:
    """Loss falls and accuracy rises over the steps, tested every few."""
    rows: list[Row] = []
    for step in range(1, steps + 1):
        row = {"step": step, "loss": 2 - step / steps + offset, "train_iou": step / steps}
        rows.append(row | ({} if step % every else {"iou": step / (2 * steps) + offset}))
    return rows


def lines(figure: Figure, panel: int = 0) -> dict[str, list[tuple[float, float]]]:
    handles, labels = figure.axes[panel].get_legend_handles_labels()
    found = {}
    for handle, label in zip(handles, labels, strict=True):
        line = handle[0] if isinstance(handle, tuple) else handle
        found[label] = [tuple(point) for point in line.get_xydata().tolist()]
    return found


def test_a_line_for_each_kind_of_initial_weights_by_what_is_varied() -> None:
    found = lines(draw_lines(POINTS, SCORE, "", "stages", baseline=0.45))
    assert [at for at, _ in found["random"]] == [0, 3, 5]
    assert [mean for _, mean in found["pretrained"]] == pytest.approx([0.6, 0.54, 0.5])
    assert [y for _, y in found["still box 0.450"]] == [0.45, 0.45]


def test_six_tasks_and_random_weights_look_different() -> None:
    points = pd.DataFrame(
        [{"weights": f"task {n}", "at": 0, "mean": n / 10, "std": 0.1} for n in range(7)]
    )
    containers = draw_lines(points, SCORE, "", "stages").axes[0].containers
    looks = {(each.lines[0].get_color(), each.lines[0].get_marker()) for each in containers}
    assert len({color for color, _ in looks}) == len({marker for _, marker in looks}) == 7


def test_the_highest_and_the_lowest_are_named() -> None:
    texts = [t.get_text() for t in draw_lines(POINTS, SCORE, "", "stages").axes[0].texts]
    assert texts == ["0.700", "0.600", "0.640", "0.540", "0.600", "0.500"]


def test_a_bar_is_as_long_as_the_spread() -> None:
    (bars,) = [
        container.lines[2][0].get_segments()
        for container in draw_lines(POINTS, SCORE, "", "stages").axes[0].containers
        if container.get_label() == "pretrained"
    ]
    assert [bar[1][1] - bar[0][1] for bar in bars] == pytest.approx([0.04] * 3)


def test_shares_are_shown_in_percent_on_a_logarithmic_axis() -> None:
    points = POINTS.assign(at=POINTS["at"].map({5: 1.0, 0: 0.01, 3: 0.1}))
    figure = draw_lines(points, SCORE, "", "labels", is_share=True)
    figure.draw_without_rendering()
    axes = figure.axes[0]
    assert axes.get_xscale() == "log"
    assert [label.get_text() for label in axes.get_xticklabels()] == ["1%", "10%", "100%"]


def test_curves_are_means_with_a_band() -> None:
    figure = draw_learning({"random": [log(-0.1), log(0.1)], "alone": [log(0)]}, SCORE)
    test = lines(figure, 1)
    np.testing.assert_allclose(test["random"], test["alone"])
    assert len(figure.axes[1].collections) == 2, "a band around test and training scores"


def test_a_mean_is_over_the_steps_that_all_runs_have() -> None:
    figure = draw_learning({"random": [log(0), log(0, every=30)], "b": [log(0)]}, SCORE)
    assert [step for step, _ in lines(figure, 1)["random"]] == [60]
    for logs in ({"random": [log(0), log(0, every=21)]}, {"a": [[]], "b": [log(0)]}):
        assert to_png(draw_learning(logs, SCORE)).startswith(b"\x89PNG")
