"""Action recognition: a linear classifier on an encoder, trained and tested (§4, supplement A)."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
import safetensors.torch
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn
from torchmetrics.classification import MulticlassAccuracy, MulticlassConfusionMatrix

from ctp.data.catalog import Catalog
from ctp.data.quarantine import QuarantinedVideo
from ctp.downstream.clips import LabeledMaker, VideoViews
from ctp.downstream.config import FinetuneConfig
from ctp.downstream.labels import open_labeled
from ctp.encoders.config import EncoderConfig
from ctp.encoders.initial import initialise
from ctp.encoders.resnet3d import ResNet3d
from ctp.encoders.weights import encoder_bytes, read_state
from ctp.rng import generator
from ctp.training.distributed import Worker, gather
from ctp.training.read_apart import read_apart
from ctp.training.run_folder import CLASSIFIER, ENCODER
from ctp.training.schedule import is_epoch_end
from ctp.training.step import Loss, arrange, autocast, prepare
from ctp.training.trainer import OpenMaker, Task
from ctp.video.augment import to_input
from ctp.video.planes import to_rgb

WEIGHT_STD = 0.01
"""Of the linear layer at first (the authors' implementation)."""
TOP_K = (1, 5)


class Classifier(nn.Module):
    """Encoder, global average, linear layer (supplement A); dropout is the caller's.

    Attributes:
        encoder: what makes the features.
        frozen: whether it stays as it is.
    """

    def __init__(self, encoder: ResNet3d, num_classes: int, *, frozen: bool = False):
        super().__init__()
        self.encoder, self.frozen = encoder, frozen
        self.fc = nn.Linear(encoder.out_channels, num_classes)
        nn.init.normal_(self.fc.weight, std=WEIGHT_STD)
        nn.init.zeros_(self.fc.bias)
        encoder.requires_grad_(not frozen)
        self.train()

    def train(self, mode: bool = True) -> Self:
        """A frozen encoder's norms go on as they were, too."""
        super().train(mode)
        if self.frozen:
            self.encoder.eval()
        return self

    def forward(self, clips: Tensor, keep: Tensor | None = None) -> Tensor:
        """Classify clips.

        Args:
            clips: float [B, 3, T, H, W], normalised.
            keep: float32 [B, C], what features are multiplied by; see `dropout_mask`.

        Returns:
            float32 [B, classes], before the softmax.
        """
        features = self.encoder(clips).mean(dim=(2, 3, 4))
        logits: Tensor = self.fc(features if keep is None else features * keep)
        return logits.float()


def dropout_mask(
    seed: int, positions: Sequence[int], num_features: int, prob: float
) -> NDArray[np.float32]:
    """Which features of clips are kept, float32 [B, num_features]: 0, or 1 / (1 - prob).

    A pure function of seed and position, so that it is the same after a restart and for any number
    of workers.
    """
    drawn = [generator(seed, "dropout", int(at)).random(num_features) for at in positions]
    return (np.stack(drawn) >= prob).astype(np.float32) / np.float32(1 - prob)


def build_classifier(config: FinetuneConfig, num_classes: int) -> Classifier:
    """A classifier with fresh weights that follow from the run's seed alone."""
    assert config.encoder is not None, "settled by Finetuning.of"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        encoder = ResNet3d(config.encoder)
        return Classifier(encoder, num_classes, frozen=config.head.frozen_encoder)


def classifier_bytes(model: Classifier, classes: Sequence[str]) -> bytes:
    """The classifier as a safetensors file, that `load_classifier` takes."""
    state = {name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()}
    metadata = {
        "encoder": model.encoder.config.model_dump_json(),
        "classes": json.dumps(list(classes)),
    }
    return safetensors.torch.save(state, metadata=metadata)


def load_classifier(data: bytes, name: str) -> tuple[Classifier, tuple[str, ...]]:
    """A classifier in evaluation mode, and the names of its classes.

    Args:
        data: the file.
        name: what to call it in an error.

    Raises:
        ValueError: it is no file of `classifier_bytes`.
    """
    state = read_state(data, name)
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    about = header.get("__metadata__", {})
    if "classes" not in about:
        raise ValueError(f"{name} holds no classifier; wanted a {CLASSIFIER} of jobs/finetune.py")
    classes = tuple(json.loads(about["classes"]))
    encoder = ResNet3d(EncoderConfig.model_validate_json(about["encoder"]))
    model = Classifier(encoder, len(classes))
    model.load_state_dict(state)
    return model.eval(), classes


class Scores:
    """Counts right answers, over all workers; each video counts once.

    Attributes:
        top_k: the k for which there are that many classes.
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
        """ "top1" and "top5", shares of right answers; all workers must call it together."""
        values = [float(accuracy.compute()) for accuracy in self._accuracy]
        return {f"top{k}": value for k, value in zip(self.top_k, values, strict=True)}

    def confusion(self) -> list[list[int]]:
        """How many videos of each class (row) were taken for which (column); all workers must call
        it together."""
        counts: list[list[int]] = self._confusion.compute().cpu().tolist()
        return counts


@dataclass(frozen=True)
class Finetuning:
    """A run of action recognition.

    Attributes:
        train, test: make the clips to train on, and the views to test on.
    """

    train: LabeledMaker
    test: LabeledMaker

    @classmethod
    def of(cls, config: FinetuneConfig) -> Finetuning:
        """List the run's videos.

        Args:
            config: with an encoder.

        Raises:
            ValueError: as `open_labeled`.
        """
        found = open_labeled(config.data, config.seed)
        train, test = found.train, found.test
        return cls(*(LabeledMaker(config, each, found.classes) for each in (train, test)))

    @property
    def config(self) -> FinetuneConfig:
        """The run's config."""
        return self.train.config

    @property
    def catalogs(self) -> Sequence[Catalog]:
        """The videos to train on, and those to test on."""
        return self.train.catalog, self.test.catalog

    def task(self, worker: Worker, open_maker: OpenMaker) -> FinetuneTask:
        """What a worker trains."""
        return FinetuneTask(self, worker, open_maker)


@dataclass
class _Tested:
    """What the last test found."""

    accuracy: dict[str, float] = field(default_factory=dict)
    confusion: list[list[int]] = field(default_factory=list)
    tested: int = 0
    quarantined: list[QuarantinedVideo] = field(default_factory=list)


class FinetuneTask(Task):
    """Encoder and linear layer learn classes."""

    model: Classifier

    def __init__(self, job: Finetuning, worker: Worker, open_maker: OpenMaker):
        self.job, self.worker, self.config = job, worker, job.config
        model = build_classifier(self.config, len(job.train.classes))
        self.model = prepare(model, self.config.compute, worker.device)
        self._open_maker = open_maker
        self._last: _Tested | None = None

    def initialise(self) -> None:
        """Load the encoder's initial weights."""
        initialise(self.model.encoder, self.config.initial)

    def loss(self, model: nn.Module, batch: Mapping[str, Any]) -> Loss:
        """Cross entropy on a batch of `LabeledMaker.batch`."""
        planes = torch.as_tensor(batch["planes"]).to(self.worker.device, non_blocking=True)
        label = torch.as_tensor(batch["label"]).to(self.worker.device, non_blocking=True)
        frames = to_rgb(planes, self.config.augment.frame_size_px)
        clips = arrange(to_input(frames, torch.as_tensor(batch["color"])), self.config.compute)
        with autocast(self.config.compute, self.worker.device):
            logits = model(clips, self._keep(batch["position"]))
        right = (logits.argmax(dim=1) == label).float().mean()
        return Loss(F.cross_entropy(logits, label), {"train_top1": right})

    def is_look_due(self, step: int) -> bool:
        """Whether a multiple of `test_every_epochs` has just been reached."""
        config, videos = self.config, len(self.job.train.catalog)
        return is_epoch_end(step, config.test_every_epochs, videos, config.compute.total_batch)

    @torch.no_grad()
    def look(self) -> dict[str, float]:
        """Test: the share of videos whose class is the first, or among the first five, by the
        logits averaged over the views (supplement A)."""
        scores = Scores(len(self.job.train.classes), self.worker.device)
        tested = 0
        quarantined: list[QuarantinedVideo] = []
        self.model.eval()
        numbers = range(len(self.job.test.catalog))[self.worker.rank :: self.worker.world]
        for videos, quarantined in self._views(numbers):
            quarantined += quarantined
            for video in videos:
                scores.add(self._logits(video), torch.tensor([video.label]).to(self.worker.device))
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

    def results(self) -> dict[str, bytes]:
        """Encoder, classifier and scores."""
        if self._last is None:  # the run had ended before these were written
            self.look()
        assert self._last is not None
        classes = self.job.train.classes
        scores = {
            **self._last.accuracy,
            "tested": self._last.tested,
            "quarantined": [vars(entry) for entry in self._last.quarantined],
            "trained_on": len(self.job.train.catalog),
            "classes": classes,
            "confusion": self._last.confusion,
        }
        return {
            ENCODER: encoder_bytes(self.model.encoder, {"run": self.config.name}),
            CLASSIFIER: classifier_bytes(self.model, classes),
            self.config.RESULT: json.dumps(scores, indent=1).encode(),
        }

    def _keep(self, positions: Sequence[int]) -> Tensor:
        num_features, prob = self.model.encoder.out_channels, self.config.head.dropout
        mask = dropout_mask(self.config.seed, positions, num_features, prob)
        return torch.from_numpy(mask).to(self.worker.device)

    def _views(
        self, numbers: Sequence[int]
    ) -> Iterator[tuple[list[VideoViews], list[QuarantinedVideo]]]:
        readers = max(self.config.scaling.num_actors // self.worker.world, 1)
        return read_apart(self._open_maker, self.job.test, "views", numbers, readers)

    def _logits(self, video: VideoViews) -> Tensor:
        """float32 [1, classes], averaged over the views."""
        planes = torch.from_numpy(video.planes).to(self.worker.device)
        frames = to_rgb(planes, self.config.views.frame_size_px)
        with autocast(self.config.compute, self.worker.device):
            logits: Tensor = self.model(arrange(to_input(frames), self.config.compute))
        return logits.mean(dim=0, keepdim=True)
