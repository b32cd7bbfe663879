"""Options of SpeedNet."""

from __future__ import annotations

from typing import Literal

from ctp.pretext.task_config import TaskConfig
from ctp.video.config import SamplingConfig


class SpeedConfig(TaskConfig):
    """SpeedNet. The defaults are those of the authors' implementation."""

    name: Literal["speed"] = "speed"
    """The pretext task."""
    sampling: SamplingConfig = SamplingConfig(interval_frames=(1, 1))
    """Which frames of a video make a clip at normal speed."""
    classes: Literal["seven", "original"] = "seven"
    """Predict one of seven speeds: 1, 2 and 4 times, forwards or backwards, and a still picture; or
    one of the original's two, normal and about twice as fast, with a clip of each in a sample."""
