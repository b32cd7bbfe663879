"""Draw the sample at a position of a run's stream, and replace videos that cannot be used.

A sample is a NamedTuple of arrays. A `SampleDrawer` declares their dtypes and shapes once; from
that follow stacking, placeholders, byte counts and the transfer to a device.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from ctp.data.catalog import Catalog, VideoEntry
from ctp.data.journal import Journal
from ctp.data.plan import MixedPlan, Plan, PlannedClip, Source, make_plan
from ctp.data.quarantine import QuarantinedVideo, QuarantineLimitError, collect_errors
from ctp.data.reading import VideoOpener
from ctp.rng import generator
from ctp.storage import StorageError
from ctp.video.limits import DEFAULT_LIMITS, DecodingLimits

if TYPE_CHECKING:  # it brings PyAV, which only what decodes needs
    from ctp.video.decode import VideoReader
    from ctp.video.nvdec import Nvdec

MAX_TRIES = 64
"""Videos that are tried for a sample before the run is stopped."""
REPEAT_STRIDE_STEPS = 2
"""Steps between two samples of a video when a pass repeats it; its bytes are kept that long. Also
the steps over which `Plan` spreads the clips of long videos."""
EXTRA_BYTES_PER_SAMPLE = 16_384
"""Upper bound on what a batch holds of a sample besides its arrays: ids, errors, positions."""
HELDOUT_EPOCH = -1
ITEMS_PER_LOAD = 4
"""Items of an evaluation that are read together: few, since their pixels wait in memory."""

S = TypeVar("S", bound=tuple[Any, ...])
"""A sample: a NamedTuple of arrays."""
T = TypeVar("T")


def array_field(dtype: Any, *shape: int) -> NDArray[Any]:
    """Declare an array of a sample: zeros of that dtype and shape, which take no memory."""
    return np.broadcast_to(np.zeros((), dtype), shape)


def stack(samples: Sequence[S]) -> S:
    """Stack the arrays of samples along a new first dimension."""
    return type(samples[0])(*map(np.stack, zip(*samples, strict=True)))


class VideoSource:
    """The videos that a sample is drawn from: its own and, where a task wants them, others.

    Attributes:
        video: number of its own video in the catalogue.
        entry: its own video.
        progress: share of the run before this sample, in [0, 1); 1 for a held-out sample.
        quarantined: other videos that were tried and cannot be used.
    """

    def __init__(
        self,
        catalog: Catalog,
        planned: PlannedClip,
        seed: int,
        position: int,
        progress: float,
        opener: VideoOpener | None = None,
    ):
        self.video, self.entry = planned.video, catalog[planned.video]
        self.progress = progress
        self.quarantined: list[QuarantinedVideo] = []
        self._catalog, self._planned, self._seed = catalog, planned, seed
        self._position, self._opener = position, opener or VideoOpener()

    def open(self, min_frames: int = 1, remedy: str = "") -> AbstractContextManager[VideoReader]:
        """Open the sample's own video, for use in a `with` statement; see `VideoOpener.open`."""
        return self._opener.open(self.entry, min_frames, remedy)

    @property
    def is_heldout(self) -> bool:
        """Return whether the sample is one to evaluate on."""
        return self._planned.epoch == HELDOUT_EPOCH

    def generator(self, name: str) -> np.random.Generator:
        """Return a generator that depends on the run's seed, `name` and the position alone."""
        return generator(self._seed, name, self._position)

    def sample_generator(self) -> np.random.Generator:
        """Return the generator of the sample: it depends on the seed, epoch, video and clip."""
        planned = self._planned
        return generator(self._seed, "clip", planned.epoch, self.entry.id, planned.clip_number)

    def read_others(
        self,
        count: int,
        read: Callable[[VideoReader, np.random.Generator], T],
        min_frames: int = 1,
    ) -> list[T]:
        """Read from `count` other videos, replacing those that cannot be used.

        Args:
            count: how many.
            read: called with an open video and a generator.
            min_frames: videos with fewer frames are quarantined.

        Raises:
            QuarantineLimitError: `MAX_TRIES` videos were not enough.
        """
        found: list[T] = []
        for entry, rng in islice(self._others(), MAX_TRIES):
            with collect_errors(self.quarantined), self._opener.open(entry, min_frames) as reader:
                found.append(read(reader, rng))
            if len(found) == count:
                return found
        raise no_usable_video(self.quarantined)

    def other_entries(self, count: int) -> list[VideoEntry]:
        """Return the first `count` videos that `read_others` will try."""
        return [entry for entry, _ in islice(self._others(), count)]

    def _others(self) -> Iterator[tuple[VideoEntry, np.random.Generator]]:
        """Yield other videos, each with a generator of its own; without end. Where the catalogue
        has no other video, its only one. Videos of all sources and lengths are equally frequent."""
        planned, total = self._planned, len(self._catalog)
        key = planned.epoch, self.entry.id, planned.clip_number
        rng = generator(self._seed, "donors", *key)  # the names are part of every clip's identity
        while True:
            # never 0, which would be the sample's own video
            step = int(rng.integers(1, max(total, 2)))
            own_rng = generator(int(rng.integers(2**62)), "donor")
            yield self._catalog[(planned.video + step) % total], own_rng


