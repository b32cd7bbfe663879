"""Helpers of the pretext tasks of Table 4: the arrays of their clips, and the encoder's input."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from ctp.data.stream import array_field
from ctp.pretext.task_config import TaskConfig
from ctp.video.augment import RECOGNITION_COLORS, to_input
from ctp.video.planes import planes_size, to_rgb


def clip_fields(config: TaskConfig, *clips: int) -> tuple[NDArray[Any], NDArray[Any]]:
    """Declare the planes, uint8 [..., T, 3/2 · S²], and the colours, float32 [..., T, 4], of the
    clips of a sample; `clips` are the leading axes."""
    num_frames, size = config.sampling.num_frames, config.augment.frame_size_px
    return (
        array_field(np.uint8, *clips, num_frames, planes_size(size)),
        array_field(np.float32, *clips, num_frames, 4),
    )


def to_clips(config: TaskConfig, planes: Tensor, color: Tensor | None) -> Tensor:
    """Return the encoder's input, float32 [clips, 3, T, S, S], see `to_input`.

    Args:
        config: the task's config.
        planes: see `clip_fields`, with a leading B.
        color: see `clip_fields`, with a leading B; None leaves the colours as they are.
    """
    frames = to_rgb(planes, config.augment.frame_size_px).flatten(0, -5)
    return to_input(frames, None if color is None else color.flatten(0, -3), RECOGNITION_COLORS)


def frames_to_show(config: TaskConfig, planes: Tensor, color: Tensor | None) -> Tensor:
    """Return the frames that `to_clips` normalises, uint8 [B, ..., T, S, S, 3]."""
    from ctp.pretext.pictures import change_colors  # torchvision, which actors do not import

    frames = to_rgb(planes, config.augment.frame_size_px)
    if color is None:
        return frames
    changed = change_colors(frames.flatten(0, -5), color.flatten(0, -3), RECOGNITION_COLORS)
    return changed.view_as(frames)
