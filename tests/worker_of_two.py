"""One of two workers that train a run together, each a process; see `train_as_two`."""

import sys
from importlib import import_module
from typing import Any

import torch
import torch.distributed as dist

from ctp.training.distributed import Worker
from ctp.training.trainer import train


def named(name: str) -> Any:
    """What `module:name` stands for."""
    module, _, attribute = name.partition(":")
    return getattr(import_module(module), attribute)


def main() -> None:
    """Train the run whose config comes on standard input."""
    rank, port, open_run, config_class = int(sys.argv[1]), sys.argv[2], *map(named, sys.argv[3:])
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    spec = open_run(config_class.model_validate_json(sys.stdin.read()))
    train(spec, Worker(rank, 2), lambda stream, first: stream.batches(first, rank, 2))
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
