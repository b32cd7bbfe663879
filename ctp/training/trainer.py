"""A training run as each of its workers executes it. It needs no cluster."""

from __future__ import annotations

import math
import resource
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Generic, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from ctp.constant import keep_while_compiling
from ctp.data.catalog import Catalog
from ctp.data.quarantine import QuarantinedVideo, QuarantineLedger, QuarantineLimitError
from ctp.data.stream import Batch, LoadVideos, S, SampleStream, VideoSet, load_here
from ctp.lease import Attempt, SupersededError
from ctp.storage import StorageError
from ctp.training import run_folder
from ctp.training.checkpoint import TrainState
from ctp.training.config import ComputeConfig, RunConfig
from ctp.training.distributed import Worker, from_first, gather
from ctp.training.metrics_log import MetricsLog
from ctp.training.run_folder import Row, checkpoint_store, folder_of
from ctp.training.schedule import learning_rate_factor
from ctp.training.step import (
    LossTerms,
    autocast,
    build_optimizer,
    load_optimizer_state,
    precision_fault,
    train_step,
)
from ctp.training.sync_norm import synchronise_norms
from ctp.training.transfer import Sender
from ctp.versions import written_by

LOG_SECONDS = 5.0
"""Time between two log lines, for which all workers wait for each other."""
FIRST_STEPS = 10
"""Steps before the first log line, when it is not known yet how long one takes."""
MAX_GROWTH = 4
"""How many times as many steps may come before a log line as before the last one."""

OpenStream = Callable[[SampleStream[S], int], Iterator[Batch[S]]]
"""Opens one worker's batches of a run's stream, from the sample with that number on."""


class RunStoppedError(RuntimeError):
    """The run cannot continue, and a restart of its workers would not help; every worker raises it.

    Attributes:
        is_final: whether the same command would stop again; False if the cause may be temporary,
            such as a failure of the storage.
    """

    def __init__(self, message: str, *, is_final: bool = False):
        super().__init__(message)
        self.is_final = is_final


class Learner(ABC, Generic[S]):
    """What a run trains, on one worker.

    Attributes:
        model: all that is trained and saved, on the worker's device.
        quarantined: videos that the last evaluation could not use.
    """

    model: nn.Module
    quarantined: Sequence[QuarantinedVideo] = ()

    @abstractmethod
    def initialize(self) -> None:
        """Load the weights that a new run starts from.

        Raises:
            ValueError: they do not fit.
            StorageError: they cannot be read.
        """

    def inputs(self, batch: Batch[S]) -> tuple[Any, ...]:
        """Return what `loss` needs of a batch: a NamedTuple of arrays."""
        return batch.samples

    @abstractmethod
    def loss(self, model: nn.Module, inputs: Any) -> LossTerms:
        """Return the loss of a batch. It is compiled as one graph with `compute.compile`.

        Args:
            model: `self.model`, perhaps wrapped.
            inputs: those of the batch, as tensors on the device.
        """

    def after_step(self, step: int) -> None:
        """Update what the optimiser does not update."""

    @abstractmethod
    def should_evaluate(self, step: int) -> bool:
        """Return whether to evaluate after `step` steps; there is an evaluation at the end, too."""

    @abstractmethod
    def evaluate(self) -> Mapping[str, float]:
        """Return scores for the log line; all workers must call it together."""

    def extra_metrics(self, step: int) -> Mapping[str, float]:
        """Return further entries for the log line after `step` steps."""
        return {}

    def extra_files(self, step: int) -> Mapping[str, bytes]:
        """Return files for the run's folder after `step` steps; the first worker is asked."""
        return {}

    @abstractmethod
    def export(self) -> Mapping[str, bytes]:
        """Return the files of a finished run; all workers must call it together."""


