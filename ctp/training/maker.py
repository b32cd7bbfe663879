"""From a position of a run's stream to a clip: plan, read, replace what cannot be used, stack."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from typing import Any, Generic, TypeVar

import numpy as np

from ctp.data.catalog import Catalog, VideoEntry
from ctp.data.plan import Plan, PlannedClip
from ctp.data.quarantine import QuarantinedVideo, QuarantineLimitError
from ctp.data.read_ahead import ReadAhead
from ctp.isolation import working_on
from ctp.storage import StorageError
from ctp.training.config import RunConfig
from ctp.training.schedule import total_steps
from ctp.video.decode import VideoReader
from ctp.video.encoded import VideoError

MAX_TRIES = 64
"""Videos tried for a clip, and for its donor frames, before the run is given up."""
STEPS_BETWEEN_VISITS = 2
"""A video's second clip comes so many steps after its first; its bytes are kept that long."""

COLUMN_BYTES = 16_384
"""Of a clip in a batch, besides its pixels; a little over."""

Batch = dict[str, Any]
C = TypeVar("C")


@dataclass(frozen=True)
class StreamMaker(ABC, Generic[C]):
    """Makes the clips of a run's stream. Picklable, so that it can be sent to where the cores are.

    What a clip is, the classes below say; here is what all have in common: one stream over all
    passes, the next good video in the place of a bad one, and batches that tell of both.

    Attributes:
        config: the run's config.
        catalog: the videos that clips are made of.
    """

    config: RunConfig
    catalog: Catalog

    @property
    def total_steps(self) -> int:
        """Steps of the whole run over this catalogue."""
        batch = self.config.compute.total_batch
        return total_steps(self.config.schedule, len(self.catalog), batch)

    @property
    def total_clips(self) -> int:
        """Clips of the whole run."""
        return self.total_steps * self.config.compute.total_batch

    @cached_property
    def plan(self) -> Plan:
        """Which clip is the n-th."""
        config = self.config
        spread = STEPS_BETWEEN_VISITS * config.compute.total_batch
        return Plan(config.seed, len(self.catalog), config.data.clips_per_visit, spread)

    @property
    @abstractmethod
    def clip_bytes(self) -> int:
        """Bytes of a clip in a batch."""

    @abstractmethod
    def draw(
        self,
        planned: PlannedClip,
        position: int,
        quarantined: list[QuarantinedVideo],
        videos: ReadAhead,
    ) -> C:
        """Make a clip, a pure function of (config, catalogue, planned, position).

        Args:
            planned: which clip of which video.
            position: where in the stream it is.
            quarantined: takes up other videos that were wanted and cannot be used.
            videos: what reads the videos' bytes.

        Raises:
            VideoError: its video cannot be used.
        """

    @abstractmethod
    def blank(self) -> C:
        """A clip that stands where there is none, in a batch that stops the run."""

    @abstractmethod
    def stack(self, clips: Sequence[C]) -> Batch:
        """Clips as arrays with a leading B."""

    def needed(self, position: int) -> Iterator[VideoEntry]:
        """The videos that the clip at `position` is made of, if all can be used."""
        yield self.catalog[self.plan.clip(position).video]

    def clip_at(
        self, position: int, videos: ReadAhead | None = None
    ) -> tuple[C, list[QuarantinedVideo]]:
        """The clip at `position` of the run's stream, and the videos that failed on the way.

        A pure function of (config, catalogue, position). A video that cannot be used is replaced
        by the next good one of the pass's order.

        Args:
            position: below `total_clips`.
            videos: what reads the videos' bytes.

        Raises:
            QuarantineLimitError: `MAX_TRIES` videos, or all there are, cannot be used.
        """
        videos = videos or ReadAhead()
        quarantined: list[QuarantinedVideo] = []
        for planned in islice(self.plan.candidates(position), MAX_TRIES):
            with into(quarantined):
                return self.draw(planned, position, quarantined, videos), quarantined
        raise none_usable(quarantined)

    def batch(self, positions: Sequence[int], bad: Mapping[str, str] | None = None) -> Batch:
        """The clips at `positions`, as arrays; what they are made of is read ahead.

        Args:
            positions: B of them.
            bad: id -> reason, of videos that are not to be tried.

        Returns:
            `stack` of the clips, with "position" int64 [B], "quarantined" [B] lists of
            `QuarantinedVideo`, "failed" [B] reasons why there is no such clip but a blank one, empty
            for all others.
        """
        upcoming = (entry for position in positions for entry in self.needed(position))
        with ReadAhead(upcoming, depth=self.config.data.read_ahead, bad=bad) as videos:
            made = [self._clip_or_blank(position, videos) for position in positions]
        clips, quarantined, failed = zip(*made, strict=True)
        return {
            "position": np.asarray(positions, np.int64),
            "quarantined": list(quarantined),
            "failed": list(failed),
            **self.stack(clips),
        }

    def _clip_or_blank(
        self, position: int, videos: ReadAhead
    ) -> tuple[C, list[QuarantinedVideo], str]:
        """As `clip_at`; what would be raised is returned, for all workers to stop together."""
        try:
            return *self.clip_at(position, videos), ""
        except QuarantineLimitError as error:
            return self.blank(), list(error.quarantined), str(error)
        except StorageError as error:
            return self.blank(), [], str(error)


def planes_bytes(num_pictures: int, size_px: int) -> int:
    """Bytes of a clip of so many pictures of S × S as `pixels.to_rgb` takes them, a little over."""
    return 3 * num_pictures * size_px**2 // 2 + COLUMN_BYTES


@contextmanager
def opened(entry: VideoEntry, videos: ReadAhead, min_frames: int) -> Iterator[VideoReader]:
    """A video of a catalogue, open, in a `with` statement; blamed if the process is lost.

    Raises:
        VideoError: it cannot be read, or has too few frames.
    """
    video = videos.read(entry)
    with working_on(entry.id), VideoReader(video) as reader:
        if reader.num_frames < min_frames:
            raise VideoError(
                entry.id,
                entry.uri,
                f"has {reader.num_frames} frame(s), sampling.min_video_frames is {min_frames}",
            )
        yield reader


def none_usable(quarantined: list[QuarantinedVideo]) -> QuarantineLimitError:
    """The error of a clip for which no video could be used."""
    reasons = "; ".join(f"{entry.video_id}: {entry.reason}" for entry in quarantined[:3])
    return QuarantineLimitError(
        f"{len(quarantined)} videos, tried one after the other for a clip, cannot be used "
        f"({reasons}); mend them: quarantine.jsonl in the run folder lists them all",
        quarantined,
    )


@contextmanager
def into(quarantined: list[QuarantinedVideo]) -> Iterator[None]:
    """Turn a video's failure into a ledger entry and go on after the block."""
    try:
        yield
    except VideoError as error:
        quarantined.append(QuarantinedVideo.from_error(error))


def local_stream(
    maker: StreamMaker[Any], cursor: int, rank: int, world: int
) -> Iterator[Mapping[str, Any]]:
    """One worker's batches of the run's stream, made in this process, from clip `cursor` on.

    Step s of all workers together is clips [s·B, (s+1)·B), worker r having the r-th share.
    """
    share = maker.config.compute.total_batch // world
    for start in range(cursor + rank * share, maker.total_clips, share * world):
        yield maker.batch(range(start, start + share))
