"""Connect to a Ray cluster, after checking that it is large enough."""

from __future__ import annotations

import gc
import logging
import os
import socket
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import ray
import torch
from ray.exceptions import AuthenticationError

from ctp.cluster.local import DATA_PLUMBING_CPUS, local_ray, schedulable_cpus
from ctp.cluster.path_visibility import check_seen
from ctp.training.config import ScalingConfig
from ctp.training.run_folder import Uris

ADDRESS = "RAY_ADDRESS"
ANSWER_SECONDS = 10.0


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
    gpus = float(scaling.use_gpu)
    return [
        Demand(
            "worker",
            scaling.fewest_workers,
            scaling.cpus_per_worker,
            gpus,
            f"{workers} or cpus_per_worker",
        ),
        Demand("actor", scaling.num_actors, 1.0, 0.0, "scaling.num_actors"),
    ]


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
        gpus = torch.cuda.device_count()
        require(demands, cpus=schedulable_cpus(), gpus=gpus, where="this machine")


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
def cluster(demands: Sequence[Demand] = (), paths: Iterable[Uris] = ()) -> Iterator[None]:
    """Join the cluster that `RAY_ADDRESS` names, as a submitted job does, or start a local one.

    Args:
        demands: the processes that must fit; none for a job that adapts to the cluster.
        paths: what the job reads and writes; all nodes must see local files and folders.

    Raises:
        ValueError: the cluster has fewer CPUs or GPUs than the demands, a node does not see a
            path, or this process has joined a cluster already.
        ConnectionError: the cluster cannot be joined, or none can be started here.
    """
    if ray.is_initialized():
        raise ValueError("this process has called ray.init() already: call ray.shutdown() first")
    address = os.environ.get(ADDRESS)
    with _joined(address) if address else local_ray():
        if address and demands:
            check_cluster(demands, where=f"the cluster at {address}")
        check_seen(paths)
        try:
            yield
        finally:
            # a reference to an object that another thread releases while Ray shuts down ends the
            # process; those in cycles would be released at any time
            gc.collect()


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
        yield
    finally:
        ray.shutdown()


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
    require(demands, there["CPU"] - DATA_PLUMBING_CPUS, there["GPU"], where)


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

    Raises:
        ValueError: they do not fit; names what is missing and the options to lower.
    """
    for unit, there in (("CPU", cpus), ("GPU", gpus)):
        shares = [(each, each.cpus if unit == "CPU" else each.gpus) for each in demands]
        asking = [(each, share) for each, share in shares if share]
        needed = sum(each.number * share for each, share in asking)
        if needed > there:
            processes = ", ".join(
                f"{each.number} {each.name}(s) of {share:g}" for each, share in asking
            )
            options = ", ".join(each.options for each, _ in asking)
            or_none = "" if unit == "CPU" else ", or set scaling.use_gpu false"
            raise ValueError(
                f"the run needs {needed:g} {unit}s ({processes}), but {where} offers "
                f"{max(there, 0):g}. Lower {options}{or_none}"
            )
