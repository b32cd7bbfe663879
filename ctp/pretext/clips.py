"""From a position of the run's stream to a clip: plan, read, decode, crop, play."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ctp.clip import Clip, VideoError
from ctp.isolation import working_on
from ctp.pretext.batches import Batch, DrawnClip, stack, stack_drawn
from ctp.pretext.config import PretrainConfig
from ctp.rng import generator
from ctp.storage import StorageError
from ctp.synthesis.game import draw_round
from ctp.training.schedule import total_steps
from ctp.video.augment import sample_color, sample_crop
from ctp.video.catalog import Catalog, VideoEntry, open_catalog
from ctp.video.decode import VideoReader
from ctp.video.plan import Plan, PlannedClip
from ctp.video.quarantine import QuarantineLimitError, Rejected
from ctp.video.read_ahead import ReadAhead
from ctp.video.sampling import sample_frames

MAX_TRIES = 64
"""Videos tried for a clip, and for its donor frames, before the run is given up."""
STEPS_BETWEEN_VISITS = 2
"""A video's second clip comes so many steps after its first; its bytes are kept that long."""


@dataclass(frozen=True)
class ClipMaker:
    """Makes clips. Picklable, so that it can be sent to where the cores are.

    Attributes:
        config: the run's config.
        catalog: the videos that clips are made of.
    """

    config: PretrainConfig
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

    def at(self, position: int, videos: ReadAhead | None = None) -> tuple[Clip, list[Rejected]]:
        """The clip at `position` of the run's stream, and the videos that failed on the way.

        A pure function of (config, catalogue, position). A video that cannot be used is replaced
        by the next good one of the pass's order.

        Args:
            position: below `total_clips`.
            videos: what reads the videos' bytes.

        Raises:
            QuarantineLimitError: `MAX_TRIES` videos, or all there are, cannot be used.
        """
        drawn, rejected = self._drawn_at(position, videos or ReadAhead())
        return drawn.play(self.config.augment.frame_size_px), rejected

    def batch(self, positions: Sequence[int], bad: Mapping[str, str] | None = None) -> Batch:
        """The clips at `positions`, as arrays; what they are made of is read ahead.

        Args:
            positions: B of them.
            bad: id -> reason, of videos that are not to be tried.

        Returns:
            `batches.stack` or `batches.stack_drawn`, as `config.scaling.play_on` wants it, with
            "position" int64 [B], "rejected" [B] lists of `Rejected`, "failed" [B] reasons why
            there is no such clip but a blank one, empty for all others.
        """
        upcoming = (entry for position in positions for entry in self._needed(position))
        with ReadAhead(upcoming, depth=self.config.data.read_ahead, bad=bad) as videos:
            made = [self._drawn_or_blank(position, videos) for position in positions]
        clips, rejected, failed = zip(*made, strict=True)
        return {
            "position": np.asarray(positions, np.int64),
            "rejected": list(rejected),
            "failed": list(failed),
            **self._stacked(clips),
        }

    def heldout(
        self, numbers: Sequence[int], bad: Mapping[str, str] | None = None
    ) -> tuple[list[Clip], list[Rejected]]:
        """Held-out clips by number, of the game's own rules whatever the curriculum.

        Nothing stands in for a video that cannot be used; it is returned as rejected.
        """
        clips: list[Clip] = []
        rejected: list[Rejected] = []
        videos, size = ReadAhead(bad=bad), self.config.augment.frame_size_px
        for number in numbers:
            clip_number, video = divmod(number, len(self.catalog))
            with _into(rejected), suppress(QuarantineLimitError):
                planned = PlannedClip(epoch=-1, video=video, clip_number=clip_number)
                drawn = self._draw(planned, self.config.game.patch_source, rejected, videos)
                clips.append(drawn.play(size))
        return clips, rejected

    def _stacked(self, clips: Sequence[DrawnClip]) -> Batch:
        config = self.config
        if config.scaling.play_on == "cpu":
            return stack([clip.play(config.augment.frame_size_px) for clip in clips])
        may_have = config.curriculum is not None or config.game.patch_source == "other_clip"
        return stack_drawn(clips, with_donors=may_have)

    def _drawn_at(self, position: int, videos: ReadAhead) -> tuple[DrawnClip, list[Rejected]]:
        rejected: list[Rejected] = []
        for planned in islice(self.plan.candidates(position), MAX_TRIES):
            with _into(rejected):
                return self._draw(planned, self._source(position), rejected, videos), rejected
        raise _none_usable(rejected)

    def _drawn_or_blank(
        self, position: int, videos: ReadAhead
    ) -> tuple[DrawnClip, list[Rejected], str]:
        """As `_drawn_at`; what would be raised is returned, for all workers to stop together."""
        try:
            return *self._drawn_at(position, videos), ""
        except QuarantineLimitError as error:
            return self._blank(), list(error.rejected), str(error)
        except StorageError as error:
            return self._blank(), [], str(error)

    def _blank(self) -> DrawnClip:
        """A round on black frames."""
        num_frames, size = self.config.sampling.num_frames, self.config.augment.frame_size_px
        rng = generator(self.config.seed, "blank")
        return DrawnClip(
            planes=np.zeros((num_frames, size * size * 3 // 2), np.uint8),
            donors=None,
            drawn=draw_round(self.config.game, num_frames, (size, size), rng),
            color=sample_color(self.config.augment, num_frames, rng),
            video_id="",
        )

    def _needed(self, position: int) -> Iterator[VideoEntry]:
        """The videos that the clip at `position` is made of, if all can be used."""
        planned = self.plan.clip(position)
        yield self.catalog[planned.video]
        if self._source(position) == "other_clip":
            for entry, _ in islice(self._donor_choices(planned), self.config.game.num_patches):
                yield entry

    def _source(self, position: int) -> str:
        """Where the patches of the clip at `position` are cut from."""
        curriculum = self.config.curriculum
        if curriculum is None:
            return self.config.game.patch_source
        share = curriculum.other_clip_share(position / self.total_clips)
        drawn = generator(self.config.seed, "curriculum", position).random()
        return "other_clip" if drawn < share else self.config.game.patch_source

    def _draw(
        self, planned: PlannedClip, source: str, rejected: list[Rejected], videos: ReadAhead
    ) -> DrawnClip:
        """Decode a clip's frames and draw its round.

        Raises:
            VideoError: its video cannot be used.
        """
        config, entry = self.config, self.catalog[planned.video]
        rng = generator(config.seed, "clip", planned.epoch, entry.id, planned.clip_number)
        num_frames, size = config.sampling.num_frames, config.augment.frame_size_px
        planes = self._read(entry, rng, num_frames, videos)
        other_clip = source == "other_clip"
        donors = self._donors(planned, rejected, videos) if other_clip else None
        drawn = draw_round(config.game, num_frames, (size, size), rng)
        color = sample_color(config.augment, num_frames, rng)
        return DrawnClip(planes, donors, drawn, color, entry.id)

    def _read(
        self, entry: VideoEntry, rng: np.random.Generator, num_frames: int, videos: ReadAhead
    ) -> NDArray[np.uint8]:
        """Frames of a video, cropped, scaled and flipped, uint8 [num_frames, 3/2 · S²]."""
        sampling, augment = self.config.sampling, self.config.augment
        video = videos.read(entry)
        with working_on(entry.id), VideoReader(video) as reader:
            if reader.num_frames < sampling.min_video_frames:
                raise VideoError(
                    entry.id,
                    entry.uri,
                    f"has {reader.num_frames} frame(s), sampling.min_video_frames is "
                    f"{sampling.min_video_frames}",
                )
            numbers = sample_frames(sampling, reader.num_frames, rng)[:num_frames].tolist()
            return reader.read_square(numbers, sample_crop(augment, rng), augment.frame_size_px)

    def _donors(
        self, planned: PlannedClip, rejected: list[Rejected], videos: ReadAhead
    ) -> NDArray[np.uint8]:
        """A frame of another video for each patch, uint8 [K, 3/2 · S²].

        Each patch has a video of its own: patches of one picture are hard to tell apart. Where
        there is no other video, it is the clip's.
        """
        donors: list[NDArray[np.uint8]] = []
        for entry, rng in islice(self._donor_choices(planned), MAX_TRIES):
            with _into(rejected):
                donors.append(self._read(entry, rng, 1, videos)[0])
            if len(donors) == self.config.game.num_patches:
                return np.stack(donors)
        raise _none_usable(rejected)

    def _donor_choices(
        self, planned: PlannedClip
    ) -> Iterator[tuple[VideoEntry, np.random.Generator]]:
        """Videos to cut patches from, each with a generator for what is drawn of it; endless."""
        number, total = planned.video, len(self.catalog)
        name = (planned.epoch, self.catalog[number].id, planned.clip_number)
        rng = generator(self.config.seed, "donors", *name)
        while True:
            step = int(rng.integers(1, max(total, 2)))
            own_rng = generator(int(rng.integers(2**62)), "donor")
            yield self.catalog[(number + step) % total], own_rng


ReadHeldout = Callable[[ClipMaker, Sequence[int]], tuple[list[Clip], list[Rejected]]]
"""Makes held-out clips: `ClipMaker.heldout`, or the same in another process."""


@dataclass(frozen=True)
class Makers:
    """What makes the clips of a run: to train on, and held out."""

    train: ClipMaker
    heldout: ClipMaker

    @property
    def config(self) -> PretrainConfig:
        """The run's config."""
        return self.train.config

    @classmethod
    def of(cls, config: PretrainConfig) -> Makers:
        """List the run's videos and hold some out.

        Raises:
            ValueError: there are no videos, or too few.
        """
        data, listed = config.data, open_catalog(config.data.uri)
        if data.heldout_uri:
            train, heldout = listed, open_catalog(data.heldout_uri)
        else:
            train, heldout = listed.split(data.heldout_share, config.seed)
        return cls(ClipMaker(config, train), ClipMaker(config, heldout))


def _none_usable(rejected: list[Rejected]) -> QuarantineLimitError:
    reasons = "; ".join(f"{entry.video_id}: {entry.reason}" for entry in rejected[:3])
    return QuarantineLimitError(
        f"{len(rejected)} videos, tried one after the other for a clip, cannot be used "
        f"({reasons}); mend them: quarantine.jsonl in the run folder lists them all",
        rejected,
    )


@contextmanager
def _into(rejected: list[Rejected]) -> Iterator[None]:
    """Turn a video's failure into a ledger entry and go on after the block."""
    try:
        yield
    except VideoError as error:
        rejected.append(Rejected.of(error))


def local_stream(
    maker: ClipMaker, cursor: int, rank: int, world: int
) -> Iterator[Mapping[str, Any]]:
    """One worker's batches of the run's stream, made in this process, from clip `cursor` on.

    Step s of all workers together is clips [s·B, (s+1)·B), worker r having the r-th share.
    """
    share = maker.config.compute.total_batch // world
    for start in range(cursor + rank * share, maker.total_clips, share * world):
        yield maker.batch(range(start, start + share))
