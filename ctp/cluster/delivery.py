"""How fast the run's stream reaches a training worker, against one process that makes the clips."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Self

import ray

from ctp.bench.processes import Memory, cpu_seconds, memory
from ctp.bench.timing import one_thread, slope
from ctp.cluster.ingest import (
    execution_options,
    object_store_bytes,
    stream,
    worker_batches,
)
from ctp.pretext.clips import ClipMaker
from ctp.training.maker import local_stream
from ctp.training.sealed import SealedMaker

WARM_UP_SHARE = 1 / 4
"""Of the clips that are timed: as many come before, until all that is to be held is taken."""
ALONE_SHARE = 1 / 8
"""Of the clips that are timed: what one process makes before and after, for the machine may slow
down in between."""
LOOKS_PER_MEMORY = 10
"""Looks at the CPU for one at memory, which takes a tenth of a second."""


@dataclass(frozen=True)
class Rate:
    """How fast clips were made or came.

    Attributes:
        clips_per_second: of time.
        cpu_ms_per_clip: milliseconds of a core, all processes together; None where the system
            does not tell.
    """

    clips_per_second: float
    cpu_ms_per_clip: float | None


@dataclass(frozen=True)
class Arrival:
    """A batch that came.

    Attributes:
        clips: that have come, these among them.
        at: the time, in seconds.
        waited: seconds that the worker waited for it.
    """

    clips: int
    at: float
    waited: float


@dataclass(frozen=True)
class Sample:
    """What all processes had used when so many clips had come.

    Attributes:
        clips: so many.
        cpu_seconds: of cores.
        memory: now; None where it was not looked at.
    """

    clips: int
    cpu_seconds: float
    memory: Memory | None


@dataclass(frozen=True)
class Delivery:
    """What came of the stream, its beginning and end left out.

    Attributes:
        play_on: where the game was played, as of `ScalingConfig`.
        num_actors: actors that made clips, each on a core.
        clips: that came in between.
        rate: of the delivery.
        alone: of one process with one thread that made the same clips.
        wait_share: share of the time that the worker waited, which does nothing else here.
        samples: none where the system does not tell.
    """

    play_on: str
    num_actors: int
    clips: int
    rate: Rate
    alone: Rate
    wait_share: float
    samples: tuple[Sample, ...]

    @property
    def ratio(self) -> float:
        """The rate in units of what as many processes would make that need no one else."""
        return self.rate.clips_per_second / (self.num_actors * self.alone.clips_per_second)

    @property
    def cpu_ratio(self) -> float | None:
        """The same by what cores did, whoever else used them: the time of one process alone in
        units of what all processes took."""
        if self.rate.cpu_ms_per_clip is None or self.alone.cpu_ms_per_clip is None:
            return None
        return self.alone.cpu_ms_per_clip / self.rate.cpu_ms_per_clip

    @property
    def memory(self) -> list[tuple[int, Memory]]:
        """Memory when so many clips had come."""
        return [(each.clips, each.memory) for each in self.samples if each.memory is not None]

    @property
    def mib_per_1000_clips(self) -> float | None:
        """How memory that is not files grows: the slope of a line through all samples."""
        clips = [clips / 1000 for clips, _ in self.memory]
        if len(set(clips)) < 2:
            return None
        return slope(clips, [memory.mib - memory.file_mib for _, memory in self.memory])

    def as_row(self) -> dict[str, Any]:
        """All of it, as JSON takes it."""
        return {
            "play_on": self.play_on,
            "num_actors": self.num_actors,
            "clips": self.clips,
            "clips_per_second": self.rate.clips_per_second,
            "alone_clips_per_second": self.alone.clips_per_second,
            "ratio": self.ratio,
            "cpu_ms_per_clip": self.rate.cpu_ms_per_clip,
            "alone_cpu_ms_per_clip": self.alone.cpu_ms_per_clip,
            "cpu_ratio": self.cpu_ratio,
            "wait_share": self.wait_share,
            "peak_memory_mib": max((memory.mib for _, memory in self.memory), default=None),
            "peak_shared_mib": max((memory.shared_mib for _, memory in self.memory), default=None),
            "mib_per_1000_clips": self.mib_per_1000_clips,
            "memory": [{"clips": clips, **asdict(memory)} for clips, memory in self.memory],
        }


def deliver(maker: ClipMaker, num_clips: int, *, look_seconds: float = 0.5) -> Delivery:
    """Take the run's stream through the Ray that this process is connected to, as fast as it comes,
    as the only worker of the run; and have one process make some of the same clips.

    Args:
        maker: of a run of one worker; its length does not matter.
        num_clips: to time, after a warm-up; whole batches.
        look_seconds: between two looks at what this process and all below it use: all of a cluster
            that it started.
    """
    batch = maker.config.compute.total_batch
    begin = _whole_batches(WARM_UP_SHARE * num_clips, batch)
    end = begin + _whole_batches(num_clips, batch)
    # when the last clips come, the actors that made them may be gone
    on_their_way = object_store_bytes(SealedMaker.of(maker), 1) / maker.clip_bytes
    steps = (end + _whole_batches(on_their_way, batch)) // batch
    schedule = maker.config.schedule.replace(unit="steps", length=steps, decay_at=())
    maker = ClipMaker(maker.config.replace(schedule=schedule), maker.catalog)

    few = _whole_batches(ALONE_SHARE * num_clips, batch)
    before = _alone(maker, few)
    with Watch(look_seconds) as watch:
        arrivals = arrivals_of(_batches(maker), watch)
    after = _alone(maker, few)
    timed = [arrival for arrival in arrivals if begin <= arrival.clips <= end]
    samples = [sample for sample in watch.samples if begin <= sample.clips <= end]
    return Delivery(
        play_on=maker.config.scaling.play_on,
        num_actors=maker.config.scaling.num_actors,
        clips=end - begin,
        rate=Rate(clips_per_second(timed), _cpu_ms_per_clip(samples)),
        alone=_mean([before, after]),
        wait_share=wait_share(timed),
        samples=tuple(samples),
    )


def _whole_batches(num_clips: float, batch: int) -> int:
    """At least so many clips, in whole batches, and at least one of them."""
    return batch * max(math.ceil(num_clips / batch), 1)


def _batches(maker: ClipMaker) -> Iterator[Mapping[str, Any]]:
    sealed = SealedMaker.of(maker)
    clips = stream(ray.put(sealed), 0, 1)
    clips.context.execution_options = execution_options(sealed, 1)
    (shard,) = clips.streaming_split(1, equal=True)
    return worker_batches(shard, maker.config.compute.total_batch, 0)


class Watch:
    """Looks at what processes use while clips come, for use in a `with` statement.

    Attributes:
        clips: how many have come; set by who counts them.
        samples: what was seen.
    """

    def __init__(self, every_seconds: float):
        self.clips = 0
        self.samples: list[Sample] = []
        self._every_seconds = every_seconds
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def _look(self) -> None:
        used: dict[int, float] = {}  # of processes that have ended, too
        while not self._done.wait(self._every_seconds):
            now = cpu_seconds()
            if now is None:
                return
            used |= now
            looks_at_memory = len(self.samples) % LOOKS_PER_MEMORY == 0
            sample = Sample(self.clips, sum(used.values()), memory() if looks_at_memory else None)
            self.samples.append(sample)


def arrivals_of(batches: Iterable[Mapping[str, Any]], watch: Watch) -> list[Arrival]:
    """Take all batches, and check that they are the stream, each clip once and in order."""
    arrivals: list[Arrival] = []
    began = time.perf_counter()
    for batch in batches:
        now = time.perf_counter()
        positions = batch["position"].tolist()
        assert positions == list(range(watch.clips, watch.clips + len(positions))), "out of order"
        watch.clips += len(positions)
        arrivals.append(Arrival(watch.clips, now, now - began))
        began = time.perf_counter()
    return arrivals


def clips_per_second(arrivals: Sequence[Arrival]) -> float:
    """From the first of the arrivals to the last."""
    first, last = arrivals[0], arrivals[-1]
    return (last.clips - first.clips) / (last.at - first.at)


def wait_share(arrivals: Sequence[Arrival]) -> float:
    """Share of the time from the first of the arrivals to the last."""
    waited = sum(arrival.waited for arrival in arrivals[1:])
    return waited / (arrivals[-1].at - arrivals[0].at)


def _cpu_ms_per_clip(samples: Sequence[Sample]) -> float | None:
    if len(samples) < 2 or samples[0].clips == samples[-1].clips:
        return None
    seconds = samples[-1].cpu_seconds - samples[0].cpu_seconds
    return 1e3 * seconds / (samples[-1].clips - samples[0].clips)


def _alone(maker: ClipMaker, num_clips: int) -> Rate:
    """Make the first clips of the stream in this process, a batch to warm up before."""
    batches = local_stream(maker, 0, 0, 1)
    with one_thread():
        next(batches)
        began, cpu_began = time.perf_counter(), time.process_time()
        made = 0
        while made < num_clips:
            made += len(next(batches)["position"])
        seconds, of_cores = time.perf_counter() - began, time.process_time() - cpu_began
    return Rate(made / seconds, 1e3 * of_cores / made)


def _mean(rates: Sequence[Rate]) -> Rate:
    """Of as many clips each."""
    known = [rate.cpu_ms_per_clip for rate in rates if rate.cpu_ms_per_clip is not None]
    return Rate(
        len(rates) / sum(1 / rate.clips_per_second for rate in rates),
        sum(known) / len(known) if known else None,
    )
