"""Pretraining of an encoder on any pretext task."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from ctp.data.catalog import check_apart
from ctp.data.passes import plan_sources
from ctp.data.sources import open_catalog
from ctp.data.stream import LoadVideos, S, SampleStream, stack
from ctp.encoders.config import RANDOM
from ctp.encoders.encoder import Encoder
from ctp.encoders.initial import load_initial_weights, with_norm_eps_of
from ctp.encoders.registry import build_encoder
from ctp.encoders.weights import encoder_bytes
from ctp.pretext.config import PretrainConfig
from ctp.pretext.health import HealthMonitor, gradient_norm
from ctp.pretext.heldout import HeldoutSamples
from ctp.pretext.registry import build_task
from ctp.pretext.task import Mean, PretextTask
from ctp.training.distributed import Worker, gather
from ctp.training.run_folder import snapshot_name
from ctp.training.schedule import is_epoch_end, total_steps
from ctp.training.step import LossTerms, autocast, prepare
from ctp.training.trainer import Learner, TrainingSpec
from ctp.training.transfer import to_device
from ctp.versions import stamp

EVALUATION_BATCH = 16


def open_pretraining(config: PretrainConfig) -> TrainingSpec[Any]:
    """List the run's videos and hold some out.

    Raises:
        ValueError: there are no videos, or too few; `check_apart` or `plan_sources` refuses them;
            or `initial_encoder` is no file of weights.
        StorageError: the storage fails.
    """
    encoder = with_norm_eps_of(config.initial_encoder or RANDOM, config.encoder)
    config = config.replace(encoder=encoder)
    data, listed = config.data, open_catalog(config.data.uri, "data.uri")
    if data.heldout_uri:
        train, heldout = listed, open_catalog(data.heldout_uri, "data.heldout_uri")
    else:
        train, heldout = listed.split(data.heldout_share, config.seed)
    heldout_option = "data.heldout_uri" if data.heldout_uri else "data.heldout_share"
    check_apart(train, heldout, "data.uri", heldout_option)
    train = train.share(data.share, config.seed)
    task, batch = build_task(config.task), config.compute.batch
    is_by_duration = data.clips_per_video == "by_duration"
    span_frames = config.task.sampling.middle_span_frames if is_by_duration else None
    sources = plan_sources(train, data.uri, data.mix, span_frames)
    epoch_clips = sum(source.num_clips for source in sources)
    stream = SampleStream(
        drawer=task,
        catalog=train,
        seed=config.seed,
        total_batch=batch,
        total_steps=total_steps(config.schedule, epoch_clips, batch),
        repeats_per_pass=data.repeats_per_pass,
        sources=sources,
    )
    return TrainingSpec(config, stream, HeldoutSamples(heldout, config.seed, task), TaskLearner)


def build_model(config: PretrainConfig) -> nn.Module:
    """Return a model with random weights that depend on the run's seed alone."""
    # every worker draws the same weights, whatever it drew before
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        return build_task(config.task).build(build_encoder(config.encoder))


