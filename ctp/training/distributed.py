"""Small exchanges between the workers of a run; with one worker they are nothing."""

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
    world: int = 1
    device: torch.device = CPU

    @property
    def is_first(self) -> bool:
        """Whether this is the worker that writes for all."""
        return self.rank == 0


def regroup(rank: int, world: int, address: str) -> None:
    """Leave the group of all processes; the first `world` of them make a new one, if several.

    Args:
        rank: of this process in the old group; it is the same in the new one.
        world: how many go on.
        address: of the machine of this process, as the others reach it.
    """
    backend = dist.get_backend()
    with socket.socket() as free:
        free.bind(("", 0))
        meeting = from_first(f"tcp://{address}:{free.getsockname()[1]}")
    dist.destroy_process_group()
    if rank < world > 1:
        dist.init_process_group(backend, init_method=meeting, rank=rank, world_size=world)


def gather(value: T) -> list[T]:
    """What each worker passed, by rank, on every worker alike."""
    if not dist.is_initialized():
        return [value]
    values: list[T | None] = [None] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values  # type: ignore[return-value]


def from_first(value: T) -> T:
    """What the first worker passed, on every worker."""
    if not dist.is_initialized():
        return value
    values = [value]
    dist.broadcast_object_list(values, src=0)
    return values[0]
