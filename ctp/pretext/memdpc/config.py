"""Options of MemDPC."""

from __future__ import annotations

from typing import Literal

from ctp.encoders.config import EncoderConfig
from ctp.pretext.task_config import TaskConfig
from ctp.video.config import AugmentConfig, SamplingConfig


class MemdpcConfig(TaskConfig):
    """MemDPC. The defaults are those of the authors' implementation."""

    name: Literal["memdpc"] = "memdpc"
    """The pretext task."""
    sampling: SamplingConfig = SamplingConfig(num_frames=5, interval_frames=(3, 3))
    """Which frames of a video make each of the eight consecutive blocks."""
    augment: AugmentConfig = AugmentConfig(keeps_aspect_ratio=False)
    """How a clip is cropped."""

    def check_encoder(self, encoder: EncoderConfig) -> None:
        """Raise a ValueError if the encoder cannot halve its temporal stride."""
        from ctp.encoders.encoder import Encoder  # it needs torch
        from ctp.encoders.registry import ENCODERS

        able = [
            name
            for name, kind in ENCODERS.items()
            if kind.halve_temporal_stride is not Encoder.halve_temporal_stride
        ]
        if encoder.name not in able:
            raise ValueError(
                f"the encoder {encoder.name} cannot halve its temporal stride, which the task "
                f"memdpc needs for its short blocks; choose {' or '.join(able)}"
            )