class TaskLearner(Learner[S]):
    """Trains the model of a pretext task; the encoder is the result."""

    def __init__(self, spec: TrainingSpec[S], worker: Worker, load: LoadVideos):
        assert isinstance(spec.config, PretrainConfig)
        self.config, self._spec, self._worker, self._load = spec.config, spec, worker, load
        assert isinstance(spec.stream.drawer, PretextTask)
        self.task = spec.stream.drawer
        self.model = prepare(build_model(self.config), self.config.compute, worker.device)
        self._encoder.clip_format = self.config.clip_format
        self._heldout: list[S] | None = None

    def initialize(self) -> None:
        """Load `initial_encoder`, if there is one; the other weights are random."""
        load_initial_weights(self._encoder, self.config.initial_encoder or RANDOM)

    def loss(self, model: nn.Module, inputs: S) -> LossTerms:
        """Return the task's loss."""
        return self.task.loss(model, inputs)

    def after_step(self, step: int) -> None:
        """Let the task update what the optimiser does not."""
        self.task.after_step(self.model, step)

    def should_evaluate(self, step: int) -> bool:
        """Return whether `step` is a multiple of `evaluation.every_steps`."""
        return step % self.config.evaluation.every_steps == 0

    @torch.no_grad()
    def evaluate(self) -> dict[str, float]:
        """Evaluate the task on held-out samples, each by one of the workers.

        Returns:
            the task's scores; "heldout_clips", the number of evaluated samples;
            "heldout_quarantined", the number of samples that could not be read; and the metrics
            of `HealthMonitor`.
        """
        samples = self._heldout_samples()
        self.model.eval()
        # as in training, or the score would be that of another model
        monitor = HealthMonitor()
        with autocast(self.config.compute, self._worker.device), monitor.watching(self.model):
            means = dict(self.task.evaluate(self.model, self._batches(samples)))
        self.model.train()
        reports = gather((means, len(samples), len(self._indices()) - len(samples)))
        return add_means([means for means, _, _ in reports]) | {
            "heldout_clips": sum(count for _, count, _ in reports),
            "heldout_quarantined": sum(count for _, _, count in reports),
            **monitor.metrics(),
        }

    def extra_metrics(self, step: int) -> dict[str, float]:
        """Return the task's entries for the log line, and the norm of the encoder's gradient in
        the newest step, after clipping."""
        return {
            "encoder_gradient_norm": gradient_norm(self._encoder),
            **self.task.progress_metrics(step / self._spec.stream.total_steps),
        }

    def extra_files(self, step: int) -> dict[str, bytes]:
        """Return the encoder when its k-NN score is due."""
        config, stream = self.config, self._spec.stream
        if not config.knn.uri:
            return {}
        is_due = is_epoch_end(
            step, config.knn.every_epochs, stream.epoch_clips, config.compute.batch
        )
        if not is_due and step != stream.total_steps:
            return {}
        # scored by another process, while this one trains on
        return {snapshot_name(step): self._encoder_file(step)}

    def export(self) -> dict[str, bytes]:
        """Return the encoder."""
        return {self.config.RESULT: self._encoder_file(self._spec.stream.total_steps)}

    @property
    def _encoder(self) -> Encoder:
        encoder = self.model.encoder
        assert isinstance(encoder, Encoder)
        return encoder

    def _encoder_file(self, steps: int) -> bytes:
        about = {"run": self.config.name, "steps": str(steps), **stamp(self._spec.written_by)}
        return encoder_bytes(self._encoder, about)

    def _indices(self) -> range:
        """Return this worker's share of the held-out samples."""
        wanted = self.config.evaluation.num_clips if len(self._spec.evaluation.catalog) else 0
        return range(wanted)[self._worker.rank :: self._worker.world_size]

    def _heldout_samples(self) -> list[S]:
        """Return the samples that can be read; they are drawn once and kept."""
        if self._heldout is None:
            # decoding takes longer than the model, and every evaluation is on the same samples
            loaded = list(self._load(self._spec.evaluation, self._indices()))
            self._heldout = [sample for some in loaded for sample in some.items]
            self.quarantined = [entry for some in loaded for entry in some.quarantined]
        return self._heldout

    def _batches(self, samples: list[S]) -> Iterator[S]:
        for start in range(0, len(samples), EVALUATION_BATCH):
            some = samples[start : start + EVALUATION_BATCH]
            yield to_device(stack(some), self._worker.device)


def add_means(of_workers: Sequence[Mapping[str, Mean]]) -> dict[str, float]:
    """Return the means over all workers, without those of no values, and as "error_…" the known
    standard errors."""
    names = dict.fromkeys(name for means in of_workers for name in means)
    found = {}
    for name in names:
        means = [means[name] for means in of_workers if name in means]
        squares = [mean.squares for mean in means if mean.squares is not None]
        mean = Mean(
            sum(mean.total for mean in means),
            sum(mean.number for mean in means),
            sum(squares) if squares else None,
        )
        if mean.number:
            found[name] = mean.total / mean.number
        if mean.error is not None:
            found[f"error_{name}"] = mean.error
    return found
