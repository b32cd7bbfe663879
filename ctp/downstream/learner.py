"""The base of fine-tuning runs: initial weights, the test, and the files of the result."""

from __future__ import annotations

import json
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, Generic, NamedTuple, TypeVar

import torch
from torch import nn

from ctp.data.quarantine import QuarantinedVideo
from ctp.data.stream import LoadVideos, S
from ctp.downstream.config import DownstreamConfig
from ctp.downstream.initial import clip_format_of
from ctp.encoders.encoder import Encoder
from ctp.encoders.initial import load_initial_weights
from ctp.encoders.weights import encoder_bytes
from ctp.training.distributed import Worker, gather
from ctp.training.run_folder import ENCODER
from ctp.training.step import prepare
from ctp.training.trainer import Learner, TrainingSpec
from ctp.versions import stamp

V = TypeVar("V")
"""The part of a video that a test reads."""
T = TypeVar("T")
"""The result of a test of one video; it is sent to the other workers, so it is on the CPU."""


class Tested(NamedTuple, Generic[T]):
    """The result of a test: one for each video, and the videos that could not be used."""

    results: list[T]
    quarantined: list[QuarantinedVideo]


class DownstreamLearner(Learner[S], Generic[S, V, T]):
    """Trains an encoder and a model on top of it, and tests them on separate videos."""

    def __init__(self, spec: TrainingSpec[S], worker: Worker, load: LoadVideos, model: nn.Module):
        assert isinstance(spec.config, DownstreamConfig)
        self._config, self._spec, self._worker, self._load = spec.config, spec, worker, load
        self.model = prepare(model, spec.config.compute, worker.device)
        is_trained = any(each.requires_grad for each in self._encoder.parameters())
        self._encoder.clip_format = (
            spec.config.clip_format if is_trained else clip_format_of(spec.config.initial)
        )
        self._tested: Tested[T] | None = None

    def initialize(self) -> None:
        """Load the encoder's initial weights."""
        load_initial_weights(self._encoder, self._config.initial)

    @abstractmethod
    def test(self, video: V) -> T:
        """Test the model, which is in evaluation mode, on a video."""

    @abstractmethod
    def scores(self, results: Sequence[T]) -> Mapping[str, float]:
        """Return the scores of the log line from the results of all videos."""

    @abstractmethod
    def details(self, results: Sequence[T]) -> Mapping[str, Any]:
        """Return what scores.json contains besides the scores."""

    @abstractmethod
    def model_files(self, about: Mapping[str, str]) -> Mapping[str, bytes]:
        """Return the files of the trained model besides the encoder's, with `about` as metadata."""

    @torch.no_grad()
    def evaluate(self) -> dict[str, float]:
        """Test each video by one of the workers.

        Returns:
            `scores`; "tested", the number of tested videos; and "test_quarantined", the number of
            videos that could not be tested.
        """
        videos = self._spec.evaluation
        # every n-th, so that long and short videos are spread over the workers
        share = range(len(videos.catalog))[self._worker.rank :: self._worker.world_size]
        own: Tested[T] = Tested([], [])
        self.model.eval()
        for some in self._load(videos, share):
            own.quarantined.extend(some.quarantined)
            own.results.extend(self.test(video) for video in some.items)
        # also restores the evaluation mode of frozen parts, see `Encoder.train`
        self.model.train()
        # the trainer collects them from all workers for the ledger
        self.quarantined = own.quarantined
        reports = gather(own)  # the same on every worker, and so are the scores
        self._tested = Tested(
            [result for report in reports for result in report.results],
            [*videos.catalog.quarantined, *(e for report in reports for e in report.quarantined)],
        )
        return {
            **self.scores(self._tested.results),
            "tested": len(self._tested.results),
            "test_quarantined": len(self._tested.quarantined),
        }

    def export(self) -> dict[str, bytes]:
        """Return encoder, model and scores."""
        if self._tested is None:  # resumed after the last step
            self.evaluate()
        assert self._tested is not None
        results, quarantined = self._tested
        scores = {
            **self.scores(results),
            "tested": len(results),
            "quarantined": [vars(entry) for entry in quarantined],
            "trained_on": len(self._spec.stream.catalog),
            **self.details(results),
        }
        about = {"run": self._config.name, **stamp(self._spec.written_by)}
        return {
            ENCODER: encoder_bytes(self._encoder, about),
            **self.model_files(about),
            self._config.RESULT: json.dumps(scores, indent=1).encode(),
        }

    @property
    def _encoder(self) -> Encoder:
        encoder = self.model.encoder
        assert isinstance(encoder, Encoder)
        return encoder
