"""Getting a Ray cluster, and finding out beforehand whether it is large enough."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager

import ray
import torch

from ctp.training.config import ScalingConfig

ADDRESS = "RAY_ADDRESS"
DATA_PLUMBING_CPUS = 1.0
"""Ray Data's own small tasks take one CPU at a time; without it they wait for ever."""
LOCAL_OBJECT_STORE_BYTES = 1 * 2**30


def check_machine(scaling: ScalingConfig) -> None:
    """Check before anything is spent that a local run fits this machine.

    Raises:
        ValueError: there is no other cluster, and this machine has too few CPUs or GPUs.
    """
    if ADDRESS not in os.environ:
        gpus = torch.cuda.device_count()
        require(scaling, cpus=os.cpu_count() or 1, gpus=gpus, where="this machine")


@contextmanager
def cluster(scaling: ScalingConfig | None = None) -> Iterator[None]:
    """Join the cluster that `RAY_ADDRESS` names, as a submitted job does, or start a local one.

    Args:
        scaling: what must fit; None for work that takes what there is.

    Raises:
        ValueError: the cluster has fewer CPUs or GPUs than the config asks for.
    """
    address = os.environ.get(ADDRESS)
    if address:
        ray.init(address=address, log_to_driver=False, logging_level=logging.WARNING)
    else:
        ray.init(
            address="local",  # not one that happens to run on this machine
            num_cpus=(os.cpu_count() or 1) + int(DATA_PLUMBING_CPUS),
            object_store_memory=LOCAL_OBJECT_STORE_BYTES,
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.WARNING,
        )
    try:
        if address and scaling is not None:
            check_cluster(scaling, where=f"the cluster at {address}")
        yield
    finally:
        ray.shutdown()


def check_cluster(scaling: ScalingConfig, where: str) -> None:
    """Check that a run fits the nodes that the cluster has at this moment.

    Raises:
        ValueError: the cluster has too few CPUs or GPUs.
    """
    resources = ray.cluster_resources()  # type: ignore[no-untyped-call]
    cpus = resources.get("CPU", 0) - DATA_PLUMBING_CPUS
    require(scaling, cpus, resources.get("GPU", 0), where)


def require(scaling: ScalingConfig, cpus: float, gpus: float, where: str) -> None:
    """Check that workers and actors fit: Ray itself would wait for ever.

    Raises:
        ValueError: they do not; says what is missing and which options to lower.
    """
    needed = scaling.num_workers * scaling.cpus_per_worker
    needed += scaling.num_actors * scaling.cpus_per_actor
    if needed > cpus:
        raise ValueError(
            f"the run asks for {needed:g} CPUs ({scaling.num_workers} worker(s) of "
            f"{scaling.cpus_per_worker:g}, {scaling.num_actors} actor(s) of "
            f"{scaling.cpus_per_actor:g}), and {where} has {cpus:g} to give. Lower "
            "scaling.num_workers, num_actors, cpus_per_worker or cpus_per_actor"
        )
    if scaling.use_gpu and scaling.num_workers > gpus:
        raise ValueError(
            f"the run asks for {scaling.num_workers} GPU(s), and {where} has {gpus:g}. Lower "
            "scaling.num_workers, or set scaling.use_gpu false"
        )
