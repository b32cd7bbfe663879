"""Training by Ray Train."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from contextlib import contextmanager
from functools import partial
from types import FrameType
from typing import Any

import ray
import ray.train
import ray.train.torch
import ray.util
import torch
from ray.train import FailureConfig, RunConfig, ScalingConfig, TrainingFailedError
from ray.train.torch import TorchTrainer
from ray.train.v2._internal.callbacks import DatasetsCallback
from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback

from ctp.cluster.connect import run_demands
from ctp.cluster.coordinator import RunCoordinator
from ctp.cluster.leaked_placement_groups import remove_leaked_placement_groups
from ctp.cluster.loading import ActorLoader
from ctp.cluster.losses import RESTART_ALWAYS, keep_losses, on_this_node
from ctp.cluster.metrics import tags_of
from ctp.cluster.process_group import LocalTorchConfig
from ctp.cluster.retry import Cause, Decision, Failure, decide
from ctp.cluster.stream import BlockLayout, StreamSpec, worker_batches, worker_blocks
from ctp.cluster.waiting import Silence, why_waiting
from ctp.cluster.worker_meter import WorkerMeter
from ctp.data.stream import Batch, SampleStream
from ctp.training.config import ComputeConfig
from ctp.training.config import RunConfig as Run
from ctp.training.distributed import Worker, regroup
from ctp.training.run_folder import Row, folder_of, read_ledger
from ctp.training.trainer import RunStoppedError, StopSignal, TrainingSpec
from ctp.training.trainer import train as train_on_worker

POLL_SECONDS = 0.5
NODE_LOSS_SECONDS = 30.0
"""Ray knows of a lost node after at most about this time."""
Show = Callable[[Row], str | None]
"""Is called with log lines, in order; returns a reason to stop the run, or None."""


def train(spec: TrainingSpec[Any], show: Show) -> None:
    """Train on the cluster that Ray is connected to, from the newest checkpoint to the end.

    Args:
        spec: a run whose folder `create_or_resume` has created.
        show: called in this process with the log lines.

    Raises:
        RunStoppedError: the run cannot continue, or `show` returned a reason to stop.
        ray.train.TrainingFailedError: workers failed more than `config.scaling.max_failures` times.
    """
    config = spec.config
    coordinator: Any = (
        ray.remote(RunCoordinator)
        .options(num_cpus=0, scheduling_strategy=on_this_node(), **RESTART_ALWAYS)
        .remote(tags_of(config), spec.num_videos, config.score)
    )
    losses = keep_losses(read_ledger(config))
    # the videos were listed once, by the driver: all workers see the same
    setup = {
        "spec": ray.put(spec),
        "stream": ray.put(spec.stream),  # all actors of a node share its catalogue
        "coordinator": coordinator,
        "losses": losses,
    }
    grace = config.checkpoint.grace_seconds
    history: list[Failure] = []
    with _relayed_rows(coordinator, show, config):
        while True:
            trainer = _trainer(config, setup)
            try:
                result = fit_until_stopped(trainer, lambda: _save_before_stop(coordinator, grace))
                break
            except TrainingFailedError as error:
                _check_retry(error, history, coordinator, config)
                remove_leaked_placement_groups()
    stopped: tuple[str, bool] | None = result.return_value  # type: ignore[attr-defined]
    if stopped:
        reason, is_final = stopped
        raise RunStoppedError(reason, is_final=is_final)


class _LeanTrainer(TorchTrainer):
    """As `TorchTrainer`, but without two actors of Ray Train that a run has no use for.

    One passes on data sets, and a run reads its own stream. The other removes placement groups of a
    dead controller, which `remove_leaked_placement_groups` does. It asks the dashboard whether the
    controller is alive: on a cluster without one, the end of each run would wait 12 s for it.
    """

    def _create_default_callbacks(self) -> list[Any]:
        unused = DatasetsCallback, PlacementGroupCleanerCallback
        # the class of Ray Train 2 has it, and type checkers see that of Ray Train 1
        callbacks = super()._create_default_callbacks()  # type: ignore[misc]
        return [each for each in callbacks if not isinstance(each, unused)]


def _trainer(config: Run, setup: dict[str, Any]) -> TorchTrainer:
    """Return what trains until workers fail."""
    folder = folder_of(config)
    return _LeanTrainer(
        _train_worker,  # type: ignore[arg-type]  # its result becomes return_value
        train_loop_config=setup,
        scaling_config=ScalingConfig(
            num_workers=_num_workers(config),  # type: ignore[arg-type]  # its hint lacks a pair
            use_gpu=config.scaling.use_gpu,
            resources_per_worker=_worker_resources(config),
        ),
        torch_config=LocalTorchConfig(),
        run_config=RunConfig(
            name="ray",
            storage_path=folder.path,
            storage_filesystem=folder.filesystem,
            # `decide` knows more than a number; what Ray knows to be a preemption it retries itself
            failure_config=FailureConfig(max_failures=0),
        ),
    )


def _check_retry(
    error: TrainingFailedError, history: list[Failure], coordinator: Any, config: Run
) -> None:
    """Add what ended the workers to `history`; raise if they must not start again.

    Raises:
        RunStoppedError: the same command would fail again.
        ray.train.TrainingFailedError: `scaling.max_failures` restarts were not enough.
    """
    step, nodes = ray.get(coordinator.take_attempt.remote())
    max_failures = config.scaling.max_failures

    def examine() -> tuple[Failure, Decision]:
        failure = Failure.from_error(error, step, node_lost=bool(nodes - _living_nodes()))
        return failure, decide(failure, history, max_failures)

    deadline = time.monotonic() + NODE_LOSS_SECONDS
    failure, decision = examine()
    # the other workers fail at once when a node is lost, before Ray knows of the node
    while (
        decision.reason_to_stop is not None
        and failure.cause is not Cause.FINAL_ERROR
        and len(nodes) > 1
        and time.monotonic() < deadline
    ):
        time.sleep(POLL_SECONDS)
        failure, decision = examine()
    if decision.is_final:
        raise RunStoppedError(str(decision.reason_to_stop), is_final=True) from error
    if decision.reason_to_stop is not None:
        print(decision.reason_to_stop, flush=True)
        raise error
    history.append(failure)
    print(
        f"{failure.cause.value} after step {step}; all workers continue from the last checkpoint",
        flush=True,
    )


def _living_nodes() -> set[str]:
    return {node["NodeID"] for node in ray.nodes() if node["Alive"]}  # type: ignore[no-untyped-call]


def fit_until_stopped(trainer: TorchTrainer, before_stop: Callable[[], None]) -> ray.train.Result:
    """Fit in a thread, where Ray sets no signal handlers; ours handle Ctrl-C and SIGTERM.

    Args:
        trainer: the trainer.
        before_stop: called when a signal arrives, before this raises, if the fit has not ended.

    Raises:
        KeyboardInterrupt: a signal arrived, and the fit has not succeeded.
    """
    fitted: Future[ray.train.Result] = Future()

    def work() -> None:
        try:
            fitted.set_result(trainer.fit())
        except BaseException as error:
            fitted.set_exception(error)

    with _stop_requested() as stop:
        # a daemon: the process must be able to end while Ray still waits
        threading.Thread(target=work, daemon=True).start()
        while not stop.is_set() and not fitted.done():
            wait([fitted], timeout=POLL_SECONDS)
    if not fitted.done():
        before_stop()
    # the signal may have reached the workers too, which must not start again then
    elif not (stop.is_set() and fitted.exception()):
        return fitted.result()
    raise KeyboardInterrupt


@contextmanager
def _stop_requested() -> Iterator[threading.Event]:
    """Yield an event that Ctrl-C and SIGTERM set; a second signal has its usual effect.

    Only the main thread of a process can handle signals.
    """
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def handle(number: int, frame: FrameType | None) -> None:
        stop.set()
        restore()

    for number in before:
        signal.signal(number, handle)
    try:
        yield stop
    finally:
        restore()


def _save_before_stop(coordinator: Any, seconds: float) -> None:
    """Ask the run to save and wait for it, at most `seconds`."""
    if not ray.get(coordinator.request_save.remote()):
        return
    print(f"saving before the run stops, {seconds:g} s at most; Ctrl-C stops at once", flush=True)
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        step = ray.get(coordinator.saved_step.remote())
        if step is not None:
            print(f"saved after step {step}", flush=True)
            return
        # often, since the grace is only seconds
        time.sleep(POLL_SECONDS / 5)
    print("nothing was saved in that time; the newest checkpoint is an earlier one", flush=True)


def _num_workers(config: Run) -> int | tuple[int, int]:
    scaling = config.scaling
    if scaling.min_workers is None:
        return scaling.most_workers
    return scaling.min_workers, scaling.most_workers


def _worker_resources(config: Run) -> dict[str, float]:
    scaling = config.scaling
    gpus = {"GPU": scaling.gpus_per_worker} if scaling.use_gpu else {}
    return {"CPU": scaling.cpus_per_worker, **gpus}


def _train_worker(setup: dict[str, Any]) -> tuple[str, bool] | None:
    """Train on one worker.

    Returns:
        the reason why the run cannot continue, and whether it is final; or None. It is returned
        rather than raised, since a restart would not help.
    """
    coordinator = setup["coordinator"]
    ray.get(coordinator.worker_joined.remote(ray.get_runtime_context().get_node_id()))
    spec: TrainingSpec[Any] = ray.get(setup["spec"])
    config = spec.config
    worker = _joined_worker(config.compute)
    if worker is None:
        return None
    torch.set_num_threads(max(int(config.scaling.cpus_per_worker), 1))

    def open_stream(stream: SampleStream[Any], first_sample: int) -> Iterator[Batch[Any]]:
        if worker.is_first:
            coordinator.worker_started.remote(first_sample)
        described = StreamSpec.from_stream(config, stream)
        layout = BlockLayout.from_spec(described, first_sample, worker.world_size, worker.rank)
        blocks = worker_blocks(setup["stream"], described, layout, setup["losses"], coordinator)
        meter = WorkerMeter(partial(coordinator.update_worker.remote, worker.rank))
        return worker_batches(blocks, stream.drawer, layout.worker_batch, meter)

    def publish(row: Row) -> None:
        coordinator.add_row.remote(dict(row))

    if worker.is_first:
        # those of workers that failed; before the others start theirs, which wait for its message
        # about the newest checkpoint
        ray.get(setup["losses"].end_actors.remote())
    num_loaders = config.scaling.actors_per_worker(worker.world_size)
    try:
        train_on_worker(
            spec,
            worker,
            open_stream,
            publish=publish,
            load=ActorLoader.from_config(num_loaders, config.data, setup["losses"]),
            stop_signal=_RayStopSignal(coordinator, worker),
        )
    except RunStoppedError as error:
        return str(error), error.is_final
    return None


def _joined_worker(compute: ComputeConfig) -> Worker | None:
    """Return this worker, among those that share a batch equally; None if it is surplus.

    An elastic group has as many workers as the cluster can give, for example 3 for a batch of 32.
    Then 2 of them train, and the third waits until the group's size changes again.
    """
    context, device = ray.train.get_context(), ray.train.torch.get_device()
    rank, present = context.get_world_rank(), context.get_world_size()
    world_size = compute.usable_workers(present)
    if world_size < present:
        regroup(rank, world_size, ray.util.get_node_ip_address())  # type: ignore[no-untyped-call]
    return Worker(rank, world_size, device) if rank < world_size else None


class _RayStopSignal(StopSignal):
    """Asks to save when the run's driver is asked to stop, or a node of the run will leave."""

    def __init__(self, coordinator: Any, worker: Worker):
        self._coordinator, self._worker = coordinator, worker
        present = ray.train.get_context().get_world_size()
        self._all_ask = worker.world_size == present  # asking for preemption waits for all workers

    def should_save(self) -> bool:
        is_leaving = self._all_ask and ray.train.get_preemption_info() is not None
        is_requested = self._worker.is_first and ray.get(
            self._coordinator.is_save_requested.remote()
        )
        return is_leaving or is_requested

    def saved(self, step: int) -> None:
        ray.get(self._coordinator.saved.remote(step))

    def reason_to_stop(self) -> str | None:
        reason: str | None = None
        if self._worker.is_first:
            reason = ray.get(self._coordinator.reason_to_stop.remote())
        return reason


@contextmanager
def _relayed_rows(coordinator: Any, show: Show, config: Run) -> Iterator[None]:
    """Pass rows from the coordinator to `show` in a thread, and report when none arrive."""
    done = threading.Event()

    def relay() -> None:
        is_last, silence = False, Silence()
        while not is_last:
            # once more after the end, for the last rows
            is_last = done.wait(POLL_SECONDS)
            rows = ray.get(coordinator.take_rows.remote())
            for row in rows:
                if reason := show(row):
                    coordinator.stop.remote(reason)
            for note in ray.get(coordinator.take_notes.remote()):
                print(note, flush=True)
            if silence.should_report(has_progress=bool(rows)):
                demands = run_demands(config.scaling)
                print(why_waiting("log line", silence.seconds(), demands), flush=True)

    thread = threading.Thread(target=relay, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
