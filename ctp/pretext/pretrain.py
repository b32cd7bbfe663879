"""A pretraining run, as each of its workers sees it: no cluster needed, one process will do."""

from __future__ import annotations

import math
import os
import resource
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
import yaml
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from ctp.models.sync_norm import synchronise_norms
from ctp.models.weights import encoder_bytes
from ctp.pretext.clips import Batch, ClipMaker, stack
from ctp.pretext.config import PretrainConfig
from ctp.pretext.ctp import CtpModel, build_model, tracking_loss
from ctp.storage import Storage, StorageError
from ctp.training import run_folder
from ctp.training.checkpoint import CheckpointStore, TrainState
from ctp.training.collective import Worker, from_first, gather
from ctp.training.metrics import TrackingTally
from ctp.training.run_folder import MetricsLog, Row
from ctp.training.schedule import learning_rate_factor
from ctp.training.step import LossTerms, autocast, build_optimizer, prepare, train_step
from ctp.video.augment import to_input
from ctp.video.catalog import CORPUS, open_catalog
from ctp.video.quarantine import Ledger, QuarantineLimitError, Rejected

HEALTH_BATCH = 16

OpenStream = Callable[[ClipMaker, int], Iterator[Mapping[str, Any]]]
"""Opens one worker's batches (`ClipMaker.batch`) of the run's stream from a clip number on."""


class RunStoppedError(RuntimeError):
    """The run cannot go on, and starting it again would not help; every worker raises it."""


@dataclass(frozen=True)
class Makers:
    """What makes the clips of a run: to train on, and held out."""

    train: ClipMaker
    heldout: ClipMaker

    @property
    def config(self) -> PretrainConfig:
        """The run's config."""
        return self.train.config

    @classmethod
    def of(cls, config: PretrainConfig) -> Makers:
        """List the run's videos and hold some out.

        Raises:
            ValueError: there are no videos, or too few.
        """
        share = config.data.heldout_share
        train, heldout = open_catalog(config.data.uri).split(share, config.seed)
        return cls(ClipMaker(config, train), ClipMaker(config, heldout))


def anchored(config: PretrainConfig) -> PretrainConfig:
    """The config with absolute local paths: workers run in other folders than the user."""
    uri = config.data.uri
    uri = _absolute(uri) if isinstance(uri, str) else tuple(map(_absolute, uri))
    return config.replace(
        storage=Storage.of(config.storage).uri, data=config.data.replace(uri=uri)
    )


def _absolute(uri: str) -> str:
    is_path = "://" not in uri and not uri.startswith(CORPUS)
    return os.path.abspath(os.path.expanduser(uri)) if is_path else uri


def run_storage(config: PretrainConfig) -> Storage:
    """Where the run's folder lies."""
    return Storage.of(config.storage).join(config.name)


def newest_clips(config: PretrainConfig) -> int:
    """Clips consumed at the newest checkpoint of the run; 0 before the first."""
    name = _store(config).newest()
    return 0 if name is None else int(name.partition("-")[2]) * config.compute.total_batch


def run(
    makers: Makers,
    worker: Worker,
    open_stream: OpenStream,
    publish: Callable[[Row], None] = lambda row: None,
) -> None:
    """Train, as one of `worker.world` workers, from the newest checkpoint to the run's end.

    Args:
        makers: the run's clips, and with them its config.
        worker: which of the workers this is. Where there are several, `torch.distributed` has
            been initialised.
        open_stream: gives this worker's batches.
        publish: called on the first worker with every log line.

    Raises:
        RunStoppedError: the checkpoint is of another catalogue, too many videos cannot be used,
            the run folder cannot be written, or the loss is not finite.
    """
    session = _Run(makers, worker)
    session.resume()
    first_clip = session.step * makers.config.compute.total_batch
    try:
        session.train(open_stream(makers.train, first_clip), publish)
    finally:
        session.close()


def _store(config: PretrainConfig) -> CheckpointStore:
    folder = run_storage(config).join(run_folder.CHECKPOINTS)
    return CheckpointStore(folder, config.checkpoint.keep)


