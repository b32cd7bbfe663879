"""A run of training, as each of its workers sees it: no cluster needed, one process will do."""

from __future__ import annotations

import math
import resource
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, Protocol, Self

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from ctp.data.catalog import Catalog
from ctp.data.quarantine import QuarantinedVideo, QuarantineLedger, QuarantineLimitError
from ctp.storage import StorageError
from ctp.training import run_folder
from ctp.training.checkpoint import TrainState
from ctp.training.claim import checkpoint_store, run_storage
from ctp.training.config import RunConfig
from ctp.training.distributed import Worker, from_first, gather
from ctp.training.maker import StreamMaker
from ctp.training.metrics_log import MetricsLog
from ctp.training.run_folder import Row
from ctp.training.schedule import learning_rate_factor
from ctp.training.step import Loss, build_optimizer, train_step
from ctp.training.sync_norm import synchronise_norms

OpenStream = Callable[[StreamMaker[Any], int], Iterator[Mapping[str, Any]]]
"""Opens one worker's batches (`StreamMaker.batch`) of the run's stream from a clip number on."""


class Caller(Protocol):
    """Calls a maker's methods: here, or in a process that may be lost."""

    def call(self, name: str, numbers: Sequence[int]) -> Any:
        """What the method of that name makes of numbers."""


OpenMaker = Callable[[StreamMaker[Any]], AbstractContextManager[Caller]]


class RunStoppedError(RuntimeError):
    """The run cannot go on, and starting it again would not help; every worker raises it."""


class Task(ABC):
    """What is trained, on one worker.

    Attributes:
        model: all that is trained and saved, on the worker's device.
        quarantined: videos that evaluation could not use, since it was asked last.
    """

    model: nn.Module
    quarantined: Sequence[QuarantinedVideo] = ()

    @abstractmethod
    def initialise(self) -> None:
        """Give the model the weights that a new run starts from.

        Raises:
            ValueError: they do not fit.
            StorageError: they cannot be read.
        """

    @abstractmethod
    def loss(self, model: nn.Module, batch: Mapping[str, Any]) -> Loss:
        """The loss of a batch of clips; `model` is `self.model`, wrapped or not."""

    @abstractmethod
    def is_look_due(self, step: int) -> bool:
        """Whether to `look` after so many steps; there is a look at the end in any case."""

    @abstractmethod
    def look(self) -> dict[str, float]:
        """How good the model is, as entries of a log line; all workers must call it together."""

    def more_in_log(self, step: int) -> dict[str, float]:
        """What else the log line after a step tells."""
        return {}

    def on_the_way(self, step: int) -> dict[str, bytes]:
        """Files that the run's folder gets after a step; only the first worker is asked."""
        return {}

    @abstractmethod
    def results(self) -> dict[str, bytes]:
        """The files of a finished run; all workers must call it together, the first writes."""


class Job(Protocol):
    """A run as it is sent to its workers; picklable."""

    @property
    def config(self) -> RunConfig:
        """The run's config."""

    @property
    def train(self) -> StreamMaker[Any]:
        """Makes the clips to train on."""

    @property
    def catalogs(self) -> Sequence[Catalog]:
        """All the videos of the run."""

    def task(self, worker: Worker, open_maker: OpenMaker) -> Task:
        """What a worker trains.

        Args:
            worker: which one.
            open_maker: how makers other than `train` are to be called.
        """


class Sign:
    """Tells a run that it may be ended from outside soon; this one never does."""

    def is_up(self) -> bool:
        """Whether to save at once; every worker asks, equally often, when all meet."""
        return False

    def saved(self, step: int) -> None:
        """The state after a step is safe; the first worker says so."""

    def reason_to_end(self) -> str | None:
        """Why the run is to end at once, and not go on, if it is; every worker asks."""
        return None


class CallHere:
    """A maker that is called in this process, for use in a `with` statement."""

    def __init__(self, maker: StreamMaker[Any]):
        self._maker = maker

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def call(self, name: str, numbers: Sequence[int]) -> Any:
        """What the method of that name makes of numbers."""
        return getattr(self._maker, name)(numbers)


def run(
    job: Job,
    worker: Worker,
    open_stream: OpenStream,
    publish: Callable[[Row], None] = lambda row: None,
    open_maker: OpenMaker = CallHere,
    sign: Sign | None = None,
) -> None:
    """Train, as one of `worker.world` workers, from the newest checkpoint to the run's end.

    Args:
        job: what to train, on what.
        worker: which of the workers this is. Where there are several, `torch.distributed` has
            been initialised.
        open_stream: gives this worker's batches.
        publish: called on the first worker with every log line.
        open_maker: how clips to evaluate on are made.
        sign: when it is up, the run saves at its next log line, and goes on.

    Raises:
        RunStoppedError: the checkpoint is of another catalogue, too many videos cannot be used,
            the run folder cannot be written, or the loss is not finite.
    """
    training = _Run(job, worker, open_maker, sign or Sign())
    training.resume()
    first_clip = training.step * job.config.compute.total_batch
    try:
        training.train(open_stream(job.train, first_clip), publish)
    except BaseException:
        with suppress(OSError):  # what stops the run is the news
            training.close()
        raise
    training.close()


