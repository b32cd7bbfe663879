"""Measure a video in one pass at low resolution: cuts, brightness, motion, bars, text, hashes."""

from __future__ import annotations

from array import array
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import av
import cv2
import numpy as np
from av.video.reformatter import Interpolation, VideoReformatter
from numpy.typing import NDArray

from ctp.curation.config import CutsConfig
from ctp.curation.cuts import CutDetector
from ctp.curation.pictures import (
    Bars,
    FlowMeter,
    Gray,
    Movement,
    find_bars,
    hash_picture,
    text_share,
)
from ctp.video.encoded import decoding_errors
from ctp.video.orientation import display_matrix, upright
from ctp.video.sequence import SequenceFrame

SMALL_SIDE_PX = 72
"""Shorter side of the pictures on which cuts, changes and motion are measured."""
FIRST_SAMPLE_SECONDS, SAMPLE_SECONDS = 0.25, 0.5
"""Time of a shot's first sample after its cut, and the distance of the next ones. Samples start
anew at each cut, so that two copies of a shot are compared at the same places."""
JPEG_QUALITY = 75
DECODER_OPTIONS = {"skip_loop_filter": "all"}
"""FFmpeg's options to decode for measuring: the filter takes a seventh of the time, and at low
resolution its work is not seen."""


class Sample(NamedTuple):
    """A frame that is measured thoroughly.

    Attributes:
        frame: its number.
        movement: since the frame before, per second.
        text_share: share of the picture that lines of text cover.
        bars: black bars of the stored picture.
        hash: 32 bytes, see `hash_picture`, of the picture without its bars.
        hash_quality: 0 to 100.
        picture: a JPEG of the small picture.
    """

    frame: int
    movement: Movement
    text_share: float
    bars: Bars
    hash: bytes
    hash_quality: int
    picture: bytes


@dataclass
class Timeline:
    """The measures of a video. They take about 20 MiB for an hour of video.

    Attributes:
        seconds: float64 [N], when each frame is shown.
        change: float32 [N], mean absolute difference to the frame before, in [0, 1].
        brightness: float32 [N], mean luma in [0, 1].
        damaged: int8 [N], 1 where what a frame shows may be wrong.
        cuts: rising frame numbers at which a segment must begin: detected cuts, changes of the
            size, and both ends of damage.
        sizes: (first frame, width, height), in pixels as stored, for each size of the pictures.
        samples: in the order of the frames.
    """

    seconds: array[float] = field(default_factory=lambda: array("d"))
    change: array[float] = field(default_factory=lambda: array("f"))
    brightness: array[float] = field(default_factory=lambda: array("f"))
    damaged: array[int] = field(default_factory=lambda: array("b"))
    cuts: list[int] = field(default_factory=list)
    sizes: list[tuple[int, int, int]] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list)


def measure_video(frames: Iterable[SequenceFrame], cuts: CutsConfig) -> Timeline:
    """Measure all frames of a video.

    Raises:
        DecodingError: a frame cannot be converted.
    """
    meter = _Meter(cuts)
    for each in frames:
        meter.add(each)
    return meter.finish()


class _Meter:
    """Measures frame by frame."""

    def __init__(self, cuts: CutsConfig):
        self._timeline = Timeline()
        self._detector = CutDetector(cuts)
        self._cuts: set[int] = set()
        self._reformatter, self._flow = VideoReformatter(), FlowMeter()
        self._small_size = 0, 0
        self._before: Gray | None = None
        self._next_sample = FIRST_SAMPLE_SECONDS

    def add(self, each: SequenceFrame) -> None:
        """Measure the next frame."""
        line, frame = self._timeline, each.frame
        self._begin_size(frame, each.number)
        small = self._convert(frame, "bgr24", *self._small_size)
        gray: Any = cv2.cvtColor(small, cv2.COLOR_BGR2GRAY)
        before = gray if self._before is None else self._before
        line.brightness.append(float(gray.mean()) / 255)
        line.seconds.append(each.seconds)
        if each.is_damaged != bool(line.damaged[-1] if line.damaged else False):
            self._cut_at(each.number)
        line.damaged.append(each.is_damaged)
        for cut in self._detector.add(small, gray):
            self._cut_at(cut)
        if each.seconds >= self._next_sample:
            self._next_sample = max(self._next_sample + SAMPLE_SECONDS, each.seconds)
            line.samples.append(self._sample(each, before, gray, small))
        self._before = gray

    def finish(self) -> Timeline:
        """Return the measures."""
        self._cuts.update(self._detector.finish())
        self._timeline.change = self._detector.changes
        self._timeline.cuts = sorted(self._cuts - {0})
        return self._timeline

    def _begin_size(self, frame: av.VideoFrame, number: int) -> None:
        sizes = self._timeline.sizes
        if sizes and sizes[-1][1:] == (frame.width, frame.height):
            return
        if not sizes:  # what is compared must have one size
            scale = SMALL_SIDE_PX / min(frame.width, frame.height)
            self._small_size = round(frame.width * scale), round(frame.height * scale)
        sizes.append((number, frame.width, frame.height))
        self._cut_at(number)

    def _cut_at(self, number: int) -> None:
        """Begin a shot at a frame that was measured, or at the present one."""
        line = self._timeline
        self._cuts.add(number)
        # a cut is found some frames later, when its shot may have a sample of the former's
        while line.samples and line.samples[-1].frame >= number:
            line.samples.pop()
        if line.seconds:
            start = line.seconds[min(number, len(line.seconds) - 1)]
            self._next_sample = start + FIRST_SAMPLE_SECONDS

    def _sample(self, each: SequenceFrame, before: Gray, gray: Gray, small: Any) -> Sample:
        frame, seconds = each.frame, self._timeline.seconds
        luma = self._convert(frame, "gray", frame.width, frame.height, is_turned=False)
        bars = find_bars(luma)
        inside = bars.inside(luma)
        rate = 1 / (seconds[-1] - seconds[-2]) if each.number else 0.0
        moved = self._flow.measure(before, gray)
        movement = Movement(moved.motion * rate, (moved.camera[0] * rate, moved.camera[1] * rate))
        encoded = cv2.imencode(".jpg", small, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])[1]
        share = text_share(_turned(frame, inside))
        return Sample(each.number, movement, share, bars, *hash_picture(inside), encoded.tobytes())

    def _convert(
        self, frame: av.VideoFrame, kind: str, width: int, height: int, *, is_turned: bool = True
    ) -> NDArray[np.uint8]:
        """Return a frame as a picture of a format and size, upright or as it is stored."""
        with decoding_errors("has frames that cannot be converted"):
            picture: NDArray[Any] = self._reformatter.reformat(
                frame, width, height, kind, interpolation=Interpolation.AREA, threads=1
            ).to_ndarray()
        return _turned(frame, picture) if is_turned else picture


def _turned(frame: av.VideoFrame, picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    matrix = display_matrix(frame)
    return picture if matrix is None else np.ascontiguousarray(upright(picture, matrix))
