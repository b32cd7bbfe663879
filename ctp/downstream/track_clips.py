"""The clips of annotated videos: random ones to train on, all frames once to test on."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from ctp.data.annotated import Track, Tracks
from ctp.data.catalog import VideoEntry
from ctp.data.plan import PlannedClip
from ctp.data.quarantine import QuarantinedVideo
from ctp.data.read_ahead import ReadAhead
from ctp.downstream.track_config import TrackConfig
from ctp.rng import generator
from ctp.training.maker import Batch, StreamMaker, into, opened, planes_bytes
from ctp.video.augment import sample_color, sample_crop
from ctp.video.config import SamplingConfig
from ctp.video.decode import VideoReader
from ctp.video.encoded import VideoError
from ctp.video.planes import Crop
from ctp.video.sampling import sample_frames

LEAST_SIDE_PX = 1.0
"""Of what a clip shows of an object, to count."""
PICTURE_SIDE_PX = 240
"""Of whole pictures, to be looked at."""
UNCHANGED = np.array([0, 1, 0, 1], np.float32)
"""A frame's colours, as they are."""

Span = tuple[float, float]
M = TypeVar("M")


@dataclass(frozen=True)
class TrackClip:
    """A clip to train on.

    Attributes:
        planes: uint8 [T, 3/2 · S²], the frames as `pixels.to_rgb` takes them.
        boxes: float32 [1, T, 4], xyxy pixels of the clip: what it shows of the object.
        counted: bool [1, T], the frames that show something of it.
        color: float32 [T, 4] as `Clip.color`.
        video_id: the video that it comes from.
    """

    planes: NDArray[np.uint8]
    boxes: NDArray[np.float32]
    counted: NDArray[np.bool_]
    color: NDArray[np.float32]
    video_id: str


