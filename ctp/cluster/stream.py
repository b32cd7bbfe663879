"""The stream of a run through Ray Data: actors draw the samples, workers share them.

Step s of all workers together, ranks in order, is samples [s·B, (s+1)·B) of the plan, for any
number of workers and actors and from any sample on. It holds because an input row is one worker's
share of some steps, each row becomes one block, `preserve_order` is set, and the streaming split is
equal. A block holds several steps, since a block of few samples would cost Ray as much time as the
samples themselves. The input is a range that is split while it streams, so a run of a billion
samples starts as fast as one of a hundred.
"""

from __future__ import annotations

import json
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

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

from ctp.cluster.losses import open_journal
from ctp.cluster.metrics import DRAWN_TIME, SampleMetrics, tags_of
from ctp.cluster.pacing import pace
from ctp.cluster.s3_monitor import S3Monitor
from ctp.data.quarantine import QuarantinedVideo
from ctp.storage import BYTES_READ
from ctp.training.config import RunConfig, ScalingConfig
from ctp.training.run_folder import newest_sample
from ctp.video.limits import DecodingLimits

if TYPE_CHECKING:  # this module is imported by processes that need no torch, 0.3 GB in each
    from ctp.cluster.worker_meter import WorkerMeter
    from ctp.data.stream import Batch, Drawn, SampleDrawer, SampleStream

TRAIN = "train"
BLOCKS_PER_INPUT_BLOCK = 20_000
BLOCK_BYTES = 16 * 2**20
"""A block holds as many steps as fit, and at least one."""
MAX_STEPS_PER_BLOCK = 32
PREFETCHED_BATCHES = 2
MAX_TASKS_IN_FLIGHT = 2
BLOCKS_PER_ACTOR, BLOCKS_PER_WORKER = 3, 3
"""Blocks in the object store: being drawn, waiting, being consumed."""
FIELD_PREFIX = "sample."

Columns = dict[str, np.ndarray]


@dataclass(frozen=True)
class StreamSpec:
    """A description of a run's stream that needs neither its videos nor torch.

    Attributes:
        total_samples: samples of the run.
        sample_bytes: upper bound on the bytes of a sample.
        total_batch: samples of a step.
        scaling: the actors.
        max_seconds_per_video: a video that takes longer ends its actor.
        max_megapixels: a video with larger pictures is not decoded.
        tags: of the metrics.
    """

    total_samples: int
    sample_bytes: int
    total_batch: int
    scaling: ScalingConfig
    max_seconds_per_video: float
    max_megapixels: float
    tags: dict[str, str]

    @classmethod
    def from_stream(cls, config: RunConfig, stream: SampleStream[Any]) -> StreamSpec:
        """Describe a run's stream."""
        return cls(
            stream.total_samples,
            stream.sample_bytes,
            stream.total_batch,
            config.scaling,
            config.data.max_seconds_per_video,
            config.data.max_megapixels,
            tags_of(config),
        )


