"""Action recognition: training and testing a linear classifier on an encoder (§4, supplement A)."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Self

import numpy as np
import safetensors.torch
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn
from torchmetrics.classification import MulticlassAccuracy, MulticlassConfusionMatrix

from ctp.data.quarantine import QuarantinedVideo
from ctp.data.stream import Batch, LoadVideos, SampleStream
from ctp.downstream.clips import LabeledClips, LabeledSample, LabeledViews, VideoViews
from ctp.downstream.config import FinetuneConfig
from ctp.downstream.initial import resolve_encoder, resolve_initial
from ctp.downstream.labels import open_labeled
from ctp.encoders.config import DOWNSTREAM_SPATIAL_STRIDE
from ctp.encoders.encoder import Encoder
from ctp.encoders.initial import load_initial_weights
from ctp.encoders.registry import build_encoder
from ctp.encoders.weights import encoder_bytes, read_state, stored_config, stored_metadata
from ctp.rng import generator
from ctp.training.distributed import Worker, gather
from ctp.training.run_folder import CLASSIFIER, ENCODER
from ctp.training.schedule import is_epoch_end, total_steps
from ctp.training.step import LossTerms, autocast, prepare
from ctp.training.trainer import Learner, TrainingSpec
from ctp.versions import stamp
from ctp.video.augment import to_input
from ctp.video.planes import to_rgb

WEIGHT_STD = 0.01
"""Initial standard deviation of the linear layer (the authors' implementation)."""
DROPOUT = 0.5
"""Probability that a feature is dropped in training (supplement A)."""
TOP_K = (1, 5)


class Classifier(nn.Module):
    """Encoder, global average and linear layer (supplement A); the caller applies dropout.

    Attributes:
        encoder: makes the features.
        frozen: whether the encoder is not trained.
    """

    def __init__(self, encoder: Encoder, num_classes: int, *, frozen: bool = False):
        super().__init__()
        self.encoder, self.frozen = encoder, frozen
        self.fc = nn.Linear(encoder.out_channels, num_classes)
        nn.init.normal_(self.fc.weight, std=WEIGHT_STD)
        nn.init.zeros_(self.fc.bias)
        encoder.requires_grad_(not frozen)
        self.train()

    def train(self, mode: bool = True) -> Self:
        """Set the mode; the norms of a frozen encoder stay in evaluation mode."""
        super().train(mode)
        if self.frozen:
            self.encoder.eval()
        return self

    def forward(self, clips: Tensor, keep: Tensor | None = None) -> Tensor:
        """Classify clips.

        Args:
            clips: float [B, 3, T, H, W], normalised.
            keep: float32 [B, C], factors on the features; see `dropout_mask`.

        Returns:
            float32 [B, classes], before the softmax.
        """
        features = self.encoder(clips).mean(dim=(2, 3, 4))
        logits: Tensor = self.fc(features if keep is None else features * keep)
        return logits.float()


def dropout_mask(
    seed: int, positions: Sequence[int], num_features: int, prob: float
) -> NDArray[np.float32]:
    """Return the factors of dropout, float32 [B, num_features]: 0, or 1 / (1 - prob).

    They depend on seed and position alone, so that they are the same after a restart and for any
    number of workers.
    """
    drawn = [generator(seed, "dropout", int(at)).random(num_features) for at in positions]
    return (np.stack(drawn) >= prob).astype(np.float32) / np.float32(1 - prob)


def build_classifier(config: FinetuneConfig, num_classes: int) -> Classifier:
    """Return a classifier with random weights that depend on the run's seed alone."""
    assert config.encoder is not None, "set by resolve"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        encoder = build_encoder(config.encoder)
        return Classifier(encoder, num_classes, frozen=config.frozen_encoder)


def classifier_bytes(
    model: Classifier, classes: Sequence[str], about: Mapping[str, str] | None = None
) -> bytes:
    """Return the classifier as a safetensors file, for `load_classifier`.

    Args:
        model: the classifier.
        classes: names of its classes.
        about: more entries for the file's metadata.
    """
    state = {name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()}
    metadata = {
        "encoder": model.encoder.config.model_dump_json(),
        "classes": json.dumps(list(classes)),
        **(about or {}),
    }
    return safetensors.torch.save(state, metadata=metadata)


def load_classifier(data: bytes, name: str) -> tuple[Classifier, tuple[str, ...]]:
    """Return a classifier in evaluation mode, and the names of its classes.

    Args:
        data: the file.
        name: of the file, for errors.

    Raises:
        ValueError: it is not a file of `classifier_bytes`.
    """
    state = read_state(data, name)
    about = stored_metadata(data, name)
    if "classes" not in about:
        raise ValueError(
            f"{name} contains no classifier; expected the {CLASSIFIER} of a fine-tuning run"
        )
    classes = tuple(json.loads(about["classes"]))
    config = stored_config(data, name)
    assert config is not None, "classifier_bytes stores it"
    model = Classifier(build_encoder(config), len(classes))
    model.load_state_dict(state)
    return model.eval(), classes


class Scores:
    """Counts correct answers over all workers; each video counts once.

    Attributes:
        top_k: the k that do not exceed the number of classes.
    """

    def __init__(self, num_classes: int, device: torch.device):
        self.top_k = tuple(k for k in TOP_K if k <= num_classes)
        self._accuracy = [
            MulticlassAccuracy(num_classes, top_k=k, average="micro").to(device) for k in self.top_k
        ]
        self._confusion = MulticlassConfusionMatrix(num_classes).to(device)

    def add(self, logits: Tensor, label: Tensor) -> None:
        """Count videos: float [n, classes] and int64 [n]."""
        for accuracy in self._accuracy:
            accuracy.update(logits, label)
        self._confusion.update(logits.argmax(dim=1), label)

    def accuracy(self) -> dict[str, float]:
        """Return "top1" and "top5"; all workers must call it together."""
        values = [float(accuracy.compute()) for accuracy in self._accuracy]
        return {f"top{k}": value for k, value in zip(self.top_k, values, strict=True)}

    def confusion(self) -> list[list[int]]:
        """Return how many videos of each class (row) were classified as which (column); all workers
        must call it together."""
        counts: list[list[int]] = self._confusion.compute().cpu().tolist()
        return counts


def resolve(config: FinetuneConfig) -> FinetuneConfig:
    """Return the config with an absolute `initial` and with the encoder that it describes.

    Raises:
        ValueError: there are no such weights.
        StorageError: their file cannot be read.
    """
    initial = resolve_initial(config.initial)
    encoder = resolve_encoder(config.encoder, initial, DOWNSTREAM_SPATIAL_STRIDE)
    return config.replace(initial=initial, encoder=encoder)


def open_finetuning(config: FinetuneConfig) -> TrainingSpec[LabeledSample]:
    """List the run's videos.

    Args:
        config: as of `resolve`.

    Raises:
        ValueError: as of `open_labeled`.
        StorageError: the storage fails.
    """
    found, batch = open_labeled(config.data, config.seed), config.compute.total_batch
    stream = SampleStream(
        drawer=LabeledClips(config.sampling, config.augment, found.classes),
        catalog=found.train,
        seed=config.seed,
        total_batch=batch,
        total_steps=total_steps(config.schedule, len(found.train), batch),
    )
    views = LabeledViews(found.test, config.seed, config.views, found.classes)
    return TrainingSpec(config, stream, views, ClassificationLearner)


def num_classes(spec: TrainingSpec[LabeledSample]) -> int:
    """Return the number of classes of a run."""
    assert isinstance(spec.evaluation, LabeledViews)
    return len(spec.evaluation.classes)


@dataclass
class _Tested:
    """The result of the last test."""

    accuracy: dict[str, float] = field(default_factory=dict)
    confusion: list[list[int]] = field(default_factory=list)
    tested: int = 0
    quarantined: list[QuarantinedVideo] = field(default_factory=list)


class ClassificationLearner(Learner[LabeledSample]):
    """Trains encoder and linear layer to tell classes apart."""

    model: Classifier

    def __init__(self, spec: TrainingSpec[LabeledSample], worker: Worker, load: LoadVideos):
        assert isinstance(spec.config, FinetuneConfig)
        assert isinstance(spec.evaluation, LabeledViews)
        self.config, self._spec, self._worker, self._load = spec.config, spec, worker, load
        self._classes = spec.evaluation.classes
        model = build_classifier(self.config, len(self._classes))
        self.model = prepare(model, self.config.compute, worker.device)
        self._last: _Tested | None = None

    def initialize(self) -> None:
        """Load the encoder's initial weights."""
        load_initial_weights(self.model.encoder, self.config.initial)

    def loss(self, model: nn.Module, batch: Batch[LabeledSample]) -> LossTerms:
        """Return the cross entropy, and the share of correct answers."""
        planes, color, label = batch.samples
        clips = to_input(to_rgb(planes, self.config.augment.frame_size_px), color)
        features = self.model.encoder.out_channels
        keep = dropout_mask(self.config.seed, batch.positions.tolist(), features, DROPOUT)
        logits = model(clips, torch.from_numpy(keep).to(clips.device))
        correct = (logits.argmax(dim=1) == label).float().mean()
        return LossTerms(F.cross_entropy(logits, label), {"train_top1": correct})

    def should_evaluate(self, step: int) -> bool:
        """Return whether `step` completes a multiple of `test_every_epochs`."""
        config, videos = self.config, len(self._spec.stream.catalog)
        return is_epoch_end(step, config.test_every_epochs, videos, config.compute.total_batch)

    @torch.no_grad()
    def evaluate(self) -> dict[str, float]:
        """Test: average the logits over the views of each video (supplement A).

        Returns:
            "top1" and "top5", "tested", the number of videos, and "test_quarantined", how many
            more were meant to be tested.
        """
        scores = Scores(len(self._classes), self._worker.device)
        videos = self._spec.evaluation
        share = range(len(videos.catalog))[self._worker.rank :: self._worker.world_size]
        tested = 0
        quarantined: list[QuarantinedVideo] = []
        self.model.eval()
        for some in self._load(videos, share):
            quarantined += some.quarantined
            for video in some.items:
                label = torch.tensor([video.label], device=self._worker.device)
                scores.add(self._logits(video), label)
                tested += 1
        self.model.train()
        self.quarantined = quarantined
        reports = gather((tested, quarantined))
        self._last = _Tested(
            scores.accuracy(),
            scores.confusion(),
            sum(count for count, _ in reports),
            [entry for _, found in reports for entry in found],
        )
        return self._last.accuracy | {
            "tested": self._last.tested,
            "test_quarantined": len(self._last.quarantined),
        }

    def export(self) -> dict[str, bytes]:
        """Return encoder, classifier and scores."""
        if self._last is None:  # resumed after the last step
            self.evaluate()
        assert self._last is not None
        scores = {
            **self._last.accuracy,
            "tested": self._last.tested,
            "quarantined": [vars(entry) for entry in self._last.quarantined],
            "trained_on": len(self._spec.stream.catalog),
            "classes": self._classes,
            "confusion": self._last.confusion,
        }
        about = {"run": self.config.name, **stamp(self._spec.written_by)}
        return {
            ENCODER: encoder_bytes(self.model.encoder, about),
            CLASSIFIER: classifier_bytes(self.model, self._classes, about),
            self.config.RESULT: json.dumps(scores, indent=1).encode(),
        }

    def _logits(self, video: VideoViews) -> Tensor:
        """Return float32 [1, classes], averaged over the views."""
        planes = torch.from_numpy(video.planes).to(self._worker.device)
        with autocast(self.config.compute, self._worker.device):
            clips = to_input(to_rgb(planes, self.config.views.frame_size_px))
            logits: Tensor = self.model(clips)
        return logits.mean(dim=0, keepdim=True)