@dataclass(frozen=True)
class TrainingSpec(Generic[S]):
    """A run, in the form that is sent to its workers; picklable.

    Attributes:
        config: the run's config.
        stream: the samples to train on.
        evaluation: what is read of each video for an evaluation.
        learner: builds the learner on a worker, from this spec, the worker and what reads videos.
        attempt: the claim of the run folder; None: no other process writes it.
        written_by: versions for the files of the run. They are those of the driver: a worker may
            run a copy of the code that lacks the repository.
    """

    config: RunConfig
    stream: SampleStream[S]
    evaluation: VideoSet[Any]
    learner: Callable[[TrainingSpec[S], Worker, LoadVideos], Learner[S]]
    attempt: Attempt | None = None
    written_by: Mapping[str, str] = field(default_factory=written_by)

    @property
    def catalogs(self) -> tuple[Catalog, Catalog]:
        """Return the videos to train on and those to evaluate on."""
        return self.stream.catalog, self.evaluation.catalog

    @property
    def num_videos(self) -> int:
        """Return the number of all videos."""
        return sum(map(len, self.catalogs))


class StopSignal:
    """Asks a run to save or to end. This one never does."""

    def should_save(self) -> bool:
        """Return whether to save now; every worker asks, equally often, when all meet."""
        return False

    def saved(self, step: int) -> None:
        """Report that the state after `step` is saved; called on the first worker."""

    def reason_to_stop(self) -> str | None:
        """Return the reason to stop, or None; every worker asks."""
        return None


def train(
    spec: TrainingSpec[Any],
    worker: Worker,
    open_stream: OpenStream[Any],
    *,
    publish: Callable[[Row], None] = lambda row: None,
    load: LoadVideos = load_here,
    stop_signal: StopSignal | None = None,
) -> None:
    """Train, as one of `worker.world_size` workers, from the newest checkpoint to the run's end.

    Args:
        spec: the run.
        worker: this worker. If there are several, `torch.distributed` is initialised.
        open_stream: returns this worker's batches.
        publish: called on the first worker with every log line.
        load: reads the videos of evaluations.
        stop_signal: may ask the run to save or to end, at its log lines.

    Raises:
        RunStoppedError: the checkpoint is of another catalogue, too many videos cannot be used,
            the run folder cannot be written, another process took it over, or the loss is not
            finite.
        FloatingPointError: a score of an evaluation cannot be computed, as numbers are not finite.
    """
    trainer = Trainer(spec, worker, load, publish, stop_signal or StopSignal())
    try:
        _train(trainer, open_stream)
    except SupersededError as error:
        raise RunStoppedError(str(error)) from error


def _train(trainer: Trainer, open_stream: OpenStream[Any]) -> None:
    trainer.resume()
    # only now is it known where the stream starts
    first_sample = trainer.step * trainer.config.compute.batch
    try:
        trainer.run(open_stream(trainer.spec.stream, first_sample))
    except BaseException:
        with suppress(OSError, SupersededError):  # the first error is the one to report
            trainer.close()
        raise
    trainer.close()


@dataclass
class _Interval:
    """What happened on a worker since the last log line."""

    losses: list[dict[str, Tensor]] = field(default_factory=list)
    quarantined: list[QuarantinedVideo] = field(default_factory=list)
    wait_seconds: float = 0.0
    start_seconds: float = 0.0  # until the first batch, while the actors start
    evaluation_seconds: float = 0.0
    batch_times: list[float] = field(default_factory=list)
    started: float = field(default_factory=time.monotonic)

    def training_seconds(self) -> float:
        """Return the seconds since its begin, without the start of the actors and evaluation."""
        other = self.start_seconds + self.evaluation_seconds
        return time.monotonic() - self.started - other


class _Report(NamedTuple):
    """What a worker sends to the others when they meet."""

    losses: list[dict[str, float]]
    quarantined: list[QuarantinedVideo]
    batch_times: list[float]
    wait_share: float
    training_seconds: float
    other_seconds: dict[str, float]
    seconds_since_save: float
    steps_to_next: int
    should_save: bool
    error: str | None


