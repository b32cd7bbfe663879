"""From a position of the run's stream to a clip: plan, read, decode, augment, play."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ctp.clip import Clip, VideoError
from ctp.pretext.config import PretrainConfig
from ctp.rng import generator
from ctp.synthesis.config import GameConfig
from ctp.synthesis.game import play
from ctp.training.schedule import total_steps
from ctp.video.augment import crop_and_flip, sample_color, sample_short_side
from ctp.video.catalog import Catalog, VideoEntry, open_catalog
from ctp.video.decode import VideoReader
from ctp.video.plan import Plan, PlannedClip
from ctp.video.quarantine import QuarantineLimitError, Rejected
from ctp.video.sampling import sample_frames

MAX_TRIES = 64
"""Videos tried for a clip, and for its donor frames, before the run is given up."""

Batch = dict[str, Any]


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
    def _other_clip_game(self) -> GameConfig:
        return self.config.game.replace(patch_source="other_clip")

    def at(self, position: int) -> tuple[Clip, list[Rejected]]:
        """The clip at `position` of the run's stream, and the videos that failed on the way.

        A pure function of (config, catalogue, position). A video that cannot be used is replaced
        by the next good one of the epoch's order.

        Raises:
            QuarantineLimitError: `MAX_TRIES` videos, or all there are, cannot be used.
        """
        rejected: list[Rejected] = []
        plan = Plan(self.config.seed, len(self.catalog))
        for planned in islice(plan.candidates(position), MAX_TRIES):
            with _into(rejected):
                return self._make(planned, self._source(position), rejected), rejected
        raise _none_usable(rejected)

    def batch(self, positions: Sequence[int]) -> Batch:
        """The clips at `positions`, stacked.

        Returns:
            "position" int64 [B], "frames" uint8 [B, T, H, W, 3], "boxes" float32 [B, K, T, 4],
            "visible" bool [B, K, T], "color" float32 [B, T, 4], "video" [B] ids, "rejected"
            [B] lists of `Rejected`, "failed" [B] reasons why there is no such clip but a blank
            one, empty for all others.
        """
        clips, rejected, failed = zip(*map(self._at_or_blank, positions), strict=True)
        return {
            "position": np.asarray(positions, np.int64),
            "rejected": list(rejected),
            "failed": list(failed),
            **stack(clips),
        }

    def heldout(self, numbers: Sequence[int]) -> tuple[list[Clip], list[Rejected]]:
        """Held-out clips by number, of the game's own rules whatever the curriculum.

        Nothing stands in for a video that cannot be used; it is returned as rejected.
        """
        clips: list[Clip] = []
        rejected: list[Rejected] = []
        for number in numbers:
            clip_number, video = divmod(number, len(self.catalog))
            with _into(rejected), suppress(QuarantineLimitError):
                planned = PlannedClip(epoch=-1, video=video, clip_number=clip_number)
                clips.append(self._make(planned, self.config.game.patch_source, rejected))
        return clips, rejected

    def _at_or_blank(self, position: int) -> tuple[Clip, list[Rejected], str]:
        """As `at`; what would be raised is returned, for all workers to stop by it together."""
        try:
            return *self.at(position), ""
        except QuarantineLimitError as error:
            return self._blank(), list(error.rejected), str(error)

    def _blank(self) -> Clip:
        frames, size = self.config.sampling.num_frames, self.config.augment.frame_size_px
        k = self.config.game.num_patches
        return Clip(
            frames=np.zeros((frames, size, size, 3), np.uint8),
            boxes=np.tile(np.array([0, 0, size, size], np.float32), (k, frames, 1)),
            visible=np.zeros((k, frames), np.bool_),
            color=np.tile(np.array([0, 1, 0, 1], np.float32), (frames, 1)),
            video_id="",
        )

    def _source(self, position: int) -> str:
        """Where the patches of the clip at `position` are cut from."""
        curriculum = self.config.curriculum
        if curriculum is None:
            return self.config.game.patch_source
        share = curriculum.other_clip_share(position / self.total_clips)
        drawn = generator(self.config.seed, "curriculum", position).random()
        return "other_clip" if drawn < share else self.config.game.patch_source

    def _make(self, planned: PlannedClip, source: str, rejected: list[Rejected]) -> Clip:
        """Make one clip.

        Raises:
            VideoError: its video cannot be used.
        """
        config, entry = self.config, self.catalog.entries[planned.video]
        rng = generator(config.seed, "clip", planned.epoch, entry.id, planned.clip_number)
        frames = self._read(entry, rng, config.sampling.num_frames)
        game, donors = config.game, None
        if source == "other_clip":
            game, donors = self._other_clip_game, self._donors(planned.video, rng, rejected)
        frames, trajectories = play(frames, game, rng, donors)
        color = sample_color(config.augment, len(frames), rng)
        return Clip(frames, trajectories.boxes, trajectories.visible, color, entry.id)

    def _read(
        self, entry: VideoEntry, rng: np.random.Generator, num_frames: int
    ) -> NDArray[np.uint8]:
        """Frames of a video, scaled, cropped and flipped, uint8 [num_frames, H, W, 3]."""
        sampling, augment = self.config.sampling, self.config.augment
        with VideoReader(entry.read()) as reader:
            if reader.num_frames < sampling.min_video_frames:
                raise VideoError(
                    entry.id,
                    entry.uri,
                    f"has {reader.num_frames} frame(s), sampling.min_video_frames is "
                    f"{sampling.min_video_frames}",
                )
            numbers = sample_frames(sampling, reader.num_frames, rng)[:num_frames].tolist()
            short_side = sample_short_side(augment, rng)
            frames = reader.read(numbers, short_side_px=short_side)
        return crop_and_flip(frames, augment, rng)

    def _donors(
        self, video: int, rng: np.random.Generator, rejected: list[Rejected]
    ) -> NDArray[np.uint8]:
        """A frame of another video for each patch, uint8 [K, H, W, 3].

        Each patch has a video of its own: patches of one picture are hard to tell apart. Where
        there is no other video, it is the clip's.
        """
        donors: list[NDArray[np.uint8]] = []
        for _ in range(MAX_TRIES):
            step = rng.integers(1, max(len(self.catalog), 2))
            entry = self.catalog.entries[(video + step) % len(self.catalog)]
            with _into(rejected):
                # a generator of its own, so that a bad donor leaves the clip's draws alone
                own_rng = generator(int(rng.integers(2**62)), "donor")
                donors.append(self._read(entry, own_rng, num_frames=1)[0])
            if len(donors) == self.config.game.num_patches:
                return np.stack(donors)
        raise _none_usable(rejected)


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


def stack(clips: Sequence[Clip]) -> Batch:
    """Clips as arrays with a leading B: "frames", "boxes", "visible", "color", "video"."""
    return {
        "frames": np.stack([clip.frames for clip in clips]),
        "boxes": np.stack([clip.boxes for clip in clips]),
        "visible": np.stack([clip.visible for clip in clips]),
        "color": np.stack([clip.color for clip in clips]),
        "video": [clip.video_id for clip in clips],
    }


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
