"""One of three processes; two form a new group, then one is left alone: RANK PORT."""

import os
import sys

import torch.distributed as dist

from ctp.training.distributed import gather, regroup

if __name__ == "__main__":
    rank, port = int(sys.argv[1]), sys.argv[2]
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    dist.init_process_group("gloo", rank=rank, world_size=3)
    met = [gather(rank)]
    for world in (2, 1):
        if dist.is_initialized():
            regroup(rank, world, "127.0.0.1")
            if rank < world:
                met.append(gather(rank))
    print(met)
