"""Connect to a Ray cluster, after checking that it is large enough."""

from __future__ import annotations

import gc
import logging
import os
import signal
import socket
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import ray
import torch
from ray.exceptions import AuthenticationError, GetTimeoutError, RayActorError

from ctp.cluster.local import AUTH_MODE, local_ray, schedulable_cpus
from ctp.cluster.path_visibility import check_seen
from ctp.cluster.restart_line import take_restart_line
from ctp.training.config import AUTO, ScalingConfig
from ctp.training.run_folder import Uris

ADDRESS = "RAY_ADDRESS"
ANSWER_SECONDS = 10.0
PROBE_SECONDS = 30.0
PROBE_RESTARTS = 2
ACTOR = "actor"
MAY_BE_AUTO = ("scaling.num_workers", "scaling.num_actors", "scaling.num_readers")
"""Options whose number the job chooses itself if they are "auto"."""


@dataclass(frozen=True)
class Demand:
    """Processes that a run needs at the same time.

    Attributes:
        name: name of the processes, in the singular.
        number: number of processes.
        cpus, gpus: CPUs and GPUs of each process.
        options: the options to lower if they do not fit.
    """

    name: str
    number: int
    cpus: float
    gpus: float
    options: str


def run_demands(scaling: ScalingConfig) -> list[Demand]:
    """Return the processes of a training run."""
    workers = f"scaling.{'num' if scaling.min_workers is None else 'min'}_workers"
    number = scaling.fewest_workers
    actors, cpus = number * scaling.actors_per_worker(number), scaling.cpus_per_actor(number)
    return [
        Demand(
            "worker",
            number,
            scaling.cpus_per_worker,
            scaling.gpus_per_worker,
            f"{workers} or cpus_per_worker",
        ),
        Demand(ACTOR, actors, cpus, scaling.gpus_per_actor(number), "scaling.num_actors"),
    ]


class Place(NamedTuple):
    """Where a job will run.

    Attributes:
        cpus, gpus: how many it has.
        name: its name in messages.
    """

    cpus: float
    gpus: float
    name: str

    def without(self, demands: Iterable[Demand]) -> Place:
        """Return what is left beside other processes."""
        cpus = sum(each.number * each.cpus for each in demands)
        gpus = sum(each.number * each.gpus for each in demands)
        return self._replace(cpus=self.cpus - cpus, gpus=self.gpus - gpus)

    def __str__(self) -> str:
        return f"{self.name}, which has {self.cpus:g} CPUs and {self.gpus:g} GPUs"


def find_place() -> Place:
    """Return the cluster that `RAY_ADDRESS` names or, without `RAY_ADDRESS`, this machine.

    Raises:
        ValueError: `RAY_ADDRESS` names no cluster to join, or this process has joined one already.
        ConnectionError: the cluster does not answer, or cannot be joined.
    """
    address = os.environ.get(ADDRESS)
    if not address:
        return Place(schedulable_cpus(), torch.cuda.device_count(), "this machine")
    _check_not_joined()
    _check_answers(address)
    with _joined(address):
        there = resources()
    return Place(there["CPU"], there["GPU"], f"the cluster at {address}")


def check_place(demands: Sequence[Demand] = ()) -> None:
    """Check that the cluster that `RAY_ADDRESS` names answers or, without `RAY_ADDRESS`, that this
    machine is large enough.

    Raises:
        ValueError: `RAY_ADDRESS` names no cluster to join, or this machine has too few CPUs or
            GPUs.
        ConnectionError: the cluster does not answer.
    """
    address = os.environ.get(ADDRESS)
    if address:
        _check_answers(address)
    else:
        require(demands, *find_place())


def _check_answers(address: str) -> None:
    """Connect once; Ray itself would try for minutes."""
    if "://" in address:
        raise ValueError(
            f"{ADDRESS} is {address}; a job that runs on the cluster joins it by HOST:PORT. "
            "Submit it by ray job submit --working-dir . -- python jobs/…, or unset "
            f"{ADDRESS} to run on this machine"
        )
    if address == "auto":
        return  # Ray looks it up
    host, colon, port = address.rpartition(":")
    if not colon:
        raise ValueError(f"{ADDRESS} is {address!r}; expected HOST:PORT or auto; or unset it")
    try:
        socket.create_connection((host.strip("[]"), int(port)), ANSWER_SECONDS).close()
    except (OSError, ValueError) as error:
        raise ConnectionError(
            f"no cluster answers at {address}, which {ADDRESS} names: {error}. Start it, or unset "
            f"{ADDRESS} to run on this machine"
        ) from error


@contextmanager
def cluster(
    demands: Sequence[Demand] = (), paths: Iterable[Uris] = (), **local: int
) -> Iterator[None]:
    """Join the cluster that `RAY_ADDRESS` names, as a submitted job does, or start a local one.

    Args:
        demands: the processes that must fit; none for a job that adapts to the cluster.
        paths: what the job reads and writes; all nodes must see local files and folders.
        local: what a local Ray gets, see `local_ray`.

    Raises:
        ValueError: the cluster has fewer CPUs or GPUs than the demands, a node does not see a
            path, or this process has joined a cluster already.
        ConnectionError: the cluster cannot be joined, or none can be started here.
    """
    _check_not_joined()
    address = os.environ.get(ADDRESS)
    with _joined(address) if address else local_ray(**local):
        if address:
            check_cluster(demands, f"the cluster at {address}")
        check_seen(paths)
        take_restart_line()
        try:
            with _sigterm_as_ctrl_c():
                yield
        finally:
            # a reference to an object that another thread releases while Ray shuts down ends the
            # process; those in cycles would be released at any time
            gc.collect()


