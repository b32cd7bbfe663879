"""Views: the clips of a video that a test looks at (supplement A)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ctp.video.config import ViewsConfig
from ctp.video.decode import VideoReader
from ctp.video.planes import planes_size, scaled_crop


def view_frames(config: ViewsConfig, num_video_frames: int) -> NDArray[np.int64]:
    """Return the frame numbers of all views of a video.

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


def read_view_planes(config: ViewsConfig, reader: VideoReader) -> NDArray[np.uint8]:
    """Decode the views of a video; a frame of several views only once.

    Returns:
        uint8 [num_clips, T, 3/2 · S²], S = `config.frame_size_px`, as `planes.to_rgb` takes them.

    Raises:
        VideoError: a frame that is needed cannot be decoded.
    """
    size = config.frame_size_px
    crop = scaled_crop(config, config.short_side_px, x=0.5, y=0.5, flip=False)
    views = view_frames(config, reader.num_frames)
    # clips of a short video overlap
    needed, places = np.unique(views, return_inverse=True)
    return reader.read_square(needed.tolist(), crop, size)[places.reshape(views.shape)]


def views_shape(config: ViewsConfig) -> tuple[int, int, int]:
    """Return the shape of what `read_view_planes` returns."""
    return config.num_clips, config.num_frames, planes_size(config.frame_size_px)


def _starts(config: ViewsConfig, num_video_frames: int) -> NDArray[np.int64]:
    """Return the first frame of each clip, int64 [num_clips]."""
    number = config.num_clips
    if config.placement == "middles" or number == 1:
        # the authors' span includes the gap after a clip's last frame
        room = max(num_video_frames - config.interval_frames * config.num_frames + 1, 0)
        return (room * (2 * np.arange(number) + 1)) // (2 * number)
    span = config.interval_frames * (config.num_frames - 1) + 1
    last = max(num_video_frames - span, 0)
    return last * np.arange(number) // (number - 1)
