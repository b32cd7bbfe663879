"""Options of VCOP."""

from __future__ import annotations

from typing import Annotated, Literal

from annotated_types import Ge, Le

from ctp.pretext.task_config import TaskConfig
from ctp.video.config import AugmentConfig, SamplingConfig


class VcopConfig(TaskConfig):
    """VCOP. The defaults are those of the authors' implementation, the crop aside."""

    name: Literal["vcop"] = "vcop"
    """The pretext task."""
    sampling: SamplingConfig = SamplingConfig(interval_frames=(1, 1))
    """Which frames of a video make one of the clips."""
    augment: AugmentConfig = AugmentConfig(
        short_sides_px=(128,), keeps_aspect_ratio=False, flip_prob=0.0
    )
    """How the clips are cropped."""
    num_clips: Annotated[int, Ge(2), Le(4)] = 3
    """Clips of a video; the classes are their orders."""
    gap_frames: Annotated[int, Ge(0)] = 8
    """Frames of the video between two clips."""
    crop_per: Literal["clip", "sample"] = "clip"
    """Whether each clip has its own crop, as in the original, or all have the same."""