class Trainer:
    """The state of a run on one worker."""

    def __init__(
        self,
        spec: TrainingSpec[Any],
        worker: Worker,
        load: LoadVideos,
        publish: Callable[[Row], None],
        stop_signal: StopSignal,
    ):
        self.spec, self.worker, self.stop_signal, self.publish = spec, worker, stop_signal, publish
        config = self.config = spec.config
        fault = precision_fault(config.compute, worker.device)
        if fault is not None:
            raise RunStoppedError(fault, is_final=True)
        self.folder = folder_of(config)
        self.store = checkpoint_store(config, spec.attempt)
        self.learner = spec.learner(spec, worker, load)
        self.model = self.learner.model
        self.sender = Sender(worker.device)
        # of the bare model: wrapping it later keeps the parameter objects
        self.optimizer = build_optimizer(config.optimizer, self.model)
        self.step = 0
        self.last_log_step, self.steps_to_next = 0, FIRST_STEPS
        self.ledger = QuarantineLedger()
        # since this start: videos that were repaired before it must not stop the run
        self.quarantined = QuarantineLedger()
        self.error: str | None = None
        self.last_save = time.monotonic()
        self.log: MetricsLog | None = None
        self.interval = _Interval()
        self.has_started = False

    def resume(self) -> None:
        """Load the newest checkpoint or the initial weights; every worker the same."""
        name = self._newest_checkpoint()
        if name is not None:
            self._restore(name)
        else:
            self._initialize()
        # after the optimiser was built, which is safe: the new modules hold the old parameters
        synchronise_norms(self.model)
        self.ledger = run_folder.read_ledger(self.config)
        self._add_quarantined([e for catalog in self.spec.catalogs for e in catalog.quarantined])
        if self.worker.is_first:
            self.log = MetricsLog(self.folder, self.step, self.spec.attempt)

    def run(self, batches: Iterator[Batch[Any]]) -> None:
        """Run the training loop."""
        total = self.spec.stream.total_steps
        compute_loss = loss_function(
            self.learner,
            average_gradients(self.model, self.worker),
            self.config.compute,
            self.worker.device,
        )
        # the same as the optimiser's: a frozen parameter has no gradient to clip
        parameters = [each for each in self.model.parameters() if each.requires_grad]
        self.interval, self.last_log_step = _Interval(), self.step
        while self.step < total:
            # the GPU still computes the step before
            inputs = self.sender.send(self.learner.inputs(self._next(batches)))
            losses = train_step(
                partial(compute_loss, inputs),
                parameters,
                self.optimizer,
                self._learning_rate(self.step),
            )
            self.step += 1
            self.learner.after_step(self.step)
            # still on the device: they are read at the log line, where the host waits for it anyway
            self.interval.losses.append(losses)
            self._after_step(is_last=self.step == total)
        self._finish()

    def close(self) -> None:
        """Finish writing."""
        try:
            self.store.close()
        finally:
            if self.log is not None:
                self.log.close()

    def _newest_checkpoint(self) -> str | None:
        """Return the name of the newest checkpoint that the first worker sees."""
        name = None
        if self.worker.is_first:
            with self._shared_error():
                self._check_attempt()  # a lost worker may be restarted after that
                name = self.store.newest()
        # others do not look themselves: one that looks later might see a newer checkpoint
        name, error = from_first((name, self.error))
        if error is not None:
            raise RunStoppedError(error)
        return name

    def _initialize(self) -> None:
        try:
            self.learner.initialize()
        except (ValueError, StorageError) as error:
            is_final = isinstance(error, ValueError)
            raise RunStoppedError(str(error), is_final=is_final) from error

    def _restore(self, name: str) -> None:
        try:
            # every worker reads it: DDP sends the weights to all, but not the optimiser's state
            state = self.store.load(name)
        except StorageError as error:
            raise RunStoppedError(str(error)) from error
        if state.catalog != self.spec.stream.fingerprint():
            raise RunStoppedError(
                f"run {self.config.name!r} was started with other videos, or videos of other "
                f"lengths, than data.uri {self.config.data.uri!r} has now. Restore them, or start "
                "a run of another name",
                is_final=True,
            )
        self.model.load_state_dict(state.model)
        load_optimizer_state(self.optimizer, state.optimizer)
        self.step = state.step

    def _next(self, batches: Iterator[Batch[Any]]) -> Batch[Any]:
        began = time.monotonic()
        batch = next(batches)
        waited = time.monotonic() - began
        # the first batch comes when the actors have started, which says nothing about their speed
        if self.has_started:
            self.interval.wait_seconds += waited
        else:
            self.interval.start_seconds, self.has_started = waited, True
        self.interval.batch_times.append(time.time())  # the same clock on all nodes
        self.interval.quarantined += batch.quarantined
        self.error = self.error or next(iter(batch.errors), None)
        total_batch = self.config.compute.batch
        share = total_batch // self.worker.world_size
        expected = self.step * total_batch + self.worker.rank * share
        assert int(batch.positions[0]) == expected, "the stream is out of step with the run"
        return batch

    def _learning_rate(self, step: int) -> float:
        config = self.config
        factor = learning_rate_factor(
            config.schedule, step, self.spec.stream.epoch_clips, config.compute.batch
        )
        return config.optimizer.learning_rate * factor

    def _after_step(self, is_last: bool) -> None:
        """Log, evaluate and save when due. Every worker decides alike."""
        config = self.config
        self._write_extra_files()
        save_now = is_last or _is_due(self.step, config.checkpoint.every_steps)
        evaluate_now = is_last or self.learner.should_evaluate(self.step)
        if not (save_now or evaluate_now or self._should_log()):
            return
        losses = _to_floats(self.interval.losses)  # waits for the device
        # all workers evaluate or none; after a step that was not finite, `_check` stops the run
        evaluate_now = evaluate_now and all(gather(all(map(_is_finite, losses))))
        # before the report, which contains the videos that the evaluation could not use
        scores = self._evaluate() if evaluate_now else {}
        # equal on every worker, and so are the decisions below
        reports = gather(self._report(losses))
        self._add_quarantined([entry for report in reports for entry in report.quarantined])
        rows = self._rows(reports, scores)
        if self.log is not None:
            with self._shared_error():
                self.log.write(rows)
            self.publish(rows[-1])
        # after the log, so that the line with the fault is written; before a save, so that weights
        # that are not finite never replace good ones
        self._check(reports, rows)
        is_asked = any(report.should_save for report in reports)
        # by the first worker's clock: clocks differ, and all must save or none
        is_time = reports[0].seconds_since_save >= 60 * config.checkpoint.every_minutes
        if save_now or is_time or is_asked:
            self._save()
        if is_asked:
            self._report_saved()
        # by the first worker's clock, as above
        self.last_log_step, self.steps_to_next = self.step, reports[0].steps_to_next
        self.interval = _Interval()  # evaluating and saving are not training

    def _should_log(self) -> bool:
        """Return whether a log line is due, apart from those of evaluations and saves."""
        if self.config.log_every_steps is not None:
            return _is_due(self.step, self.config.log_every_steps)
        return self.step - self.last_log_step >= self.steps_to_next

    def _evaluate(self) -> Mapping[str, float]:
        """Evaluate, and keep its time apart from that of training."""
        began = time.monotonic()
        scores = self.learner.evaluate()
        self.interval.evaluation_seconds = time.monotonic() - began
        return scores

    def _write_extra_files(self) -> None:
        if self.worker.is_first and (files := self.learner.extra_files(self.step)):
            with self._shared_error():
                self._check_attempt()
                for name, data in files.items():
                    self.folder.join(name).write_bytes(data)

    def _report(self, losses: list[dict[str, float]]) -> _Report:
        interval, seconds = self.interval, self.interval.training_seconds()
        other = {"start": interval.start_seconds, "evaluation": interval.evaluation_seconds}
        return _Report(
            losses=losses,
            quarantined=[*self.interval.quarantined, *self.learner.quarantined],
            batch_times=self.interval.batch_times,
            wait_share=interval.wait_seconds / seconds,
            training_seconds=seconds,
            other_seconds={f"{name}_seconds": value for name, value in other.items() if value},
            # counted from the start too, so that a restarted run does not save at once
            seconds_since_save=time.monotonic() - self.last_save,
            steps_to_next=steps_in(LOG_SECONDS, len(losses), seconds, self.steps_to_next),
            should_save=self.stop_signal.should_save(),
            error=self.error or self.stop_signal.reason_to_stop(),
        )

    def _rows(self, reports: list[_Report], scores: Mapping[str, float]) -> list[Row]:
        """Return a row for each step; the last has the interval's speed and the scores."""
        losses = [_mean(of_step) for of_step in zip(*(r.losses for r in reports), strict=True)]
        total_batch, first = self.config.compute.batch, self.step - len(losses) + 1
        rows: list[dict[str, float | int | str]] = [
            {
                "step": step,
                "clips": step * total_batch,
                **of_step,
                # steps are logged from 1, and the schedule counts from 0
                "learning_rate": self._learning_rate(step - 1),
            }
            for step, of_step in enumerate(losses, start=first)
        ]
        rows[-1] |= {
            "total_steps": self.spec.stream.total_steps,
            "clips_per_second": len(losses) * total_batch / reports[0].training_seconds,
            # the slowest worker: the others wait for it when gradients are averaged
            "wait_share": max(report.wait_share for report in reports),
            "step_skew_seconds": _mean_range([report.batch_times for report in reports]),
            "worker_memory_gib": peak_memory_gib(),
            "workers": self.worker.world_size,
            "quarantined": len(self.ledger),
            **reports[0].other_seconds,
            **self.store.extra_metrics(),
            **self.learner.extra_metrics(self.step),
            **scores,
        }
        return list(rows)

    def _check(self, reports: list[_Report], rows: list[Row]) -> None:
        """Stop all workers together if the run cannot continue."""
        try:
            self.quarantined.check(self.spec.num_videos, self.config.data.max_quarantined_share)
            too_many = None
        except QuarantineLimitError as error:
            too_many = str(error)
        is_final = too_many is not None or len(self.quarantined) >= self.spec.num_videos
        for report in reports:
            if report.error is not None:
                raise RunStoppedError(report.error, is_final=is_final)
        for row in rows:
            if not _is_finite(row):
                raise RunStoppedError(
                    f"step {row['step']}: the loss is {row['loss']:g} and the norm of its gradient "
                    f"{row['gradient_norm']:g}; expected finite numbers. Lower "
                    "optimizer.learning_rate, or add schedule.warmup_steps",
                    is_final=True,
                )
        if too_many is not None:
            raise RunStoppedError(too_many, is_final=True)

    def _add_quarantined(self, entries: Sequence[QuarantinedVideo]) -> None:
        self.quarantined.add(entries)
        if self.ledger.add(entries) and self.worker.is_first:
            with self._shared_error():
                self._check_attempt()
                self.folder.join(run_folder.QUARANTINE).write_bytes(self.ledger.to_jsonl())

    def _save(self) -> None:
        self.last_save = time.monotonic()
        if self.worker.is_first:
            with self._shared_error():
                assert self.log is not None
                # the log first: a checkpoint that is newer than the log would leave a gap after a
                # resume
                self.store.save(self._state(), before=self.log.sync)

    def _report_saved(self) -> None:
        if self.worker.is_first:
            with self._shared_error():
                self.store.wait()
                self.stop_signal.saved(self.step)

    def _state(self) -> TrainState:
        return TrainState(
            step=self.step,
            model=self.model.state_dict(),
            optimizer=self.optimizer.state_dict(),
            config=self.config.model_dump_json(),
            catalog=self.spec.stream.fingerprint(),
        )

    def _finish(self) -> None:
        """Write the results after the last checkpoint; the file that marks the end comes last."""
        files = self.learner.export()
        if self.worker.is_first and self.error is None:
            with self._shared_error():
                self.store.wait()
                self._check_attempt()
                for name in sorted(files, key=lambda name: name == self.config.RESULT):
                    self.folder.join(name).write_bytes(files[name])
        error = from_first(self.error)
        if error is not None:
            raise RunStoppedError(error)

    @contextmanager
    def _shared_error(self) -> Iterator[None]:
        """Keep a storage error of the first worker, or the loss of the run folder, until all
        workers meet and stop together."""
        try:
            yield
        except (OSError, SupersededError) as error:
            self.error = self.error or str(error)

    def _check_attempt(self) -> None:
        """Raise SupersededError if another process took over the run folder."""
        if self.spec.attempt is not None:
            self.spec.attempt.check()


