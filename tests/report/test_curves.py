"""Curves of a run: smoothing, and what is drawn of any task's log."""

from __future__ import annotations

import matplotlib
import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes

from ctp.report.curves import curves_png, draw_curves
from ctp.report.figures import MAX_POINTS, series, smooth
from ctp.score import Score
from ctp.training.run_folder import Row

TASK = Score("overlap", "tracking", "still_overlap", "standing still", ("loss_a", "loss_b"))
ACCURACY = Score("top1", "top-1", is_percent=True)
SPEED = {"clips_per_second": 30.0, "wait_share": 0.2}
SCORES = {"overlap": 0.7, "still_overlap": 0.5, "overlap_far": 0.6, "still_overlap_far": 0.4}


def rows(num_steps: int, **extra: float) -> list[Row]:
    return [
        {"step": step, "loss": 2 / step, "loss_a": 1.5 / step, "learning_rate": 0.01, **extra}
        for step in range(1, num_steps + 1)
    ]


def panels(given: list[Row], score: Score) -> dict[str, Axes]:
    axes = draw_curves(given, score).axes
    return {title: each for each in axes if (title := each.get_title(loc="left"))}


def labels(axes: Axes) -> list[str]:
    return axes.get_legend_handles_labels()[1]


def texts(axes: Axes) -> list[str]:
    return [text.get_text() for text in axes.texts]


@pytest.mark.parametrize(
    "given",
    [[], rows(1), rows(40, **SPEED), [*rows(30), *rows(1, **SCORES)], rows(2 * MAX_POINTS + 1)],
    ids=["none", "one", "speed", "one score", "many"],
)
def test_any_rows_make_the_same_picture_each_time_and_leave_no_state(given: list[Row]) -> None:
    before = dict(matplotlib.rcParams)
    picture = curves_png(given, TASK)
    assert picture.startswith(b"\x89PNG")
    assert picture == curves_png(given, TASK)
    assert dict(matplotlib.rcParams) == before


def test_the_score_is_beside_its_baseline_and_its_parts() -> None:
    axes = panels(rows(9, **SCORES), TASK)["Held-out tracking"]
    assert labels(axes) == ["held-out clips", "standing still", "far"]
    assert texts(axes) == ["0.700"]
    by_style = {line.get_linestyle(): float(line.get_ydata()[-1]) for line in axes.lines[::-1]}
    assert by_style == {"-": 0.7, "--": 0.5}


def test_the_loss_is_beside_its_parts() -> None:
    assert labels(panels(rows(9), TASK)["Loss"]) == ["loss", "loss a"]
    assert labels(panels(rows(9, train_top1=0.5), ACCURACY)["Loss"]) == ["loss"]


def test_a_classifier_shows_its_accuracy_on_training_clips() -> None:
    axes = panels(rows(9, top1=0.25, train_top1=0.5), ACCURACY)["Held-out top-1"]
    assert labels(axes) == ["held-out clips", "training clips"]
    assert texts(axes) == ["25.0%"]


def test_what_is_not_logged_is_not_drawn() -> None:
    bare, full = panels(rows(9), TASK), panels(rows(9, other_clip_share=0.5, **SPEED), TASK)
    assert texts(bare["Speed"]) == texts(bare["Held-out tracking"]) == ["no values yet"]
    assert labels(full["Speed"]) == ["clips/s", "time spent waiting for data"]
    assert labels(bare["Schedule"]) == ["learning rate"]
    assert labels(full["Schedule"]) == ["learning rate", "other clip share"]


def test_neighbours_are_shown_if_they_are_scored() -> None:
    axes = panels(rows(9, knn_top1=0.5, **SCORES), TASK)["Held-out tracking"]
    assert "accuracy of nearest neighbours" in labels(axes)


def test_a_series_leaves_out_rows_without_the_value() -> None:
    values = series([{"step": 1}, {"step": 2, "iou": 0.5}, {"step": 3, "iou": 0.75}], "iou")
    assert values.to_dict() == {2: 0.5, 3: 0.75}
    assert len(series([], "iou")) == 0


@pytest.mark.parametrize(("number", "window"), [(5, 1), (75, 3), (250, 10)])
def test_a_smoothed_value_is_the_mean_of_its_window(number: int, window: int) -> None:
    values = pd.Series(np.random.default_rng(0).random(number))
    smoothed = smooth(values)
    middle = number // 2
    low = middle - window // 2
    assert smoothed[middle] == pytest.approx(values[low : low + window].mean())
    np.testing.assert_allclose(smooth(pd.Series(np.full(number, 7.0))), 7)
