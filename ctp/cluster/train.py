"""Training by Ray Train."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import ray
import ray.train
import ray.train.torch
import torch
from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer

from ctp.cluster.connect import check_cluster
from ctp.cluster.ingest import TRAIN, data_config, open_train_stream, worker_batches
from ctp.progress import duration
from ctp.training.claim import run_storage
from ctp.training.collective import Worker
from ctp.training.config import RunConfig as Run
from ctp.training.isolated import IsolatedMaker
from ctp.training.maker import StreamMaker
from ctp.training.run import Job, RunStoppedError, run
from ctp.training.run_folder import Row

POLL_SECONDS = 0.5
SILENT_SECONDS = 120.0
"""A run that logs nothing for so long is asked why."""


def train(job: Job, show: Callable[[Row], None]) -> None:
    """Run on the cluster that Ray is connected to, from the newest checkpoint to the end.

    Args:
        job: a run whose folder `open_run` has claimed.
        show: called in this process with the log lines, the newest if they come fast.

    Raises:
        RunStoppedError: the run cannot go on; says why and what to do.
        ray.train.TrainingFailedError: workers were lost more often than
            `config.scaling.max_failures`.
    """
    config = job.config
    board: Any = ray.remote(num_cpus=0)(_Board).remote()
    folder = run_storage(config)
    listed = ray.put(job)  # listed once, by the driver: all see the same videos
    trainer = TorchTrainer(
        _train_worker,  # type: ignore[arg-type]  # what it returns is the result's return_value
        train_loop_config={"job": listed, "board": board},
        scaling_config=ScalingConfig(
            num_workers=config.scaling.num_workers,
            use_gpu=config.scaling.use_gpu,
            resources_per_worker=_worker_resources(config),
        ),
        datasets={TRAIN: lambda: open_train_stream(ray.get(listed).train)},
        dataset_config=data_config(job.train),
        run_config=RunConfig(
            name="ray",
            storage_path=folder.path,
            storage_filesystem=folder.filesystem,
            failure_config=FailureConfig(max_failures=config.scaling.max_failures),
        ),
    )
    with _relayed(board, show, config):
        result = _fit(trainer)
    stopped: str | None = result.return_value  # type: ignore[attr-defined]
    if stopped:
        raise RunStoppedError(stopped)


def _fit(trainer: TorchTrainer) -> ray.train.Result:
    """Fit; Ctrl-C ends it as it ends all else, though Ray's handler would leave the process."""
    if threading.current_thread() is not threading.main_thread():
        return trainer.fit()  # where there are no handlers, and Ray sets none
    before = signal.getsignal(signal.SIGINT)
    try:
        return trainer.fit()
    except SystemExit as error:
        raise KeyboardInterrupt from error
    finally:
        signal.signal(signal.SIGINT, before)


def _worker_resources(config: Run) -> dict[str, float]:
    scaling = config.scaling
    return {"CPU": scaling.cpus_per_worker} | ({"GPU": 1} if scaling.use_gpu else {})


def _train_worker(setup: dict[str, Any]) -> str | None:
    """What each worker runs.

    Returns:
        Why the run cannot go on, if it cannot: a return, since starting again would not help.
    """
    job: Job = ray.get(setup["job"])
    config = job.config
    context = ray.train.get_context()
    worker = Worker(
        context.get_world_rank(), context.get_world_size(), ray.train.torch.get_device()
    )
    torch.set_num_threads(max(int(config.scaling.cpus_per_worker), 1))

    def open_stream(maker: StreamMaker[Any], first_clip: int) -> Iterator[Mapping[str, Any]]:
        shard = ray.train.get_dataset_shard(TRAIN)
        return worker_batches(shard, config.compute.total_batch // worker.world, first_clip)

    def publish(row: Row) -> None:
        setup["board"].post.remote(dict(row))

    try:
        run(job, worker, open_stream, publish, IsolatedMaker)
    except RunStoppedError as error:
        return str(error)
    return None


class _Board:
    """Where the first worker posts its log lines and the driver reads them."""

    def __init__(self) -> None:
        self._rows: list[Row] = []

    def post(self, row: Row) -> None:
        self._rows.append(row)

    def take(self) -> list[Row]:
        rows, self._rows = self._rows, []
        return rows


@contextmanager
def _relayed(board: Any, show: Callable[[Row], None], config: Run) -> Iterator[None]:
    """While this lasts, a thread carries rows from the board to `show`, and says when none come."""
    done = threading.Event()

    def relay() -> None:
        is_last, silence = False, _Silence()
        while not is_last:
            is_last = done.wait(POLL_SECONDS)
            rows = ray.get(board.take.remote())
            for row in rows:
                show(row)
            if silence.is_worth_a_word(is_over=bool(rows)):
                print(_why_waiting(config, silence.seconds()), flush=True)

    thread = threading.Thread(target=relay, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


class _Silence:
    """How long no row has come; worth a word after `SILENT_SECONDS`, then twice that, and so on."""

    def __init__(self) -> None:
        self._began, self._next = time.monotonic(), SILENT_SECONDS

    def seconds(self) -> float:
        return time.monotonic() - self._began

    def is_worth_a_word(self, *, is_over: bool) -> bool:
        if is_over:
            self._began, self._next = time.monotonic(), SILENT_SECONDS
        if self.seconds() < self._next:
            return False
        self._next *= 2
        return True


def _why_waiting(config: Run, seconds: float) -> str:
    """What may hold up a run that does not get on; Ray itself waits for ever."""
    said = f"no log line for {duration(seconds)}: "
    try:
        check_cluster(config.scaling, where="the cluster")
    except ValueError as error:
        return f"{said}{error}, or add nodes; the run goes on by itself when there are enough"
    return f"{said}workers are starting, or steps, videos or checkpoints take long"