@dataclass
class _Interval:
    """What happened on a worker since the last log line."""

    losses: list[dict[str, Tensor]] = field(default_factory=list)
    quarantined: list[QuarantinedVideo] = field(default_factory=list)
    wait_seconds: float = 0.0
    started: float = field(default_factory=time.monotonic)


@dataclass(frozen=True)
class _Report:
    """What a worker tells the others when they meet."""

    losses: list[dict[str, float]]  # of each step, with the gradient's norm
    quarantined: list[QuarantinedVideo]
    wait_share: float
    seconds: float
    seconds_since_save: float
    is_ending: bool
    error: str | None


class _Run:
    """The state of a run on one worker."""

    def __init__(self, job: Job, worker: Worker, open_maker: OpenMaker, sign: Sign):
        self.job, self.worker, self.sign = job, worker, sign
        config = self.config = job.config
        self.folder = run_storage(config)
        self.store = checkpoint_store(config)
        self.task = job.task(worker, open_maker)
        self.model = self.task.model
        self.optimizer = build_optimizer(config.optimizer, self.model)
        self.step = 0
        self.ledger = QuarantineLedger()
        self.found = (
            QuarantineLedger()
        )  # since this start: what was mended before it must not stop it
        self.error: str | None = None
        self.last_save = time.monotonic()
        self.log: MetricsLog | None = None
        self.interval = _Interval()

    def resume(self) -> None:
        """Take up the newest checkpoint, if there is one; every worker the same."""
        name = self._newest()
        if name is not None:
            self._restore(name)
        else:
            self._initialise()
        synchronise_norms(self.model, self.worker.device)
        quarantine = self.folder.join(run_folder.QUARANTINE)
        if quarantine.exists():
            self.ledger = QuarantineLedger.from_jsonl(quarantine.read_bytes())
        self._take_in([entry for catalog in self.job.catalogs for entry in catalog.quarantined])
        if self.worker.is_first:
            self.log = MetricsLog(self.folder, self.step)

    def _newest(self) -> str | None:
        """The newest checkpoint, as the first worker sees it."""
        name = None
        if self.worker.is_first:
            with self._kept_for_all():
                name = self.store.newest()
        name, error = from_first((name, self.error))
        if error is not None:
            raise RunStoppedError(error)
        return name

    def _initialise(self) -> None:
        try:
            self.task.initialise()
        except (ValueError, StorageError) as error:
            raise RunStoppedError(str(error)) from error

    def _restore(self, name: str) -> None:
        try:
            state = self.store.load(name)
        except StorageError as error:
            raise RunStoppedError(str(error)) from error
        here = self.job.train.catalog.fingerprint()
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
        config, total = self.config, self.job.train.total_steps
        model = self._wrapped()
        parameters = [each for each in self.model.parameters() if each.requires_grad]
        self.interval = _Interval()
        while self.step < total:
            batch = self._next(stream)
            losses = train_step(
                lambda batch=batch: self.task.loss(model, batch),  # type: ignore[misc]
                parameters,
                self.optimizer,
                config.optimizer.max_gradient_norm,
                self._learning_rate(self.step),
            )
            self.step += 1
            self.interval.losses.append(losses)
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
        self.interval.quarantined += [r for found in batch["quarantined"] for r in found]
        self.error = self.error or next(filter(None, batch["failed"]), None)
        share = self.config.compute.total_batch // self.worker.world
        expected = self.step * self.config.compute.total_batch + self.worker.rank * share
        assert int(batch["position"][0]) == expected, "the stream is out of step with the run"
        return batch

    def _learning_rate(self, step: int) -> float:
        config = self.config
        factor = learning_rate_factor(
            config.schedule, step, len(self.job.train.catalog), config.compute.total_batch
        )
        return config.optimizer.learning_rate * factor

    def _after_step(self, publish: Callable[[Row], None], is_last: bool) -> None:
        """Log, save and look at health when due. Every worker decides alike."""
        config = self.config
        self._write_on_the_way()
        save_now = is_last or _is_due(self.step, config.checkpoint.every_steps)
        look_now = is_last or self.task.is_look_due(self.step)
        if not (save_now or look_now or _is_due(self.step, config.log_every_steps)):
            return
        found = self.task.look() if look_now else {}
        reports = gather(self._report())  # the same on every worker, and so what follows
        self.interval = _Interval()
        self._take_in([entry for report in reports for entry in report.quarantined])
        rows = self._rows(reports, found)
        if self.log is not None:
            with self._kept_for_all():
                self.log.write(rows)
            publish({**rows[-1], "total_steps": self.job.train.total_steps})
        self._check(reports, rows)
        is_ending = any(report.is_ending for report in reports)
        is_time = reports[0].seconds_since_save >= 60 * config.checkpoint.every_minutes
        if save_now or is_time or is_ending:
            self._save()
        if is_ending:
            self._say_saved()

    def _write_on_the_way(self) -> None:
        if self.worker.is_first:
            with self._kept_for_all():
                for name, data in self.task.on_the_way(self.step).items():
                    self.folder.join(name).write_bytes(data)

    def _report(self) -> _Report:
        seconds = time.monotonic() - self.interval.started
        return _Report(
            losses=_on_cpu(self.interval.losses),
            quarantined=[*self.interval.quarantined, *self.task.quarantined],
            wait_share=self.interval.wait_seconds / seconds,
            seconds=seconds,
            seconds_since_save=time.monotonic() - self.last_save,
            is_ending=self.sign.is_up(),
            error=self.error or self.sign.reason_to_end(),
        )

    def _rows(self, reports: list[_Report], found: dict[str, float]) -> list[Row]:
        """One row a step, the last with the interval's speed and what was found."""
        losses = [_mean(of_step) for of_step in zip(*(r.losses for r in reports), strict=True)]
        total_batch, first = self.config.compute.total_batch, self.step - len(losses) + 1
        rows: list[dict[str, float | int | str]] = [
            {
                "step": step,
                "clips": step * total_batch,
                **of_step,
                "learning_rate": self._learning_rate(step - 1),
            }
            for step, of_step in enumerate(losses, start=first)
        ]
        rows[-1] |= {
            "clips_per_second": len(losses) * total_batch / reports[0].seconds,
            "wait_share": max(report.wait_share for report in reports),
            "worker_memory_gib": _memory_gib(),
            "workers": self.worker.world,
            "quarantined": len(self.ledger),
            **self.store.more_in_log(),
            **self.task.more_in_log(self.step),
            **found,
        }
        return list(rows)

    def _check(self, reports: list[_Report], rows: list[Row]) -> None:
        """Stop all workers together when the run cannot go on."""
        for report in reports:
            if report.error is not None:
                raise RunStoppedError(str(report.error))
        if not all(math.isfinite(row["loss"] + row["gradient_norm"]) for row in rows):  # type: ignore[arg-type, operator]
            raise RunStoppedError(
                f"the loss or its gradient is not finite between steps {rows[0]['step']} and "
                f"{self.step}. Lower optimizer.learning_rate, or add schedule.warmup_steps"
            )
        try:
            self.found.check(self._num_videos(), self.config.data.max_quarantined_share)
        except QuarantineLimitError as error:
            raise RunStoppedError(str(error)) from error

    def _take_in(self, quarantined: list[QuarantinedVideo]) -> None:
        self.found.add(quarantined)
        if self.ledger.add(quarantined) and self.worker.is_first:
            with self._kept_for_all():
                self.folder.join(run_folder.QUARANTINE).write_bytes(self.ledger.to_jsonl())

    def _num_videos(self) -> int:
        return sum(map(len, self.job.catalogs))

    def _save(self) -> None:
        self.last_save = time.monotonic()
        if self.worker.is_first:
            with self._kept_for_all():
                assert self.log is not None
                self.store.save(self._state(), before=self.log.sync)

    def _say_saved(self) -> None:
        if self.worker.is_first:
            with self._kept_for_all():
                self.store.wait()
                self.sign.saved(self.step)

    def _state(self) -> TrainState:
        return TrainState(
            step=self.step,
            clips=self.step * self.config.compute.total_batch,
            model=self.model.state_dict(),
            optimizer=self.optimizer.state_dict(),
            config=self.config.model_dump_json(),
            catalog=self.job.train.catalog.fingerprint(),
        )

    def _finish(self) -> None:
        """Write the results, when the last checkpoint is safe; last what tells that all is done."""
        results = self.task.results()
        if self.worker.is_first and self.error is None:
            with self._kept_for_all():
                self.store.wait()
                for name in sorted(results, key=lambda name: name == self.config.RESULT):
                    self.folder.join(name).write_bytes(results[name])
        error = from_first(self.error)
        if error is not None:
            raise RunStoppedError(error)

    @contextmanager
    def _kept_for_all(self) -> Iterator[None]:
        """Keep a storage error of the first worker until all meet and can stop together."""
        try:
            yield
        except OSError as error:
            self.error = self.error or str(error)


def _is_due(step: int, every: int | None) -> bool:
    return every is not None and step % every == 0


def _on_cpu(losses: list[dict[str, Tensor]]) -> list[dict[str, float]]:
    """The same as numbers, by one transfer."""
    values = torch.stack([torch.stack([*of_step.values()]) for of_step in losses]).tolist()
    return [dict(zip(names, row, strict=True)) for names, row in zip(losses, values, strict=True)]


def _mean(of_workers: Sequence[dict[str, float]]) -> dict[str, float]:
    return {
        name: sum(each[name] for each in of_workers) / len(of_workers) for name in of_workers[0]
    }


def _memory_gib() -> float:
    """Peak memory of this process."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**30 if sys.platform == "darwin" else peak / 2**20
