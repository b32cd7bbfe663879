"""The confusion matrix: a case counted by hand, and a picture of any size."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from matplotlib import colormaps
from matplotlib.figure import Figure
from PIL import Image

from ctp.report.confusion import RIGHT_MAP, WRONG_MAP, confusion_png, draw_confusion

NAMES = ("Jump", "Run", "Sit", "Wave")
COUNTS = np.array([[3, 1, 0, 0], [0, 2, 0, 4], [1, 0, 4, 0], [0, 0, 0, 0]])


def texts(figure: Figure) -> str:
    return "\n".join(text.get_text() for axes in figure.axes for text in axes.texts)


def random_counts(num_classes: int) -> Any:
    rng = np.random.default_rng(num_classes)
    wrong = rng.random((num_classes, num_classes)) < 2 / num_classes
    return wrong + rng.integers(1, 9, num_classes) * np.eye(num_classes, dtype=np.int64)


def test_each_cell_has_the_colour_of_its_share() -> None:
    cells = draw_confusion(COUNTS, NAMES).axes[0].images[0].get_array()
    assert cells is not None
    for (row, column), name, share in (
        ((0, 0), RIGHT_MAP, 3 / 4),
        ((1, 1), RIGHT_MAP, 2 / 6),
        ((1, 3), WRONG_MAP, 4 / 6),
        ((2, 0), WRONG_MAP, 1 / 5),
    ):
        np.testing.assert_allclose(cells[row, column], colormaps[name](share**0.5)[:3])
    assert (cells[3] == cells[3, 0]).all(), "a class without videos is grey"
    assert (cells[3, 0] != cells[0, 3]).any()


def test_confusions_are_listed_by_their_number() -> None:
    lines = [line for line in texts(draw_confusion(COUNTS, NAMES)).splitlines() if "→" in line]
    assert lines == ["4 of 6   Run → Wave", "1 of 4   Jump → Run", "1 of 5   Sit → Jump"]
    assert "no confusions" in texts(draw_confusion(np.diag([3, 4]), NAMES[:2]))


def test_both_accuracies_and_chance_are_above() -> None:
    def title(counts: Any, names: Sequence[str]) -> str:
        return draw_confusion(counts, names).get_suptitle()

    assert title(COUNTS, NAMES) == (
        "15 videos of 3 classes: 60.0% ± 12.3% right (chance 25.0%), 62.8% as the mean of classes"
    )
    assert title(np.zeros((2, 2), np.int64), NAMES[:2]) == "no videos"


@pytest.mark.parametrize("num_classes", [1, 12, 155])
def test_any_number_of_classes_fits_on_a_screen(num_classes: int) -> None:
    names = [f"pretending to put {'something ' * 9}{i}" for i in range(num_classes)]
    with Image.open(io.BytesIO(confusion_png(random_counts(num_classes), names))) as image:
        assert 200 < image.height < 2000
        assert 200 < image.width < 2500


def test_a_long_name_loses_its_middle() -> None:
    long = "pretending to put something " * 9 + "next to something"
    figure = draw_confusion(random_counts(2), [long, "b"])
    shown = figure.axes[0].get_yticklabels()[0].get_text()
    assert len(shown) <= 36
    assert shown.startswith("pretending to")
    assert shown.endswith("something")
