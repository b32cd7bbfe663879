"""The base of every task's config, and the config field that holds the config of any task.

They are not in the tasks' files because processes that only hold a config must not import torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

from ctp.config import Config, OneOf
from ctp.video.config import AugmentConfig, SamplingConfig


class TaskConfig(Config):
    """Base of every task's config. A subclass narrows `name` to a Literal."""

    name: str
    """The pretext task."""
    sampling: SamplingConfig = SamplingConfig()
    """Which frames of a video make a clip."""
    augment: AugmentConfig = AugmentConfig()
    """How a clip is cropped and varied."""

    def check_batch(self, total_batch: int) -> None:
        """Raise a ValueError if the task cannot learn from batches of `total_batch` samples."""


def _choices() -> Mapping[str, type[TaskConfig]]:
    from ctp.pretext.registry import TASKS  # tasks need torch, configs do not

    return {name: task.Config for name, task in TASKS.items()}


AnyTaskConfig = Annotated[TaskConfig, OneOf(_choices)]
"""A config of any task in `TASKS`, chosen by its `name`."""
