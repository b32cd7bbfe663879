"""Small exchanges between the workers of a run; with one worker they do nothing."""

from __future__ import annotations

import socket
from dataclasses import dataclass
from typing import TypeVar

import torch
import torch.distributed as dist

T = TypeVar("T")
CPU = torch.device("cpu")


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
    with socket.socket() as free:
        free.bind(("", 0))
        meeting = from_first(f"tcp://{address}:{free.getsockname()[1]}")
    dist.destroy_process_group()
    # a single worker needs no group
    if rank < world_size > 1:
        dist.init_process_group(backend, init_method=meeting, rank=rank, world_size=world_size)


def gather(value: T) -> list[T]:
    """Return the values of all workers, by rank, on every worker."""
    if not dist.is_initialized():
        return [value]
    values: list[T | None] = [None] * dist.get_world_size()
    # pickles the value; on NCCL its bytes take a detour over the GPU
    dist.all_gather_object(values, value)
    return values  # type: ignore[return-value]


def from_first(value: T) -> T:
    """Return the first worker's value on every worker."""
    if not dist.is_initialized():
        return value
    values = [value]
    dist.broadcast_object_list(values, src=0)
    return values[0]