@dataclass
class _Interval:
    """What happened on a worker since the last log line."""

    losses: list[Tensor] = field(default_factory=list)
    rejected: list[Rejected] = field(default_factory=list)
    wait_seconds: float = 0.0
    started: float = field(default_factory=time.monotonic)


@dataclass(frozen=True)
class _Report:
    """What a worker tells the others when they meet."""

    losses: Tensor  # float [steps, 3]: LossTerms of each step
    rejected: list[Rejected]
    wait_share: float
    seconds: float
    seconds_since_save: float
    error: str | None


class _Run:
    """The state of a run on one worker."""

    def __init__(self, makers: Makers, worker: Worker):
        self.makers, self.worker = makers, worker
        config = self.config = makers.config
        self.folder = run_storage(config)
        self.store = _store(config)
        self.model = prepare(build_model(config), config.compute, worker.device)
        assert isinstance(self.model, CtpModel)
        self.optimizer = build_optimizer(config.optimizer, self.model)
        self.step = 0
        self.ledger = Ledger()
        self.error: str | None = None
        self.last_save = time.monotonic()
        self.log: MetricsLog | None = None
        self.heldout: list[Batch] | None = None
        self.interval = _Interval()

    def resume(self) -> None:
        """Take up the newest checkpoint, if there is one; every worker the same."""
        name = from_first(self.store.newest() if self.worker.is_first else None)
        if name is not None:
            self._restore(self.store.load(name))
        self.model = synchronise_norms(self.model, self.worker.device)
        quarantine = self.folder.join(run_folder.QUARANTINE)
        if quarantine.exists():
            self.ledger = Ledger.from_jsonl(quarantine.read_bytes())
        if self.worker.is_first:
            self.log = MetricsLog(self.folder, self.step)

    def _restore(self, state: TrainState) -> None:
        here = self.makers.train.catalog.fingerprint()
        if state.catalog != here:
            raise RunStoppedError(
                f"run {self.config.name!r} was started with other videos than data.uri "
                f"{self.config.data.uri!r} has now. Restore them, or start a run of another name"
            )
        self.model.load_state_dict(state.model)
        self.optimizer.load_state_dict(dict(state.optimizer))
        self.step = state.step

    def train(self, stream: Iterator[Mapping[str, Any]], publish: Callable[[Row], None]) -> None:
        """Do all the steps that are left, with all that is due between them."""
        config, total = self.config, self.makers.train.total_steps
        model = self._wrapped()
        parameters = list(self.model.parameters())
        self.interval = _Interval()
        while self.step < total:
            batch = self._next(stream)
            terms = train_step(
                lambda batch=batch: self._loss(model, batch),  # type: ignore[misc]
                parameters,
                self.optimizer,
                config.optimizer.max_gradient_norm,
                self._learning_rate(self.step),
            )
            self.step += 1
            self.interval.losses.append(torch.stack(terms))
            self._after_step(publish, is_last=self.step == total)
        self._finish()

    def close(self) -> None:
        """Finish writing."""
        try:
            self.store.close()
        finally:
            if self.log is not None:
                self.log.close()

    def _wrapped(self) -> nn.Module:
        """The model as it is trained: compiled, and its gradients averaged over workers."""
        model: nn.Module = self.model
        if self.config.compute.compile:
            model = torch.compile(model)  # type: ignore[assignment]
        if self.worker.world == 1:
            return model
        devices = [self.worker.device] if self.worker.device.type == "cuda" else None
        # SyncBatchNorm keeps the buffers alike; broadcasting them would be work twice
        return DistributedDataParallel(model, device_ids=devices, broadcast_buffers=False)

    def _next(self, stream: Iterator[Mapping[str, Any]]) -> Mapping[str, Any]:
        began = time.monotonic()
        batch = next(stream)
        self.interval.wait_seconds += time.monotonic() - began
        self.interval.rejected += [r for found in batch["rejected"] for r in found]
        share = self.config.compute.total_batch // self.worker.world
        expected = self.step * self.config.compute.total_batch + self.worker.rank * share
        assert int(batch["position"][0]) == expected, "the stream is out of step with the run"
        return batch

    def _loss(self, model: nn.Module, batch: Mapping[str, Any]) -> LossTerms:
        device = self.worker.device
        frames = torch.as_tensor(batch["frames"]).to(device, non_blocking=True)
        boxes = torch.as_tensor(batch["boxes"]).to(device, non_blocking=True)
        clips = to_input(frames, torch.as_tensor(batch["color"]))
        with autocast(self.config.compute, device):
            offsets = model(clips, boxes[:, :, 0])
        return tracking_loss(offsets, boxes, self.model.sigma)  # type: ignore[arg-type]

    def _learning_rate(self, step: int) -> float:
        config = self.config
        factor = learning_rate_factor(
            config.schedule, step, len(self.makers.train.catalog), config.compute.total_batch
        )
        return config.optimizer.learning_rate * factor

    def _after_step(self, publish: Callable[[Row], None], is_last: bool) -> None:
        """Log, save and look at health when due. Every worker decides alike."""
        config = self.config
        save_now = is_last or _is_due(self.step, config.checkpoint.every_steps)
        look_now = is_last or _is_due(self.step, config.health.every_steps)
        if not (save_now or look_now or _is_due(self.step, config.log_every_steps)):
            return
        health = self._health() if look_now else {}
        reports = gather(self._report())  # the same on every worker, and so what follows
        self.interval = _Interval()
        self._take_in([entry for report in reports for entry in report.rejected])
        rows = self._rows(reports, health)
        if self.log is not None:
            self.log.write(rows)
            publish({**rows[-1], "total_steps": self.makers.train.total_steps})
        self._check(reports, rows)
        if save_now or reports[0].seconds_since_save >= 60 * config.checkpoint.every_minutes:
            self._save()

    def _report(self) -> _Report:
        seconds = time.monotonic() - self.interval.started
        return _Report(
            losses=torch.stack(self.interval.losses).cpu(),
            rejected=self.interval.rejected,
            wait_share=self.interval.wait_seconds / seconds,
            seconds=seconds,
            seconds_since_save=time.monotonic() - self.last_save,
            error=self.error,
        )

    def _rows(self, reports: list[_Report], health: dict[str, float]) -> list[Row]:
        """One row a step, the last with the interval's speed and health."""
        losses = torch.stack([report.losses for report in reports]).mean(dim=0).tolist()
        total_batch, first = self.config.compute.total_batch, self.step - len(losses) + 1
        rows: list[dict[str, float | int | str]] = [
            {
                "step": step,
                "clips": step * total_batch,
                "loss": total,
                "loss_center": center,
                "loss_size": size,
                "learning_rate": self._learning_rate(step - 1),
            }
            for step, (total, center, size) in enumerate(losses, start=first)
        ]
        rows[-1] |= {
            "clips_per_second": len(losses) * total_batch / reports[0].seconds,
            "wait_share": max(report.wait_share for report in reports),
            "worker_memory_gib": _memory_gib(),
            "quarantined": len(self.ledger),
            **health,
        }
        if self.config.curriculum is not None:
            progress = self.step / self.makers.train.total_steps
            rows[-1]["other_clip_share"] = self.config.curriculum.other_clip_share(progress)
        return list(rows)

    def _check(self, reports: list[_Report], rows: list[Row]) -> None:
        """Stop all workers together when the run cannot go on."""
        if reports[0].error is not None:
            raise RunStoppedError(reports[0].error)
        if not all(math.isfinite(row["loss"]) for row in rows):  # type: ignore[arg-type]
            raise RunStoppedError(
                f"the loss is not finite between steps {rows[0]['step']} and {self.step}. Lower "
                "optimizer.learning_rate, or add schedule.warmup_steps"
            )
        try:
            self.ledger.check(self._num_videos(), self.config.data.max_quarantined_share)
        except QuarantineLimitError as error:
            raise RunStoppedError(str(error)) from error

    def _take_in(self, rejected: list[Rejected]) -> None:
        if self.ledger.add(rejected) and self.worker.is_first:
            with self._kept_for_all():
                self.folder.join(run_folder.QUARANTINE).write_bytes(self.ledger.to_jsonl())

    def _num_videos(self) -> int:
        return len(self.makers.train.catalog) + len(self.makers.heldout.catalog)

    def _save(self) -> None:
        self.last_save = time.monotonic()
        if self.worker.is_first:
            with self._kept_for_all():
                self.store.save(self._state())
                assert self.log is not None
                self.log.sync()

    def _state(self) -> TrainState:
        return TrainState(
            step=self.step,
            clips=self.step * self.config.compute.total_batch,
            model=self.model.state_dict(),
            optimizer=self.optimizer.state_dict(),
            config=self.config.model_dump_json(),
            catalog=self.makers.train.catalog.fingerprint(),
        )

    def _finish(self) -> None:
        """Write the encoder, when the last checkpoint is safe."""
        if self.worker.is_first:
            with self._kept_for_all():
                self.store.wait()
                about = {"run": self.config.name, "steps": str(self.step)}
                encoder = encoder_bytes(self.model.encoder, about)  # type: ignore[arg-type]
                self.folder.join(run_folder.ENCODER).write_bytes(encoder)
        error = from_first(self.error)
        if error is not None:
            raise RunStoppedError(error)

    @contextmanager
    def _kept_for_all(self) -> Iterator[None]:
        """Keep a storage error of the first worker until all meet and can stop together."""
        try:
            yield
        except StorageError as error:
            self.error = self.error or str(error)

    @torch.no_grad()
    def _health(self) -> dict[str, float]:
        """Tracking IoU on the held-out clips, each tracked by one of the workers."""
        tally = TrackingTally()
        self.model.eval()
        for batch in self._heldout_batches():
            clips = to_input(torch.as_tensor(batch["frames"]).to(self.worker.device))
            boxes = torch.as_tensor(batch["boxes"]).to(self.worker.device)
            with autocast(self.config.compute, self.worker.device):
                predicted = self.model.track(clips, boxes[:, :, 0])  # type: ignore[operator]
            tally.add(predicted, boxes, torch.as_tensor(batch["visible"]).to(self.worker.device))
        self.model.train()
        tally.sums = torch.stack(gather(tally.sums)).sum(dim=0)
        return tally.result()

    def _heldout_batches(self) -> list[Batch]:
        """This worker's held-out clips; made once, kept as uint8."""
        if self.heldout is None:
            maker, wanted = self.makers.heldout, self.config.health.num_clips
            numbers = range(wanted if len(maker.catalog) else 0)
            clips, rejected = maker.heldout(numbers[self.worker.rank :: self.worker.world])
            self.interval.rejected += rejected
            self.heldout = [
                stack(clips[i : i + HEALTH_BATCH]) for i in range(0, len(clips), HEALTH_BATCH)
            ]
        return self.heldout


