"""Pretraining by Catch-the-Patch, as a task for `ctp.training.trainer`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from ctp.data.catalog import Catalog, open_catalog
from ctp.encoders.weights import encoder_bytes, load_encoder
from ctp.pretext.batches import frames_on, on
from ctp.pretext.clips import ClipMaker
from ctp.pretext.config import PretrainConfig
from ctp.pretext.ctp.loss import tracking_loss
from ctp.pretext.ctp.tracker import Tracker
from ctp.pretext.health import Health
from ctp.storage import Storage, StorageError
from ctp.training.distributed import Worker
from ctp.training.run_folder import snapshot_name
from ctp.training.schedule import is_epoch_end
from ctp.training.step import Loss, arrange, autocast, prepare
from ctp.training.trainer import OpenMaker, Task
from ctp.video.augment import to_input


@dataclass(frozen=True)
class Pretraining:
    """A pretraining run.

    Attributes:
        train, heldout: make the clips to train on, and those to watch health on.
    """

    train: ClipMaker
    heldout: ClipMaker

    @classmethod
    def of(cls, config: PretrainConfig) -> Pretraining:
        """List the run's videos and hold some out.

        Raises:
            ValueError: there are no videos, or too few.
        """
        data, listed = config.data, open_catalog(config.data.uri)
        if data.heldout_uri:
            train, heldout = listed, open_catalog(data.heldout_uri)
        else:
            train, heldout = listed.split(data.heldout_share, config.seed)
        return cls(ClipMaker(config, train), ClipMaker(config, heldout))

    @property
    def config(self) -> PretrainConfig:
        """The run's config."""
        return self.train.config

    @property
    def catalogs(self) -> Sequence[Catalog]:
        """The videos to train on, and those held out."""
        return self.train.catalog, self.heldout.catalog

    def task(self, worker: Worker, open_maker: OpenMaker) -> PretrainTask:
        """What a worker trains."""
        return PretrainTask(self, worker, open_maker)


class PretrainTask(Task):
    """Encoder and head learn to track patches; the encoder is what comes out."""

    model: Tracker

    def __init__(self, job: Pretraining, worker: Worker, open_maker: OpenMaker):
        self.config = job.config
        self.device = worker.device
        self.model = prepare(build_model(self.config), self.config.compute, self.device)
        self._total_steps, self._num_videos = job.train.total_steps, len(job.train.catalog)
        self._health = Health(job.heldout, worker, open_maker)

    def initialise(self) -> None:
        """Load `initial_encoder`, if there is one; `build_model` has seen to the rest."""
        uri = self.config.initial_encoder
        if uri:
            try:
                load_encoder(self.model.encoder, Storage.of(uri).read_bytes(), uri)
            except (ValueError, StorageError) as error:
                raise type(error)(f"initial_encoder: {error}") from error

    def loss(self, model: nn.Module, batch: Mapping[str, Any]) -> Loss:
        """`tracking_loss` on a batch of `ClipMaker.batch`."""
        config = self.config
        frames = frames_on(self.device, batch, config.augment.frame_size_px)
        boxes = on(self.device, batch["boxes"])
        clips = arrange(to_input(frames, torch.as_tensor(batch["color"])), config.compute)
        with autocast(config.compute, self.device):
            offsets = model(clips, boxes[:, :, 0])
        return tracking_loss(offsets, boxes, self.model.sigma)

    def is_look_due(self, step: int) -> bool:
        """At every multiple of `health.every_steps`."""
        return step % self.config.health.every_steps == 0

    def look(self) -> dict[str, float]:
        """`Health.look`."""
        found = self._health.look(self.model)
        self.quarantined = self._health.quarantined
        return found

    def more_in_log(self, step: int) -> dict[str, float]:
        """How far the curriculum is."""
        curriculum = self.config.curriculum
        if curriculum is None:
            return {}
        return {"other_clip_share": curriculum.other_clip_share(step / self._total_steps)}

    def on_the_way(self, step: int) -> dict[str, bytes]:
        """The encoder, when its `knn` score is due."""
        config = self.config
        if not config.knn.uri:
            return {}
        epochs, clips = config.knn.every_epochs, config.compute.total_batch
        is_due = is_epoch_end(step, epochs, self._num_videos, clips)
        if not is_due and step != self._total_steps:
            return {}
        return {snapshot_name(step): self._encoder(step)}

    def results(self) -> dict[str, bytes]:
        """The encoder."""
        return {self.config.RESULT: self._encoder(self._total_steps)}

    def _encoder(self, steps: int) -> bytes:
        return encoder_bytes(self.model.encoder, {"run": self.config.name, "steps": str(steps)})


def build_model(config: PretrainConfig) -> Tracker:
    """A model with fresh weights that follow from the run's seed alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        return Tracker(config.encoder, config.head, config.sampling.num_frames, config.sigma)
