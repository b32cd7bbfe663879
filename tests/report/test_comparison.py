"""Pictures of runs from different initial weights: what is drawn is what there is to see."""

from __future__ import annotations

import io

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from ctp.report.comparison import LinePoint, at_the_end, frozen_png, labels_png, learning_png
from ctp.training.run_folder import Row

Log = list[Row]
GREY = (0x6B, 0x72, 0x80)


def picture(png: bytes) -> NDArray[np.uint8]:
    with Image.open(io.BytesIO(png)) as image:
        return np.asarray(image.convert("RGB"))


def log(offset: float, *, steps: int = 100, every: int = 20) -> Log:
    """Loss falls and accuracy rises over the steps, tested at every so many."""
    rows: Log = []
    for step in range(1, steps + 1):
        row = {"step": step, "loss": 2 - step / steps + offset, "train_top1": step / steps}
        rows.append(row | ({} if step % every else {"top1": step / (2 * steps) + offset}))
    return rows


POINTS = [
    LinePoint(line, stages, 0.7 - 0.02 * stages - number / 10)
    for number, line in enumerate(("random", "imagenet", "pretrained"))
    for stages in (5, 0, 3)
]


def test_a_line_for_each_kind_of_initial_weights() -> None:
    whole = picture(frozen_png(POINTS, 0.45, "GOT-10k"))
    assert (whole != picture(frozen_png(POINTS[:6], 0.45, "GOT-10k"))).any()
    moved = [*POINTS[:3][::-1], *POINTS[3:]]
    np.testing.assert_array_equal(whole, picture(frozen_png(moved, 0.45, "GOT-10k")))
    assert (whole != picture(frozen_png(POINTS, 0.40, "GOT-10k"))).any()


def test_a_bar_is_as_long_as_the_spread() -> None:
    def bar_px(spread: float) -> int:
        """The most pixels of the first line's grey in a column."""
        far = [LinePoint("far", 0, 0.9), LinePoint("far", 2, 0.1)]  # they make the axis
        drawn = picture(frozen_png([LinePoint("near", 1, 0.5, spread), *far], 0.5))
        return int((drawn == GREY).all(axis=-1).sum(axis=0).max())

    assert bar_px(0.2) == pytest.approx(2 * bar_px(0.1), rel=0.05)


def test_labels_from_one_to_all() -> None:
    points = [LinePoint(line, share, share / 2) for line in "ab" for share in (0.01, 0.1, 1)]
    whole = picture(labels_png(points, "UCF-101"))
    np.testing.assert_array_equal(
        whole, picture(labels_png([*reversed(points[:3]), *points[3:]], "UCF-101"))
    )
    assert (whole != picture(labels_png(points[:5], "UCF-101"))).any()


def test_curves_lie_over_one_another() -> None:
    alone = picture(learning_png({"random": [log(0)]}))
    both = picture(learning_png({"random": [log(0)], "pretrained": [log(0.1)]}))
    several = picture(learning_png({"random": [log(-0.1), log(0.1)]}))
    assert alone.shape == both.shape
    assert (alone != both).any()
    assert (alone != several).any()  # the same mean, with a band around it


def test_a_mean_is_over_the_steps_that_all_runs_have() -> None:
    """Runs that are tested at other steps have some in common, or none."""
    for every in (40, 30, 21):
        logs = {"random": [log(0), log(0, every=every)], "pretrained": [log(0)]}
        assert picture(learning_png(logs)).any()
    assert picture(learning_png({"a": [[]], "b": [log(0)]})).any()


def test_the_end_of_a_run() -> None:
    rows: Log = [{"step": n, "loss": float(n)} for n in range(1, 101)]
    assert at_the_end(rows, "loss") == np.mean([97, 98, 99, 100])
    assert at_the_end(rows[:3], "loss") == 3
    assert at_the_end(rows, "top1") is None
