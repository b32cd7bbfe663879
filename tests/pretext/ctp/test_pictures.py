"""Pictures of samples: boxes are drawn where they are, and hidden ones look different."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.colors import to_rgb
from numpy.typing import NDArray

from ctp.pretext.ctp.pictures import PATCH_COLORS, PREDICTED_LINE, draw_samples
from ctp.pretext.task import SamplePicture

GREY = 100
FIRST, SECOND = PATCH_COLORS[:2]
BOX = (20.0, 30.0, 60.0, 70.0)


def draw(
    *boxes: tuple[float, ...],
    visible: bool = True,
    predicted: tuple[float, ...] | None = None,
    color: Any = None,
    size: int = 100,
    side: int = 300,
) -> SamplePicture:
    """A grey clip of two frames whose boxes stay still."""
    frames = torch.full((1, 2, size, size, 3), GREY, dtype=torch.uint8)
    true = torch.tensor(boxes)[None, :, None].expand(1, -1, 2, 4)
    found = None if predicted is None else torch.tensor(predicted).expand_as(true)
    samples = SimpleNamespace(boxes=true, visible=torch.full(true.shape[:3], visible))
    (picture,) = draw_samples(frames, samples, color, found, side)
    return picture


def has(picture: SamplePicture, color: str) -> NDArray[np.bool_]:
    wanted = (255 * np.array(to_rgb(color))).round()
    return np.asarray((picture.frames[0] == wanted).all(axis=-1))


def around(mask: NDArray[np.bool_]) -> list[int]:
    rows, columns = mask.nonzero()
    return [int(v) for v in (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)]


@pytest.mark.parametrize("side", [100, 300])
def test_a_box_is_a_line_right_around_the_patch(side: int) -> None:
    picture = draw(BOX, side=side)
    scale, line = side / 100, max(side // 75, 2)
    assert picture.frames.shape == (2, side, side, 3)
    x1, y1, x2, y2 = (scale * end for end in BOX)
    expected = [x1 - line, y1 - line, x2 + line, y2 + line]
    np.testing.assert_allclose(around(has(picture, FIRST)), expected, atol=1)
    inside = picture.frames[0][int(y1) + 3 : int(y2) - 3, int(x1) + 3 : int(x2) - 3]
    assert (inside == GREY).all(), "the patch is not covered"


def test_a_large_clip_is_not_scaled_down() -> None:
    assert draw(BOX, size=120, side=100).frames.shape == (2, 120, 120, 3)


def test_a_hidden_box_is_dashed_where_a_visible_one_is_solid() -> None:
    solid, dashed = (has(draw(BOX, visible=visible), FIRST) for visible in (True, False))
    assert 0.3 < dashed.sum() / solid.sum() < 0.8
    along_the_top = dashed[88, 60:180]
    assert np.abs(np.diff(along_the_top.astype(int))).sum() >= 6


def test_each_patch_has_a_colour_and_colours_are_used_in_turn() -> None:
    many = [(4.0 + 14 * i, 10.0, 12.0 + 14 * i, 20.0) for i in range(len(PATCH_COLORS) + 1)]
    picture = draw(*many)
    for number, (x1, y1, x2, _) in enumerate(many):
        top = picture.frames[0][int(3 * y1) - 2, int(1.5 * (x1 + x2))]
        color = PATCH_COLORS[number % len(PATCH_COLORS)]
        np.testing.assert_array_equal(top, np.round(255 * np.array(to_rgb(color))))


def test_a_perfect_prediction_is_visible_beside_the_true_box() -> None:
    picture = draw(BOX, predicted=BOX)
    assert has(picture, FIRST)[87, 80:160].all()
    # inside it, a white line
    assert has(picture, PREDICTED_LINE)[90:97, 80:160].any(axis=0).all()
    # and a tint of the patch's colour, through which the patch is seen
    inside, color = picture.frames[0][150, 120], 255 * np.array(to_rgb(FIRST))
    np.testing.assert_allclose(inside, 0.64 * GREY + 0.36 * color, atol=2)
    assert picture.caption.startswith("IoU 1.00 (still 1.00)")


def test_the_caption_has_the_overlap_and_that_of_the_still_box() -> None:
    half = draw(BOX, predicted=(20.0, 30.0, 60.0, 50.0)).caption
    assert half.startswith("IoU 0.50 (still 1.00)")
    assert "IoU" not in draw(BOX).caption


def test_a_box_at_the_border_shows_its_line_and_one_beyond_does_not() -> None:
    at, beyond = draw((0.0, 20.0, 100.0, 60.0)), draw((-30.0, 20.0, 130.0, 60.0))
    for column in (1, 298):
        assert has(at, FIRST)[90:150, column].all()
        assert not has(beyond, FIRST)[90:150, column].any()
    assert has(beyond, FIRST)[57, 10:290].all()
    assert (draw((-50.0, -50.0, -20.0, -20.0)).frames == GREY).all()


def test_frames_are_drawn_in_the_colours_that_the_encoder_sees() -> None:
    color = torch.tensor([[[0.0, 1, 0, 1], [0, 1, 20, 1]]])
    picture = draw(BOX, color=color)
    assert picture.frames[:, 0, 0, 0].tolist() == [GREY, GREY + 20]
