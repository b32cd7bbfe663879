"""Measure what Ray costs a training worker, by the number of workers that read side by side.

Samples are blank, so that a machine with few cores can feed several readers, and each has one
actor. A reader is a process that does nothing but receive its own stream.
"""

from __future__ import annotations

import statistics
import time
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import ray

from ctp.bench.config import BenchConfig
from ctp.bench.timing import Figures
from ctp.cluster.connect import cluster, run_demands
from ctp.cluster.losses import keep_losses
from ctp.cluster.memory import stream_store_bytes
from ctp.cluster.stream import BlockLayout, StreamSpec, worker_batches, worker_blocks
from ctp.data.journal import video_key
from ctp.data.sources import prepare_corpus
from ctp.data.stream import SampleDrawer, SampleStream, VideoSource, array_field
from ctp.pretext.pretraining import open_pretraining
from ctp.training.config import ComputeConfig
from ctp.training.trainer import TrainingSpec

CLUSTERS_IN_GPUS = 8, 64, 512
SECONDS_PER_BLOCK = 1.0
"""Time in which a reader takes a block, so that the rate is the same for any number of readers."""
RECORD_CALLS = 1000
WARM_UP_BLOCKS = 3
"""Blocks that each reader receives before the timed ones."""


class BlankSample(NamedTuple):
    """A sample of the size of a clip."""

    pixels: np.ndarray


class BlankDrawer(SampleDrawer[BlankSample]):
    """Draws samples of zeros without opening a video."""

    def __init__(self, num_bytes: int) -> None:
        self._num_bytes = num_bytes

    def fields(self) -> BlankSample:
        """Return one array of bytes."""
        return BlankSample(array_field(np.uint8, self._num_bytes))

    def draw(self, videos: VideoSource, rng: np.random.Generator) -> BlankSample:
        """Return zeros."""
        return BlankSample(np.zeros(self._num_bytes, np.uint8))


class Reading(NamedTuple):
    """What one reader measured, from the end of its warm-up.

    Attributes:
        blocks: number of blocks.
        seconds: until the last block was taken.
        cpu_seconds: of all threads of its process.
    """

    blocks: int
    seconds: float
    cpu_seconds: float


class _Reader:
    """Receives one worker's stream, as a training worker does."""

    def read(
        self, stream: list[Any], spec: StreamSpec, layout: BlockLayout, losses: Any
    ) -> Reading:
        own: SampleStream[Any] = ray.get(stream[0])
        blocks = worker_blocks(stream[0], spec, layout, losses)
        block_samples = layout.steps_per_block * layout.worker_batch
        received, began, cpu_began = 0, 0.0, 0.0
        for batch in worker_batches(blocks, own.drawer, layout.worker_batch):
            if received == WARM_UP_BLOCKS * block_samples:
                began, cpu_began = time.monotonic(), time.process_time()
            received += len(batch.positions)
            timed = received / block_samples - WARM_UP_BLOCKS
            time.sleep(max(began + timed * SECONDS_PER_BLOCK - time.monotonic(), 0) if began else 0)
        return Reading(round(timed), time.monotonic() - began, time.process_time() - cpu_began)


def measure_readers(config: BenchConfig) -> list[Figures]:
    """Measure several numbers of readers, one after the other, on this machine.

    Raises:
        ValueError: the videos do not fit.
        ConnectionError: Ray does not start.
    """
    return [_measure(config, number) for number in config.readers.numbers]


def _measure(config: BenchConfig, number: int) -> Figures:
    run = config.pretraining(
        config.data.uri,
        ComputeConfig(total_batch=number * config.ray.total_batch),
        num_actors=number,
    )
    run = run.replace(scaling=run.scaling.replace(num_workers=number))
    spec = open_pretraining(run)
    prepare_corpus(spec.stream.catalog)
    blank = BlankDrawer(spec.stream.sample_bytes)
    layout = BlockLayout.from_spec(StreamSpec.from_stream(run, spec.stream), 0, number)
    steps = layout.steps_per_block * (WARM_UP_BLOCKS + config.readers.blocks)
    spec = replace(spec, stream=replace(spec.stream, drawer=blank, total_steps=steps))
    store_bytes = stream_store_bytes(spec)
    with cluster(run_demands(run.scaling), sample_bytes=store_bytes, least_cpus=2 * number):
        readings = _read(spec, number)
        record_ms = _record_ms_per_block(layout.steps_per_block * layout.worker_batch)
    described = StreamSpec.from_stream(run, spec.stream)
    return {
        "readers": number,
        "clips_per_block": layout.steps_per_block * layout.worker_batch,
        "mib_per_block": layout.block_bytes(described) / 2**20,
        "blocks_per_second_of_a_reader": statistics.mean(
            each.blocks / each.seconds for each in readings
        ),
        "reader_cpu_ms_per_block": 1e3
        * statistics.mean(each.cpu_seconds / each.blocks for each in readings),
        "record_cpu_ms_per_block": record_ms,
    }


def _read(spec: TrainingSpec[Any], number: int) -> list[Reading]:
    """Let readers receive their streams."""
    described = StreamSpec.from_stream(spec.config, spec.stream)
    stream, losses = ray.put(spec.stream), keep_losses()
    actor: Any = ray.remote(_Reader).options(num_cpus=0)
    readers = [actor.remote() for _ in range(number)]
    layouts = [BlockLayout.from_spec(described, 0, number, rank) for rank in range(number)]
    calls = [
        # in a list, it arrives as a reference
        reader.read.remote([stream], described, layout, losses)
        for reader, layout in zip(readers, layouts, strict=True)
    ]
    readings: list[Reading] = ray.get(calls)
    return readings


def _record_ms_per_block(num_videos: int) -> float:
    """Return the CPU milliseconds of the record of lost processes for a block of some videos."""
    losses, videos = keep_losses(), [video_key(f"{number}", "") for number in range(num_videos)]
    before = ray.get(losses.__ray_call__.remote(_cpu_seconds))
    for _ in range(RECORD_CALLS):
        ray.get(losses.begin_task.remote("actor", videos))
    used: float = ray.get(losses.__ray_call__.remote(_cpu_seconds)) - before
    return 1e3 * used / RECORD_CALLS


def _cpu_seconds(actor: object) -> float:
    return time.process_time()


def describe_scaling(figures: Figures, gpu_clips_per_second: float) -> list[str]:
    """Return what a measurement means for clusters of several sizes, a sentence each.

    Args:
        figures: of the largest number of readers.
        gpu_clips_per_second: clips/s that a GPU trains on.
    """
    blocks = gpu_clips_per_second / figures["clips_per_block"]
    own = blocks * figures["reader_cpu_ms_per_block"] / 1e3
    shared = blocks * figures["record_cpu_ms_per_block"] / 1e3
    per_size = [
        f"{gpus} GPUs of {gpu_clips_per_second:,.0f} clips/s: {gpus * blocks:,.0f} blocks/s. Ray "
        f"takes {own:.1%} of a core of each worker, for any number of GPUs. The record of lost "
        f"processes, which all share, takes {gpus * shared:.0%} of a core."
        for gpus in CLUSTERS_IN_GPUS
    ]
    return [*per_size, f"The next limit is that record: it fills a core at {1 / shared:,.0f} GPUs."]
