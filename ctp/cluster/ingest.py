"""The run's stream through Ray Data: a pool of CPU actors plays the game, workers share the clips.

Step s of all workers together, ranks in order, is exactly clips [s·B, (s+1)·B) of the plan, for
any number of workers and actors and from any clip number on. What makes it hold: an input row is
one worker's batch, each becomes one block, `preserve_order`, and an equal streaming split. The
input is a range that is cut up while it flows, so a run of a billion clips starts as fast as one
of a hundred.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import Any

import numpy as np
import ray.data
import ray.train
import torch
from ray.data import ActorPoolStrategy, DataIterator, Dataset, ExecutionOptions
from ray.util.annotations import RayDeprecationWarning

from ctp.pretext.claim import newest_clips
from ctp.pretext.clips import ClipMaker
from ctp.pretext.config import PretrainConfig
from ctp.video.quarantine import Rejected

TRAIN = "train"
BATCHES_PER_INPUT_BLOCK = 20_000
PREFETCHED_BATCHES = 2
MAX_TASKS_IN_FLIGHT = 2
MAX_TASK_RETRIES = 3
"""A video that kills its actor would be tried again for ever."""


class Player:
    """An actor that makes one worker's batch at a time."""

    def __init__(self, maker: ClipMaker, first_clip: int, worker_batch: int):
        torch.set_num_threads(1)  # actors are what there are many of
        self._maker, self._first_clip, self._worker_batch = maker, first_clip, worker_batch

    def __call__(self, row: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Make batch `row["id"][0]`, counted over all workers from `first_clip` on."""
        start = self._first_clip + int(row["id"][0]) * self._worker_batch
        batch = self._maker.batch(range(start, start + self._worker_batch))
        rejected = [json.dumps([asdict(entry) for entry in found]) for found in batch["rejected"]]
        return batch | {
            "rejected": np.array(rejected),
            "failed": np.array(batch["failed"]),
            "video": np.array(batch["video"]),
        }


def stream(maker: ClipMaker, first_clip: int, num_workers: int) -> Dataset:
    """The run's clips from number `first_clip` on, as blocks of one worker's batch each."""
    config = maker.config
    worker_batch = config.compute.total_batch // num_workers
    num_batches = (maker.total_clips - first_clip) // worker_batch
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.target_max_block_size = 2 * batch_bytes(config, worker_batch)  # never split a batch
    blocks = -(-num_batches // BATCHES_PER_INPUT_BLOCK)
    rows = ray.data.range(num_batches, override_num_blocks=max(blocks, 1))
    with warnings.catch_warnings():
        # until 2.64 there is no other way to give max_task_retries
        warnings.simplefilter("ignore", RayDeprecationWarning)
        return rows.repartition(target_num_rows_per_block=1).map_batches(
            Player,
            fn_constructor_args=(maker, first_clip, worker_batch),
            batch_size=1,
            compute=ActorPoolStrategy(
                size=config.scaling.num_actors,
                max_tasks_in_flight_per_actor=MAX_TASKS_IN_FLIGHT,
            ),
            num_cpus=config.scaling.cpus_per_actor,
            max_task_retries=MAX_TASK_RETRIES,
        )


def batch_bytes(config: PretrainConfig, num_clips: int) -> int:
    """Bytes of `num_clips` clips in the object store, a little over."""
    pixels = config.sampling.num_frames * config.augment.frame_size_px**2 * 3
    boxes = config.game.num_patches * config.sampling.num_frames * 17
    return num_clips * (pixels + boxes + 16_384)


def open_train_stream(maker: ClipMaker) -> Dataset:
    """The stream from the newest checkpoint on; called at each start of the worker group."""
    return stream(maker, newest_clips(maker.config), maker.config.scaling.num_workers)


def data_config() -> ray.train.DataConfig:
    """How Ray Train splits the stream."""
    return ray.train.DataConfig(
        datasets_to_split=[TRAIN], execution_options=ExecutionOptions(preserve_order=True)
    )


def worker_batches(
    shard: DataIterator, worker_batch: int, first_clip: int
) -> Iterator[Mapping[str, Any]]:
    """This worker's batches, as of `ClipMaker.batch`, from clip `first_clip` on."""
    for batch in shard.iter_batches(
        batch_size=worker_batch, batch_format="numpy", prefetch_batches=PREFETCHED_BATCHES
    ):
        # a checkpoint may have become whole after the stream was opened
        if batch["position"][0] >= first_clip:
            rejected = [
                [Rejected(**entry) for entry in json.loads(found)] for found in batch["rejected"]
            ]
            yield batch | {"rejected": rejected}
