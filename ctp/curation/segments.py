"""Divide a measured video into segments, each with its measures."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import cv2
import numpy as np
import pyarrow as pa

from ctp.curation.timeline import JPEG_QUALITY, Sample, Timeline
from ctp.data.catalog import VideoEntry

HASHED_AT = 0.25, 0.5, 0.75
"""Where in a segment its perceptual hashes are taken."""
HASH_BYTES = 32
PICTURES = 3
"""Pictures of a segment, side by side: its first, middle and last sample."""
MIN_KNOWN_SHARE = 0.5
"""Share of a segment's samples that must show the edge of a black bar."""
MIN_CROP_PX = 2

TOLERANCE = 1e-6
"""Seconds by which rounding may move a frame."""

SCHEMA = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("source", pa.string(), nullable=False),
        pa.field("label", pa.string()),
        pa.field("first_frame", pa.int64(), nullable=False),
        pa.field("num_frames", pa.int32(), nullable=False),
        pa.field("start_seconds", pa.float64(), nullable=False),
        pa.field("end_seconds", pa.float64(), nullable=False),
        pa.field("picture_size", pa.list_(pa.int32(), 2), nullable=False),
        pa.field("crop", pa.list_(pa.int32(), 4), nullable=False),
        pa.field("short_side_px", pa.int32(), nullable=False),
        pa.field("brightness", pa.float32(), nullable=False),
        pa.field("motion", pa.float32(), nullable=False),
        pa.field("shake", pa.float32(), nullable=False),
        pa.field("text_share", pa.float32(), nullable=False),
        pa.field("cut_score", pa.float32(), nullable=False),
        pa.field("damaged_share", pa.float32(), nullable=False),
        pa.field("hashes", pa.binary(HASH_BYTES * len(HASHED_AT)), nullable=False),
        pa.field("hash_quality", pa.int32(), nullable=False),
        pa.field("pictures", pa.binary(), nullable=False),
    ]
)
"""The columns of measured segments: the fields of `Segment`."""


@dataclass(frozen=True)
class Segment:
    """A part of a video without a cut, and its measures.

    Attributes:
        id: `SOURCE/NUMBER`, unique.
        source: id of the video.
        label: that of the video, or None.
        first_frame: number of its first frame in the video.
        num_frames: number of its frames.
        start_seconds, end_seconds: its time in the video.
        picture_size: width and height in pixels as stored.
        crop: x, y, width, height of the picture without black bars, in pixels as stored.
        short_side_px: smaller one of the crop's width and height.
        brightness: mean luma without bars, 0 to 1.
        motion: mean motion, in picture widths per second.
        shake: mean change of the camera's motion in half a second, in picture widths per second.
        text_share: mean share of the picture that lines of text cover.
        cut_score: mean absolute difference of its first frame to the frame before, 0 to 1.
        damaged_share: share of its frames that may show damage.
        hashes: perceptual hashes, 32 bytes each, at a quarter, a half and three quarters of it.
        hash_quality: lowest quality of a hash, 0 to 100.
        pictures: JPEG of its first, middle and last sample, side by side; empty if it has none.
    """

    id: str
    source: str
    label: str | None
    first_frame: int
    num_frames: int
    start_seconds: float
    end_seconds: float
    picture_size: tuple[int, int]
    crop: tuple[int, int, int, int]
    short_side_px: int
    brightness: float
    motion: float
    shake: float
    text_share: float
    cut_score: float
    damaged_share: float
    hashes: bytes
    hash_quality: int
    pictures: bytes


def divide(
    entry: VideoEntry, line: Timeline, max_seconds: float, *, crops_bars: bool
) -> list[Segment]:
    """Divide a video at its cuts, and long shots after each `max_seconds`."""
    spans = list(_spans(line, max_seconds))
    digits = max(len(str(len(spans) - 1)), 5)
    return [
        _segment(entry, line, span, f"{entry.id}/{number:0{digits}d}", crops_bars=crops_bars)
        for number, span in enumerate(spans)
    ]


def to_table(segments: Sequence[Segment]) -> pa.Table:
    """Return segments as a table of `SCHEMA`."""
    columns = {name: [getattr(each, name) for each in segments] for name in SCHEMA.names}
    return pa.table(columns, schema=SCHEMA)


@dataclass(frozen=True)
class _Span:
    """Frames from `first` up to `end`, exclusive."""

    first: int
    end: int


