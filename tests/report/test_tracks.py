"""Pictures of tracked objects: boxes are where they should be, in the colours of the legend."""

from __future__ import annotations

import io
from typing import Any

import av
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from ctp.report.tracks import (
    PREDICTED_COLOR,
    TRUE_COLOR,
    UNCOUNTED_COLOR,
    TrackScene,
    draw_tracked,
    tracks_mp4,
    tracks_png,
)

CELL = (120, 80)
GREY = 90


def scene(num_frames: int = 6, **changes: Any) -> TrackScene:
    """A grey picture of half the cell's size; frame 1 does not count, frame 2 has no prediction."""
    given: dict[str, Any] = {
        "frames": np.full((num_frames, 40, 60, 3), GREY, np.uint8),
        "boxes": np.tile([10.0, 10, 20, 25], (num_frames, 1)),
        "predicted": np.tile([35.0, 10, 50, 30], (num_frames, 1)),
        "counted": np.arange(num_frames) != 1,
        "given": np.arange(num_frames) == 0,
        "caption": "a video",
    }
    given["predicted"][2:3] = np.nan
    return TrackScene(**{**given, **changes})


def where(picture: NDArray[np.uint8], color: tuple[int, int, int]) -> list[int] | None:
    """Around the pixels of a colour: left, top, right, bottom; None if there are none."""
    rows, columns = (picture == color).all(axis=-1).nonzero()
    if not len(rows):
        return None
    return [int(v) for v in (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)]


def test_boxes_are_around_what_is_in_them() -> None:
    drawn = draw_tracked(scene(), 0, CELL)
    assert drawn.shape == (80, 120, 3)
    np.testing.assert_allclose(where(drawn, TRUE_COLOR), [20, 20, 40, 50], atol=3)
    np.testing.assert_allclose(where(drawn, PREDICTED_COLOR), [70, 20, 100, 60], atol=3)
    assert (drawn[25:45, 25:35] == GREY).all()


def test_frames_that_do_not_count_and_boxes_that_are_not_there() -> None:
    uncounted, unpredicted = (draw_tracked(scene(), frame, CELL) for frame in (1, 2))
    assert where(uncounted, TRUE_COLOR) is None
    assert where(uncounted, UNCOUNTED_COLOR) is not None
    assert where(unpredicted, PREDICTED_COLOR) is None
    assert where(unpredicted, TRUE_COLOR) is not None


def test_a_picture_of_another_shape_lies_in_the_middle_of_its_cell() -> None:
    tall = scene(frames=np.full((6, 40, 20, 3), GREY, np.uint8))
    drawn = draw_tracked(tall, 0, CELL)
    inside = (drawn == GREY).all(axis=-1).any(axis=0)
    assert np.flatnonzero(inside)[[0, -1]].tolist() == [40, 79]


@pytest.mark.parametrize("number", [1, 3])
def test_a_strip_has_a_row_a_scene(number: int) -> None:
    def size(count: int) -> tuple[int, int]:
        data = tracks_png([scene()] * count, num_columns=4, cell_px=CELL)
        with Image.open(io.BytesIO(data)) as image:
            return image.size

    assert size(number)[0] >= 4 * CELL[0]
    assert size(number + 1)[1] - size(number)[1] >= CELL[1]


def test_a_part_of_a_scene() -> None:
    part = scene().part(slice(1, 6, 2), "odd")
    assert len(part.frames) == len(part.boxes) == len(part.predicted) == 3
    assert part.counted.tolist() == [False, True, True]
    assert part.caption == "odd"


def test_a_video_is_as_long_as_its_longest_scene() -> None:
    data = tracks_mp4([scene(4), scene(9), scene(2)], cell_px=CELL)
    with av.open(io.BytesIO(data)) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
        assert container.streams.video[0].average_rate == 10
    assert len(frames) == 9
    assert frames[0].shape[0] % 2 == frames[0].shape[1] % 2 == 0
    assert frames[0].shape[1] >= 2 * CELL[0]
