"""Action recognition: training and testing a classifier on an encoder (§4, supplement A)."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Self

import numpy as np
import safetensors.torch
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from ctp.data.stream import Batch, LoadVideos, SampleStream
from ctp.downstream.attentive import AttentivePooler
from ctp.downstream.clips import LabeledClips, LabeledSample, LabeledViews, VideoViews
from ctp.downstream.config import FinetuneConfig
from ctp.downstream.initial import resolve_weights
from ctp.downstream.labels import open_labeled
from ctp.downstream.learner import DownstreamLearner
from ctp.encoders.config import DOWNSTREAM_SPATIAL_STRIDE
from ctp.encoders.encoder import Encoder
from ctp.encoders.registry import build_encoder
from ctp.encoders.weights import (
    description,
    read_state,
    stored_clip_format,
    stored_config,
    stored_metadata,
)
from ctp.rng import generator
from ctp.training.distributed import Worker
from ctp.training.run_folder import CLASSIFIER
from ctp.training.schedule import is_epoch_end, total_steps
from ctp.training.step import LossTerms, autocast
from ctp.training.trainer import TrainingSpec
from ctp.video.augment import RECOGNITION_COLORS, to_input
from ctp.video.planes import to_rgb

WEIGHT_STD = 0.001
"""Initial standard deviation of the linear layer (the authors' implementation)."""
DROPOUT = 0.5
"""Probability that a feature is dropped in training (supplement A)."""
TOP_K = (1, 5)


class Classifier(nn.Module):
    """Encoder, pooling and linear layer (supplement A); the caller applies dropout.

    Attributes:
        encoder: makes the features.
        frozen: whether the encoder is not trained.
        pooler: pools the features by attention; None: they are averaged.
    """

    def __init__(
        self,
        encoder: Encoder,
        num_classes: int,
        *,
        frozen: bool = False,
        is_attentive: bool = False,
    ):
        super().__init__()
        self.encoder, self.frozen = encoder, frozen
        self.pooler = AttentivePooler(encoder.out_channels) if is_attentive else None
        self.fc = nn.Linear(encoder.out_channels, num_classes)
        nn.init.normal_(self.fc.weight, std=WEIGHT_STD)
        nn.init.zeros_(self.fc.bias)
        encoder.requires_grad_(not frozen)
        # sets the norms of a frozen encoder to evaluation mode
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
            keep: float32 [B, C], factors on the pooled features; see `dropout_mask`.

        Returns:
            float32 [B, classes], before the softmax.
        """
        features = self.encoder(clips)
        pooled = features.mean(dim=(2, 3, 4)) if self.pooler is None else self.pooler(features)
        logits: Tensor = self.fc(pooled if keep is None else pooled * keep)
        # the loss in float32, under autocast too
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
    # does not change the global generator; devices=[] keeps it from opening the GPU
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        encoder = build_encoder(config.encoder)
        return Classifier(
            encoder,
            num_classes,
            frozen=config.protocol != "finetune",
            is_attentive=config.protocol == "attentive",
        )


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
        **description(model.encoder),
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
    is_attentive = any(key.startswith("pooler.") for key in state)
    model = Classifier(build_encoder(config), len(classes), is_attentive=is_attentive)
    model.load_state_dict(state)
    model.encoder.clip_format = stored_clip_format(data, name)
    return model.eval(), classes


def accuracy(logits: Tensor, labels: Tensor) -> dict[str, float]:
    """Return "top1" and, of five classes or more, "top5".

    Args:
        logits: float32 [n, classes].
        labels: int64 [n].
    """
    # takes 0.6 s, for it imports matplotlib; every job's process imports this file
    from torchmetrics.functional.classification import multiclass_accuracy

    classes = logits.shape[1]
    return {
        f"top{k}": float(multiclass_accuracy(logits, labels, classes, average="micro", top_k=k))
        for k in TOP_K
        if k <= classes
    }


def resolve(config: FinetuneConfig) -> FinetuneConfig:
    """Return the config with an absolute `initial` and with the encoder that it describes.

    Raises:
        ValueError: there are no such weights.
        StorageError: their file cannot be read.
    """
    return resolve_weights(config, DOWNSTREAM_SPATIAL_STRIDE)


def open_finetuning(config: FinetuneConfig) -> TrainingSpec[LabeledSample]:
    """List the run's videos.

    Args:
        config: see `resolve`.

    Raises:
        ValueError: see `open_labeled`.
        StorageError: the storage fails.
    """
    found, batch = open_labeled(config.data, config.seed), config.compute.batch
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


class ClassifierInputs(NamedTuple):
    """Samples to train on, with the factors of dropout.

    Attributes:
        planes, color, label: see `LabeledSample`.
        keep: float32 [B, C], see `dropout_mask`.
    """

    planes: Any
    color: Any
    label: Any
    keep: Any


class TestedVideo(NamedTuple):
    """The answer for a test video.

    Attributes:
        logits: float32 [classes], averaged over its views.
        label: number of its class.
    """

    logits: Tensor
    label: int


class ClassificationLearner(DownstreamLearner[LabeledSample, VideoViews, TestedVideo]):
    """Trains a classifier, or what is on top of its encoder, to tell classes apart."""

    model: Classifier

    def __init__(self, spec: TrainingSpec[LabeledSample], worker: Worker, load: LoadVideos):
        assert isinstance(spec.config, FinetuneConfig)
        assert isinstance(spec.evaluation, LabeledViews)
        self.config, self._classes = spec.config, spec.evaluation.classes
        super().__init__(spec, worker, load, build_classifier(spec.config, len(self._classes)))

    def inputs(self, batch: Batch[LabeledSample]) -> ClassifierInputs:
        """Return the samples and the factors of dropout."""
        features = self.model.encoder.out_channels
        prob = 0 if self.config.protocol == "attentive" else DROPOUT  # V-JEPA's probe has none
        # not nn.Dropout, whose mask depends on how the batch is divided among the workers
        keep = dropout_mask(self.config.seed, batch.positions.tolist(), features, prob)
        return ClassifierInputs(*batch.samples, keep)

    def loss(self, model: nn.Module, inputs: ClassifierInputs) -> LossTerms:
        """Return the cross entropy, and the share of correct answers."""
        planes, color, label, keep = inputs
        clips = to_input(
            to_rgb(planes, self.config.augment.frame_size_px), color, RECOGNITION_COLORS
        )
        logits = model(clips, keep)
        correct = (logits.argmax(dim=1) == label).float().mean()
        return LossTerms(F.cross_entropy(logits, label), {"train_top1": correct})

    def should_evaluate(self, step: int) -> bool:
        """Return whether `step` completes a multiple of `test_every_epochs`."""
        config, clips = self.config, self._spec.stream.epoch_clips
        return is_epoch_end(step, config.test_every_epochs, clips, config.compute.batch)

    def test(self, video: VideoViews) -> TestedVideo:
        """Average the logits over the views of a video (supplement A)."""
        planes = torch.from_numpy(video.planes).to(self._worker.device)
        with autocast(self.config.compute, self._worker.device):
            logits = self.model(to_input(to_rgb(planes, self.config.views.frame_size_px)))
        return TestedVideo(logits.mean(dim=0).cpu(), video.label)

    def scores(self, results: Sequence[TestedVideo]) -> dict[str, float]:
        """Return "top1" and "top5", and of both "chance1" and "chance5", the same of an answer by
        chance; empty if no video could be used."""
        if not results:
            return {}
        found = accuracy(*_stack(results))
        return found | {f"chance{k}": k / len(self._classes) for k in TOP_K if f"top{k}" in found}

    def details(self, results: Sequence[TestedVideo]) -> dict[str, Any]:
        """Return the names of the classes, and how many videos of each (row) were classified as
        which (column)."""
        number = len(self._classes)
        counts = np.zeros((number, number), np.int64)
        for logits, label in results:
            counts[label, int(logits.argmax())] += 1
        return {"classes": self._classes, "confusion": counts.tolist()}

    def model_files(self, about: Mapping[str, str]) -> dict[str, bytes]:
        """Return the classifier."""
        return {CLASSIFIER: classifier_bytes(self.model, self._classes, about)}


def _stack(results: Sequence[TestedVideo]) -> tuple[Tensor, Tensor]:
    logits, labels = zip(*results, strict=True)
    return torch.stack(logits), torch.tensor(labels)
