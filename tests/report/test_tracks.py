"""Pictures of tracked objects: boxes are where they should be, in the colours of the key."""

from __future__ import annotations

import io
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray

from ctp.report.preview import clips_mp4, clips_png
from ctp.report.tracks import (
    KEY,
    PREDICTED_COLOR,
    TRUE_COLOR,
    UNCOUNTED_COLOR,
    TrackScene,
    draw_scene,
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
        "given": np.zeros(num_frames, bool),
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
    drawn = draw_scene(scene(), CELL).frames[0]
    assert drawn.shape == (80, 120, 3)
    np.testing.assert_allclose(where(drawn, TRUE_COLOR), [20, 20, 40, 50], atol=3)
    np.testing.assert_allclose(where(drawn, PREDICTED_COLOR), [70, 20, 100, 60], atol=3)
    assert (drawn[25:45, 25:35] == GREY).all()


def test_frames_that_do_not_count_and_boxes_that_do_not_exist() -> None:
    _, uncounted, unpredicted, *_ = draw_scene(scene(), CELL).frames
    assert where(uncounted, TRUE_COLOR) is None
    assert where(uncounted, UNCOUNTED_COLOR) is not None
    assert where(unpredicted, PREDICTED_COLOR) is None
    assert where(unpredicted, TRUE_COLOR) is not None


def test_a_given_box_is_marked() -> None:
    plain, given = (
        draw_scene(scene(given=np.full(6, value)), CELL).frames[0] for value in (False, True)
    )
    assert (plain != given).any()
    (rows, columns) = (plain != given).any(axis=-1).nonzero()
    assert rows.max() < 50, "beside the true box"
    assert columns.min() > 15


def test_a_picture_of_another_shape_is_in_the_middle_of_its_cell() -> None:
    tall = scene(frames=np.full((6, 40, 20, 3), GREY, np.uint8))
    inside = (draw_scene(tall, CELL).frames[0] == GREY).all(axis=-1).any(axis=0)
    assert np.flatnonzero(inside)[[0, -1]].tolist() == [40, 79]


def test_a_part_of_a_scene() -> None:
    part = scene().part(slice(1, 6, 2), "odd")
    assert len(part.frames) == len(part.boxes) == len(part.predicted) == 3
    assert part.counted.tolist() == [False, True, True]
    assert part.caption == "odd"


def test_scenes_of_any_size_and_length_share_a_picture_and_a_video() -> None:
    scenes = [scene(4), scene(9, frames=np.full((9, 50, 20, 3), GREY, np.uint8)), scene(2)]
    drawn = [draw_scene(each, CELL) for each in scenes]
    assert clips_png(drawn, 4, KEY).startswith(b"\x89PNG")
    with av.open(io.BytesIO(clips_mp4(drawn, key=KEY, frames_per_second=10))) as container:
        assert container.streams.video[0].average_rate == 10
        assert sum(1 for _ in container.decode(video=0)) % 9 == 0
