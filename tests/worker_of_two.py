"""One of two workers that train a run together, each a process; see `train_as_two`."""

import sys
import time
from collections.abc import Iterator
from importlib import import_module
from typing import Any

import torch
import torch.distributed as dist

from ctp.training.distributed import Worker
from ctp.training.trainer import train


def named(name: str) -> Any:
    """Return the object that `module:name` names."""
    module, _, attribute = name.partition(":")
    return getattr(import_module(module), attribute)


def main() -> None:
    """Train the run whose config comes on standard input; each batch comes late by some seconds."""
    rank, port, late_seconds = int(sys.argv[1]), sys.argv[2], float(sys.argv[3])
    open_run, config_class = map(named, sys.argv[4:])
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    spec = open_run(config_class.model_validate_json(sys.stdin.read()))

    def batches(stream: Any, first: int) -> Iterator[Any]:
        for batch in stream.batches(first, rank, 2):
            time.sleep(late_seconds)
            yield batch

    train(spec, Worker(rank, 2), batches)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