def average_gradients(model: nn.Module, worker: Worker) -> nn.Module:
    """Return a model, wrapped so that its gradients are averaged over the workers, if several."""
    if worker.world_size == 1:
        return model
    devices = [worker.device] if worker.device.type == "cuda" else None
    # synchronised norms keep the buffers equal; broadcasting them would be work twice
    return DistributedDataParallel(model, device_ids=devices, broadcast_buffers=False)


def loss_function(
    learner: Learner[Any], model: nn.Module, config: ComputeConfig, device: torch.device
) -> Callable[[Any], LossTerms]:
    """Return what computes the loss of inputs on the device, in the precision of `config`.

    Args:
        learner: computes the loss.
        model: that of the learner, perhaps wrapped by DDP.
        config: the precision, and whether to compile.
        device: the model's.
    """
    # around DDP, so that gradients are sent while others are computed; and with the game and the
    # colours, which are many small operations
    loss = learner.loss
    if config.compile:
        keep_while_compiling()
        loss = torch.compile(loss)

    def compute(inputs: Any) -> LossTerms:
        with autocast(config, device):
            return loss(model, inputs)

    return compute


def steps_in(seconds: float, steps: int, taken: float, before: int) -> int:
    """Return how many steps take about some seconds.

    Args:
        seconds: the time.
        steps: number of steps that were measured.
        taken: the seconds that they took.
        before: the last result, which this one exceeds `MAX_GROWTH` times at most: the measured
            steps may have been unusually fast.
    """
    fitting = round(seconds * steps / max(taken, 1e-6))
    return min(max(fitting, 1), MAX_GROWTH * before)


