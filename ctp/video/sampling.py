"""Which frames of a video make a clip."""

from __future__ import annotations

from typing import Annotated, Self

import numpy as np
from annotated_types import Ge
from numpy.typing import NDArray
from pydantic import model_validator

from ctp.config import Config


class SamplingConfig(Config):
    """The frames of a clip. The defaults are the paper's (§5.1)."""

    num_frames: Annotated[int, Ge(2)] = 16
    """T, frames in a clip."""
    min_interval_frames: Annotated[int, Ge(1)] = 1
    """Least distance between frames of a clip, in frames of the video."""
    max_interval_frames: Annotated[int, Ge(1)] = 5
    """Greatest distance; each between the two is as likely."""
    temporal_jitter: bool = False
    """Whether each frame is moved by less than an interval (the authors' implementation)."""
    min_video_frames: Annotated[int, Ge(1)] = 2
    """A video with fewer frames is quarantined: it shows no motion."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.min_interval_frames > self.max_interval_frames:
            raise ValueError(
                f"min_interval_frames {self.min_interval_frames} exceeds max_interval_frames "
                f"{self.max_interval_frames}"
            )
        return self


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