def _is_due(step: int, every: int | None) -> bool:
    return every is not None and step % every == 0


def _memory_gib() -> float:
    """Peak memory of this process."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**30 if sys.platform == "darwin" else peak / 2**20


def config_yaml(config: PretrainConfig) -> bytes:
    """The config as the run folder keeps it."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False).encode()


def open_run(config: PretrainConfig) -> bool:
    """Claim the run's folder before anything is spent.

    Returns:
        Whether the run was there before, to be continued.

    Raises:
        ValueError: a run of that name is finished, or has another config; names what differs.
        StorageError: the folder cannot be written.
    """
    folder = run_storage(config)
    folder.check_writable()
    if folder.join(run_folder.ENCODER).exists():
        raise ValueError(
            f"run {config.name!r} is finished: {folder.join(run_folder.ENCODER).uri} is there. "
            "Give another --name, or delete the folder to start anew"
        )
    kept = folder.join(run_folder.CONFIG)
    is_old = kept.exists()
    if is_old:
        there = PretrainConfig.model_validate(yaml.safe_load(kept.read_bytes()))
        mismatch = config.mismatch(there)
        if mismatch:
            raise ValueError(
                f"run {config.name!r} exists with another config:\n  "
                + "\n  ".join(mismatch)
                + "\nGive another --name, or the run's own config to continue it: "
                f"--config {kept.uri}"
            )
    kept.write_bytes(config_yaml(config))
    return is_old
