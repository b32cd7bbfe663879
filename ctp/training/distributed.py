"""Small exchanges between the workers of a run; with one worker they do nothing."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.nn.functional import all_gather

T = TypeVar("T")
CPU = torch.device("cpu")
STORE_TIMEOUT = timedelta(minutes=30)
"""How long a process waits for the others to join its group; they may start much later."""


@dataclass(frozen=True)
class Worker:
    """One of the processes that train together."""

    rank: int = 0
    world_size: int = 1
    device: torch.device = CPU

    @property
    def is_first(self) -> bool:
        """Return whether this worker writes for all."""
        return self.rank == 0


def regroup(rank: int, world_size: int, address: str) -> None:
    """Leave the process group; its first `world_size` processes form a new one, if several.

    Args:
        rank: of this process, in the old group and in the new one.
        world_size: of the new group.
        address: of this process's machine, as the others reach it.
    """
    backend = dist.get_backend()
    listener = listen(address) if rank == 0 else None
    place = from_first(listener.getsockname()[:2] if listener else None)
    assert place is not None
    dist.destroy_process_group()
    # a single worker needs no group
    if rank < world_size > 1:
        join_group(backend, rank, world_size, place, listener)
    elif listener is not None:
        listener.close()


def listen(address: str, port: int = 0) -> socket.socket:
    """Return a socket that listens on one interface; port 0 means any free port."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    return socket.create_server((address, port), family=family)


def join_group(
    backend: str,
    rank: int,
    world_size: int,
    place: tuple[str, int],
    listener: socket.socket | None,
    timeout: timedelta | None = None,
) -> None:
    """Join a process group, whose store listens on one interface only.

    `dist.init_process_group` alone would let the store listen on all interfaces.

    Args:
        backend: gloo or nccl.
        rank: of this process.
        world_size: number of processes.
        place: address and port of the store.
        listener: the store's socket in the first process, which listens there; None in the others.
        timeout: of each operation of the group; None means PyTorch's default.
    """
    store = dist.TCPStore(  # type: ignore[attr-defined]  # it is documented
        *place,
        world_size,
        listener is not None,
        timeout=timeout or STORE_TIMEOUT,
        master_listen_fd=listener.detach() if listener else None,  # the store will close it
    )
    dist.init_process_group(backend, store=store, rank=rank, world_size=world_size, timeout=timeout)


@contextmanager
def group_of_one(backend: str) -> Iterator[None]:
    """Form a process group of this process alone inside the block, to measure what a group costs.

    Args:
        backend: gloo or nccl.
    """
    store = dist.HashStore()  # type: ignore[attr-defined]  # it is documented
    dist.init_process_group(backend, store=store, rank=0, world_size=1)
    try:
        yield
    finally:
        dist.destroy_process_group()


def gather(value: T) -> list[T]:
    """Return the values of all workers, by rank, on every worker."""
    if not dist.is_initialized():
        return [value]
    values: list[T | None] = [None] * dist.get_world_size()
    # pickles the value; on NCCL its bytes take a detour over the GPU
    dist.all_gather_object(values, value)
    return values  # type: ignore[return-value]


def share_of_mean(total: Tensor, count: Tensor) -> Tensor:
    """Return this worker's share of a mean whose number of values differs from worker to worker:
    the average of the shares over all workers is the sum of `total` over max(1, sum of `count`).

    Args:
        total: float [...], the sum of this worker's values; may require a gradient.
        count: float scalar, their number or the sum of their weights, on the same device.
    """
    if not dist.is_initialized():
        return total / count.clamp(min=1)
    sum_of_counts = count.detach().clone()
    dist.all_reduce(sum_of_counts)
    return total * dist.get_world_size() / sum_of_counts.clamp(min=1)


def gather_tensor(value: Tensor) -> Tensor:
    """Return the rows of all workers by rank, [W · B, ...], without a gradient.

    Since worker r of a step has the r-th share of its samples, that is the order of the stream.

    Args:
        value: [B, ...]; B is the same on every worker.
    """
    if not dist.is_initialized():
        return value.detach()
    values = [torch.empty_like(value) for _ in range(dist.get_world_size())]
    dist.all_gather(values, value.detach().contiguous())
    return torch.cat(values)


def gather_with_gradient(value: Tensor) -> tuple[Tensor, int]:
    """Return the rows of all workers like `gather_tensor`, but with a gradient.

    Returns:
        the rows [W · B, ...], and the index of this worker's first row.
    """
    if not dist.is_initialized():
        return value, 0
    rows = torch.cat(all_gather(value))  # type: ignore[no-untyped-call]
    return rows, dist.get_rank() * len(value)


def from_first(value: T) -> T:
    """Return the first worker's value on every worker."""
    if not dist.is_initialized():
        return value
    values = [value]
    dist.broadcast_object_list(values, src=0)
    return values[0]
