"""One of two workers that train together, as a process: RANK PORT CONFIG, the last one JSON."""

import os
import sys

import torch

from ctp.downstream.classification import Finetuning
from ctp.downstream.config import FinetuneConfig
from ctp.training.collective import Worker
from ctp.training.maker import local_stream
from ctp.training.run import run

if __name__ == "__main__":
    rank, port, config = int(sys.argv[1]), sys.argv[2], sys.argv[3]
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", rank=rank, world_size=2)
    run(
        Finetuning.of(FinetuneConfig.model_validate_json(config)),
        Worker(rank, 2),
        lambda maker, first_clip: local_stream(maker, first_clip, rank, 2),
    )
    torch.distributed.destroy_process_group()
