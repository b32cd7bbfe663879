"""The samples of annotated videos: random clips to train on, all frames once to test on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ctp.data.annotated import Track, Tracks
from ctp.data.stream import SampleDrawer, VideoSet, VideoSource, array_field
from ctp.downstream.track_config import TrackConfig
from ctp.video.augment import PRETRAINING_COLORS, sample_color, sample_crop
from ctp.video.config import SamplingConfig
from ctp.video.decode import VideoReader
from ctp.video.encoded import VideoError
from ctp.video.planes import Crop, planes_size
from ctp.video.sampling import MIN_VIDEO_FRAMES, sample_frames

MIN_SIDE_PX = 1.0
"""Least width and height of the visible part of an object for its frame to count."""

Span = tuple[float, float]


class TrackSample(NamedTuple):
    """A clip to train on.

    Attributes:
        planes: uint8 [T, 3/2 · S²], the frames as `planes.to_rgb` takes them.
        color: float32 [T, 4] as of `augment.sample_color`.
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
            _check_length(videos, reader, track)
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
            _check_length(videos, reader, track)
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


def sample_tracked(
    config: SamplingConfig, track: Track, rng: np.random.Generator
) -> NDArray[np.int64]:
    """Draw the frame numbers of a clip as `sample_frames` does, and shift them so that the first
    frame has an object: to the next such frame, or back to the last."""
    numbers = sample_frames(config, len(track.boxes), rng)
    with_object = np.flatnonzero(track.counted)
    # the next frame with an object; the last one if there is none behind
    place = min(int(np.searchsorted(with_object, numbers[0])), len(with_object) - 1)
    moved: NDArray[np.int64] = numbers + (with_object[place] - numbers[0])
    return np.clip(moved, 0, len(track.boxes) - 1)


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


def hold_object(crop: Crop, track: Track, frames: NDArray[np.int64]) -> Crop:
    """Move a random crop so that it contains the object in all frames; if that does not fit, in
    the first frame; if that does not fit either, the middle of that box.

    The crop's own `x` and `y` choose among the possible positions.
    """
    # frames without an object have no box to hold
    boxes = track.boxes[frames[track.counted[frames]]]
    around = np.concatenate([boxes[:, :2].min(axis=0), boxes[:, 2:].max(axis=0)])
    _, _, width, height = crop.window(track.width, track.height)
    axes = ((0, width, track.width, crop.x), (1, height, track.height, crop.y))
    x, y = (
        _held([(box[axis], box[axis + 2]) for box in (around, boxes[0])], side, length, at)
        for axis, side, length, at in axes
    )
    return replace(crop, x=x, y=y)


def centred_crop(track: Track, frame: int) -> Crop:
    """Return the largest square, whose centre is as close as possible to that of a frame's box."""
    box = track.boxes[frame]
    side = Crop(1.0, 0, 0, flip=False).window(track.width, track.height)[2]
    x, y = (
        _centred((box[axis], box[axis + 2]), side, length)
        for axis, length in ((0, track.width), (1, track.height))
    )
    return Crop(1.0, x, y, flip=False)


def seen_in(
    crop: Crop, track: Track, frames: NDArray[np.int64], size_px: int
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Return the part of the object that a crop shows in some frames.

    Args:
        crop: of the video's picture, mirrored or not.
        track: of the video.
        frames: int64 [T].
        size_px: S, that the crop is scaled to.

    Returns:
        float32 [T, 4], xyxy pixels of the crop, clipped to it as GOT-10k clips boxes;
        and bool [T], whether there is an object and at least `MIN_SIDE_PX` of it are visible.
    """
    left, top, *sides = crop.window(track.width, track.height)
    scale = (size_px / np.array(sides * 2)).astype(np.float32)
    boxes = (track.boxes[frames] - np.array([left, top] * 2, np.float32)) * scale
    # before the flip, which maps the square to itself
    boxes = np.clip(boxes, 0, size_px)
    if crop.flip:
        boxes[:, [0, 2]] = size_px - boxes[:, [2, 0]]
    in_sight = (boxes[:, 2:] - boxes[:, :2] >= MIN_SIDE_PX).all(axis=1)
    return boxes, in_sight & track.counted[frames]


def _held(spans: Sequence[Span], side: int, length: int, at: float) -> float:
    """Return the position along an axis of a window that contains the first of `spans` that fits,
    otherwise the middle of the last: 0 for one end of the picture, 1 for the other, as in `Crop`.

    Args:
        spans: (low, high) in pixels of the picture.
        side: of the window, even.
        length: of the picture.
        at: chooses among the possible positions, from 0 for the first to 1 for the last.
    """
    most = (length - side) // 2  # windows begin at even pixels
    for low, high in spans:
        first = max(int(np.ceil((high - side) / 2)), 0)
        last = min(int(np.floor(low / 2)), most)
        if first <= last:
            # as a share of the possible positions, which `Crop` turns back into this very position
            return (first + round((last - first) * at)) / max(most, 1)
    return _centred(spans[-1], side, length)


def _centred(span: Span, side: int, length: int) -> float:
    """Return the position along an axis of the window whose centre is closest to the span's."""
    most = (length - side) // 2
    # windows begin at even pixels, so positions count by two: half of (centre - side / 2)
    return float(np.clip(round((sum(span) - side) / 4), 0, most)) / max(most, 1)


def _check_length(videos: VideoSource, reader: VideoReader, track: Track) -> None:
    if reader.num_frames != len(track.boxes):
        reason = f"has {reader.num_frames} frames and {len(track.boxes)} boxes"
        raise VideoError(videos.entry.id, videos.entry.uri, reason)