@contextmanager
def _sigterm_as_ctrl_c() -> Iterator[None]:
    """Let SIGTERM raise KeyboardInterrupt, as a job that is stopped by its cluster gets it.

    Ray's own handler would end this process at once, with a stack trace. Only the main thread of a
    process can handle signals.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _check_not_joined() -> None:
    if ray.is_initialized():
        raise ValueError("this process has called ray.init() already: call ray.shutdown() first")


@contextmanager
def _joined(address: str) -> Iterator[None]:
    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.WARNING)
    except (AuthenticationError, ConnectionError) as error:
        raise ConnectionError(
            f"the cluster at {address} could not be joined: {error}. If it requires a token, set "
            "RAY_AUTH_MODE=token and RAY_AUTH_TOKEN"
        ) from error
    try:
        if os.environ.get(AUTH_MODE) == "token":
            _check_token_is_known(address)
        yield
    finally:
        ray.shutdown()


def _check_token_is_known(address: str) -> None:
    """Start an actor: a cluster without tokens lets a process with one join, but starts none.

    Raises:
        ConnectionError: the actor was not started.
    """
    # a node that is busy may lose a process while it starts; a cluster that refuses loses each
    options = {"num_cpus": 0, "max_restarts": PROBE_RESTARTS, "max_task_retries": PROBE_RESTARTS}
    probe: Any = ray.remote(_Probe).options(**options).remote()
    try:
        ray.get(probe.answer.remote(), timeout=PROBE_SECONDS)
    except RayActorError as error:
        raise ConnectionError(
            f"the cluster at {address} starts no process for this one, which has "
            f"{AUTH_MODE}=token. If the cluster was started without it, as ray start does by "
            f"default, unset {AUTH_MODE} here; otherwise start it again with {AUTH_MODE}=token "
            "and the same RAY_AUTH_TOKEN"
        ) from error
    except GetTimeoutError:
        pass  # it is busy, and has not refused
    finally:
        ray.kill(probe)


class _Probe:
    """An actor that only answers."""

    def answer(self) -> bool:
        return True


def check_cluster(demands: Sequence[Demand], where: str, *, may_grow: bool = True) -> None:
    """Check that a run fits the cluster.

    Args:
        demands: the processes that must fit.
        where: name of the cluster in an error.
        may_grow: whether to count nodes that its autoscaler may still add.

    Raises:
        ValueError: the cluster has too few CPUs or GPUs.
    """
    there = resources(may_grow=may_grow)
    require(demands, there["CPU"], there["GPU"], where)


def describe_demands(demands: Sequence[Demand], unit: str = "CPU") -> str:
    """Return the processes and the CPUs of each, as in '1 worker(s) of 1, 2 actor(s) of 1'."""
    shares = [(each, each.cpus if unit == "CPU" else each.gpus) for each in demands]
    return ", ".join(
        f"{each.number} {each.name}(s) of {share:g}" for each, share in shares if share
    )


def resources(*, may_grow: bool = True) -> dict[str, float]:
    """Return the CPUs, GPUs and memory (bytes) of the cluster.

    Args:
        may_grow: whether to count nodes that its autoscaler may still add.
    """
    there = ray.cluster_resources()  # type: ignore[no-untyped-call]
    # nothing without an autoscaler; Ray Train asks the same
    most = ray._private.state.state.get_max_resources_from_cluster_config() if may_grow else None
    units = ("CPU", "GPU", "memory")
    return {unit: max(there.get(unit, 0), (most or {}).get(unit, 0)) for unit in units}


def require(demands: Sequence[Demand], cpus: float, gpus: float, where: str) -> None:
    """Check that all processes fit; Ray itself would wait forever.

    Args:
        demands: the processes.
        cpus, gpus: what there is.
        where: name of the cluster in an error.

    Raises:
        ValueError: they do not fit; names all that is missing, and what to set.
    """
    missing, options = [], dict[str, None]()
    for unit, there in (("CPU", cpus), ("GPU", gpus)):
        needed = sum(each.number * (each.cpus if unit == "CPU" else each.gpus) for each in demands)
        if needed > there:
            missing.append(
                f"{needed:g} {unit}s ({describe_demands(demands, unit)}), but {where} offers "
                f"{max(there, 0):g}"
            )
            options |= {each.options: None for each in demands if unit == "CPU" or each.gpus}
    if missing:
        no_gpu = " ".join(_without_gpus(demands, gpus))
        raise ValueError(
            f"the run needs {'; and '.join(missing)}. Lower {', '.join(options)}"
            f"{', or set ' if no_gpu else ''}{no_gpu}"
            f"{_example(demands, cpus, gpus)}"
        )


def _without_gpus(demands: Sequence[Demand], gpus: float) -> list[str]:
    """Return options for no GPUs, if there are too few for one process of each kind."""
    if sum(each.gpus for each in demands) <= gpus:
        return []
    are_actors = any(each.gpus for each in demands if each.name == ACTOR)
    return ["--scaling.use_gpu false", *(["--scaling.decoder cpu"] if are_actors else [])]


def _example(demands: Sequence[Demand], cpus: float, gpus: float) -> str:
    """Return options with which the job fits, if there are any; otherwise ''."""
    if sum(each.cpus for each in demands) > cpus:
        return ""
    if any(each.options.startswith("--set") for each in demands):
        return ""  # of a sweep, whose options are written in another way
    numbers = [each.options.split()[0] for each in demands if each.number > 1]
    options = [
        *_without_gpus(demands, gpus),
        *(f"--{name} {AUTO if name in MAY_BE_AUTO else 1}" for name in numbers),
    ]
    return f". These options fit: {' '.join(options)}"
