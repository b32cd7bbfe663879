"""One of several workers of a pretraining.

`python training_worker.py RANK WORLD_SIZE STORE STEPS CONFIG`. It is interrupted after STEPS steps.
"""

import sys
from contextlib import suppress

import torch
import torch.distributed as dist

from ctp.pretext.config import PretrainConfig
from ctp.pretext.pretraining import open_pretraining
from ctp.training.distributed import Worker
from ctp.training.trainer import train


def main(rank: int, world_size: int, store: str, steps: int, config: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=world_size)

    def batches(stream, first):
        for step, batch in enumerate(stream.batches(first, rank, world_size)):
            if step == steps:
                raise InterruptedError
            yield batch

    spec = open_pretraining(PretrainConfig.model_validate_json(config))
    with suppress(InterruptedError):
        train(spec, Worker(rank, world_size), batches)
    dist.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], int(sys.argv[4]), sys.argv[5])
