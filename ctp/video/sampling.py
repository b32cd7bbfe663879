"""Draw the frames of a clip."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ctp.video.config import SamplingConfig

MIN_VIDEO_FRAMES = 2
"""A video with fewer frames is quarantined: it shows no motion."""


def sample_frames(
    config: SamplingConfig,
    num_video_frames: int,
    rng: np.random.Generator,
    *,
    temporal_jitter: bool = False,
) -> NDArray[np.int64]:
    """Draw the frame numbers of a clip.

    The start is uniform. If the video is shorter than the clip's span, the start is 0 and the last
    frame is repeated.

    Args:
        config: how many frames, and how far apart.
        num_video_frames: frames of the video, at least 1.
        rng: source of randomness.
        temporal_jitter: move each frame by less than an interval (the authors' implementation).

    Returns:
        int64 [T], never falling, each in [0, num_video_frames).
    """
    low, high = config.interval_frames
    interval = rng.integers(low, high + 1)
    span = interval * (config.num_frames - 1) + 1
    # + 1, since integers leaves out its upper end
    start = rng.integers(max(num_video_frames - int(span), 0) + 1)
    frames = start + interval * np.arange(config.num_frames)
    if temporal_jitter:
        # by less than the interval, so that the numbers never fall
        frames = frames + rng.integers(interval, size=config.num_frames)
    clip: NDArray[np.int64] = np.minimum(frames, num_video_frames - 1)
    return clip