@dataclass(frozen=True)
class VideoClips:
    """A video as it is tested: n clips, in which each frame that counts is once.

    Attributes:
        planes: uint8 [n, T, 3/2 · S²], the frames as `pixels.to_rgb` takes them.
        boxes: float32 [n, T, 4], xyxy pixels of the clips: what they show of the object.
        counted: bool [n, T], the frames that show something of it; a repeated one does not.
        frames: int64 [n, T], which frames of the video they are.
        windows: int64 [n, 3], the squares they show: left, top, side, pixels of the video.
        track: where the object is in the whole video.
        video_id: which one.
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
        """Frames in which there is no object to be found."""
        return int((~self.track.counted).sum())

    @property
    def num_out_of_sight(self) -> int:
        """Frames in which there is one, and the clips show nothing of it."""
        return int(self.track.counted.sum() - self.counted.sum())


@dataclass(frozen=True)
class TrackMaker(StreamMaker[TrackClip]):
    """Makes clips of annotated videos.

    Attributes:
        tracks: where the objects are, in the catalogue's order.
    """

    config: TrackConfig
    tracks: Tracks

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
    ) -> TrackClip:
        """Decode a clip's frames, cropped so that the object is in sight, scaled and flipped."""
        config, entry = self.config, self.catalog[planned.video]
        track, size = self.tracks[planned.video], config.augment.frame_size_px
        rng = generator(config.seed, "clip", planned.epoch, entry.id, planned.clip_number)
        numbers = sample_tracked(config.sampling, track, rng)
        crop = hold_object(sample_crop(config.augment, rng), track, numbers)
        with opened(entry, videos, config.sampling.min_video_frames) as reader:
            _check_length(entry, reader, track)
            planes = reader.read_square(numbers.tolist(), crop, size)
        boxes, counted = seen_in(crop, track, numbers, size)
        color = sample_color(config.augment, len(numbers), rng)
        return TrackClip(planes, boxes[None], counted[None], color, entry.id)

    def blank(self) -> TrackClip:
        """Black frames without an object."""
        num_frames, size = self.config.sampling.num_frames, self.config.augment.frame_size_px
        planes = np.zeros((num_frames, size * size * 3 // 2), np.uint8)
        boxes, counted = np.zeros((1, num_frames, 4), np.float32), np.zeros((1, num_frames), bool)
        return TrackClip(planes, boxes, counted, np.tile(UNCHANGED, (num_frames, 1)), "")

    def stack(self, clips: Sequence[TrackClip]) -> Batch:
        """ "planes" uint8 [B, T, 3/2 · S²], "boxes" float32 [B, 1, T, 4], "counted" bool
        [B, 1, T], "color" float32 [B, T, 4], and "video" [B] ids."""
        return {
            "planes": np.stack([clip.planes for clip in clips]),
            "boxes": np.stack([clip.boxes for clip in clips]),
            "counted": np.stack([clip.counted for clip in clips]),
            "color": np.stack([clip.color for clip in clips]),
            "video": [clip.video_id for clip in clips],
        }

    def test_clips(
        self, numbers: Sequence[int], bad: Mapping[str, str] | None = None
    ) -> tuple[list[VideoClips], list[QuarantinedVideo]]:
        """The clips to test on of the videos of these numbers; nothing stands in for one that
        cannot be used."""
        return self._each(numbers, bad, self._cut)

    def with_pictures(
        self, numbers: Sequence[int], bad: Mapping[str, str] | None = None
    ) -> tuple[list[tuple[VideoClips, NDArray[np.uint8]]], list[QuarantinedVideo]]:
        """As `test_clips`, each with all pictures of the video, uint8 [N, h, w, 3], their shorter
        side at most `PICTURE_SIDE_PX`."""

        def read(
            entry: VideoEntry, track: Track, reader: VideoReader
        ) -> tuple[VideoClips, NDArray[np.uint8]]:
            shorter = min(track.width, track.height, PICTURE_SIDE_PX)
            pictures = reader.read(range(reader.num_frames), short_side_px=shorter)
            return self._cut(entry, track, reader), pictures

        return self._each(numbers, bad, read)

    def _each(
        self,
        numbers: Sequence[int],
        bad: Mapping[str, str] | None,
        make: Callable[[VideoEntry, Track, VideoReader], M],
    ) -> tuple[list[M], list[QuarantinedVideo]]:
        made: list[M] = []
        quarantined: list[QuarantinedVideo] = []
        entries = [self.catalog[number] for number in numbers]
        with ReadAhead(entries, depth=self.config.data.read_ahead, bad=bad) as videos:
            for number, entry in zip(numbers, entries, strict=True):
                track = self.tracks[number]
                with into(quarantined), opened(entry, videos, 1) as reader:
                    _check_length(entry, reader, track)
                    made.append(make(entry, track, reader))
        return made, quarantined

    def _cut(self, entry: VideoEntry, track: Track, reader: VideoReader) -> VideoClips:
        config, size = self.config, self.config.augment.frame_size_px
        num_frames, interval = config.sampling.num_frames, config.test.interval_frames
        frames, is_new = cut_into_clips(track.counted, num_frames, interval)
        crops = [centred_crop(size / config.test.short_side_px, track, row[0]) for row in frames]
        pairs = list(zip(crops, frames, strict=True))
        boxes, shown = zip(*(seen_in(crop, track, row, size) for crop, row in pairs), strict=True)
        return VideoClips(
            np.stack([reader.read_square(row.tolist(), crop, size) for crop, row in pairs]),
            np.stack(boxes),
            np.stack(shown) & is_new,
            frames,
            np.array([crop.window(track.width, track.height) for crop in crops], np.int64),
            track,
            entry.id,
        )


def sample_tracked(
    config: SamplingConfig, track: Track, rng: np.random.Generator
) -> NDArray[np.int64]:
    """Draw the frame numbers of a clip as `sample_frames` does; where its first frame has no
    object, all move on until it has one, or back if none comes."""
    numbers = sample_frames(config, len(track.boxes), rng)
    with_object = np.flatnonzero(track.counted)
    place = min(int(np.searchsorted(with_object, numbers[0])), len(with_object) - 1)
    moved: NDArray[np.int64] = numbers + (with_object[place] - numbers[0])
    return np.clip(moved, 0, len(track.boxes) - 1)


def cut_into_clips(
    counted: NDArray[np.bool_], num_frames: int, interval_frames: int
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Cut a video into clips, one after the other, in which each frame that counts is once.

    A clip begins with a frame that counts; those before it that do not are in none. Where the
    video ends, its last frame is repeated.

    Args:
        counted: bool [N], the frames that count, one at least.
        num_frames: T.
        interval_frames: distance between frames of a clip; each of the sequences that begin at
            frames 0, …, interval_frames - 1 is cut on its own.

    Returns:
        int64 [n, T], the frame numbers, and bool [n, T], False for a repeated one.
    """
    clips, is_new = [], []
    for offset in range(min(interval_frames, len(counted))):
        sequence = np.arange(offset, len(counted), interval_frames)
        while counted[sequence].any():
            sequence = sequence[counted[sequence].argmax() :]
            clip, sequence = sequence[:num_frames], sequence[num_frames:]
            missing = num_frames - len(clip)
            clips.append(np.pad(clip, (0, missing), mode="edge"))
            is_new.append(np.arange(num_frames) < num_frames - missing)
    return np.stack(clips), np.stack(is_new)


def hold_object(crop: Crop, track: Track, frames: NDArray[np.int64]) -> Crop:
    """Move a random crop so that it holds the object in all frames; where that does not fit, in
    the first; where that does not fit either, the middle of it.

    Among the places where it may lie, its `x` and `y` choose.
    """
    boxes = track.boxes[frames[track.counted[frames]]]
    around = np.concatenate([boxes[:, :2].min(axis=0), boxes[:, 2:].max(axis=0)])
    side = crop.window(track.width, track.height)[2]
    x, y = (
        _held([(box[axis], box[axis + 2]) for box in (around, boxes[0])], side, length, at)
        for axis, length, at in ((0, track.width, crop.x), (1, track.height, crop.y))
    )
    return replace(crop, x=x, y=y)


def centred_crop(share: float, track: Track, frame: int) -> Crop:
    """The square, of a share of the picture's shorter side, whose middle is that of the frame's
    box, as nearly as the picture's border allows."""
    box = track.boxes[frame]
    side = Crop(share, 0, 0, flip=False).window(track.width, track.height)[2]
    x, y = (
        _centred((box[axis], box[axis + 2]), side, length)
        for axis, length in ((0, track.width), (1, track.height))
    )
    return Crop(share, x, y, flip=False)


def seen_in(
    crop: Crop, track: Track, frames: NDArray[np.int64], size_px: int
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """What a crop shows of the object in some frames.

    Args:
        crop: of the video's picture, mirrored or not.
        track: of the video.
        frames: int64 [T].
        size_px: S, that the crop is scaled to.

    Returns:
        float32 [T, 4], xyxy pixels of the crop, cut off at its border, as GOT-10k cuts its own off
        at the picture's; and bool [T], whether there is an object and `LEAST_SIDE_PX` of it are
        in sight.
    """
    left, top, side = crop.window(track.width, track.height)
    boxes = (track.boxes[frames] - np.array([left, top] * 2, np.float32)) * (size_px / side)
    boxes = np.clip(boxes, 0, size_px)
    if crop.flip:
        boxes[:, [0, 2]] = size_px - boxes[:, [2, 0]]
    in_sight = (boxes[:, 2:] - boxes[:, :2] >= LEAST_SIDE_PX).all(axis=1)
    return boxes, in_sight & track.counted[frames]


def _held(spans: Sequence[Span], side: int, length: int, at: float) -> float:
    """Where along an axis a window lies that holds the first of `spans` that fits into it, or else
    the middle of the last, as `Crop` says it: 0 for one end of the picture, 1 for the other.

    Args:
        spans: (low, high) in pixels of the picture.
        side: of the window, even.
        length: of the picture.
        at: which of the possible places, 0 for the first and 1 for the last.
    """
    most = (length - side) // 2  # windows begin at even pixels
    for low, high in spans:
        first = max(int(np.ceil((high - side) / 2)), 0)
        last = min(int(np.floor(low / 2)), most)
        if first <= last:
            return (first + round((last - first) * at)) / max(most, 1)
    return _centred(spans[-1], side, length)


def _centred(span: Span, side: int, length: int) -> float:
    """Where along an axis a window lies whose middle is the span's, or next to it."""
    most = (length - side) // 2
    return float(np.clip(round((sum(span) - side) / 4), 0, most)) / max(most, 1)


def _check_length(entry: VideoEntry, reader: VideoReader, track: Track) -> None:
    if reader.num_frames != len(track.boxes):
        reason = f"has {reader.num_frames} frames and {len(track.boxes)} boxes"
        raise VideoError(entry.id, entry.uri, reason)
