"""The base class of pretext tasks.

A task is one folder and one name in `ctp.pretext.registry`. It defines the samples, the model that
learns from them, the loss, and the score of the model. The framework does the rest: decoding,
read-ahead, quarantine, batches, resuming, initial weights, logging and the k-NN score.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar, Generic, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray
from torch import nn

from ctp.data.stream import S, SampleDrawer
from ctp.pretext.task_config import TaskConfig
from ctp.score import Score
from ctp.training.step import LossTerms

if TYPE_CHECKING:  # actors draw samples without torchvision's models, which take 0.2 GB
    from ctp.encoders.encoder import Encoder

C = TypeVar("C", bound=TaskConfig)


class Mean(NamedTuple):
    """A mean as the sum and the number of its values, which can be added over workers.

    Attributes:
        total: sum of the values.
        number: number of values.
        squares: sum of the squares of values that do not depend on each other, which gives the
            standard error of the mean; None: they do, or are shares.
    """

    total: float
    number: float
    squares: float | None = None

    @property
    def error(self) -> float | None:
        """Return the standard error of the mean, or None."""
        if self.squares is None or self.number < 2:
            return None
        # rounding may make it negative
        deviations = max(self.squares - self.total**2 / self.number, 0)
        return math.sqrt(deviations / (self.number * (self.number - 1)))


class SamplePicture(NamedTuple):
    """The picture of a sample.

    Attributes:
        frames: uint8 [T, h, w, 3], with boxes or other marks drawn in.
        caption: one line of text.
    """

    frames: NDArray[np.uint8]
    caption: str


class PretextTask(SampleDrawer[S], Generic[S, C]):
    """Base of every pretext task: draws samples, builds the model, and computes loss and score.

    A subclass is built from its config alone and is picklable.

    Attributes:
        Config: class of its config.
        score: the score that it is judged by, from `evaluate`.
        config: its options.
    """

    Config: ClassVar[type[TaskConfig]]
    score: ClassVar[Score]
    config: C

    def __init__(self, config: C):
        self.config = config

    @abstractmethod
    def build(self, encoder: Encoder) -> nn.Module:
        """Return encoder and head as one module, whose attribute `encoder` is the encoder."""

    @abstractmethod
    def loss(self, model: nn.Module, samples: S) -> LossTerms:
        """Return the loss of a batch.

        Args:
            model: the model from `build`, perhaps wrapped by DDP or compiled: call it, but do not
                read its attributes.
            samples: the sample's arrays as tensors with a leading B, on the model's device.
        """

    @abstractmethod
    def evaluate(self, model: nn.Module, batches: Iterable[S]) -> Mapping[str, Mean]:
        """Return the scores of held-out batches, and those of a trivial answer.

        Args:
            model: the model from `build`, in evaluation mode; gradients are off.
            batches: samples as in `loss`.
        """

    def after_step(self, model: nn.Module, step: int) -> None:
        """Update what the optimiser does not update, such as a momentum encoder or a queue.

        Args:
            model: the model from `build`, not wrapped.
            step: number of steps so far.
        """

    def progress_metrics(self, progress: float) -> Mapping[str, float]:
        """Return entries for the log line at a share of the run in [0, 1]."""
        return {}

    def describe(self) -> Mapping[str, str]:
        """Return the facts of the task that a report shows."""
        config = self.config
        size, frames = config.augment.frame_size_px, config.sampling.num_frames
        return {"task": config.name, "clip": f"{frames} frames of {size}×{size}"}

    @abstractmethod
    def pictures(
        self, samples: S, model: nn.Module | None, *, min_side_px: int
    ) -> Sequence[SamplePicture]:
        """Draw samples as pictures, with the answers of a model where one is given.

        Args:
            samples: as in `loss`.
            model: as in `evaluate`, or None.
            min_side_px: frames whose shorter side is smaller are enlarged to it.
        """
