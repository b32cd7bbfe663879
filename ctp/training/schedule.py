"""How long a run is and how its learning rate falls: pure functions of the step."""

from __future__ import annotations

import math
from typing import Annotated, Literal, Self

from annotated_types import Ge, Gt, Le
from pydantic import model_validator

from ctp.config import Config


class ScheduleConfig(Config):
    """Length and learning-rate decay. The defaults are the paper's for UCF-101 (§5.1)."""

    unit: Literal["epochs", "steps"] = "epochs"
    """What `length` and `decay_at` count. An epoch shows every training video once."""
    length: Annotated[int, Ge(1)] = 300
    """How long the run is."""
    decay: Literal["steps", "cosine"] = "steps"
    """Multiply by `decay_factor` at each of `decay_at`, or fall to 0 along a half cosine."""
    decay_at: tuple[Annotated[int, Ge(1)], ...] = (100, 200)
    """When the learning rate falls, for decay "steps"."""
    decay_factor: Annotated[float, Gt(0), Le(1)] = 0.1
    """What it is multiplied by."""
    warmup_steps: Annotated[int, Ge(0)] = 0
    """Steps in which the rate rises linearly to its start value."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.decay == "steps" and any(at >= self.length for at in self.decay_at):
            raise ValueError(
                f"decay_at {self.decay_at} must lie before the run's end at {self.length} "
                f"{self.unit}"
            )
        return self


def total_steps(config: ScheduleConfig, num_videos: int, total_batch: int) -> int:
    """Steps of the whole run: fixed beforehand, so that no worker waits for a stream to run dry."""
    if config.unit == "steps":
        return config.length
    return max(config.length * num_videos // total_batch, 1)


def is_epoch_end(step: int, every_epochs: int, num_videos: int, total_batch: int) -> bool:
    """Whether a step, counted from 1, is the one that completes a multiple of so many epochs."""
    clips = every_epochs * num_videos
    return step * total_batch // clips > (step - 1) * total_batch // clips


def learning_rate_factor(
    config: ScheduleConfig, step: int, num_videos: int, total_batch: int
) -> float:
    """What the learning rate is multiplied by at a step, counted from 0."""
    if step < config.warmup_steps:
        return (step + 1) / config.warmup_steps
    if config.decay == "cosine":
        length = total_steps(config, num_videos, total_batch)
        return 0.5 * (1 + math.cos(math.pi * min(step / length, 1)))
    done = step if config.unit == "steps" else step * total_batch // num_videos
    return config.decay_factor ** sum(done >= at for at in config.decay_at)