@dataclass(frozen=True)
class BlockLayout:
    """The blocks of a run's stream: block n is one worker's share of some steps.

    Attributes:
        first_sample: where the stream starts; a step starts there.
        num_samples: samples from there to the run's end, whole steps.
        total_batch: samples of a step.
        num_workers: blocks go to them in turn.
        steps_per_block: of all blocks but the last ones, which may hold fewer.
    """

    first_sample: int
    num_samples: int
    total_batch: int
    num_workers: int
    steps_per_block: int

    @classmethod
    def from_spec(cls, spec: StreamSpec, first_sample: int, num_workers: int) -> BlockLayout:
        """Cut a run's stream from a sample on."""
        batch = spec.total_batch
        fitting = BLOCK_BYTES // (batch // num_workers * spec.sample_bytes)
        steps = min(max(fitting, 1), MAX_STEPS_PER_BLOCK)
        return cls(first_sample, spec.total_samples - first_sample, batch, num_workers, steps)

    @property
    def num_blocks(self) -> int:
        """Return the number of blocks."""
        return self.num_workers * -(-self.num_samples // (self.total_batch * self.steps_per_block))

    def block_bytes(self, spec: StreamSpec) -> int:
        """Return an upper bound on the bytes of a block."""
        return self.steps_per_block * self.worker_batch * spec.sample_bytes

    @property
    def worker_batch(self) -> int:
        """Return one worker's share of a step."""
        return self.total_batch // self.num_workers

    def positions(self, block: int) -> list[int]:
        """Return the positions of a block's samples, step after step."""
        group, worker = divmod(block, self.num_workers)
        group_samples = self.total_batch * self.steps_per_block
        begin = group * group_samples
        end = min(begin + group_samples, self.num_samples)
        # one for each step of the block
        starts = range(begin + worker * self.worker_batch, end, self.total_batch)
        return [
            self.first_sample + start + sample
            for start in starts
            for sample in range(self.worker_batch)
        ]


class SampleActor:
    """Draws a block of samples at a time. A bad video may end its process; see `Journal`."""

    def __init__(
        self, stream: ray.ObjectRef[Any], spec: StreamSpec, layout: BlockLayout, losses: Any
    ):
        # first, so that a process that dies while it starts is known
        self._journal = open_journal(losses, spec.max_seconds_per_video)
        self._reference, self._layout = stream, layout
        self._s3 = S3Monitor.start()  # before the stream opens its filesystem
        self._metrics, self._bytes_read = SampleMetrics(spec.tags), BYTES_READ
        self._limits = DecodingLimits(spec.max_megapixels)

    @cached_property
    def _stream(self) -> SampleStream[Any]:
        """Return the run's stream; the first task loads it, with torch."""
        import torch

        torch.set_num_threads(1)  # each core has an actor
        stream: SampleStream[Any] = ray.get(self._reference)
        return stream

    def __call__(self, row: Columns) -> Columns:
        """Draw block `row["id"][0]`."""
        began = time.monotonic()
        with self._journal.task():
            positions = self._layout.positions(int(row["id"][0]))
            drawn = self._stream.draw_many(positions, self._journal, self._limits)
        num_videos = len({each.video_id for each in drawn})
        self._metrics.record_block(len(drawn), num_videos, time.monotonic() - began)
        self._metrics.record_reading(self._bytes_read.take(), self._s3.take())
        return to_columns(drawn) | {DRAWN_TIME: np.full(len(drawn), time.time())}


def to_columns(drawn: Sequence[Drawn[Any]]) -> Columns:
    """Return samples as the columns of a block; arrays without elements are left out."""
    from ctp.data.stream import stack

    samples = stack([each.sample for each in drawn])
    arrays = {FIELD_PREFIX + name: array for name, array in samples._asdict().items()}
    return {
        "position": np.array([each.position for each in drawn], np.int64),
        "quarantined": np.array(
            [json.dumps([asdict(entry) for entry in each.quarantined]) for each in drawn]
        ),
        "error": np.array([each.error for each in drawn]),
        **{name: array for name, array in arrays.items() if array.size},
    }


def from_columns(columns: Mapping[str, np.ndarray], drawer: SampleDrawer[Any]) -> Batch[Any]:
    """Return the rows of a block as a batch."""
    from ctp.data.stream import Batch

    fields, number = drawer.fields(), len(columns["position"])
    arrays = (
        columns.get(FIELD_PREFIX + name, np.zeros((number, *array.shape), array.dtype))
        for name, array in fields._asdict().items()
    )
    return Batch(
        columns["position"],
        type(fields)(*arrays),
        [
            QuarantinedVideo(**entry)
            for entries in columns["quarantined"]
            for entry in json.loads(entries)
        ],
        [error for error in columns["error"] if error],
    )


def sample_blocks(
    stream: ray.ObjectRef[Any], spec: StreamSpec, first_sample: int, num_workers: int, losses: Any
) -> Dataset:
    """Return a run's samples from number `first_sample` on, in the blocks of `BlockLayout`.

    Args:
        stream: the run's `SampleStream`.
        spec: describes it.
        first_sample: where a step starts.
        num_workers: workers that share the samples.
        losses: from `keep_losses`.
    """
    scaling, layout = spec.scaling, BlockLayout.from_spec(spec, first_sample, num_workers)
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.raise_original_map_exception = True  # `decide` needs its type
    # never split a block
    context.target_max_block_size = 2 * layout.block_bytes(spec)
    input_blocks = -(-layout.num_blocks // BLOCKS_PER_INPUT_BLOCK)
    rows = ray.data.range(layout.num_blocks, override_num_blocks=max(input_blocks, 1))
    blocks = map_by_actors(
        # a row, a task, a block: what an actor returns at once
        rows.repartition(target_num_rows_per_block=1),
        SampleActor,
        (stream, spec, layout, losses),
        scaling.num_actors,
        num_cpus=scaling.cpus_per_actor,
    )
    blocks.context.execution_options = execution_options(spec, num_workers)
    return blocks


def map_by_actors(
    blocks: Dataset, actor: type, arguments: tuple[Any, ...], number: int, **resources: Any
) -> Dataset:
    """Pass each block through one of `number` actors of a class. Actors that die are replaced."""
    with warnings.catch_warnings():
        # until Ray 2.64 there is no other way to set max_task_retries
        warnings.simplefilter("ignore", RayDeprecationWarning)
        mapped = blocks.map_batches(
            actor,
            fn_constructor_args=arguments,
            batch_size=None,
            compute=ActorPoolStrategy(
                size=number, max_tasks_in_flight_per_actor=MAX_TASKS_IN_FLIGHT
            ),
            max_task_retries=-1,  # `LossRecord` knows when retries do not help
            **resources,
        )
    pace(mapped.context)
    return mapped


class StreamConfig(ray.train.DataConfig):
    """Opens the run's stream at each start of the worker group: from the newest checkpoint on, for
    the workers present. Ray Train's own dataset is only a placeholder."""

    PLACEHOLDER: ClassVar[Mapping[str, Callable[[], Dataset]]] = {TRAIN: lambda: ray.data.range(1)}

    def __init__(self, config: RunConfig, stream: SampleStream[Any], losses: Any) -> None:
        """Put the stream where all actors of a node share its catalogue.

        Args:
            config: of the run.
            stream: its samples.
            losses: from `keep_losses`, for all worker groups of the run.
        """
        super().__init__(datasets_to_split=[TRAIN])
        self._config, self._losses = config, losses
        self._stream, self._spec = ray.put(stream), StreamSpec.from_stream(config, stream)

    def configure(
        self, datasets: Mapping[str, Dataset], world_size: int, *_: Any, **__: Any
    ) -> list[dict[str, DataIterator]]:
        """Return the part of each worker; surplus workers use none."""
        number = self._config.compute.usable_workers(world_size)
        first = newest_sample(self._config)
        ray.get(self._losses.end_actors.remote())
        blocks = sample_blocks(self._stream, self._spec, first, number, self._losses)
        parts = blocks.streaming_split(number, equal=True)
        # Ray wants a part for each worker present; those that are surplus never open theirs
        return [{TRAIN: parts[min(rank, number - 1)]} for rank in range(world_size)]


def execution_options(spec: StreamSpec, num_workers: int) -> ExecutionOptions:
    """Return options that keep the order and bound the blocks ahead of the workers."""
    limits = ExecutionResources.for_limits(
        object_store_memory=object_store_bytes(spec, num_workers)
    )
    return ExecutionOptions(preserve_order=True, resource_limits=limits)


def object_store_bytes(spec: StreamSpec, num_workers: int) -> int:
    """Return the most bytes that samples take of the cluster's object store."""
    layout = BlockLayout.from_spec(spec, 0, num_workers)
    blocks = BLOCKS_PER_ACTOR * spec.scaling.num_actors + BLOCKS_PER_WORKER * num_workers
    return blocks * layout.block_bytes(spec)


def worker_batches(
    shard: DataIterator,
    drawer: SampleDrawer[Any],
    worker_batch: int,
    first_sample: int,
    meter: WorkerMeter | None = None,
) -> Iterator[Batch[Any]]:
    """Yield this worker's batches from sample `first_sample` on; a meter measures the worker."""
    batches = shard.iter_batches(
        batch_size=worker_batch, batch_format="numpy", prefetch_batches=PREFETCHED_BATCHES
    )
    for columns in batches if meter is None else meter.watch(batches):
        # a checkpoint may have been completed after the stream was opened
        if columns["position"][0] >= first_sample:
            yield from_columns(columns, drawer)
