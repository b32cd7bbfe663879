"""The stream of a run through Ray Data: each worker opens its own, whose actors draw its samples.

Step s of all workers together, ranks in order, is samples [s·B, (s+1)·B) of the plan, for any
number of workers and actors and from any sample on. A sample is a pure function of its position:
nothing has to be split, and no process has to coordinate the workers. A block is a worker's share
of several steps, since a block costs Ray milliseconds whatever it holds. The numbers of the blocks
are listed while the stream runs, so a run of a billion samples starts as fast as one of a hundred.
"""

from __future__ import annotations

import json
import time
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import ray.data
from ray.data import (
    ActorPoolStrategy,
    Dataset,
    Datasource,
    ExecutionOptions,
    ExecutionResources,
    ReadTask,
)
from ray.data.block import BlockMetadata
from ray.util.annotations import RayDeprecationWarning
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from ctp.cluster.losses import open_journal
from ctp.cluster.metrics import SampleMetrics, tags_of
from ctp.cluster.pacing import pace
from ctp.cluster.s3_monitor import S3Monitor
from ctp.data.quarantine import QuarantinedVideo
from ctp.storage import BYTES_READ
from ctp.training.config import RunConfig, ScalingConfig
from ctp.video.limits import DecodingLimits

if TYPE_CHECKING:  # this module is imported by processes that need no torch, 0.3 GB in each
    from ctp.cluster.worker_meter import WorkerMeter
    from ctp.data.stream import Batch, Drawn, SampleDrawer, SampleStream
    from ctp.video.nvdec import Nvdec

    TimedBatch = tuple[Batch[Any], float]

