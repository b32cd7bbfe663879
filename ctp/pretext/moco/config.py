"""Options of MoCo."""

from __future__ import annotations

from typing import Annotated, Literal

from annotated_types import Ge

from ctp.config import NotAnOption
from ctp.pretext.task_config import TaskConfig
from ctp.video.config import AugmentConfig, SamplingConfig


class MocoConfig(TaskConfig):
    """MoCo. The defaults are those of the authors' implementation."""

    name: Literal["moco"] = "moco"
    """The pretext task."""
    sampling: SamplingConfig = SamplingConfig(interval_frames=(1, 4))
    """Which frames of a video make each of the two clips."""
    augment: AugmentConfig = AugmentConfig(keeps_aspect_ratio=False)
    """How a clip is cropped."""
    queue_size: Annotated[int, Ge(1)] = 65536
    """Keys of earlier steps that are negatives: a multiple of the batch, well below an epoch."""
    key_momentum: Annotated[float, NotAnOption()] = 0.999
    """Weight of the key encoder's old parameters in its update (MoCo's m)."""

    def check_batch(self, total_batch: int) -> None:
        """Raise a ValueError if the queue is not a multiple of the batch."""
        if self.queue_size % total_batch:
            nearest = max(self.queue_size // total_batch, 1) * total_batch
            raise ValueError(
                f"task.queue_size {self.queue_size} is not a multiple of compute.total_batch "
                f"{total_batch}; set it to {nearest}, for example"
            )
