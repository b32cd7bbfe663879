"""The samples of labelled videos: augmented clips to train on, fixed views to test on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ctp.data.stream import SampleDrawer, VideoSet, VideoSource, array_field
from ctp.video.augment import RECOGNITION_COLORS, sample_color, sample_crop
from ctp.video.config import AugmentConfig, SamplingConfig, ViewsConfig
from ctp.video.planes import planes_size
from ctp.video.sampling import MIN_VIDEO_FRAMES, sample_frames
from ctp.video.views import read_view_planes


class LabeledSample(NamedTuple):
    """A clip to train on.

    Attributes:
        planes: uint8 [T, 3/2 · S²], the frames as `planes.to_rgb` takes them.
        color: float32 [T, 4], see `augment.sample_color`.
        label: int64, number of its class.
    """

    planes: Any
    color: Any
    label: Any


class VideoViews(NamedTuple):
    """A video to test on.

    Attributes:
        planes: uint8 [n, T, 3/2 · S²], the frames of its views as `planes.to_rgb` takes them.
        label: number of its class.
    """

    planes: NDArray[np.uint8]
    label: int


@dataclass(frozen=True)
class LabeledClips(SampleDrawer[LabeledSample]):
    """Draws clips of labelled videos.

    Attributes:
        sampling, augment: which frames, and how they are varied.
        classes: names of the classes, in the order of their numbers.
    """

    sampling: SamplingConfig
    augment: AugmentConfig
    classes: tuple[str, ...]

    def fields(self) -> LabeledSample:
        """Return the dtypes and shapes of a sample."""
        frames = self.sampling.num_frames
        return LabeledSample(
            planes=array_field(np.uint8, frames, planes_size(self.augment.frame_size_px)),
            color=array_field(np.float32, frames, 4),
            label=array_field(np.int64),
        )

    def draw(self, videos: VideoSource, rng: np.random.Generator) -> LabeledSample:
        """Decode a clip's frames, cropped, scaled and flipped."""
        with videos.open(MIN_VIDEO_FRAMES) as reader:
            frames = sample_frames(self.sampling, reader.num_frames, rng).tolist()
            crop = sample_crop(self.augment, rng)
            planes = reader.read_square(frames, crop, self.augment.frame_size_px)
        color = sample_color(RECOGNITION_COLORS, len(frames), rng)
        return LabeledSample(planes, color, np.int64(class_of(videos, self.classes)))


@dataclass(frozen=True)
class LabeledViews(VideoSet[VideoViews]):
    """The views of labelled videos.

    Attributes:
        views: which views.
        classes: names of the classes, in the order of their numbers.
    """

    views: ViewsConfig
    classes: tuple[str, ...]

    def load(self, videos: VideoSource) -> VideoViews:
        """Decode the views of a video."""
        with videos.open() as reader:
            planes = read_view_planes(self.views, reader)
        return VideoViews(planes, class_of(videos, self.classes))


def class_of(videos: VideoSource, classes: tuple[str, ...]) -> int:
    """Return the number of a video's class."""
    label = videos.entry.label
    assert label is not None, "checked by open_labeled"
    return classes.index(label)