class SampleDrawer(ABC, Generic[S]):
    """Draws samples from videos. Picklable, since it is sent to the actors that decode."""

    @abstractmethod
    def fields(self) -> S:
        """Return a sample whose arrays are made by `array_field`: their dtypes and shapes."""

    @abstractmethod
    def draw(self, videos: VideoSource, rng: np.random.Generator) -> S:
        """Draw a sample: a pure function of the videos and `rng`.

        Raises:
            VideoError: the sample's own video cannot be used.
        """

    def num_other_videos(self, videos: VideoSource) -> int:
        """Return how many other videos `draw` will read, so that they can be read ahead."""
        return 0


class Drawn(NamedTuple, Generic[S]):
    """A sample with its origin.

    Attributes:
        position: in the run's stream.
        sample: the arrays.
        video_id: the video that it was drawn from; "" for a placeholder.
        quarantined: videos that were tried and cannot be used.
        error: why the sample is a placeholder, which stops the run; "" otherwise.
    """

    position: int
    sample: S
    video_id: str
    quarantined: list[QuarantinedVideo]
    error: str


class Batch(NamedTuple, Generic[S]):
    """Samples that one worker trains on in a step.

    Attributes:
        positions: int64 [B], positions in the run's stream.
        samples: the sample's arrays with a leading B.
        quarantined: videos that were tried and cannot be used.
        errors: why samples are placeholders; the run must stop if there is any.
    """

    positions: NDArray[np.int64]
    samples: S
    quarantined: list[QuarantinedVideo]
    errors: list[str]

    @classmethod
    def from_drawn(cls, drawn: Sequence[Drawn[S]]) -> Batch[S]:
        """Stack samples."""
        return cls(
            np.array([each.position for each in drawn], np.int64),
            stack([each.sample for each in drawn]),
            [entry for each in drawn for entry in each.quarantined],
            [each.error for each in drawn if each.error],
        )


