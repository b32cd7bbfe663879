"""The parts that classification tasks share: sample, model, loss, score and pictures."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, TypeVar

import numpy as np
import torch.nn.functional as F
from torch import Tensor, nn

from ctp.data.stream import array_field
from ctp.pretext.clips import clip_fields
from ctp.pretext.dropout import seeded_dropout
from ctp.pretext.task import Mean, PretextTask, SamplePicture
from ctp.pretext.task_config import TaskConfig
from ctp.score import Score
from ctp.training.step import LossTerms
from ctp.video.augment import RECOGNITION_COLORS, to_input
from ctp.video.planes import to_rgb

if TYPE_CHECKING:  # actors draw samples without torchvision's models, which take 0.2 GB
    from ctp.encoders.encoder import Encoder

C = TypeVar("C", bound=TaskConfig)

DROPOUT = 0.5
"""Probability that a feature is dropped before the last layer (the authors' implementation)."""
WEIGHT_STD = 0.001
"""Initial standard deviation of the last layer (the authors' implementation)."""


class ClassifiedSample(NamedTuple):
    """A sample with its class. Some tasks have several clips, or several classes, in a sample.

    Attributes:
        planes: uint8 [..., T, 3/2 · S²], the frames as `planes.to_rgb` takes them.
        color: float32 [..., T, 4], see `augment.sample_color`; [0] if the task changes none.
        label: int64 [...], the class of each answer.
        dropout_seed: int64, the seed for `seeded_dropout`.
    """

    planes: Any
    color: Any
    label: Any
    dropout_seed: Any


class ClassificationTask(PretextTask[ClassifiedSample, C]):
    """A pretext task whose answers are classes; the loss is the cross entropy.

    Attributes:
        question: word before the class in a caption, e.g. "turned".
    """

    score = Score("accuracy", "accuracy", "chance", "chance", is_percent=True)
    question: ClassVar[str]

    @property
    @abstractmethod
    def class_names(self) -> Sequence[str]:
        """Return the names of the classes, by their numbers."""

    def build(self, encoder: Encoder) -> nn.Module:
        """Return encoder, average over time and space, dropout and linear layer."""
        return ClipClassifier(encoder, len(self.class_names))

    def frames(self, samples: ClassifiedSample) -> Tensor:
        """Return the frames that the encoder sees, before colours: uint8 [clips, T, S, S, 3]."""
        frames = to_rgb(samples.planes, self.config.augment.frame_size_px)
        return frames.flatten(0, -5)

    def loss(self, model: nn.Module, samples: ClassifiedSample) -> LossTerms:
        """Return the cross entropy."""
        clips = to_input(self.frames(samples), _color(samples), RECOGNITION_COLORS)
        logits = model(clips, samples.dropout_seed)
        return LossTerms(F.cross_entropy(logits, samples.label.flatten()), {})

    def evaluate(self, model: nn.Module, batches: Iterable[ClassifiedSample]) -> Mapping[str, Mean]:
        """Return the accuracy, and that of a random guess; all classes are equally probable."""
        correct = number = 0
        for samples in batches:
            labels = samples.label.flatten()
            correct += int((self._answer(model, samples).argmax(dim=1) == labels).sum())
            number += len(labels)
        return {
            "accuracy": Mean(correct, number),
            "chance": Mean(number / len(self.class_names), number),
        }

    def describe(self) -> Mapping[str, str]:
        """Return the facts of the task, with its classes."""
        return {**super().describe(), "classes": ", ".join(self.class_names)}

    def pictures(
        self, samples: ClassifiedSample, model: nn.Module | None, *, min_side_px: int
    ) -> Sequence[SamplePicture]:
        """Show the frames that the encoder sees. The caption has the sample's classes and, with a
        model, its answers and their mean probability."""
        from ctp.pretext.pictures import change_colors, enlarge  # torchvision, see above

        frames, color = self.frames(samples), _color(samples)
        captions = [f"{self.question} {text}" for text in self._name(samples.label)]
        if model is not None:
            probs, answers = self._answer(model, samples).softmax(dim=1).max(dim=1)
            names = self._name(answers.view_as(samples.label))
            shares = [f"{prob:.0%}" for prob in probs.view(len(captions), -1).mean(dim=1).tolist()]
            captions = [
                f"{caption}, answer {name} ({share})"
                for caption, name, share in zip(captions, names, shares, strict=True)
            ]
        elif color is not None:  # the colours that the model is trained on
            frames = change_colors(frames, color, RECOGNITION_COLORS)
        # the clips of a sample follow each other
        pictures = frames.reshape(len(captions), -1, *frames.shape[2:])
        return [
            SamplePicture(enlarge(clip, min_side_px).cpu().numpy(), caption)
            for clip, caption in zip(pictures, captions, strict=True)
        ]

    def _fields(self, *clips: int, labels: tuple[int, ...] = ()) -> ClassifiedSample:
        """Return the dtypes and shapes of a sample; `clips` and `labels` are leading axes."""
        planes, color = clip_fields(self.config, *clips)
        label, seed = array_field(np.int64, *labels), array_field(np.int64)
        return ClassifiedSample(planes, color, label, seed)

    def _name(self, labels: Tensor) -> list[str]:
        """Return the names of int64 [B, ...] classes, as a text for each sample."""
        rows = labels.view(len(labels), -1).tolist()
        return [" | ".join(self.class_names[label] for label in row) for row in rows]

    def _answer(self, model: nn.Module, samples: ClassifiedSample) -> Tensor:
        """Return the logits of clips in their own colours, float32 [answers, classes]."""
        logits: Tensor = model(to_input(self.frames(samples)), None)
        return logits


class ClipClassifier(nn.Module):
    """Encoder, average over time and space, dropout and linear layer.

    Attributes:
        encoder: makes the features.
        fc: maps features to the logits of the classes.
    """

    def __init__(self, encoder: Encoder, num_classes: int):
        super().__init__()
        self.encoder, self.fc = encoder, last_layer(encoder.out_channels, num_classes)

    def forward(self, clips: Tensor, dropout_seeds: Tensor | None) -> Tensor:
        """Classify clips.

        Args:
            clips: float [clips, 3, T, H, W], normalised; the same number for each sample.
            dropout_seeds: int64 [B], one for each sample; None: no dropout.

        Returns:
            float32 [clips, classes], logits.
        """
        features: Tensor = self.encoder(clips).mean(dim=(2, 3, 4))
        if dropout_seeds is not None:
            of_samples = features.view(len(dropout_seeds), -1)
            features = seeded_dropout(of_samples, dropout_seeds, DROPOUT).view_as(features)
        logits: Tensor = self.fc(features)
        return logits.float()


def last_layer(num_features: int, num_classes: int) -> nn.Linear:
    """Return a linear layer that is initialised as the authors do: N(0, .001), biases 0."""
    layer = nn.Linear(num_features, num_classes)
    nn.init.normal_(layer.weight, std=WEIGHT_STD)
    nn.init.zeros_(layer.bias)
    return layer


def _color(samples: ClassifiedSample) -> Tensor | None:
    """Return the colours, float32 [clips, T, 4], or None if the task changes none."""
    color: Tensor = samples.color
    return color.flatten(0, -3) if color.numel() else None
