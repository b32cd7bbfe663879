"""Curves of a run: smoothing, and a picture of whatever rows there are."""

import io

import matplotlib
import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from ctp.report import curves
from ctp.report.curves import MAX_POINTS, curves_png, series, smooth


def training_row(step):
    return {
        "step": step,
        "clips": 16 * step,
        "loss": 2 / step,
        "loss_center": 1.5 / step,
        "loss_size": 0.5 / step,
        "learning_rate": 0.01,
    }


SPEED = {"clips_per_second": 30.0, "wait_share": 0.2}
HEALTH = {"iou": 0.7, "still_iou": 0.5, "iou_far": 0.6, "still_iou_far": 0.4}
ACCURACY = {"train_top1": 0.5, "top1": 0.25}


def rows(num_steps, *extras):
    return [training_row(step) | {k: v for e in extras for k, v in e.items()}
            for step in range(1, num_steps + 1)]  # fmt: skip


@pytest.mark.parametrize(
    "given",
    [
        [],
        rows(1),
        rows(40),
        rows(40, SPEED),
        rows(40, SPEED, HEALTH),
        rows(3, SPEED, HEALTH, {"other_clip_share": 1.0}),
        [*rows(30), training_row(31) | HEALTH],
        rows(2 * MAX_POINTS + 1, SPEED),
        rows(40, SPEED, ACCURACY),
        [*rows(9), training_row(10) | {"train_top1": 0.5}],
    ],
    ids=[
        "none",
        "one",
        "no health",
        "speed",
        "health",
        "curriculum",
        "one look",
        "many",
        "accuracy",
        "no test yet",
    ],
)
def test_any_rows_make_a_picture(given):
    with Image.open(io.BytesIO(curves_png(given, "a run"))) as picture:
        assert picture.format == "PNG"
        assert picture.width > picture.height > 600


def test_more_is_drawn_where_there_is_more(monkeypatch):
    figures = []
    monkeypatch.setattr(curves, "Figure", lambda **k: figures.append(Figure(**k)) or figures[-1])
    curves_png(rows(40))
    curves_png(rows(40, SPEED, HEALTH, {"other_clip_share": 0.5}))
    bare, full = ({axes.get_ylabel() for axes in figure.axes} for figure in figures)
    assert "clips with patches of another clip" in full - bare
    assert "time spent waiting for data" in full - bare
    said = [text.get_text() for axes in figures[0].axes for text in axes.texts]
    assert "no held-out clip was tracked" in said
    said = [text.get_text() for axes in figures[1].axes for text in axes.texts]
    assert said == ["0.70"]


def test_a_run_that_classifies_shows_its_accuracy_where_one_that_tracks_shows_its_iou(monkeypatch):
    figures = []
    monkeypatch.setattr(curves, "Figure", lambda **k: figures.append(Figure(**k)) or figures[-1])
    for row in (ACCURACY, {"train_top1": 0.5}, HEALTH):
        curves_png([{"step": 1, "loss": 2.0} | row, {"step": 2, "loss": 1.0} | row])
    tested, untested, tracked = (
        {axes.get_title(loc="left"): axes for axes in figure.axes} for figure in figures
    )
    lines = {line.get_label(): line for line in tested["Accuracy"].lines}
    np.testing.assert_array_equal(lines["held-out videos"].get_xydata(), [[1, 0.25], [2, 0.25]])
    np.testing.assert_array_equal(lines["training clips"].get_xydata(), [[1, 0.5], [2, 0.5]])
    assert [text.get_text() for text in tested["Accuracy"].texts] == ["25.0%"]
    assert tested["Loss"].get_ylabel() == "cross-entropy"
    assert "held-out videos" not in {line.get_label() for line in untested["Accuracy"].lines}
    assert "Accuracy" not in tracked
    assert tracked["Loss"].get_ylabel().startswith("smooth L1")


def test_the_picture_of_the_same_rows_is_the_same_and_no_state_is_left():
    before = dict(matplotlib.rcParams)
    assert curves_png(rows(20, SPEED, HEALTH)) == curves_png(rows(20, SPEED, HEALTH))
    assert dict(matplotlib.rcParams) == before


def test_a_series_passes_over_rows_without_the_value():
    steps, values = series([{"step": 1}, {"step": 2, "iou": 0.5}, {"step": 3, "iou": 0.75}], "iou")
    np.testing.assert_array_equal(steps, [2, 3])
    np.testing.assert_array_equal(values, [0.5, 0.75])
    assert series([], "iou")[0].shape == (0,)


def test_a_smoothed_value_is_the_mean_of_its_neighbours():
    np.testing.assert_allclose(smooth(np.array([0.0, 3, 6, 3, 0]), 3), [1.5, 3, 4, 3, 1.5])
    np.testing.assert_allclose(smooth(np.array([1.0, 2, 4]), 1), [1, 2, 4])
    np.testing.assert_allclose(smooth(np.full(50, 7.0), 9), 7)
    assert smooth(np.array([]), 5).shape == (0,)
