"""The picture of neighbours: the frames that are meant, framed by whether they are right."""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image

from ctp.report.html import GAP_PX, INK, MARGIN_PX, TEXT_LINE_PX
from ctp.report.neighbours import (
    FRAME_PX,
    RIGHT,
    WRONG,
    Row,
    Shown,
    middle_frame,
    neighbours_png,
)
from ctp.video.encoded import EncodedVideo, VideoError

SIZE = 96
CELL = SIZE + 2 * FRAME_PX


def shown(grey: int, label: str) -> Shown:
    return Shown(np.full((SIZE, SIZE, 3), grey, np.uint8), label, "0.987")


@pytest.fixture
def page() -> np.ndarray:
    """Two queries of two neighbours: the first is wrong, then right; the second wrong twice."""
    rows = [
        Row(shown(10, "run"), [shown(20, "walk"), shown(30, "run")]),
        Row(shown(40, "sit"), [shown(50, "run"), shown(60, "walk")]),
    ]
    return np.array(Image.open(io.BytesIO(neighbours_png(rows))).convert("RGB"))


def cell(page: np.ndarray, row: int, column: int) -> np.ndarray:
    """A framed picture."""
    y = MARGIN_PX + TEXT_LINE_PX + row * (CELL + 2 * TEXT_LINE_PX + GAP_PX)
    x = MARGIN_PX + column * (CELL + GAP_PX)
    return page[y : y + CELL, x : x + CELL]


def test_each_video_is_in_its_place(page: np.ndarray) -> None:
    for row, greys in enumerate([(10, 20, 30), (40, 50, 60)]):
        for column, grey in enumerate(greys):
            inside = cell(page, row, column)[FRAME_PX:-FRAME_PX, FRAME_PX:-FRAME_PX]
            assert (inside == grey).all()


def test_frames_tell_right_from_wrong(page: np.ndarray) -> None:
    colors = [(INK, WRONG, RIGHT), (INK, WRONG, WRONG)]
    for row, expected in enumerate(colors):
        for column, color in enumerate(expected):
            edge = cell(page, row, column)[2]
            share = (edge == color).all(axis=-1).mean()
            # a wrong one's frame is dashed, too
            assert 0.4 < share < 0.6 if color == WRONG else share == 1


def test_class_names_stand_below(page: np.ndarray) -> None:
    y = MARGIN_PX + TEXT_LINE_PX + CELL
    for column, color in enumerate((INK, WRONG, RIGHT)):
        x = MARGIN_PX + column * (CELL + GAP_PX)
        text = page[y : y + TEXT_LINE_PX, x : x + CELL]
        assert (text == color).all(axis=-1).any()


def test_the_middle_frame_of_a_video(
    encode_video: Callable[..., bytes], read_numbers: Callable[[np.ndarray], list[int]]
) -> None:
    video = EncodedVideo("a", "a.mp4", encode_video(21, width=64, height=64))
    picture = middle_frame(video, 48)
    assert picture.shape == (48, 48, 3)
    assert read_numbers(picture[None]) == [10]
    with pytest.raises(VideoError):
        middle_frame(EncodedVideo("b", "b.mp4", b"text"), 48)
