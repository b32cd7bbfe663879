"""The run's stream through Ray Data: a pool of CPU actors makes the clips, workers share them.

Step s of all workers together, ranks in order, is exactly clips [s·B, (s+1)·B) of the plan, for
any number of workers and actors and from any clip number on. What makes it hold: an input row is
one worker's share of some steps, each becomes one block, `preserve_order`, and an equal streaming
split. A block is of several steps, since one of few clips would cost Ray as long as the clips
themselves. The input is a range that is cut up while it flows, so a run of a billion clips starts
as fast as one of a hundred.
"""

from __future__ import annotations

import json
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import numpy as np
import ray.data
import ray.train
from ray.data import (
    ActorPoolStrategy,
    DataIterator,
    Dataset,
    ExecutionOptions,
    ExecutionResources,
)
from ray.util.annotations import RayDeprecationWarning

from ctp.cluster.metrics import MakerMetrics, tags_of
from ctp.data.quarantine import QuarantinedVideo
from ctp.training.claim import newest_clips
from ctp.training.isolated import IsolatedMaker
from ctp.training.sealed import SealedMaker

TRAIN = "train"
BLOCKS_PER_INPUT_BLOCK = 20_000
BLOCK_BYTES = 16 * 2**20
"""A block is of as many steps as fit, and of one at least."""
MOST_STEPS_PER_BLOCK = 32
PREFETCHED_BATCHES = 2
MAX_TASKS_IN_FLIGHT = 2
BLOCKS_PER_ACTOR, BLOCKS_PER_WORKER = 3, 3
"""Blocks that may be in the object store: being made, made and waiting, being consumed."""
MAX_TASK_RETRIES = 3
"""What kills an actor, rather than the process that it decodes in, would do so for ever."""


