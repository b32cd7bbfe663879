"""The clips of labelled videos: varied ones to train on, fixed views to test on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ctp.data.plan import PlannedClip
from ctp.data.quarantine import QuarantinedVideo
from ctp.data.read_ahead import ReadAhead
from ctp.downstream.config import FinetuneConfig
from ctp.isolation import working_on
from ctp.rng import generator
from ctp.training.maker import Batch, StreamMaker, into, opened, planes_bytes
from ctp.video.augment import sample_color, sample_crop
from ctp.video.sampling import sample_frames
from ctp.video.views import read_view_planes

UNCHANGED = np.array([0, 1, 0, 1], np.float32)
"""A frame's colours, as they are."""


@dataclass(frozen=True)
class LabeledClip:
    """A clip to train on.

    Attributes:
        planes: uint8 [T, 3/2 · S²], the frames as `pixels.to_rgb` takes them.
        color: float32 [T, 4] as `Clip.color`.
        label: number of its class.
        video_id: the video that it comes from.
    """

    planes: NDArray[np.uint8]
    color: NDArray[np.float32]
    label: int
    video_id: str


@dataclass(frozen=True)
class VideoViews:
    """A video as it is tested.

    Attributes:
        planes: uint8 [n, T, 3/2 · S²], the frames of its views as `pixels.to_rgb` takes them.
        label: number of its class.
        video_id: which one.
    """

    planes: NDArray[np.uint8]
    label: int
    video_id: str


@dataclass(frozen=True)
class LabeledMaker(StreamMaker[LabeledClip]):
    """Makes clips of labelled videos.

    Attributes:
        classes: names of the classes, in the order of their numbers.
    """

    config: FinetuneConfig
    classes: tuple[str, ...]

    @property
    def clip_bytes(self) -> int:
        """Bytes of a clip in a batch, a little over."""
        return planes_bytes(self.config.sampling.num_frames, self.config.augment.frame_size_px)

    def draw(
        self,
        planned: PlannedClip,
        position: int,
        quarantined: list[QuarantinedVideo],
        videos: ReadAhead,
    ) -> LabeledClip:
        """Decode a clip's frames, cropped, scaled and flipped."""
        config, entry = self.config, self.catalog[planned.video]
        rng = generator(config.seed, "clip", planned.epoch, entry.id, planned.clip_number)
        with opened(entry, videos, config.sampling.min_video_frames) as reader:
            numbers = sample_frames(config.sampling, reader.num_frames, rng).tolist()
            crop = sample_crop(config.augment, rng)
            planes = reader.read_square(numbers, crop, config.augment.frame_size_px)
        color = sample_color(config.augment, len(numbers), rng)
        return LabeledClip(planes, color, self._class_of(entry.label), entry.id)

    def blank(self) -> LabeledClip:
        """Black frames of the first class."""
        num_frames, size = self.config.sampling.num_frames, self.config.augment.frame_size_px
        planes = np.zeros((num_frames, size * size * 3 // 2), np.uint8)
        return LabeledClip(planes, np.tile(UNCHANGED, (num_frames, 1)), 0, "")

    def stack(self, clips: Sequence[LabeledClip]) -> Batch:
        """ "planes" uint8 [B, T, 3/2 · S²], "color" float32 [B, T, 4], "label" int64 [B], and
        "video" [B] ids."""
        return {
            "planes": np.stack([clip.planes for clip in clips]),
            "color": np.stack([clip.color for clip in clips]),
            "label": np.array([clip.label for clip in clips], np.int64),
            "video": [clip.video_id for clip in clips],
        }

    def views(
        self, numbers: Sequence[int], bad: Mapping[str, str] | None = None
    ) -> tuple[list[VideoViews], list[QuarantinedVideo]]:
        """The views of the videos of these numbers; nothing stands in for one that cannot be
        used."""
        made: list[VideoViews] = []
        quarantined: list[QuarantinedVideo] = []
        entries = [self.catalog[number] for number in numbers]
        with ReadAhead(entries, depth=self.config.data.read_ahead, bad=bad) as videos:
            for entry in entries:
                with into(quarantined):
                    video = videos.read(entry)
                    with working_on(entry.id):
                        planes = read_view_planes(self.config.views, video)
                    made.append(VideoViews(planes, self._class_of(entry.label), entry.id))
        return made, quarantined

    def _class_of(self, label: str | None) -> int:
        assert label is not None, "checked by open_labeled"
        return self.classes.index(label)
