"""Measure how fast samples reach a training worker through Ray, against one process alone."""

from __future__ import annotations

import logging
import statistics
import time
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import ray

from ctp.bench.config import BenchConfig
from ctp.bench.processes import Memory, cpu_seconds, memory
from ctp.bench.timing import one_thread
from ctp.cluster.connect import cluster, run_demands
from ctp.cluster.losses import keep_losses
from ctp.cluster.stream import (
    BlockLayout,
    StreamSpec,
    worker_batches,
    worker_blocks,
    worker_store_bytes,
)
from ctp.data.sources import prepare_corpus
from ctp.data.stream import Batch, SampleStream
from ctp.machine import usable_cpus
from ctp.pretext.config import PretrainConfig
from ctp.pretext.pretraining import open_pretraining
from ctp.training.config import ComputeConfig

WARM_UP_SHARE = 1 / 4
"""Clips before the timed ones, as a share of these: until the object store is filled."""
ALONE_SHARE = 1 / 8
"""Clips that one process draws before and after, as a share of the timed ones."""
USAGE_SECONDS = 0.5
"""Time between two measurements of CPU time."""
USAGES_PER_MEMORY = 4
"""Measurements of CPU time for one of memory, which takes a tenth of a second."""


class Drawn(NamedTuple):
    """The time that one process alone needs to draw samples; the CPU time is in seconds, too."""

    clips: int
    seconds: float
    cpu_seconds: float


class Arrival(NamedTuple):
    """A batch that has reached the worker.

    Attributes:
        clips: clips so far, with this batch.
        seconds: when it arrived.
        wait_seconds: how long the worker waited for it.
        cpu_seconds: CPU time of all processes so far; None if it was not measured.
        memory: of all processes; None if it was not measured.
    """

    clips: int
    seconds: float
    wait_seconds: float
    cpu_seconds: float | None = None
    memory: Memory | None = None


@dataclass(frozen=True)
class Delivery:
    """How fast samples reach a worker.

    Attributes:
        task: name of the pretext task.
        num_actors: actors that draw samples, each on a CPU core.
        arrivals: batches at the worker, without those at the start and the end of the stream.
        alone: one process with one thread that draws some of the same samples.
    """

    task: str
    num_actors: int
    arrivals: tuple[Arrival, ...]
    alone: Drawn

    @property
    def clips(self) -> int:
        """Return the number of clips from the first arrival to the last."""
        return self.arrivals[-1].clips - self.arrivals[0].clips

    @property
    def clips_per_second(self) -> float:
        """Return the clips/s at the worker."""
        return self.clips / self._seconds

    @property
    def cpu_ms_per_clip(self) -> float | None:
        """Return the CPU milliseconds of all processes, or None if they are unknown."""
        known = [(c.clips, c.cpu_seconds) for c in self.arrivals if c.cpu_seconds is not None]
        if len(known) < 2:
            return None
        (first_clips, first_seconds), (last_clips, last_seconds) = known[0], known[-1]
        return 1e3 * (last_seconds - first_seconds) / (last_clips - first_clips)

    @property
    def wait_share(self) -> float:
        """Return the share of the time that the worker, which does nothing else, waited."""
        return sum(each.wait_seconds for each in self.arrivals[1:]) / self._seconds

    @property
    def efficiency(self) -> float:
        """Return the fraction of ideal linear scaling: the clips/s over `num_actors` times those
        of one process alone."""
        return self.clips_per_second * self.alone.seconds / (self.alone.clips * self.num_actors)

    @property
    def memory(self) -> list[tuple[int, Memory]]:
        """Return pairs of (clips that had arrived, memory)."""
        return [(each.clips, each.memory) for each in self.arrivals if each.memory is not None]

    @property
    def mib_per_1000_clips(self) -> float | None:
        """Return the growth of memory other than files: the slope of a least-squares line."""
        if len(self.memory) < 2:
            return None
        thousands = [clips / 1000 for clips, _ in self.memory]
        used = [memory.mib - memory.file_mib for _, memory in self.memory]
        return statistics.linear_regression(thousands, used).slope

    def figures(self) -> dict[str, Any]:
        """Return all figures, as JSON values."""
        alone_cpu_ms, cpu_ms = 1e3 * self.alone.cpu_seconds / self.alone.clips, self.cpu_ms_per_clip
        return {
            "task": self.task,
            "num_actors": self.num_actors,
            "clips": self.clips,
            "clips_per_second": self.clips_per_second,
            "alone_clips_per_second": self.alone.clips / self.alone.seconds,
            "efficiency": self.efficiency,
            "cpu_ms_per_clip": cpu_ms,
            "alone_cpu_ms_per_clip": alone_cpu_ms,
            # unlike efficiency, it does not depend on other users of the machine
            "cpu_efficiency": None if cpu_ms is None else alone_cpu_ms / cpu_ms,
            "wait_share": self.wait_share,
            "peak_memory_mib": max((memory.mib for _, memory in self.memory), default=None),
            "peak_shared_mib": max((memory.shared_mib for _, memory in self.memory), default=None),
            "mib_per_1000_clips": self.mib_per_1000_clips,
            "memory": [{"clips": clips, **memory._asdict()} for clips, memory in self.memory],
        }

    @property
    def _seconds(self) -> float:
        return self.arrivals[-1].seconds - self.arrivals[0].seconds


