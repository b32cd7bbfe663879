"""The clips of a pretraining run: decode, crop, play."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from ctp.data.catalog import VideoEntry
from ctp.data.plan import PlannedClip
from ctp.data.quarantine import QuarantinedVideo, QuarantineLimitError
from ctp.data.read_ahead import ReadAhead
from ctp.pretext.batches import Clip, DrawnClip, stack, stack_drawn
from ctp.pretext.config import PretrainConfig
from ctp.pretext.ctp.game import draw_round
from ctp.rng import generator
from ctp.training.maker import (
    MAX_TRIES,
    Batch,
    StreamMaker,
    into,
    none_usable,
    opened,
    planes_bytes,
)
from ctp.video.augment import sample_color, sample_crop
from ctp.video.sampling import sample_frames

BOX_BYTES = 21
"""Of a patch in a frame: its box, whether it is shown, how opaque it is."""


@dataclass(frozen=True)
class ClipMaker(StreamMaker[DrawnClip]):
    """Makes clips with patches in them."""

    config: PretrainConfig

    @property
    def clip_bytes(self) -> int:
        """Bytes of a clip in a batch, a little over."""
        config = self.config
        size, frames, patches = (
            config.augment.frame_size_px,
            config.sampling.num_frames,
            config.game.num_patches,
        )
        # RGB is twice as large as planes, and has no donors beside it
        pictures = 2 * frames if config.scaling.play_on == "cpu" else frames + patches
        return planes_bytes(pictures, size) + patches * frames * BOX_BYTES

    def at(self, position: int) -> tuple[Clip, list[QuarantinedVideo]]:
        """The clip at `position` of the run's stream, played, and the videos that failed on the
        way; see `clip_at`."""
        drawn, quarantined = self.clip_at(position)
        return drawn.play(self.config.augment.frame_size_px), quarantined

    def heldout(
        self, numbers: Sequence[int], bad: Mapping[str, str] | None = None
    ) -> tuple[list[Clip], list[QuarantinedVideo]]:
        """Held-out clips by number, of the game's own rules whatever the curriculum.

        Nothing stands in for a video that cannot be used; it is returned as quarantined.
        """
        clips: list[Clip] = []
        quarantined: list[QuarantinedVideo] = []
        videos, size = ReadAhead(bad=bad), self.config.augment.frame_size_px
        for number in numbers:
            clip_number, video = divmod(number, len(self.catalog))
            with into(quarantined), suppress(QuarantineLimitError):
                planned = PlannedClip(epoch=-1, video=video, clip_number=clip_number)
                drawn = self._draw(planned, self.config.game.patch_source, quarantined, videos)
                clips.append(drawn.play(size))
        return clips, quarantined

    def draw(
        self,
        planned: PlannedClip,
        position: int,
        quarantined: list[QuarantinedVideo],
        videos: ReadAhead,
    ) -> DrawnClip:
        """Decode a clip's frames and draw its round."""
        return self._draw(planned, self._source(position), quarantined, videos)

    def stack(self, clips: Sequence[DrawnClip]) -> Batch:
        """`batches.stack` or `batches.stack_drawn`, as `config.scaling.play_on` wants it."""
        config = self.config
        if config.scaling.play_on == "cpu":
            return stack([clip.play(config.augment.frame_size_px) for clip in clips])
        may_have = config.curriculum is not None or config.game.patch_source == "other_clip"
        return stack_drawn(clips, with_donors=may_have)

    def blank(self) -> DrawnClip:
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

    def needed(self, position: int) -> Iterator[VideoEntry]:
        """The clip's video, and those that its patches are cut from."""
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
        self,
        planned: PlannedClip,
        source: str,
        quarantined: list[QuarantinedVideo],
        videos: ReadAhead,
    ) -> DrawnClip:
        config, entry = self.config, self.catalog[planned.video]
        rng = generator(config.seed, "clip", planned.epoch, entry.id, planned.clip_number)
        num_frames, size = config.sampling.num_frames, config.augment.frame_size_px
        planes = self._read(entry, rng, num_frames, videos)
        other_clip = source == "other_clip"
        donors = self._donors(planned, quarantined, videos) if other_clip else None
        drawn = draw_round(config.game, num_frames, (size, size), rng)
        color = sample_color(config.augment, num_frames, rng)
        return DrawnClip(planes, donors, drawn, color, entry.id)

    def _read(
        self, entry: VideoEntry, rng: np.random.Generator, num_frames: int, videos: ReadAhead
    ) -> NDArray[np.uint8]:
        """Frames of a video, cropped, scaled and flipped, uint8 [num_frames, 3/2 · S²]."""
        sampling, augment = self.config.sampling, self.config.augment
        with opened(entry, videos, sampling.min_video_frames) as reader:
            numbers = sample_frames(sampling, reader.num_frames, rng)[:num_frames].tolist()
            return reader.read_square(numbers, sample_crop(augment, rng), augment.frame_size_px)

    def _donors(
        self, planned: PlannedClip, quarantined: list[QuarantinedVideo], videos: ReadAhead
    ) -> NDArray[np.uint8]:
        """A frame of another video for each patch, uint8 [K, 3/2 · S²].

        Each patch has a video of its own: patches of one picture are hard to tell apart. Where
        there is no other video, it is the clip's.
        """
        donors: list[NDArray[np.uint8]] = []
        for entry, rng in islice(self._donor_choices(planned), MAX_TRIES):
            with into(quarantined):
                donors.append(self._read(entry, rng, 1, videos)[0])
            if len(donors) == self.config.game.num_patches:
                return np.stack(donors)
        raise none_usable(quarantined)

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
