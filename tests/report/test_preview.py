"""Pictures of clips: boxes are drawn where they are, and what is hidden looks otherwise."""

import io
import math

import av
import numpy as np
import pytest
from PIL import Image

from ctp.pretext.batches import Clip
from ctp.report.html import GAP_PX, LOOP_SECONDS, MARGIN_PX, TEXT_LINE_PX
from ctp.report.preview import (
    PREDICTED_COLOR,
    TRAJECTORY_COLORS,
    Scene,
    draw_scene,
    grid_mp4,
    grid_png,
    seen_frames,
)

GREY = 100
FIRST, SECOND = TRAJECTORY_COLORS[:2]
BOX = (20.0, 30.0, 60.0, 70.0)


def scene(boxes=(BOX,), visible=True, predicted=None, num_frames=2, size=100, caption="a clip"):
    """A grey clip whose boxes stay still."""

    def through_time(boxes):
        return np.repeat(np.array(boxes, np.float32)[:, None], num_frames, axis=1)

    return Scene(
        frames=np.full((num_frames, size, size, 3), GREY, np.uint8),
        boxes=through_time(boxes),
        visible=np.full((len(boxes), num_frames), visible),
        caption=caption,
        predicted=None if predicted is None else through_time(predicted),
    )


def is_color(pixels, color):
    return (pixels == np.array(color, np.uint8)).all(axis=-1)


def test_a_visible_box_is_a_whole_line_right_around_the_patch():
    (picture,) = draw_scene(scene(), [0], size_px=100)
    drawn = is_color(picture, FIRST)
    expected = np.zeros((100, 100), bool)
    expected[28:72, 18:62] = True  # two pixels wide at this size
    expected[30:70, 20:60] = False
    np.testing.assert_array_equal(drawn, expected)


def test_what_the_box_holds_is_left_alone_but_for_a_dark_edge():
    (picture,) = draw_scene(scene(), [0], size_px=100)
    assert (picture[31:69, 21:59] == GREY).all()
    assert (picture[30, 20:60] < GREY).all()
    assert (picture[:27] == GREY).all()


def test_boxes_grow_with_a_clip_that_is_scaled_up():
    (picture,) = draw_scene(scene(), [0], size_px=300)
    assert picture.shape == (300, 300, 3)
    ys, xs = np.nonzero(is_color(picture, FIRST))
    line = 4
    assert (xs.min(), ys.min()) == (60 - line, 90 - line)
    assert (xs.max(), ys.max()) == (180 + line - 1, 210 + line - 1)


def test_a_large_clip_is_not_scaled_down():
    (picture,) = draw_scene(scene(size=120), [0], size_px=100)
    assert picture.shape == (120, 120, 3)


def test_a_hidden_box_is_dashed_where_a_visible_one_is_solid():
    (shown,) = draw_scene(scene(), [0], size_px=300)
    (hidden,) = draw_scene(scene(visible=False), [0], size_px=300)
    solid, dashed = is_color(shown, FIRST), is_color(hidden, FIRST)
    assert 0.2 < dashed.sum() / solid.sum() < 0.6
    assert not (dashed & ~solid).any()
    left, right, y = 60, 180, 88  # along the upper edge there are dashes and gaps
    changes = np.abs(np.diff(dashed[y, left:right].astype(int))).sum()
    assert changes >= 6


def test_each_trajectory_has_a_colour_and_colours_come_in_turn():
    many = [(4.0 + 14 * i, 10.0, 12.0 + 14 * i, 20.0) for i in range(len(TRAJECTORY_COLORS) + 1)]
    (picture,) = draw_scene(scene(many), [0], size_px=100)
    for number, box in enumerate(many):
        x = int(box[0] + box[2]) // 2
        color = TRAJECTORY_COLORS[number % len(TRAJECTORY_COLORS)]
        assert tuple(picture[9, x]) == color


def test_a_perfect_prediction_is_seen_beside_the_true_box():
    (picture,) = draw_scene(scene(predicted=[BOX]), [0], size_px=300)
    assert is_color(picture, PREDICTED_COLOR)[90, 80:160].all()
    assert is_color(picture, FIRST)[87, 80:160].all()


def test_a_box_at_the_border_shows_its_line_and_one_beyond_it_does_not():
    at = scene([(0.0, 20.0, 100.0, 60.0)])
    (picture,) = draw_scene(at, [0], size_px=100)
    drawn = is_color(picture, FIRST)
    assert drawn[30:50, 0].all()
    assert drawn[30:50, 99].all()
    beyond = scene([(-30.0, 20.0, 130.0, 60.0)])
    (picture,) = draw_scene(beyond, [0], size_px=100)
    drawn = is_color(picture, FIRST)
    assert drawn[19].all()
    assert not drawn[30:50].any()


