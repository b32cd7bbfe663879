"""Which frames of a video make a clip."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ctp.video.config import SamplingConfig


def sample_frames(
    config: SamplingConfig, num_video_frames: int, rng: np.random.Generator
) -> NDArray[np.int64]:
    """Draw the frame numbers of a clip.

    The start is uniform; it is 0, and the last frame is repeated, when the video is shorter than
    the clip's span.

    Returns:
        int64 [T], never falling, each in [0, num_video_frames).
    """
    interval = rng.integers(config.min_interval_frames, config.max_interval_frames + 1)
    span = interval * (config.num_frames - 1) + 1
    start = rng.integers(max(num_video_frames - int(span), 0) + 1)
    frames = start + interval * np.arange(config.num_frames)
    if config.temporal_jitter:
        frames = frames + rng.integers(interval, size=config.num_frames)
    clip: NDArray[np.int64] = np.minimum(frames, num_video_frames - 1)
    return clip