@dataclass(frozen=True)
class SampleStream(Generic[S]):
    """The samples of a run, by their position.

    Attributes:
        drawer: draws a sample.
        catalog: the videos.
        seed: of the run.
        total_batch: samples in a step of all workers together.
        total_steps: steps of the run.
        repeats_per_pass: see `Plan`.
        sources: the parts of the catalogue that have passes of their own; none: all is one source,
            and a pass shows each video once.
    """

    drawer: SampleDrawer[S]
    catalog: Catalog
    seed: int
    total_batch: int
    total_steps: int
    repeats_per_pass: int = 1
    sources: tuple[Source, ...] = ()

    @property
    def total_samples(self) -> int:
        """Return the number of samples of the whole run."""
        return self.total_steps * self.total_batch

    @property
    def sample_bytes(self) -> int:
        """Return an upper bound on the bytes of a sample in a batch."""
        arrays = sum(int(array.nbytes) for array in self.drawer.fields())
        return arrays + EXTRA_BYTES_PER_SAMPLE

    @cached_property
    def plan(self) -> Plan | MixedPlan:
        """Return the order of the samples."""
        stride = REPEAT_STRIDE_STEPS * self.total_batch
        return make_plan(self.seed, self._sources, self.repeats_per_pass, stride)

    @property
    def epoch_clips(self) -> int:
        """Return the number of samples of an epoch; see `ctp.data.plan`."""
        return sum(source.num_clips for source in self._sources)

    @property
    def _sources(self) -> tuple[Source, ...]:
        return self.sources or (Source("all", 0, len(self.catalog)),)

    def describe_epoch(self) -> str:
        """Return what an epoch is, in a line, and a line for each source of a mix."""
        repeats, sources = self.repeats_per_pass, self._sources
        end = f"; a pass draws each {repeats} times and takes {repeats} epochs" * (repeats > 1)
        if len(sources) == 1:
            return f"an epoch is {sources[0].describe()}{end}"
        clips, total = self.epoch_clips, sum(source.weight for source in sources)
        lines = [f"an epoch is {clips:,} clips, as many as one pass over each source has{end}"]
        for source in sources:
            passes = f"{clips * source.weight / total / source.num_clips:.3g}"
            passes += " pass" if passes == "1" else " passes"
            share = f"{source.weight} of {total} from {source.name}"
            lines.append(f"  {share}: {passes} over {source.describe()}")
        return "\n".join(lines)

    def fingerprint(self) -> str:
        """Return a short hash of the videos and their numbers of clips, with which alone a run
        resumes."""
        counts = [source.counts for source in self.sources if source.counts]
        if not counts:
            return self.catalog.fingerprint()
        digest = hashlib.blake2b(self.catalog.fingerprint().encode(), digest_size=8)
        for each in counts:
            digest.update(each.ends.data)
        return digest.hexdigest()

    def draw(self, position: int, opener: VideoOpener | None = None) -> Drawn[S]:
        """Draw the sample at a position: a pure function of (seed, catalogue, position).

        A video that cannot be used is replaced by the next usable one of the pass.

        Raises:
            QuarantineLimitError: `MAX_TRIES` videos, or all of the catalogue, cannot be used.
            StorageError: the storage fails.
        """
        quarantined: list[QuarantinedVideo] = []
        for planned in islice(self.plan.candidates(position), MAX_TRIES):
            videos = self._source(planned, position, opener)
            try:
                with collect_errors(quarantined):
                    sample = self.drawer.draw(videos, videos.sample_generator())
                    found = quarantined + videos.quarantined
                    return Drawn(position, sample, videos.entry.id, found, "")
            except QuarantineLimitError as error:
                raise QuarantineLimitError(
                    str(error), [*quarantined, *error.quarantined]
                ) from error
            quarantined += videos.quarantined
        raise no_usable_video(quarantined)

    def draw_many(
        self,
        positions: Sequence[int],
        journal: Journal | None = None,
        limits: DecodingLimits = DEFAULT_LIMITS,
        nvdec: Nvdec | None = None,
    ) -> list[Drawn[S]]:
        """Draw samples; the videos are read ahead, and decoded by `nvdec` if there is one.

        An error of `draw` is returned with a placeholder, so that all workers can stop together.
        """
        # what is read ahead does not depend on which videos turn out to be unusable
        with VideoOpener(self.needed(positions), journal, limits, nvdec) as opener:
            return [self._draw_or_placeholder(position, opener) for position in positions]

    def batches(self, first_sample: int, rank: int, world_size: int) -> Iterator[Batch[S]]:
        """Yield one worker's batches, drawn in this process.

        Step s of all workers together is samples [s·B, (s+1)·B); worker r has the r-th share.
        """
        share = self.total_batch // world_size
        for start in range(first_sample + rank * share, self.total_samples, self.total_batch):
            yield Batch.from_drawn(self.draw_many(range(start, start + share)))

    def needed(self, positions: Sequence[int]) -> Iterator[VideoEntry]:
        """Yield the videos of samples if all can be used."""
        for position in positions:
            videos = self._source(self.plan.clip(position), position, None)
            yield videos.entry
            yield from videos.other_entries(self.drawer.num_other_videos(videos))

    def _source(
        self, planned: PlannedClip, position: int, opener: VideoOpener | None
    ) -> VideoSource:
        progress = position / self.total_samples
        return VideoSource(self.catalog, planned, self.seed, position, progress, opener)

    def _draw_or_placeholder(self, position: int, opener: VideoOpener) -> Drawn[S]:
        try:
            return self.draw(position, opener)
        except QuarantineLimitError as error:
            quarantined, reason = list(error.quarantined), str(error)
        except StorageError as error:
            quarantined, reason = [], str(error)
        fields = self.drawer.fields()
        # copied: a declared array is a view of a single zero
        placeholder = type(fields)(*map(np.array, fields))
        return Drawn(position, placeholder, "", quarantined, reason)