BLOCKS_PER_READ = 20_000
BLOCK_BYTES = 128 * 2**20
BLOCK_SAMPLES = 256
"""A block holds as many steps as fit into these bytes and samples, and at least one."""
PREFETCHED_BLOCKS = 1
MAX_TASKS_IN_FLIGHT = 2
BLOCKS_PER_ACTOR, BLOCKS_PER_WORKER = 3, 3
"""Blocks in the object store: being drawn, waiting, being consumed."""
ABOUT = "about"
"""The column of a block that is not an array of its samples."""
ONE_ROW = 1
"""Most bytes of a block for Ray Data, which then makes a block of each row."""


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
    """The blocks of one worker's stream: block n is its share of some steps.

    Attributes:
        first_sample: where the stream starts; a step starts there.
        num_samples: samples of all workers from there to the run's end, whole steps.
        total_batch: samples of a step.
        num_workers: workers that share a step.
        rank: of the worker among them.
        steps_per_block: of all blocks but the last, which may hold fewer.
    """

    first_sample: int
    num_samples: int
    total_batch: int
    num_workers: int
    rank: int
    steps_per_block: int

    @classmethod
    def from_spec(
        cls, spec: StreamSpec, first_sample: int, num_workers: int, rank: int = 0
    ) -> BlockLayout:
        """Cut the stream of a run's worker from a sample on."""
        share = spec.total_batch // num_workers
        fitting = min(BLOCK_BYTES // (share * spec.sample_bytes), BLOCK_SAMPLES // share)
        left = spec.total_samples - first_sample
        return cls(first_sample, left, spec.total_batch, num_workers, rank, max(fitting, 1))

    @property
    def num_blocks(self) -> int:
        """Return the number of blocks."""
        return -(-self.num_samples // (self.total_batch * self.steps_per_block))

    def block_bytes(self, spec: StreamSpec) -> int:
        """Return an upper bound on the bytes of a block."""
        return self.steps_per_block * self.worker_batch * spec.sample_bytes

    @property
    def worker_batch(self) -> int:
        """Return one worker's share of a step."""
        return self.total_batch // self.num_workers

    def positions(self, block: int) -> list[int]:
        """Return the positions of a block's samples, step after step."""
        block_samples = self.total_batch * self.steps_per_block
        begin = block * block_samples
        end = min(begin + block_samples, self.num_samples)
        # one for each step of the block
        starts = range(begin + self.rank * self.worker_batch, end, self.total_batch)
        return [
            self.first_sample + start + sample
            for start in starts
            for sample in range(self.worker_batch)
        ]


Columns = dict[str, np.ndarray]


class BlockNumbers(Datasource):
    """The input of a stream: numbers from 0 on, each a row and so a block of its own."""

    def __init__(self, count: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._count = count

    def estimate_inmemory_data_size(self) -> int:
        """Return the bytes of all rows."""
        return 8 * self._count

    def get_read_tasks(self, parallelism: int, *_: Any, **__: Any) -> list[ReadTask]:
        """Return tasks that list the numbers in turn, however many Ray asks for."""
        every = range(self._count)
        parts = [every[start:][:BLOCKS_PER_READ] for start in every[::BLOCKS_PER_READ]]
        return [
            ReadTask(
                partial(_list_numbers, part), BlockMetadata(len(part), 8 * len(part), None, None)
            )
            for part in parts
        ]


def _list_numbers(numbers: range) -> Iterator[pa.Table]:
    for number in numbers:
        yield pa.table({"number": [number]})


class SampleActor:
    """Draws a block of samples at a time. A bad video may end its process; see `Journal`."""

    def __init__(
        self,
        stream: ray.ObjectRef[Any],
        spec: StreamSpec,
        layout: BlockLayout,
        losses: Any,
        coordinator: Any,
    ):
        # first, so that a process that dies while it starts is known
        self._journal = open_journal(losses, spec.max_seconds_per_video)
        self._reference, self._layout = stream, layout
        self._s3 = S3Monitor.start()  # before the stream opens its filesystem
        self._metrics, self._bytes_read = SampleMetrics(spec.tags), BYTES_READ
        self._limits = DecodingLimits(spec.max_megapixels)
        self._scaling, self._coordinator = spec.scaling, coordinator

    @cached_property
    def _stream(self) -> SampleStream[Any]:
        """Return the run's stream; the first task loads it, with torch."""
        import torch

        torch.set_num_threads(1)  # each core has an actor
        stream: SampleStream[Any] = ray.get(self._reference)
        return stream

    @cached_property
    def _nvdec(self) -> Nvdec | None:
        """Return the engine that decodes, or None."""
        if self._scaling.decoder == "cpu":
            return None
        from ctp.video.nvdec import Nvdec  # PyAV, which takes its time

        nvdec = Nvdec()
        nvdec.check()
        return nvdec

    def __call__(self, row: pa.Table) -> pa.Table:
        """Draw block `row["number"]`."""
        began = time.monotonic()
        positions = self._layout.positions(row["number"][0].as_py())
        with self._journal.task(lambda: self._stream.needed(positions)):
            drawn = self._stream.draw_many(positions, self._journal, self._limits, self._nvdec)
        self._name_refused()
        num_videos = len({each.video_id for each in drawn})
        self._metrics.record_block(len(drawn), num_videos, time.monotonic() - began)
        self._metrics.record_reading(self._bytes_read.take(), self._s3.take())
        return to_row(drawn, time.time())

    def _name_refused(self) -> None:
        """Pass on what is decoded on the CPU although NVDEC was asked for."""
        if self._nvdec is not None and self._coordinator is not None:
            for codec, text in self._nvdec.take_refused().items():
                self._coordinator.add_note.remote(f"decoder of {codec}", text)


def to_row(drawn: Sequence[Drawn[Any]], drawn_time: float) -> pa.Table:
    """Return the samples of a block as one row: each array is a value of bytes, without a copy."""
    from ctp.data.stream import stack

    samples = stack([each.sample for each in drawn])
    about = {
        "positions": [each.position for each in drawn],
        "quarantined": [[asdict(entry) for entry in each.quarantined] for each in drawn],
        "errors": [each.error for each in drawn],
        "drawn_time": drawn_time,
    }
    columns = {name: _bytes_column(array) for name, array in samples._asdict().items()}
    return pa.table({ABOUT: [json.dumps(about)], **columns})


def _bytes_column(array: np.ndarray) -> pa.Array:
    """Return the bytes of an array as a column of one value, without a copy."""
    data = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
    offsets = pa.py_buffer(np.array([0, len(data)], np.int64))
    return pa.Array.from_buffers(pa.large_binary(), 1, [None, offsets, pa.py_buffer(data)])


def from_row(row: pa.Table, drawer: SampleDrawer[Any], batch_size: int) -> Iterator[TimedBatch]:
    """Yield the batches of a block, with the time at which it was drawn; they share its memory."""
    from ctp.data.stream import Batch

    about = json.loads(row[ABOUT][0].as_py())
    fields, number = drawer.fields(), len(about["positions"])
    arrays = [
        np.frombuffer(row[name].chunk(0).buffers()[2] or b"", array.dtype).reshape(
            number, *array.shape
        )
        for name, array in fields._asdict().items()
    ]
    for start in range(0, number, batch_size):
        part = slice(start, start + batch_size)
        batch = Batch(
            np.array(about["positions"][part], np.int64),
            type(fields)(*(array[part] for array in arrays)),
            [QuarantinedVideo(**each) for found in about["quarantined"][part] for each in found],
            [error for error in about["errors"][part] if error],
        )
        yield batch, about["drawn_time"]


def worker_blocks(
    stream: ray.ObjectRef[Any],
    spec: StreamSpec,
    layout: BlockLayout,
    losses: Any,
    coordinator: Any = None,
) -> Dataset:
    """Return the blocks of one worker, a row each; its actors are on its node if they have room.

    Args:
        stream: the run's `SampleStream`.
        spec: describes it.
        layout: the worker's blocks.
        losses: from `keep_losses`.
        coordinator: the run's `RunCoordinator`, for notes; None if nobody prints them.
    """
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.raise_original_map_exception = True  # `decide` needs its type
    context.target_max_block_size = ONE_ROW
    here = ray.get_runtime_context().get_node_id()
    blocks = map_by_actors(
        # it waits for the actors most of the time, so it must not hold a CPU
        ray.data.read_datasource(BlockNumbers(layout.num_blocks), num_cpus=0),
        SampleActor,
        (stream, spec, layout, losses, coordinator),
        # Ray warns of actors that no block is left for
        min(spec.scaling.actors_per_worker(layout.num_workers), max(layout.num_blocks, 1)),
        num_cpus=spec.scaling.cpus_per_actor(layout.num_workers),
        num_gpus=spec.scaling.gpus_per_actor(layout.num_workers),
        batch_format="pyarrow",
        scheduling_strategy=NodeAffinitySchedulingStrategy(
            here, soft=True, _spill_on_unavailable=True
        ),
    )
    limits = ExecutionResources.for_limits(object_store_memory=worker_store_bytes(spec, layout))
    blocks.context.execution_options = ExecutionOptions(preserve_order=True, resource_limits=limits)
    return blocks


def map_by_actors(
    blocks: Dataset,
    actor: type,
    arguments: tuple[Any, ...],
    number: int,
    *,
    num_gpus: float = 0.0,
    **resources: Any,
) -> Dataset:
    """Pass each block through one of `number` actors of a class. Actors that die are replaced."""
    with warnings.catch_warnings():
        # until Ray 2.64 there is no other way to set max_task_retries, and GPUs for whole blocks
        warnings.simplefilter("ignore", RayDeprecationWarning)
        mapped = blocks.map_batches(
            actor,
            fn_constructor_args=arguments,
            batch_size=None,
            compute=ActorPoolStrategy(
                size=number, max_tasks_in_flight_per_actor=MAX_TASKS_IN_FLIGHT
            ),
            max_task_retries=-1,  # `LossRecord` knows when retries do not help
            ray_remote_args_fn=(lambda: {"num_gpus": num_gpus}) if num_gpus else None,
            **resources,
        )
    pace(mapped.context)
    return mapped


def worker_store_bytes(spec: StreamSpec, layout: BlockLayout) -> int:
    """Return the most bytes that the samples of one worker take of the cluster's object store."""
    actors = spec.scaling.actors_per_worker(layout.num_workers)
    return (BLOCKS_PER_ACTOR * actors + BLOCKS_PER_WORKER) * layout.block_bytes(spec)


def worker_batches(
    blocks: Dataset,
    drawer: SampleDrawer[Any],
    worker_batch: int,
    meter: WorkerMeter | None = None,
) -> Iterator[Batch[Any]]:
    """Yield the batches of `worker_blocks`'s blocks; a meter measures the worker."""
    rows = blocks.iter_batches(
        batch_size=None, batch_format="pyarrow", prefetch_batches=PREFETCHED_BLOCKS
    )
    timed = (each for row in rows for each in from_row(row, drawer, worker_batch))
    return (batch for batch, _ in timed) if meter is None else meter.watch(timed)
