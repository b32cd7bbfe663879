"""The confusion matrix: a case counted by hand, and a picture of any size."""

import io

import numpy as np
import pytest
from PIL import Image

from ctp.report import scores
from ctp.report.scores import (
    ClassScore,
    Confusion,
    class_scores,
    class_table,
    confusion_png,
    confusions,
)

NAMES = ("Jump", "Run", "Sit", "Wave")
COUNTS = np.array([[3, 1, 0, 0], [0, 2, 0, 4], [1, 0, 4, 0], [0, 0, 0, 0]])


def picture(counts, names, title=""):
    with Image.open(io.BytesIO(confusion_png(counts, names, title))) as image:
        return np.asarray(image.convert("RGB"))


def named(count):
    return [f"class {i}" for i in range(count)]


def random_counts(num_classes):
    rng = np.random.default_rng(num_classes)
    wrong = rng.random((num_classes, num_classes)) < 2 / num_classes
    return wrong + rng.integers(1, 9, num_classes) * np.eye(num_classes, dtype=np.int64)


def test_classes_are_scored_as_counted_by_hand():
    assert class_scores(COUNTS, NAMES) == [
        ClassScore("Jump", 3, 4, "Run", 1),
        ClassScore("Run", 2, 6, "Wave", 4),
        ClassScore("Sit", 4, 5, "Jump", 1),
        ClassScore("Wave", 0, 0, None, 0),
    ]
    assert [score.accuracy for score in class_scores(COUNTS, NAMES)] == [3 / 4, 2 / 6, 4 / 5, None]


def test_confusions_come_by_their_number_then_by_their_share():
    assert confusions(COUNTS) == [
        Confusion(true=1, predicted=3, count=4, total=6),
        Confusion(true=0, predicted=1, count=1, total=4),
        Confusion(true=2, predicted=0, count=1, total=5),
    ]
    assert confusions(np.diag([3, 4])) == []


def test_the_table_has_the_worst_class_first_and_those_without_videos_last():
    assert class_table(COUNTS, NAMES).splitlines() == [
        "| class | videos | right | accuracy | most often taken for |",
        "|---|--:|--:|--:|---|",
        "| Run | 6 | 2 | 33.3% | Wave (4) |",
        "| Jump | 4 | 3 | 75.0% | Run (1) |",
        "| Sit | 5 | 4 | 80.0% | Jump (1) |",
        "| Wave | 0 | 0 | – |  |",
    ]


def test_a_bar_in_a_name_does_not_end_its_cell():
    assert r"| a\|b | 1 |" in class_table(np.diag([1, 1]), ["a|b", "c"])


@pytest.mark.parametrize("num_classes", [1, 2, 12, 155, 156, 400])
def test_any_number_of_classes_makes_a_picture_that_a_screen_shows(num_classes):
    height, width, _ = picture(random_counts(num_classes), named(num_classes), "a run").shape
    assert 200 < height < 2000
    assert 200 < width < 2500


def cell_color(image, matrix_corner, cell_px, row, column):
    """Near a cell's upper left, where no number is written."""
    x, y = matrix_corner
    return tuple(int(v) for v in image[y + cell_px * row + 3, x + cell_px * column + 3])


def test_each_cell_has_the_colour_of_its_share():
    image, cell_px = picture(COUNTS, NAMES), scores._cell_px(4)
    grey = np.argwhere((image == scores._NO_VIDEOS).all(axis=2))
    # the last class has no videos: its row is grey from the matrix's left on, under three others
    y, x = grey.min(axis=0) - 1  # a line between cells
    corner = (int(x), int(y) - 3 * cell_px)
    right, wrong = (scores._colors(np.linspace(0, 1, 61), name) for name in ("Blues", "Oranges"))

    def at(row, column):
        return cell_color(image, corner, cell_px, row, column)

    assert at(0, 0) == tuple(right[45])  # 3 of 4
    assert at(1, 1) == tuple(right[20])  # 2 of 6
    assert at(2, 2) == tuple(right[48])  # 4 of 5
    assert at(1, 3) == tuple(wrong[40])  # 4 of 6
    assert at(2, 0) == tuple(wrong[12])  # 1 of 5
    assert at(0, 3) == scores._NEVER
    assert at(3, 0) == at(3, 3) == scores._NO_VIDEOS


def test_what_is_more_often_wrong_is_darker():
    shades = scores._colors(np.linspace(0, 1, 11), "Oranges").astype(int).sum(axis=1)
    assert (np.diff(shades) < 0).all()


def test_names_give_way_to_numbers_and_numbers_in_cells_to_nothing():
    def texts(num_classes):
        return scores._label_texts(named(num_classes), scores._cell_px(num_classes))

    assert texts(3) == ["class 0", "class 1", "class 2"]
    assert texts(155)[-1] == "class 154"
    assert [text for text in texts(400) if text][:2] == ["25", "50"]
    assert texts(400)[25] == "25"


def test_a_long_name_loses_its_middle_and_the_picture_its_width_to_no_name():
    long = "pretending to put something " * 9 + "next to something"
    short = scores._shortened(long)
    assert len(short) <= 36
    assert short.startswith("pretending to")
    assert short.endswith("something")
    height, width, _ = picture(random_counts(9), [f"{long} {i}" for i in range(9)]).shape
    assert width < 1500
    assert height < 800


def test_the_confusions_beside_the_matrix_name_both_classes():
    cell_px = scores._cell_px(400)
    counts = np.diag(np.full(400, 5))
    assert scores._confusion_lines(counts, named(400), cell_px, 9) == ["none is taken for another"]
    counts[7, 300] = 2
    lines = scores._confusion_lines(counts, named(400), cell_px, 9)
    assert lines[1:] == ["2 of 7   class 7 (7) → class 300 (300)"]
    assert scores._confusion_lines(COUNTS, NAMES, 40, 1)[1:] == ["4 of 6   Run → Wave"]


def test_the_line_above_says_both_accuracies():
    assert scores._summary(COUNTS) == (
        "15 videos of 3 classes: 60.0% right, 62.8% as the mean of classes"
    )
    assert scores._summary(np.zeros((2, 2), np.int64)) == "no videos"


@pytest.mark.parametrize(
    ("counts", "names", "said"),
    [
        (np.zeros((2, 3), np.int64), NAMES[:2], r"\[2, 3\] for 2 class names"),
        (COUNTS, NAMES[:3], r"\[4, 4\] for 3 class names"),
        (np.zeros((0, 0), np.int64), (), "one name at least"),
        (np.array([[1, -1], [0, 1]]), NAMES[:2], "from -1 on"),
        (np.array([[0.5, 0.5], [0, 1]]), NAMES[:2], "float64"),
    ],
)
def test_what_is_no_confusion_matrix_is_refused(counts, names, said):
    for function in (class_scores, class_table, confusion_png):
        with pytest.raises(ValueError, match=said):
            function(counts, names)
