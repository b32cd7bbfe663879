"""Choose a batch that fills the memory of the GPUs."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext

import ray
import torch
from ray.exceptions import RayTaskError

from ctp.bench.steps import first_batch, make_step
from ctp.cluster.connect import cluster, find_place
from ctp.pretext.config import PretrainConfig
from ctp.training.config import AUTO
from ctp.training.distributed import Worker, group_of_one
from ctp.training.run_folder import CONFIG, folder_of, read_config
from ctp.training.sync_norm import synchronise_norms

SHARE_OF_MEMORY = 0.9
"""The most of a GPU's memory that a step may take; the rest is for evaluations."""
ACTOR_BYTES = 2 * 2**30
"""Upper bound on the GPU memory of an actor that decodes on it: CUDA's context, and 8 decoders of
Full HD with their pictures. Estimated."""
MAX_SHARE = 1024
"""The largest batch of a worker that is tried."""


def with_chosen_batch(config: PretrainConfig) -> PretrainConfig:
    """Return the config with a number in place of `compute.total_batch` auto, and print it.

    A run that exists keeps its batch. For a new one, steps with more and more samples are taken on
    a GPU. The learning rate and the length of the run are not changed.

    Raises:
        ValueError: the run uses no GPU, not even a sample fits, or a video does not.
        ConnectionError: the cluster does not answer, or cannot be joined.
    """
    if config.compute.total_batch != AUTO:
        return config
    folder = folder_of(config)
    if folder.join(CONFIG).exists():
        return _with_batch(config, read_config(folder, PretrainConfig).compute.batch)
    if not config.scaling.use_gpu:
        raise ValueError(
            "compute.total_batch auto fills the memory of GPUs, but the run uses none; give a "
            "number, or --scaling.use_gpu true"
        )
    place = find_place()
    scaling = config.scaling.choose(place.cpus, place.gpus, total_batch=0)
    workers = scaling.most_workers
    decoding = scaling.actors_per_worker(workers) if scaling.decoder == "gpu" else 0
    with cluster():
        measure = ray.remote(num_gpus=1)(_fitting_share)
        try:
            share = ray.get(measure.remote(config, workers > 1, decoding * ACTOR_BYTES))
        except RayTaskError as error:
            raise ValueError(f"compute.total_batch auto: {error.cause}") from error
    batch = workers * share
    print(
        f"chosen from {place}: compute.total_batch {batch}, {share} for each of {workers} "
        f"worker(s); optimizer.learning_rate stays {config.optimizer.learning_rate:g}"
    )
    return _with_batch(config, batch)


def _with_batch(config: PretrainConfig, batch: int) -> PretrainConfig:
    return config.replace(compute=config.compute.replace(total_batch=batch))


def _fitting_share(config: PretrainConfig, with_others: bool, reserved_bytes: int) -> int:
    """Return how many samples of a run fit on the GPU of this process, besides what others need.

    With other workers, the norms are synchronised and keep more for the backward pass: in bfloat16,
    the activations of R3D-18 take 2.5 times the memory.
    """
    worker = Worker(device=torch.device("cuda"))

    def peak_bytes(samples: int) -> int:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        run = _with_batch(config, samples)
        run = run.replace(scaling=run.scaling.replace(num_workers=1, min_workers=None))
        learner, inputs = first_batch(run, worker)
        synchronise_norms(learner.model, also_alone=True)
        step = make_step(run, worker, learner, inputs)
        step(0)  # the second has the optimiser's state besides
        step(1)
        return torch.cuda.max_memory_reserved()

    _, total_bytes = torch.cuda.mem_get_info()
    with group_of_one("nccl") if with_others else nullcontext():
        return fitting_share(peak_bytes, int(SHARE_OF_MEMORY * total_bytes) - reserved_bytes)


def fitting_share(peak_bytes: Callable[[int], int], memory_bytes: int) -> int:
    """Return the largest power of two, up to `MAX_SHARE`, of samples whose step fits into memory.

    Args:
        peak_bytes: takes steps with a number of samples and returns the peak of the memory; raises
            torch.OutOfMemoryError if it does not fit at all.
        memory_bytes: the most that it may be.

    Raises:
        ValueError: a step with one sample does not fit.
    """
    share = 0
    while share < MAX_SHARE:
        larger = max(2 * share, 1)
        try:
            fits = peak_bytes(larger) <= memory_bytes
        except torch.OutOfMemoryError:
            fits = False
        if not fits:
            break
        share = larger
    if not share:
        raise ValueError(
            "a step with one sample does not fit into the memory of the GPU; give a smaller "
            "encoder, or clips that are shorter or smaller"
        )
    return share
