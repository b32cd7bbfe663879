"""Views: the clips of a video that are tested on."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from ctp.video.config import ViewsConfig
from ctp.video.decode import VideoReader
from ctp.video.encoded import EncodedVideo, VideoError
from ctp.video.planes import Crop, to_rgb
from ctp.video.views import read_view_planes, view_frames, views_shape

SMALL = ViewsConfig(
    num_clips=3, num_frames=4, interval_frames=2, frame_size_px=48, short_side_px=64
)


def read(config: ViewsConfig, video: EncodedVideo) -> np.ndarray:
    with VideoReader(video) as reader:
        return read_view_planes(config, reader)


def test_clips_go_from_the_first_frame_to_the_last() -> None:
    # a clip spans 7 of 17 frames
    assert view_frames(SMALL, 17).tolist() == [[0, 2, 4, 6], [5, 7, 9, 11], [10, 12, 14, 16]]


@pytest.mark.parametrize("num_video_frames", [16, 17, 25, 29, 100, 301])
def test_starts_are_vcops(num_video_frames: int) -> None:
    """VCOP's retrieval takes 16 frames in a row about each of 10 even points."""
    config = ViewsConfig(interval_frames=1)
    centres = np.linspace(16 / 2, num_video_frames - 16 / 2, 10)
    expected = [int(centre - 16 / 2) for centre in centres]
    assert view_frames(config, num_video_frames)[:, 0].tolist() == expected


@pytest.mark.parametrize("num_video_frames", [1, 31, 32, 40, 77, 300])
@pytest.mark.parametrize("num_clips", [1, 10])
def test_middles_are_the_authors(num_video_frames: int, num_clips: int) -> None:
    """CtP's published sampler: the middles of equal parts of all starts."""
    config = ViewsConfig(num_clips=num_clips, placement="middles")
    tick = (num_video_frames - 16 * 2 + 1) / num_clips
    starts = [int(tick / 2 + tick * i) if tick > 0 else 0 for i in range(num_clips)]
    expected = np.minimum(np.array(starts)[:, None] + np.arange(0, 32, 2), num_video_frames - 1)
    assert (view_frames(config, num_video_frames) == expected).all()


@pytest.mark.parametrize("placement", ["ends", "middles"])
def test_a_single_clip_is_in_the_middle(placement: str) -> None:
    config = SMALL.replace(num_clips=1, placement=placement)
    assert view_frames(config, 17).tolist() == [[5, 7, 9, 11]]


@pytest.mark.parametrize("placement", ["ends", "middles"])
def test_a_short_video_repeats_its_last_frame(placement: str) -> None:
    config = SMALL.replace(placement=placement)
    assert view_frames(config, 4).tolist() == 3 * [[0, 2, 3, 3]]
    assert view_frames(config, 1).tolist() == 3 * [[0, 0, 0, 0]]


@pytest.mark.parametrize("placement", ["ends", "middles"])
@pytest.mark.parametrize("num_video_frames", [1, 2, 16, 31, 32, 77, 1000])
def test_frame_numbers_never_fall_and_stay_in_the_video(
    num_video_frames: int, placement: str
) -> None:
    views = view_frames(ViewsConfig().replace(placement=placement), num_video_frames)
    assert views.dtype == np.int64
    assert views.shape == (10, 16)
    assert (np.diff(views, axis=1) >= 0).all()
    assert (np.diff(views, axis=0) >= 0).all()
    assert views.min() >= 0
    assert views.max() < num_video_frames


@pytest.mark.parametrize("width_px", [64, 96])
def test_pixels_are_those_of_the_frames(
    width_px: int,
    encode_video: Callable[..., bytes],
    read_numbers: Callable[[np.ndarray], list[int]],
) -> None:
    config = SMALL.replace(short_side_px=48)  # all of the shorter side, or no number is seen
    video = EncodedVideo("a", "a.mp4", encode_video(17, width=width_px, height=64))
    planes = read(config, video)
    assert planes.shape == views_shape(config)
    views = to_rgb(torch.from_numpy(planes), 48).numpy()
    assert views.shape == (3, 4, 48, 48, 3)
    assert views.dtype == np.uint8
    if width_px == 64:
        assert [read_numbers(clip) for clip in views] == view_frames(config, 17).tolist()
    with VideoReader(video) as reader:
        whole = reader.read(range(17), short_side_px=48)
    left = (whole.shape[2] - 48) // 2
    square = whole[view_frames(config, 17)][..., left : left + 48, :].astype(int)
    assert np.abs(square - views).mean() < 4


def test_a_frame_of_several_clips_is_decoded_once(
    encode_video: Callable[..., bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[list[int]] = []
    read_square = VideoReader.read_square

    def spy(reader: VideoReader, indices: list[int], crop: Crop, size_px: int) -> np.ndarray:
        asked.append(indices)
        return read_square(reader, indices, crop, size_px)

    monkeypatch.setattr(VideoReader, "read_square", spy)
    read(SMALL, EncodedVideo("a", "a.mp4", encode_video(9)))
    assert asked == [[0, 1, 2, 3, 4, 5, 6, 7, 8]]


def test_a_file_that_is_not_a_video_is_reported() -> None:
    with pytest.raises(VideoError, match="'a'"):
        read(SMALL, EncodedVideo("a", "a.mp4", b"this is text"))


def test_a_clip_larger_than_the_picture_is_refused() -> None:
    with pytest.raises(ValidationError, match="frame_size_px 64 exceeds short_side_px 48"):
        ViewsConfig(frame_size_px=64, short_side_px=48)