def test_a_box_out_of_the_picture_is_not_drawn():
    (picture,) = draw_scene(scene([(-50.0, -50.0, -20.0, -20.0)]), [0], size_px=100)
    assert (picture == GREY).all()


def test_drawing_leaves_the_clip_as_it_is():
    one = scene()
    draw_scene(one, [0, 1], size_px=100)
    assert (one.frames == GREY).all()


def test_the_grid_has_a_row_a_clip_and_a_column_a_frame():
    def size(rows, columns):
        data = grid_png([scene(num_frames=9)] * rows, num_columns=columns, size_px=100)
        return Image.open(io.BytesIO(data)).size

    (width, height), (wider, _), (_, higher) = size(1, 5), size(1, 6), size(3, 5)
    assert wider - width == 100 + GAP_PX
    assert higher - height == 2 * (100 + GAP_PX + TEXT_LINE_PX)
    assert 5 * 100 < width < 5 * 100 + 60


def test_the_grid_shows_each_clip_in_its_row():
    scenes = [scene([BOX], num_frames=4), scene([BOX, (70.0, 5.0, 90.0, 25.0)], num_frames=4)]
    picture = np.array(Image.open(io.BytesIO(grid_png(scenes, num_columns=4, size_px=100))))
    drawn = is_color(picture[: -3 * TEXT_LINE_PX], SECOND)  # without the legend
    rows, columns = np.nonzero(drawn)
    # the second clip alone has a second box: in its row, in each of the four columns
    assert rows.min() > picture.shape[0] // 2
    assert drawn.sum() == 4 * (24 * 24 - 20 * 20)
    assert len(np.unique(columns)) == 4 * 24


def test_a_palette_makes_the_file_smaller_and_not_another_picture():
    noise = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), np.uint8)
    one = Scene(noise, scene().boxes, scene().visible, "noise")
    whole, reduced = grid_png([one]), grid_png([one], num_colors=256)
    assert len(reduced) < 0.7 * len(whole)
    first, second = (
        np.array(Image.open(io.BytesIO(data)).convert("RGB"), np.float64)
        for data in (whole, reduced)
    )
    assert first.shape == second.shape
    assert np.abs(first - second).mean() < 16


@pytest.mark.parametrize("num_clips", [1, 2, 3])
def test_the_video_plays_all_frames_over_and_over(num_clips):
    data = grid_mp4([scene(num_frames=5)] * num_clips, size_px=100, frames_per_second=8)
    with av.open(io.BytesIO(data)) as container:
        stream = container.streams.video[0]
        frames = list(container.decode(stream))
        assert stream.codec_context.name == "h264"
        assert stream.codec_context.pix_fmt == "yuv420p"
        assert stream.average_rate == 8
    assert len(frames) == 5 * math.ceil(LOOP_SECONDS * 8 / 5)
    assert frames[0].width % 2 == frames[0].height % 2 == 0


def test_the_video_has_the_colours_of_the_boxes():
    data = grid_mp4([scene(num_frames=5)], size_px=400)
    with av.open(io.BytesIO(data)) as container:
        first = next(container.decode(video=0))
    picture = first.to_ndarray(format="rgb24").astype(np.int64)
    x, y = MARGIN_PX, MARGIN_PX + TEXT_LINE_PX
    line = picture[y + 200 - 3 : y + 200 - 1, x + 70]  # inside of no line: the box's left is at 80
    assert np.abs(line - GREY).max() < 12
    line = picture[y + 160 : y + 240, x + 80 - 3]
    assert np.abs(line - FIRST).max() < 45


def test_a_long_caption_keeps_its_end_and_fits():
    long = scene(caption="x" * 500)
    short = scene(caption="x")
    sizes = {Image.open(io.BytesIO(grid_png([each]))).size for each in (long, short)}
    assert len(sizes) == 1


def test_seen_frames_have_their_colours_changed():
    frames = np.full((2, 8, 8, 3), GREY, np.uint8)
    color = np.array([[0, 1, 0, 1], [0, 1, 20, 1]], np.float32)
    clip = Clip(frames, np.zeros((1, 2, 4), np.float32), np.ones((1, 2), bool), color, "grey")
    seen = seen_frames(clip)
    assert seen.dtype == np.uint8
    assert (seen[0] == GREY).all()
    assert (seen[1] == GREY + 20).all()
