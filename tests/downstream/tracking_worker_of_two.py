"""One of two workers that learn to track together, as a process: RANK PORT CONFIG, as JSON."""

import os
import sys

import torch

from ctp.downstream.track_config import TrackConfig
from ctp.downstream.tracking import Tracking
from ctp.training.collective import Worker
from ctp.training.maker import local_stream
from ctp.training.run import run

if __name__ == "__main__":
    rank, port, config = int(sys.argv[1]), sys.argv[2], sys.argv[3]
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", rank=rank, world_size=2)
    run(
        Tracking.of(TrackConfig.model_validate_json(config)),
        Worker(rank, 2),
        lambda maker, first_clip: local_stream(maker, first_clip, rank, 2),
    )
    torch.distributed.destroy_process_group()
