"""Getting a Ray cluster, and finding out beforehand whether it is large enough."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import ray
import torch
from ray.exceptions import AuthenticationError

from ctp.cluster.places import check_seen
from ctp.training.claim import Uris
from ctp.training.config import ScalingConfig

ADDRESS = "RAY_ADDRESS"
ANSWER_SECONDS = 10.0
OF_TOKENS = "ray._private.authentication.authentication_token_setup"
"""The logger that warns of a local cluster's token."""
DATA_PLUMBING_CPUS = 1.0
"""Ray Data's own small tasks take one CPU at a time; without it they wait for ever."""
LOCAL_OBJECT_STORE_BYTES = 1 * 2**30


@dataclass(frozen=True)
class Demand:
    """Processes that a run needs all at the same time.

    Attributes:
        name: what they are, in the singular.
        number: how many.
        cpus, gpus: of each.
        options: which of the job's options to lower when they do not fit.
    """

    name: str
    number: int
    cpus: float
    gpus: float
    options: str


def run_demands(scaling: ScalingConfig) -> list[Demand]:
    """What a run of training needs."""
    gpus = float(scaling.use_gpu)
    return [
        Demand(
            "worker",
            scaling.fewest_workers,
            scaling.cpus_per_worker,
            gpus,
            f"scaling.{'num' if scaling.min_workers is None else 'min'}_workers or cpus_per_worker",
        ),
        Demand(
            "actor",
            scaling.num_actors,
            scaling.cpus_per_actor,
            0.0,
            "scaling.num_actors or cpus_per_actor",
        ),
    ]


def check_place(demands: Sequence[Demand] = ()) -> None:
    """Check before anything is spent that there is a place to run: the cluster that `RAY_ADDRESS`
    names answers, or else this machine is large enough.

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
        require(demands, cpus=os.cpu_count() or 1, gpus=gpus, where="this machine")


def _check_answers(address: str) -> None:
    """Ray itself would try for minutes."""
    if "://" in address:
        raise ValueError(
            f"{ADDRESS} is {address}, and a job joins a cluster from within, by HOST:PORT. Send it "
            "there by ray job submit --working-dir . -- python jobs/…, or unset "
            f"{ADDRESS} to run on this machine"
        )
    if address == "auto":
        return  # Ray looks it up
    host, colon, port = address.rpartition(":")
    if not colon:
        raise ValueError(f"{ADDRESS} is {address!r}; wanted HOST:PORT, or auto, or unset it")
    try:
        socket.create_connection((host.strip("[]"), int(port)), ANSWER_SECONDS).close()
    except (OSError, ValueError) as error:
        raise ConnectionError(
            f"no cluster answers at {address}, which {ADDRESS} names: {error}. Start it, or unset "
            f"{ADDRESS} to run on this machine"
        ) from error


@contextmanager
def cluster(demands: Sequence[Demand] = (), places: Iterable[Uris] = ()) -> Iterator[None]:
    """Join the cluster that `RAY_ADDRESS` names, as a submitted job does, or start a local one.

    Args:
        demands: what must fit; none for work that takes what there is.
        places: what the work reads and writes; what is local, all nodes must see.

    Raises:
        ValueError: the cluster has fewer CPUs or GPUs than are asked for, a node does not see a
            place, or this process has joined a cluster already.
        ConnectionError: the cluster cannot be joined.
    """
    if ray.is_initialized():
        raise ValueError("this process has called ray.init() already: call ray.shutdown() first")
    address = os.environ.get(ADDRESS)
    if address:
        _join(address)
    else:
        logging.getLogger(OF_TOKENS).setLevel(logging.ERROR)  # nobody else uses this cluster
        ray.init(
            address="local",  # not one that happens to run on this machine
            num_cpus=(os.cpu_count() or 1) + int(DATA_PLUMBING_CPUS),
            object_store_memory=LOCAL_OBJECT_STORE_BYTES,
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.WARNING,
        )
    try:
        if address and demands:
            check_cluster(demands, where=f"the cluster at {address}")
        check_seen(places)
        yield
    finally:
        ray.shutdown()


def _join(address: str) -> None:
    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.WARNING)
    except (AuthenticationError, ConnectionError) as error:
        raise ConnectionError(
            f"the cluster at {address} could not be joined: {error}. If it wants a token, set "
            "RAY_AUTH_MODE=token and RAY_AUTH_TOKEN"
        ) from error


def check_cluster(demands: Sequence[Demand], where: str, *, may_grow: bool = True) -> None:
    """Check that a run fits the cluster.

    Args:
        demands: what must fit.
        where: what to call the cluster in an error.
        may_grow: whether nodes count that its autoscaler may still add.

    Raises:
        ValueError: the cluster has too few CPUs or GPUs.
    """
    there = resources(may_grow=may_grow)
    require(demands, there["CPU"] - DATA_PLUMBING_CPUS, there["GPU"], where)


def resources(*, may_grow: bool = True) -> dict[str, float]:
    """The CPU, GPU and memory (bytes) of the cluster.

    Args:
        may_grow: whether nodes count that its autoscaler may still add.
    """
    there = ray.cluster_resources()  # type: ignore[no-untyped-call]
    # nothing without an autoscaler; Ray Train asks the same
    most = ray._private.state.state.get_max_resources_from_cluster_config() if may_grow else None
    units = ("CPU", "GPU", "memory")
    return {unit: max(there.get(unit, 0), (most or {}).get(unit, 0)) for unit in units}


def require(demands: Sequence[Demand], cpus: float, gpus: float, where: str) -> None:
    """Check that all processes fit: Ray itself would wait for ever.

    Raises:
        ValueError: they do not; says what is missing and which options to lower.
    """
    for unit, there in (("CPU", cpus), ("GPU", gpus)):
        shares = [(each, each.cpus if unit == "CPU" else each.gpus) for each in demands]
        asking = [(each, share) for each, share in shares if share]
        needed = sum(each.number * share for each, share in asking)
        if needed > there:
            said = ", ".join(f"{each.number} {each.name}(s) of {share:g}" for each, share in asking)
            options = ", ".join(each.options for each, _ in asking)
            or_none = "" if unit == "CPU" else ", or set scaling.use_gpu false"
            raise ValueError(
                f"the run asks for {needed:g} {unit}s ({said}), and {where} has "
                f"{max(there, 0):g} to give. Lower {options}{or_none}"
            )