def _spans(line: Timeline, max_seconds: float) -> Iterator[_Span]:
    for first, end in pairwise([0, *line.cuts, len(line.seconds)]):
        start, stop = _time(line, first), _time(line, end)
        # not into equal parts: those of a copy that is cut off a little later would be others
        number = max(math.ceil((stop - start) / max_seconds - TOLERANCE), 1)
        marks = [start + i * max_seconds for i in range(1, number)]
        inner = {bisect_left(line.seconds, mark - TOLERANCE, first, end) for mark in marks}
        for each in pairwise([first, *sorted(inner - {first, end}), end]):
            yield _Span(*each)


def _time(line: Timeline, frame: int) -> float:
    """Return the time of a frame; behind the last one, when that one ends."""
    if frame < len(line.seconds):
        return line.seconds[frame]
    last = line.seconds[-1]
    return last + last / max(len(line.seconds) - 1, 1)


def _segment(
    entry: VideoEntry, line: Timeline, span: _Span, id: str, *, crops_bars: bool
) -> Segment:
    inside = slice(span.first, span.end)
    samples = _samples(line, span)
    width, height = next(s[1:] for s in reversed(line.sizes) if s[0] <= span.first)
    crop = _crop(samples, width, height) if crops_bars else (0, 0, width, height)
    # bars are black and do not move
    whole_share = width * height / (crop[2] * crop[3])
    # by their numbers: two that are as near in time would change places in a copy
    chosen = [samples[int(share * len(samples))] for share in HASHED_AT] if samples else []
    motions = [each.movement.motion for each in samples]
    return Segment(
        id=id,
        source=entry.id,
        label=entry.label,
        first_frame=span.first,
        num_frames=span.end - span.first,
        start_seconds=_time(line, span.first),
        end_seconds=_time(line, span.end),
        picture_size=(width, height),
        crop=crop,
        short_side_px=min(crop[2:]),
        brightness=min(_mean(line.brightness[inside]) * whole_share, 1.0),
        motion=_mean(motions) * whole_share,
        shake=_shake(samples) * whole_share,
        text_share=_mean([each.text_share for each in samples]),
        cut_score=line.change[span.first],
        damaged_share=_mean(line.damaged[inside]),
        hashes=b"".join(each.hash for each in chosen) or bytes(HASH_BYTES * len(HASHED_AT)),
        hash_quality=min((each.hash_quality for each in chosen), default=0),
        pictures=_side_by_side(samples),
    )


def _samples(line: Timeline, span: _Span) -> list[Sample]:
    def frame_of(sample: Sample) -> int:
        return sample.frame

    first = bisect_left(line.samples, span.first, key=frame_of)
    return line.samples[first : bisect_left(line.samples, span.end, key=frame_of)]


def _crop(samples: Sequence[Sample], width: int, height: int) -> tuple[int, int, int, int]:
    top, bottom = _bars([each.bars[:2] for each in samples], height)
    left, right = _bars([each.bars[2:] for each in samples], width)
    return left, top, width - left - right, height - top - bottom


def _bars(widths: Sequence[tuple[int | None, ...]], size: int) -> tuple[int, int]:
    """Return the widths of the bars at both ends of an axis; 0 if they leave too little."""
    first, second = (_bar([each[i] for each in widths]) for i in range(2))
    # the two may be from different samples, and overlap
    return (first, second) if size - first - second >= MIN_CROP_PX else (0, 0)


def _bar(widths: Sequence[int | None]) -> int:
    """Return the width of a bar, even, since chroma has half the size."""
    known = [width for width in widths if width is not None]
    if len(known) < MIN_KNOWN_SHARE * len(widths):
        return 0
    return min(known, default=0) + min(known, default=0) % 2


def _shake(samples: Sequence[Sample]) -> float:
    steps = [
        math.dist(before.movement.camera, after.movement.camera)
        for before, after in pairwise(samples)
    ]
    return _mean(steps)


def _side_by_side(samples: Sequence[Sample]) -> bytes:
    if not samples:
        return b""
    chosen = [samples[i * (len(samples) - 1) // (PICTURES - 1)] for i in range(PICTURES)]
    pictures: list[Any] = [
        cv2.imdecode(np.frombuffer(each.picture, np.uint8), cv2.IMREAD_COLOR) for each in chosen
    ]
    joined = cv2.hconcat(pictures)
    return cv2.imencode(".jpg", joined, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])[1].tobytes()


def _mean(values: Any) -> float:
    return float(np.mean(values)) if len(values) else 0.0
