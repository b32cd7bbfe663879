"""One of two workers that train together, as a process: RANK PORT JOB CONFIG.

JOB and CONFIG name the run's classes, MODULE:NAME; the config itself comes by standard input.
"""

import importlib
import os
import sys
from typing import Any

import torch

from ctp.training.distributed import Worker
from ctp.training.maker import local_stream
from ctp.training.trainer import run


def named(where: str) -> Any:
    module, _, name = where.partition(":")
    return getattr(importlib.import_module(module), name)


if __name__ == "__main__":
    rank, port = int(sys.argv[1]), sys.argv[2]
    job, config = map(named, sys.argv[3:])
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", rank=rank, world_size=2)
    run(
        job.of(config.model_validate_json(sys.stdin.read())),
        Worker(rank, 2),
        lambda maker, first_clip: local_stream(maker, first_clip, rank, 2),
    )
    torch.distributed.destroy_process_group()
