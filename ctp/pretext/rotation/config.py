"""Options of 3DRotNet."""

from __future__ import annotations

from typing import Literal

from ctp.pretext.task_config import TaskConfig
from ctp.video.config import AugmentConfig


class RotationConfig(TaskConfig):
    """3DRotNet. The defaults are those of the authors' implementation."""

    name: Literal["rotation"] = "rotation"
    """The pretext task."""
    augment: AugmentConfig = AugmentConfig(keeps_aspect_ratio=False)
    """How a clip is cropped."""
