"""Views: the clips of a video that are looked at when something is tested (supplement A)."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray

from ctp.isolation import working_on
from ctp.video.config import ViewsConfig
from ctp.video.decode import VideoReader
from ctp.video.encoded import EncodedVideo
from ctp.video.guarded import Guarded
from ctp.video.planes import Crop, to_rgb


def view_frames(config: ViewsConfig, num_video_frames: int) -> NDArray[np.int64]:
    """The frame numbers of all views of a video.

    Where the video is shorter than a clip's span, each clip starts at 0 and repeats the last
    frame.

    Args:
        config: which views.
        num_video_frames: frames of the video, at least 1.

    Returns:
        int64 [num_clips, T], never falling along a clip, each in [0, num_video_frames).
    """
    clip = config.interval_frames * np.arange(config.num_frames)
    frames = _starts(config, num_video_frames)[:, None] + clip
    views: NDArray[np.int64] = np.minimum(frames, num_video_frames - 1)
    return views


def read_views(config: ViewsConfig, video: EncodedVideo) -> NDArray[np.uint8]:
    """Decode the views of a video; a frame that several have, once.

    Returns:
        uint8 [num_clips, T, S, S, 3], RGB, S = `config.frame_size_px`.

    Raises:
        VideoError: it is not a video, has no frame, or one that is needed cannot be decoded.
    """
    planes, places = _read(config, video)
    frames: NDArray[np.uint8] = to_rgb(torch.from_numpy(planes), config.frame_size_px).numpy()
    return frames[places]


def read_view_planes(config: ViewsConfig, video: EncodedVideo) -> NDArray[np.uint8]:
    """As `read_views`, but of half the size: planes, uint8 [num_clips, T, 3/2 · S²], that
    `pixels.to_rgb` takes on any device."""
    planes, places = _read(config, video)
    return planes[places]


def guarded_views(
    config: ViewsConfig, video_seconds: float
) -> Guarded[EncodedVideo, NDArray[np.uint8]]:
    """`read_view_planes` in a child process: a video that crashes it, or takes longer, costs
    itself."""
    return Guarded(partial(_reader, config), video_seconds=video_seconds)


def _reader(config: ViewsConfig) -> Callable[[EncodedVideo], NDArray[np.uint8]]:
    torch.set_num_threads(1)  # such processes are what there are many of

    def read(video: EncodedVideo) -> NDArray[np.uint8]:
        with working_on(video.id):
            return read_view_planes(config, video)

    return read


def _read(config: ViewsConfig, video: EncodedVideo) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """The frames needed, uint8 [N, 3/2 · S²], and which is where, int64 [num_clips, T]."""
    size = config.frame_size_px
    crop = Crop(size / config.short_side_px, x=0.5, y=0.5, flip=False)
    with VideoReader(video) as reader:
        views = view_frames(config, reader.num_frames)
        needed, places = np.unique(views, return_inverse=True)
        return reader.read_square(needed.tolist(), crop, size), places.reshape(views.shape)


def _starts(config: ViewsConfig, num_video_frames: int) -> NDArray[np.int64]:
    """The first frame of each clip, int64 [num_clips]."""
    number = config.num_clips
    if config.placement == "middles" or number == 1:
        # the authors count a clip's last frame with the gap that follows it
        room = max(num_video_frames - config.interval_frames * config.num_frames + 1, 0)
        return (room * (2 * np.arange(number) + 1)) // (2 * number)
    span = config.interval_frames * (config.num_frames - 1) + 1
    last = max(num_video_frames - span, 0)
    return last * np.arange(number) // (number - 1)