class Loaded(NamedTuple, Generic[T]):
    """Some items of a `VideoSet`, and the videos that could not be read."""

    items: list[T]
    quarantined: list[QuarantinedVideo]


@dataclass(frozen=True)
class VideoSet(ABC, Generic[T]):
    """The items that an evaluation reads of each video. Picklable.

    Nothing replaces a video that cannot be used: it is reported beside the score. Item i is of
    video i; further items are further clips of the same videos.

    Attributes:
        catalog: the videos.
        seed: of the run.
    """

    catalog: Catalog
    seed: int

    @abstractmethod
    def load(self, videos: VideoSource) -> T:
        """Read an item.

        Raises:
            VideoError: its video cannot be used.
        """

    def load_many(
        self,
        indices: Sequence[int],
        journal: Journal | None = None,
        limits: DecodingLimits = DEFAULT_LIMITS,
    ) -> Loaded[T]:
        """Read items; their videos are read ahead.

        Raises:
            StorageError: the storage fails.
        """
        items: list[T] = []
        quarantined: list[QuarantinedVideo] = []
        with VideoOpener(self.needed(indices), journal, limits) as opener:
            for index in indices:
                videos = self._source(index, opener)
                # too few other videos for this item: it is left out, as if its own were unusable
                with collect_errors(quarantined), suppress(QuarantineLimitError):
                    items.append(self.load(videos))
                quarantined += videos.quarantined
        return Loaded(items, quarantined)

    def needed(self, indices: Sequence[int]) -> list[VideoEntry]:
        """Return the own videos of items."""
        return [self.catalog[index % len(self.catalog)] for index in indices]

    def _source(self, index: int, opener: VideoOpener) -> VideoSource:
        clip_number, video = divmod(index, len(self.catalog))
        # an epoch that no training has, so that no held-out clip is one of training
        planned = PlannedClip(HELDOUT_EPOCH, video, clip_number)
        return VideoSource(self.catalog, planned, self.seed, index, 1.0, opener)


class LoadVideos(Protocol):
    """Reads items of a `VideoSet`: in this process, or in others that may die."""

    def __call__(self, videos: VideoSet[T], indices: Sequence[int]) -> Iterator[Loaded[T]]:
        """Yield the items, a few at a time, in order."""


def load_here(videos: VideoSet[T], indices: Sequence[int]) -> Iterator[Loaded[T]]:
    """Read items in this process, a few at a time."""
    for start in range(0, len(indices), ITEMS_PER_LOAD):
        yield videos.load_many(indices[start : start + ITEMS_PER_LOAD])


def no_usable_video(quarantined: Sequence[QuarantinedVideo]) -> QuarantineLimitError:
    """Return the error of a sample for which no video could be used."""
    reasons = "; ".join(f"{entry.video_id}: {entry.reason}" for entry in quarantined[:3])
    return QuarantineLimitError(
        f"{len(quarantined)} videos were tried for a sample and none can be used ({reasons}). "
        "Repair them; quarantine.jsonl in the run folder lists them all",
        quarantined,
    )