def measure_delivery(config: BenchConfig) -> Delivery:
    """Measure the stream of `config.task` on this machine or the cluster of `RAY_ADDRESS`.

    Raises:
        ValueError: the videos or the cluster do not fit.
        ConnectionError: the cluster does not answer.
    """
    run = config.pretraining(
        config.ray.uri or config.data.uri,
        ComputeConfig(total_batch=config.ray.total_batch),
        num_actors=config.ray.num_actors or usable_cpus(),
    )
    stream = open_pretraining(run).stream
    prepare_corpus(stream.catalog)
    logging.getLogger("ray.data").setLevel(logging.ERROR)  # its plans and advice
    with cluster(run_demands(run.scaling)):
        return deliver(run, stream, config.ray.clips)


def deliver(run: PretrainConfig, stream: SampleStream[Any], num_clips: int) -> Delivery:
    """Receive a run's samples as its only worker, as fast as they come; let one process draw some
    of the same samples before and after. This process is connected to Ray.

    Args:
        run: its scaling is used.
        stream: its samples; the number of steps does not matter.
        num_clips: number of clips to time, after a warm-up; rounded up to whole batches.

    Raises:
        ValueError: samples cannot be drawn.
    """
    batch = stream.total_batch
    begin = _whole_batches(WARM_UP_SHARE * num_clips, batch)
    end = begin + _whole_batches(num_clips, batch)
    # longer than what is timed, because the actors end with the stream
    spec = StreamSpec.from_stream(run, stream)
    ahead = worker_store_bytes(spec, BlockLayout.from_spec(spec, 0, 1)) / spec.sample_bytes
    stream = replace(stream, total_steps=(end + _whole_batches(ahead, batch)) // batch)

    num_alone = _whole_batches(ALONE_SHARE * num_clips, batch)
    before = draw_alone(stream, num_alone)
    arrivals = receive(_batches(run, stream), usages_at=(begin, end))
    after = draw_alone(stream, num_alone)  # the machine may have slowed down
    timed = tuple(arrival for arrival in arrivals if begin <= arrival.clips <= end)
    alone = Drawn(*(b + a for b, a in zip(before, after, strict=True)))  # type: ignore[arg-type]
    return Delivery(run.task.name, run.scaling.actors_per_worker(1), timed, alone)


def _whole_batches(num_clips: float, batch: int) -> int:
    """Round up to whole batches, at least one."""
    return batch * max(-int(-num_clips // batch), 1)


def _batches(run: PretrainConfig, stream: SampleStream[Any]) -> Iterator[Batch[Any]]:
    spec, losses = StreamSpec.from_stream(run, stream), keep_losses()
    blocks = worker_blocks(ray.put(stream), spec, BlockLayout.from_spec(spec, 0, 1), losses)
    yield from worker_batches(blocks, stream.drawer, stream.total_batch)


def receive(
    batches: Iterable[Batch[Any]],
    *,
    usages_at: Collection[int] = (),
    usage_seconds: float = USAGE_SECONDS,
) -> list[Arrival]:
    """Receive all batches; check that each sample comes once and in order.

    Args:
        batches: the batches of the only worker.
        usages_at: numbers of clips after which CPU time is measured in any case.
        usage_seconds: least time between two other measurements of CPU time and memory.

    Raises:
        ValueError: samples cannot be drawn.
    """
    arrivals: list[Arrival] = []
    used: dict[int, float] = {}  # CPU seconds, also of processes that have ended
    num_usages, last_usage, clips = 0, float("-inf"), 0
    began = time.perf_counter()
    for batch in batches:
        now = time.perf_counter()
        if batch.errors:
            raise ValueError(batch.errors[0])
        expected = range(clips, clips + len(batch.positions))
        assert batch.positions.tolist() == list(expected), "the samples are out of order"
        clips = expected.stop
        cpu, in_use = None, None
        if clips in usages_at or now - last_usage >= usage_seconds:
            # keeps the last figure of processes that have ended since
            used |= cpu_seconds()
            cpu = sum(used.values()) or None
            in_use = memory() if num_usages % USAGES_PER_MEMORY == 0 else None
            num_usages, last_usage = num_usages + 1, now
        arrivals.append(Arrival(clips, now, now - began, cpu, in_use))
        began = time.perf_counter()
    return arrivals


def draw_alone(stream: SampleStream[Any], num_clips: int) -> Drawn:
    """Draw the first samples of a stream in this process, after a batch to warm up."""
    batches = stream.batches(0, 0, 1)
    with one_thread():
        next(batches)
        began, cpu_began = time.perf_counter(), time.process_time()
        drawn = 0
        while drawn < num_clips:
            drawn += len(next(batches).positions)
        return Drawn(drawn, time.perf_counter() - began, time.process_time() - cpu_began)
