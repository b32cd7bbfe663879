"""Clips of annotated videos: frames and crops that show an object, and its boxes in them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ctp.data.annotated import Track
from ctp.data.stream import VideoSource
from ctp.video.config import SamplingConfig
from ctp.video.encoded import VideoError
from ctp.video.planes import Crop
from ctp.video.sampling import sample_frames

if TYPE_CHECKING:
    from ctp.video.decode import VideoReader

MIN_SIDE_PX = 1.0
"""Least width and height of the visible part of an object for its frame to count."""

Span = tuple[float, float]


def sample_tracked(
    config: SamplingConfig, track: Track, rng: np.random.Generator
) -> NDArray[np.int64]:
    """Draw the frame numbers of a clip, and shift them so that the first frame has an object.

    They are drawn by `sample_frames` and shifted to the next frame with an object, or back to the
    last one if there is no next one.
    """
    numbers = sample_frames(config, len(track.boxes), rng)
    with_object = np.flatnonzero(track.counted)
    # the next frame with an object, otherwise the last one
    place = min(int(np.searchsorted(with_object, numbers[0])), len(with_object) - 1)
    moved: NDArray[np.int64] = numbers + (with_object[place] - numbers[0])
    return np.clip(moved, 0, len(track.boxes) - 1)


def hold_object(crop: Crop, track: Track, frames: NDArray[np.int64]) -> Crop:
    """Move a random crop so that it contains the object.

    It contains the object in all frames; if this is impossible, in the first frame; if this is
    impossible, too, the centre of the first box. The crop's own `x` and `y` choose among the
    possible positions.
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
    """Return the part of the object that a crop shows in each frame.

    Args:
        crop: a crop of the video, mirrored or not.
        track: the track of the object.
        frames: int64 [T], frame numbers.
        size_px: S, the size that the crop is scaled to.

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
        side: length of the window, even.
        length: length of the picture.
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


def check_length(videos: VideoSource, reader: VideoReader, track: Track) -> None:
    """Raise VideoError if the numbers of frames of a video and of its track differ."""
    if reader.num_frames != len(track.boxes):
        reason = f"has {reader.num_frames} frames and {len(track.boxes)} boxes"
        raise VideoError(videos.entry.id, videos.entry.uri, reason)
