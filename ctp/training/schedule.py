"""Length of a run and decay of its learning rate: pure functions of the step."""

from __future__ import annotations

import math
from typing import Annotated, Literal, Self

from annotated_types import Ge
from pydantic import model_validator

from ctp.config import Config

DECAY_FACTOR = 0.1
"""Factor on the learning rate at each of `decay_at` (§5.1, supplement A)."""
WARMUP_START = 0.1
"""Factor on the learning rate at the first step of a warm-up (the authors' code)."""


class ScheduleConfig(Config):
    """Length and learning-rate decay. The defaults are the paper's for UCF-101 (§5.1)."""

    unit: Literal["epochs", "steps"] = "epochs"
    """Unit of `length` and `decay_at`; an epoch shows every training video once, or as
    often as `data.clips_per_video` says; the first lines of a run say how many clips it is."""
    length: Annotated[int, Ge(1)] = 300
    """Length of the run. A larger one continues a run, also a finished one, with the learning rate
    of the new length; without `decay_at` this is higher than the rate at its last step."""
    decay_at: tuple[Annotated[int, Ge(1)], ...] = (100, 200)
    """When the learning rate is multiplied by 0.1; none: it falls to 0 along a half cosine."""
    warmup_steps: Annotated[int, Ge(0)] = 0
    """Steps at the start in which the learning rate rises linearly from a tenth of itself."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if any(at >= self.length for at in self.decay_at):
            raise ValueError(
                f"decay_at {','.join(map(str, self.decay_at))} must lie before the run's end at "
                f"{self.length} {self.unit}; give a longer schedule.length, or schedule.decay_at "
                "with other numbers or none"
            )
        return self


def total_steps(config: ScheduleConfig, epoch_clips: int, total_batch: int) -> int:
    """Return the number of steps of the run; it is fixed before the run, for all workers."""
    if config.unit == "steps":
        return config.length
    # rounded down once for the whole run, not in each epoch, so that no sample is left out between
    return max(config.length * epoch_clips // total_batch, 1)


def is_epoch_end(step: int, every_epochs: int, epoch_clips: int, total_batch: int) -> bool:
    """Return whether a step, counted from 1, completes a multiple of `every_epochs` epochs."""
    clips = every_epochs * epoch_clips
    # a batch may reach over the end of an epoch, so this asks which step passes it
    return step * total_batch // clips > (step - 1) * total_batch // clips


def learning_rate_factor(
    config: ScheduleConfig, step: int, epoch_clips: int, total_batch: int
) -> float:
    """Return the factor on the learning rate at a step, counted from 0."""
    if step < config.warmup_steps:
        return WARMUP_START + (1 - WARMUP_START) * step / config.warmup_steps
    if not config.decay_at:
        length = total_steps(config, epoch_clips, total_batch)
        # cos would rise again after the end
        return 0.5 * (1 + math.cos(math.pi * min(step / length, 1)))
    # in whole epochs by the number of clips, not of steps: an epoch need not end with a step
    done = step if config.unit == "steps" else step * total_batch // epoch_clips
    return DECAY_FACTOR ** sum(done >= at for at in config.decay_at)