@dataclass(frozen=True)
class Shares:
    """How the run's stream is cut into blocks: the n-th is a worker's share of some steps.

    Attributes:
        first_clip: where the stream begins; a step begins there.
        num_clips: clips from there to the run's end, whole steps.
        total_batch: clips of a step.
        num_workers: blocks go to them in turn.
        steps_per_block: of all blocks but the last ones, which may be of fewer.
    """

    first_clip: int
    num_clips: int
    total_batch: int
    num_workers: int
    steps_per_block: int

    @classmethod
    def of(cls, maker: SealedMaker, first_clip: int, num_workers: int) -> Shares:
        """The blocks of a run from a clip on."""
        batch, num_clips = maker.config.compute.total_batch, maker.total_clips - first_clip
        fitting = BLOCK_BYTES // (batch // num_workers * maker.clip_bytes)
        steps = min(max(fitting, 1), MOST_STEPS_PER_BLOCK)
        return cls(first_clip, num_clips, batch, num_workers, steps)

    @property
    def num_blocks(self) -> int:
        """How many there are."""
        return self.num_workers * -(-self.num_clips // (self.total_batch * self.steps_per_block))

    def positions(self, block: int) -> list[int]:
        """The clips of a block, step after step."""
        group, worker = divmod(block, self.num_workers)
        share = self.total_batch // self.num_workers
        group_clips = self.total_batch * self.steps_per_block
        begin = group * group_clips
        end = min(begin + group_clips, self.num_clips)
        starts = range(begin + worker * share, end, self.total_batch)
        return [self.first_clip + start + clip for start in starts for clip in range(share)]


class Player:
    """An actor that makes a block at a time, in a process that may be lost."""

    def __init__(self, sealed: ray.ObjectRef[Any], shares: Shares):
        maker: SealedMaker = ray.get(sealed)
        self._maker, self._shares = IsolatedMaker(maker), shares
        self._metrics = MakerMetrics(tags_of(maker.config))

    def __call__(self, row: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Make block `row["id"][0]`."""
        began = time.monotonic()
        batch = self._maker.batch(self._shares.positions(int(row["id"][0])))
        seconds = time.monotonic() - began
        self._metrics.made(len(batch["video"]), len(set(batch["video"])), seconds)
        quarantined = [
            json.dumps([asdict(entry) for entry in found]) for found in batch["quarantined"]
        ]
        return batch | {
            "quarantined": np.array(quarantined),
            "failed": np.array(batch["failed"]),
            "video": np.array(batch["video"]),
        }


def stream(sealed: ray.ObjectRef[Any], first_clip: int, num_workers: int) -> Dataset:
    """The run's clips from number `first_clip` on, in the blocks of `Shares`.

    Args:
        sealed: the run's `SealedMaker`.
        first_clip: where a step begins.
        num_workers: who share the clips.
    """
    maker: SealedMaker = ray.get(sealed)
    config, shares = maker.config, Shares.of(maker, first_clip, num_workers)
    worker_batch = config.compute.total_batch // num_workers
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    # never split a block
    context.target_max_block_size = 2 * shares.steps_per_block * worker_batch * maker.clip_bytes
    input_blocks = -(-shares.num_blocks // BLOCKS_PER_INPUT_BLOCK)
    rows = ray.data.range(shares.num_blocks, override_num_blocks=max(input_blocks, 1))
    with warnings.catch_warnings():
        # until 2.64 there is no other way to give max_task_retries
        warnings.simplefilter("ignore", RayDeprecationWarning)
        return rows.repartition(target_num_rows_per_block=1).map_batches(
            Player,
            fn_constructor_args=(sealed, shares),
            batch_size=1,
            compute=ActorPoolStrategy(
                size=config.scaling.num_actors,
                max_tasks_in_flight_per_actor=MAX_TASKS_IN_FLIGHT,
            ),
            num_cpus=config.scaling.cpus_per_actor,
            max_task_retries=MAX_TASK_RETRIES,
        )


class StreamConfig(ray.train.DataConfig):
    """Opens the run's stream at each start of the worker group: from the newest checkpoint on, for
    as many workers as there are. What Ray Train calls its dataset is a stand-in for it."""

    STAND_IN: ClassVar[Mapping[str, Callable[[], Dataset]]] = {TRAIN: lambda: ray.data.range(1)}

    def __init__(self, sealed: ray.ObjectRef[Any]) -> None:
        """Take a reference to the run's `SealedMaker`."""
        super().__init__(datasets_to_split=[TRAIN])
        self._sealed = sealed

    def configure(
        self, datasets: Mapping[str, Dataset], world_size: int, *_: Any, **__: Any
    ) -> list[dict[str, DataIterator]]:
        """The part of each worker; those that are one too many to share a batch use none."""
        maker: SealedMaker = ray.get(self._sealed)
        number = maker.config.compute.usable_workers(world_size)
        clips = stream(self._sealed, newest_clips(maker.config), number)
        clips.context.execution_options = execution_options(maker, number)
        parts = clips.streaming_split(number, equal=True)
        return [{TRAIN: parts[min(rank, number - 1)]} for rank in range(world_size)]


def execution_options(maker: SealedMaker, num_workers: int) -> ExecutionOptions:
    """In order, and no further ahead of the workers than need be."""
    limits = ExecutionResources.for_limits(
        object_store_memory=object_store_bytes(maker, num_workers)
    )
    return ExecutionOptions(preserve_order=True, resource_limits=limits)


def object_store_bytes(maker: SealedMaker, num_workers: int) -> int:
    """Most that clips on their way take of the cluster's object store."""
    shares = Shares.of(maker, 0, num_workers)
    share = maker.config.compute.total_batch // num_workers
    blocks = BLOCKS_PER_ACTOR * maker.config.scaling.num_actors + BLOCKS_PER_WORKER * num_workers
    return blocks * shares.steps_per_block * share * maker.clip_bytes


def worker_batches(
    shard: DataIterator, worker_batch: int, first_clip: int
) -> Iterator[Mapping[str, Any]]:
    """This worker's batches, as of `StreamMaker.batch`, from clip `first_clip` on."""
    for batch in shard.iter_batches(
        batch_size=worker_batch, batch_format="numpy", prefetch_batches=PREFETCHED_BATCHES
    ):
        # a checkpoint may have become whole after the stream was opened
        if batch["position"][0] >= first_clip:
            quarantined = [
                [QuarantinedVideo(**entry) for entry in json.loads(found)]
                for found in batch["quarantined"]
            ]
            yield batch | {"quarantined": quarantined}
