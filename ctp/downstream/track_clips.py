"""The samples of annotated videos: random clips to train on, all frames once to test on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ctp.data.annotated import Track, Tracks
from ctp.data.object_crop import (
    centred_crop,
    check_length,
    hold_object,
    sample_tracked,
    seen_in,
)
from ctp.data.stream import SampleDrawer, VideoSet, VideoSource, array_field
from ctp.downstream.track_config import TrackConfig
from ctp.video.augment import PRETRAINING_COLORS, sample_color, sample_crop
from ctp.video.planes import planes_size
from ctp.video.sampling import MIN_VIDEO_FRAMES


class TrackSample(NamedTuple):
    """A clip to train on.

    Attributes:
        planes: uint8 [T, 3/2 · S²], the frames as `planes.to_rgb` takes them.
        color: float32 [T, 4], see `augment.sample_color`.
        boxes: float32 [1, T, 4], xyxy pixels of the clip: the visible part of the object.
        counted: bool [1, T], the frames that show some of it.
    """

    planes: Any
    color: Any
    boxes: Any
    counted: Any


@dataclass(frozen=True)
class VideoClips:
    """A video to test on: n clips, in which each frame that counts is once.

    Attributes:
        planes: uint8 [n, T, 3/2 · S²], the frames as `planes.to_rgb` takes them.
        boxes: float32 [n, T, 4], xyxy pixels of the clips: the visible part of the object.
        counted: bool [n, T], the frames that show some of it; False for a repeated frame.
        frames: int64 [n, T], their numbers in the video.
        windows: int64 [n, 3], the squares that the clips show: left, top, side in video pixels.
        track: where the object is in the whole video.
        video_id: id of the video.
    """

    planes: NDArray[np.uint8]
    boxes: NDArray[np.float32]
    counted: NDArray[np.bool_]
    frames: NDArray[np.int64]
    windows: NDArray[np.int64]
    track: Track
    video_id: str

    @property
    def num_hidden(self) -> int:
        """Return the number of frames without an object."""
        return int((~self.track.counted).sum())

    @property
    def num_out_of_sight(self) -> int:
        """Return the number of frames whose object the clips do not show."""
        return int(self.track.counted.sum() - self.counted.sum())


@dataclass(frozen=True)
class TrackedClips(SampleDrawer[TrackSample]):
    """Draws clips of annotated videos.

    Attributes:
        config: of the run.
        tracks: where the objects are, in the catalogue's order.
    """

    config: TrackConfig
    tracks: Tracks

    def fields(self) -> TrackSample:
        """Return the dtypes and shapes of a sample."""
        frames = self.config.sampling.num_frames
        return TrackSample(
            planes=array_field(np.uint8, frames, planes_size(self.config.augment.frame_size_px)),
            color=array_field(np.float32, frames, 4),
            boxes=array_field(np.float32, 1, frames, 4),
            counted=array_field(np.bool_, 1, frames),
        )

    def draw(self, videos: VideoSource, rng: np.random.Generator) -> TrackSample:
        """Decode a clip, cropped so that it shows the object, scaled and flipped."""
        config, track = self.config, self.tracks[videos.video]
        size = config.augment.frame_size_px
        frames = sample_tracked(config.sampling, track, rng)
        crop = hold_object(sample_crop(config.augment, rng), track, frames)
        with videos.open(MIN_VIDEO_FRAMES) as reader:
            check_length(videos, reader, track)
            planes = reader.read_square(frames.tolist(), crop, size)
        boxes, counted = seen_in(crop, track, frames, size)
        # drawn last, after the choices that decide what is decoded
        color = sample_color(PRETRAINING_COLORS, len(frames), rng)
        return TrackSample(planes, color, boxes[None], counted[None])


@dataclass(frozen=True)
class TestClips(VideoSet[VideoClips]):
    """The clips that annotated videos are cut into for a test.

    Attributes:
        config: of the run.
        tracks: where the objects are, in the catalogue's order.
    """

    __test__ = False  # not a test class of pytest

    config: TrackConfig
    tracks: Tracks

    def load(self, videos: VideoSource) -> VideoClips:
        """Decode the clips of a video."""
        config, track = self.config, self.tracks[videos.video]
        size = config.augment.frame_size_px
        frames, is_new = cut_into_clips(track.counted, config.sampling.num_frames)
        crops = [centred_crop(track, row[0]) for row in frames]
        pairs = list(zip(crops, frames, strict=True))
        boxes, shown = zip(*(seen_in(crop, track, row, size) for crop, row in pairs), strict=True)
        with videos.open() as reader:
            check_length(videos, reader, track)
            planes = [reader.read_square(row.tolist(), crop, size) for crop, row in pairs]
        return VideoClips(
            np.stack(planes),
            np.stack(boxes),
            np.stack(shown) & is_new,
            frames,
            np.array([crop.window(track.width, track.height)[:3] for crop in crops], np.int64),
            track,
            videos.entry.id,
        )


def cut_into_clips(
    counted: NDArray[np.bool_], num_frames: int
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Cut a video into clips of consecutive frames (§4) that contain each frame that counts once.

    A clip starts with a frame that counts; frames before it that do not count are skipped. At the
    end of the video its last frame is repeated.

    Args:
        counted: bool [N], the frames that count, one at least.
        num_frames: T.

    Returns:
        int64 [n, T], the frame numbers, and bool [n, T], False for a repeated one.
    """
    clips, is_new = [], []
    left = np.arange(len(counted))
    while counted[left].any():
        left = left[counted[left].argmax() :]  # the first frame that counts
        clip, left = left[:num_frames], left[num_frames:]
        clips.append(np.pad(clip, (0, num_frames - len(clip)), mode="edge"))
        is_new.append(np.arange(num_frames) < len(clip))
    return np.stack(clips), np.stack(is_new)
