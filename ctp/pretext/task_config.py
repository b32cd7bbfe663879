"""The base of every task's config, and the config field that holds the config of any task.

They are not in the tasks' files because processes that only hold a config must not import torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

from ctp.config import Config, OneOf, differences
from ctp.encoders.config import EncoderConfig
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

    def check_encoder(self, encoder: EncoderConfig) -> None:
        """Raise a ValueError if the task cannot train an encoder of this config."""

    @property
    def departures(self) -> list[str]:
        """Return the options that differ from their defaults, the settings that the task was
        published with."""
        default = type(self)(name=self.name)
        return [each.name for each in differences(self.model_dump(), default.model_dump())]


def _choices() -> Mapping[str, type[TaskConfig]]:
    from ctp.pretext.registry import CONFIGS  # it imports this file

    return CONFIGS


AnyTaskConfig = Annotated[TaskConfig, OneOf(_choices)]
"""A config of any task in `TASKS`, chosen by its `name`."""
