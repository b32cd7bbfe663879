"""Clips in a picture and in a video: every frame in its place, all texts inside."""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageSequence

from ctp.data.sources import open_catalog
from ctp.pretext.task import SamplePicture
from ctp.report.preview import (
    GAP_PX,
    LINE_PX,
    LOOP_SECONDS,
    clips_gif,
    clips_mp4,
    clips_png,
    encode_mp4,
    read_clip,
    slide_mp4,
    slide_png,
)
from ctp.video.config import ViewsConfig
from ctp.video.encoded import VideoError

Pixels = NDArray[np.uint8]
SIDE = 40


def clip(red: int, num_frames: int = 4, caption: str = "a clip") -> SamplePicture:
    """Frame n of clip `red` has the colour (red, n, 77) everywhere."""
    frames = np.full((num_frames, SIDE, SIDE, 3), 77, np.uint8)
    frames[..., 0] = red
    frames[..., 1] = np.arange(num_frames)[:, None, None]
    return SamplePicture(frames, caption)


def png(*clips: SamplePicture, **options: object) -> Pixels:
    return np.array(Image.open(io.BytesIO(clips_png(clips, **options))).convert("RGB"))  # type: ignore[arg-type]


def frames_of(data: bytes) -> list[Pixels]:
    with av.open(io.BytesIO(data)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


def corner(page: Pixels, *color: int) -> tuple[int, int]:
    """The upper left corner of a cell of one colour, which must be whole."""
    rows, columns = np.nonzero((page == np.array(color)).all(axis=-1))
    assert len(rows) == SIDE**2
    return int(columns.min()), int(rows.min())


def test_each_frame_is_in_its_row_and_column() -> None:
    page = png(clip(10), clip(20))
    x, y = corner(page, 10, 0, 77)
    for row, red in enumerate((10, 20)):
        for frame in range(4):
            expected = x + frame * (SIDE + GAP_PX), y + row * (SIDE + GAP_PX + LINE_PX)
            assert corner(page, red, frame, 77) == expected


@pytest.mark.parametrize(
    ("num_frames", "wanted", "shown"),
    [(16, 4, [0, 5, 10, 15]), (5, 8, [0, 1, 2, 3, 4]), (9, 2, [0, 8]), (7, 1, [0])],
)
def test_frames_are_chosen_from_the_first_to_the_last(
    num_frames: int, wanted: int, shown: list[int]
) -> None:
    page = png(clip(10, num_frames), num_columns=wanted)
    is_cell = (page[..., 0] == 10) & (page[..., 2] == 77)
    assert sorted(set(page[is_cell][:, 1].tolist())) == shown


@pytest.mark.parametrize(
    "caption", ["short", "much too long for the room " * 9, "x" * 500, "ж → é"]
)
def test_a_caption_stays_above_its_clip(caption: str) -> None:
    page, bare = png(clip(10, caption=caption)), png(clip(10, caption=""))
    assert page.shape[1] == bare.shape[1]
    _, top = corner(page, 10, 0, 77)
    assert (page[LINE_PX * 2 : top] < 128).any(), "the caption is written"
    assert (page[top + SIDE :] == 255).all()


def test_what_all_captions_share_is_written_once_below() -> None:
    page = png(clip(10, caption="one   dashed: hidden"), clip(20, caption="two   dashed: hidden"))
    alone = png(clip(10, caption="one"), clip(20, caption="two"))
    number, end = len(alone) - LINE_PX, corner(page, 20, 0, 77)[1] + SIDE
    assert len(page) == len(alone) + LINE_PX
    assert (page[:number] == alone[:number]).all(), "the captions are alike"
    assert (page[end:] < 128).any(), "the rest is below"


def test_colours_are_explained_below() -> None:
    colors = np.array([[255, 0, 0], [0, 0, 255]], np.uint8)
    page = png(clip(10), key={"less to more": colors})
    reds, blues = (np.nonzero((page == color).all(axis=-1)) for color in colors)
    assert min(reds[0]) > corner(page, 10, 0, 77)[1] + SIDE
    assert max(reds[1]) + 1 == min(blues[1])
    assert (page[min(reds[0]) : max(reds[0]), max(blues[1]) + 1 :] < 128).any(), "its text"


@pytest.mark.parametrize("num_clips", [1, 2, 3])
def test_the_video_plays_all_frames_over_and_over(num_clips: int) -> None:
    frames = frames_of(clips_mp4([clip(200, 5)] * num_clips))
    assert len(frames) == 5 * math.ceil(LOOP_SECONDS * 8 / 5)
    assert frames[0].shape[0] % 2 == frames[0].shape[1] % 2 == 0


def test_a_gif_shows_the_clips_in_a_row_over_and_over() -> None:
    colors = np.array([[(red, 60 * n, 77) for n in range(5)] for red in (200, 20)], np.uint8)
    clips = [
        SamplePicture(np.broadcast_to(own[:, None, None], (5, SIDE, SIDE, 3)), "") for own in colors
    ]
    with Image.open(io.BytesIO(clips_gif(clips))) as gif:
        assert (gif.n_frames, gif.info["loop"]) == (5, 0)
        pages = [np.array(frame.convert("RGB")) for frame in ImageSequence.Iterator(gif)]
    for number, page in enumerate(pages):
        lefts = []
        for color in colors[:, number].astype(int):
            # nearly, since a GIF has few colours
            rows, columns = np.nonzero((abs(page - color) < 8).all(axis=-1))
            assert len(rows) == SIDE**2
            lefts.append(columns.min())
        assert lefts[1] - lefts[0] == SIDE + GAP_PX


@pytest.mark.parametrize("num_clips", [1, 2, 4, 5])
def test_a_slide_is_16_to_9_and_shows_each_picture_from_its_first_to_its_last_frame(
    num_clips: int,
) -> None:
    blocks = [[clip(20 * n + 10, 8), clip(20 * n + 20, 8)] for n in range(num_clips)]
    page = np.array(Image.open(io.BytesIO(slide_png(blocks))).convert("RGB"))
    assert page.shape[1] * 9 == page.shape[0] * 16
    lefts = {}
    for block in blocks:
        for picture in block:
            red = int(picture.frames[0, 0, 0, 0])
            (x, y), (last_x, last_y) = (corner(page, red, frame, 77) for frame in (0, 7))
            assert (last_x > x, last_y) == (True, y)
            lefts[red] = x
        # the pictures of a clip are below each other
        assert len({lefts[int(each.frames[0, 0, 0, 0])] for each in block}) == 1
    frame = frames_of(slide_mp4(blocks))[0]
    assert frame.shape[1] * 9 == frame.shape[0] * 16


def test_a_short_clip_waits_for_a_long_one() -> None:
    white, black = (np.full((n, SIDE, SIDE, 3), v, np.uint8) for n, v in ((2, 255), (9, 0)))
    white[-1] = 100
    data = clips_mp4([SamplePicture(white, ""), SamplePicture(black, "")], frames_per_second=2)
    frames = frames_of(data)
    assert len(frames) == 9 * math.ceil(LOOP_SECONDS * 2 / 9)
    assert [bool((abs(frame.astype(int) - 100) < 9).mean() > 0.1) for frame in frames[:9]] == [
        False,
        *[True] * 8,
    ]


def test_the_video_can_be_played_before_it_is_complete() -> None:
    data = encode_mp4([np.zeros((32, 32, 3), np.uint8)] * 3, 8)
    assert data.index(b"moov") < data.index(b"mdat")
    with av.open(io.BytesIO(data)) as container:
        stream = container.streams.video[0]
        assert stream.codec_context.name == "h264"
        assert stream.codec_context.pix_fmt == "yuv420p"
        assert stream.average_rate == 8


def test_the_middle_frame_of_a_video(
    tmp_path: Path,
    encode_video: Callable[..., bytes],
    read_numbers: Callable[[Pixels], list[int]],
) -> None:
    (tmp_path / "a.mp4").write_bytes(encode_video(21, width=64, height=64))
    (tmp_path / "b.mp4").write_bytes(b"text")
    good, bad = open_catalog(str(tmp_path))
    middle = ViewsConfig(num_frames=1, interval_frames=1, frame_size_px=48, short_side_px=48)
    frames = read_clip(middle, good)
    assert frames.shape == (1, 48, 48, 3)
    assert read_numbers(frames) == [10]
    with pytest.raises(VideoError):
        read_clip(middle, bad)
