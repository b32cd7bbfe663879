"""One of several workers that train runs together, one run after the other.

`python training_worker.py RANK STORE PHASES GRADIENT`, with a JSON list of configs on standard
input. PHASES such as 4:2,2:4 means: four workers train each run until step 2, then two of them
until step 4. The file GRADIENT gets this worker's gradient of `sum_of_products`.
"""

import json
import sys
from contextlib import suppress

import torch
import torch.distributed as dist
from torch import Tensor

from ctp.pretext.config import PretrainConfig
from ctp.pretext.pretraining import open_pretraining
from ctp.training.distributed import Worker, gather_with_gradient, regroup
from ctp.training.trainer import train

ADDRESS = "127.0.0.1"


def example(num_rows: int) -> tuple[Tensor, Tensor]:
    """Return rows, [N, 3], and a weight for each pair of them, [N, N]."""
    generator = torch.Generator().manual_seed(0)
    return torch.randn(num_rows, 3, generator=generator), torch.randn(
        num_rows, num_rows, generator=generator
    )


def gradient_of_own_rows(rank: int, world_size: int) -> Tensor:
    """Return the gradient, for this worker's two rows, of the sum over all workers of the weighted
    products of their own rows with all rows."""
    rows, weights = example(2 * world_size)
    own = rows[2 * rank : 2 * rank + 2].requires_grad_()
    everyones, first = gather_with_gradient(own)
    (weights[first : first + 2] * (own @ everyones.T)).sum().backward()
    assert own.grad is not None
    return own.grad


def train_until(config: PretrainConfig, step: int, worker: Worker) -> None:
    """Train until a step, as one of several workers; the run stays unfinished."""

    def batches(stream, first):
        for batch in stream.batches(first, worker.rank, worker.world_size):
            if batch.positions[0] >= step * stream.total_batch:
                raise InterruptedError
            yield batch

    with suppress(InterruptedError):
        train(open_pretraining(config), worker, batches)


def main(rank: int, store: str, phases: str, gradient: str) -> None:
    torch.set_num_threads(1)
    configs = [PretrainConfig(**values) for values in json.load(sys.stdin)]
    steps = [tuple(map(int, phase.split(":"))) for phase in phases.split(",")]
    for number, (world_size, step) in enumerate(steps):
        if number:
            regroup(rank, world_size, ADDRESS)
            if rank >= world_size:
                return
        else:
            place = f"file://{store}"
            dist.init_process_group("gloo", init_method=place, rank=rank, world_size=world_size)
            torch.save(gradient_of_own_rows(rank, world_size), gradient)
        for config in configs:
            train_until(config, step, Worker(rank, world_size))
    dist.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), *sys.argv[2:])
