"""Training by Ray Train."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, wait
from contextlib import contextmanager
from types import FrameType
from typing import Any

import ray
import ray.train
import ray.train.torch
import ray.util
import torch
from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from ctp.cluster.board import Board
from ctp.cluster.connect import check_cluster, run_demands
from ctp.cluster.ingest import TRAIN, StreamConfig, worker_batches
from ctp.cluster.metrics import tags_of
from ctp.progress import duration
from ctp.training.claim import run_storage
from ctp.training.config import ComputeConfig
from ctp.training.config import RunConfig as Run
from ctp.training.distributed import Worker, regroup
from ctp.training.isolated import IsolatedMaker
from ctp.training.maker import StreamMaker
from ctp.training.run_folder import Row
from ctp.training.sealed import SealedMaker
from ctp.training.trainer import Job, RunStoppedError, Sign, run

POLL_SECONDS = 0.5
FOR_EVER = {"max_restarts": -1, "max_task_retries": -1}
"""An actor that is started again, and its calls, too, as long as its node is there."""
SILENT_SECONDS = 120.0
"""A run that logs nothing for so long is asked why."""


Show = Callable[[Row], str | None]
"""Is called with log lines, in order; returns why the run is to end, if it is."""


def train(job: Job, show: Show) -> None:
    """Run on the cluster that Ray is connected to, from the newest checkpoint to the end.

    Args:
        job: a run whose folder `open_run` has claimed.
        show: called in this process with the log lines.

    Raises:
        RunStoppedError: the run cannot go on, and why; or `show` asked for its end.
        ray.train.TrainingFailedError: workers were lost more often than
            `config.scaling.max_failures`.
    """
    config = job.config
    num_videos = sum(map(len, job.catalogs))
    board: Any = (
        ray.remote(Board)
        .options(num_cpus=0, scheduling_strategy=_on_this_node(), **FOR_EVER)
        .remote(tags_of(config), num_videos)
    )
    folder = run_storage(config)
    listed = ray.put(job)  # listed once, by the driver: all see the same videos
    trainer = TorchTrainer(
        _train_worker,  # type: ignore[arg-type]  # what it returns is the result's return_value
        train_loop_config={"job": listed, "board": board},
        scaling_config=ScalingConfig(
            num_workers=_num_workers(config),  # type: ignore[arg-type]  # its hint lacks a pair
            use_gpu=config.scaling.use_gpu,
            resources_per_worker=_worker_resources(config),
        ),
        datasets=dict(StreamConfig.STAND_IN),
        dataset_config=StreamConfig(ray.put(SealedMaker.of(job.train))),
        run_config=RunConfig(
            name="ray",
            storage_path=folder.path,
            storage_filesystem=folder.filesystem,
            failure_config=FailureConfig(max_failures=config.scaling.max_failures),
        ),
    )
    with _relayed(board, show, config):
        result = _fit(trainer, lambda: _save_first(board, config.checkpoint.grace_seconds))
    stopped: str | None = result.return_value  # type: ignore[attr-defined]
    if stopped:
        raise RunStoppedError(stopped)


def _fit(trainer: TorchTrainer, before_stop: Callable[[], None]) -> ray.train.Result:
    """Fit, in a thread of its own: there Ray sets no handlers, and ours see Ctrl-C and SIGTERM.

    Args:
        trainer: what to fit.
        before_stop: what to do when either comes, before this ends.

    Raises:
        KeyboardInterrupt: one came.
    """
    fitted: Future[ray.train.Result] = Future()

    def work() -> None:
        try:
            fitted.set_result(trainer.fit())
        except BaseException as error:
            fitted.set_exception(error)

    with _told_to_stop() as stop:
        threading.Thread(target=work, daemon=True).start()
        while not stop.is_set() and not fitted.done():
            wait([fitted], timeout=POLL_SECONDS)
    if fitted.done():
        return fitted.result()
    before_stop()
    raise KeyboardInterrupt


@contextmanager
def _told_to_stop() -> Iterator[threading.Event]:
    """An event that Ctrl-C and SIGTERM set while this lasts; a second one does what it always does.

    Only the main thread of a process can tell.
    """
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def give_back() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def note(number: int, frame: FrameType | None) -> None:
        stop.set()
        give_back()

    for number in before:
        signal.signal(number, note)
    try:
        yield stop
    finally:
        give_back()


def _save_first(board: Any, seconds: float) -> None:
    """Have the run save, and wait for it, but not for long."""
    if not ray.get(board.ask_to_stop.remote()):
        return
    print(f"saving before the run stops, {seconds:g} s at most; Ctrl-C leaves at once", flush=True)
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        step = ray.get(board.saved_step.remote())
        if step is not None:
            print(f"saved after step {step}", flush=True)
            return
        time.sleep(POLL_SECONDS / 5)
    print("nothing was saved in that time; the newest checkpoint is an earlier one", flush=True)


def _on_this_node() -> NodeAffinitySchedulingStrategy:
    """Where the run ends anyway when the node is lost."""
    here = ray.get_runtime_context().get_node_id()
    return NodeAffinitySchedulingStrategy(here, soft=False)


def _num_workers(config: Run) -> int | tuple[int, int]:
    scaling = config.scaling
    if scaling.min_workers is None:
        return scaling.num_workers
    return scaling.min_workers, scaling.num_workers


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
    worker = _joined(config.compute)
    if worker is None:
        return None
    torch.set_num_threads(max(int(config.scaling.cpus_per_worker), 1))

    def open_stream(maker: StreamMaker[Any], first_clip: int) -> Iterator[Mapping[str, Any]]:
        if worker.is_first:
            setup["board"].start.remote(first_clip)
        shard = ray.train.get_dataset_shard(TRAIN)
        return worker_batches(shard, config.compute.total_batch // worker.world, first_clip)

    def publish(row: Row) -> None:
        setup["board"].post.remote(dict(row))

    try:
        run(job, worker, open_stream, publish, IsolatedMaker.of, _RaySign(setup["board"], worker))
    except RunStoppedError as error:
        return str(error)
    return None


def _joined(compute: ComputeConfig) -> Worker | None:
    """Which worker this is of those that share a batch equally; None for one too many.

    An elastic group has as many workers as the cluster can give, 3 for a batch of 32, say. Then 2
    of them train, and the third stands by until the group's size changes again.
    """
    context, device = ray.train.get_context(), ray.train.torch.get_device()
    rank, present = context.get_world_rank(), context.get_world_size()
    world = compute.usable_workers(present)
    if world < present:
        regroup(rank, world, ray.util.get_node_ip_address())  # type: ignore[no-untyped-call]
    return Worker(rank, world, device) if rank < world else None


class _RaySign(Sign):
    """Up when the run's driver is told to stop, or a node of the run to go."""

    def __init__(self, board: Any, worker: Worker):
        self._board, self._worker = board, worker
        present = ray.train.get_context().get_world_size()
        self._all_ask = worker.world == present  # asking for preemption waits for all workers

    def is_up(self) -> bool:
        is_going = self._all_ask and ray.train.get_preemption_info() is not None
        asked = self._worker.is_first and ray.get(self._board.is_stop_asked.remote())
        return is_going or asked

    def saved(self, step: int) -> None:
        ray.get(self._board.saved.remote(step))

    def reason_to_end(self) -> str | None:
        reason: str | None = None
        if self._worker.is_first:
            reason = ray.get(self._board.reason_to_end.remote())
        return reason


@contextmanager
def _relayed(board: Any, show: Show, config: Run) -> Iterator[None]:
    """While this lasts, a thread carries rows from the board to `show`, and says when none come."""
    done = threading.Event()

    def relay() -> None:
        is_last, silence = False, _Silence()
        while not is_last:
            is_last = done.wait(POLL_SECONDS)
            rows = ray.get(board.take.remote())
            for row in rows:
                if reason := show(row):
                    board.end.remote(reason)
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
        check_cluster(run_demands(config.scaling), "the cluster", may_grow=False)
    except ValueError as error:
        return f"{said}{error}, or add nodes; the run goes on by itself when there are enough"
    return f"{said}workers are starting, or steps, videos or checkpoints take long"