def _is_finite(row: Row) -> bool:
    return math.isfinite(row["loss"] + row["gradient_norm"])  # type: ignore[arg-type, operator]


def _is_due(step: int, every: int | None) -> bool:
    return every is not None and step % every == 0


def _to_floats(losses: list[dict[str, Tensor]]) -> list[dict[str, float]]:
    """Convert scalars by a single transfer from the device."""
    # each transfer waits until the device has caught up
    values = torch.stack([torch.stack([*of_step.values()]) for of_step in losses]).tolist()
    return [dict(zip(names, row, strict=True)) for names, row in zip(losses, values, strict=True)]


def _mean(of_workers: Sequence[dict[str, float]]) -> dict[str, float]:
    return {
        name: sum(each[name] for each in of_workers) / len(of_workers) for name in of_workers[0]
    }


def _mean_range(of_workers: Sequence[Sequence[float]]) -> float:
    """Return the mean over steps of the largest value of a worker less the smallest."""
    by_step = zip(*of_workers, strict=True)
    ranges: list[float] = [max(of_step) - min(of_step) for of_step in by_step]
    return sum(ranges) / len(ranges)


def peak_memory_gib() -> float:
    """Return the peak memory of this process."""
    peak: int = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**30 if sys.platform == "darwin" else peak / 2**20
