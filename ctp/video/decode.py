"""Decoding of just the frames asked for, by PyAV.

Where the packets of a plain MP4 file lie, its tables tell (`ctp.video.mp4`): those that a clip
needs go straight to a decoder, which serves video after video.

All else FFmpeg opens. A first pass reads packet headers only and gives every frame's presentation
time; what a clip needs is then found by time, whatever the container's header claims. AVI and bare
streams store no presentation times (B-frames make the guessed ones wrong), so there, and wherever
times are missing or doubled, frames are counted from the start in the order in which the decoder
shows them.
"""

from __future__ import annotations

import io
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Self

import av
import numpy as np
from av.container import InputContainer
from av.video.codeccontext import VideoCodecContext
from av.video.reformatter import Interpolation, VideoReformatter
from numpy.typing import NDArray

from ctp.video.encoded import EncodedVideo, VideoError
from ctp.video.mp4 import Run, SampleTable, read_sample_table
from ctp.video.planes import Crop, Cutter, upright

Take = Callable[[int, av.VideoFrame], None]
"""Is given a frame's number and the frame, which it must not keep."""

MAX_ASPECT_RATIO = 16
"""A longer strip would fill the memory when its shorter side is scaled up."""
MISSING_SHARE = 0.1
"""A file is taken as truncated when its header promises this much more than it holds."""
TIMELESS = frozenset({"avi", "h264", "hevc", "m4v", "mpegvideo"})
"""Formats that store no presentation times: what FFmpeg gives is a guess."""
KEPT_DECODERS = 8
"""Decoders that a thread keeps for the next videos of their kind."""
ASSUMED_RATE = Fraction(25)
"""Frames/s of a video that does not say."""


@dataclass(frozen=True)
class Clock:
    """When frames are shown: at `times[i] * time_base` seconds, strictly rising from 0."""

    times: Sequence[int]
    time_base: Fraction

    @classmethod
    def of(cls, times: Sequence[int], time_base: Fraction) -> Clock:
        """From rising times that may begin anywhere."""
        each = time_base.numerator
        return cls([(t - times[0]) * each for t in times], Fraction(1, time_base.denominator))

    @classmethod
    def steady(cls, num_frames: int, rate: Fraction) -> Clock:
        """At `rate` frames/s."""
        ticks = range(0, num_frames * rate.denominator, rate.denominator)
        return cls(ticks, Fraction(1, rate.numerator))

    @property
    def rate(self) -> float:
        """Frames/s, on average."""
        seconds = self.times[-1] * self.time_base
        return float((len(self.times) - 1) / seconds if seconds else ASSUMED_RATE)


class VideoReader:
    """An open video, for use in a `with` statement.

    Attributes:
        num_frames: how many frames it has; where frames are counted (see the module) a last one
            or two may turn out not to be shown by the decoder.
    """

    def __init__(self, video: EncodedVideo):
        """Find the video's frames.

        Raises:
            VideoError: it is not a video, has no picture, or is truncated.
        """
        self._video = video
        self._table = read_sample_table(video.data)
        self._file = None if self._table else _File(video)
        self.num_frames = len(self._table.size) if self._table else self._opened().num_frames

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()

    @property
    def clock(self) -> Clock:
        """When the frames are shown; where they are counted, at the rate that the file claims."""
        if self._table is None:
            return self._opened().clock
        times = self._table.shown[self._table.packet_of_frame].tolist()
        return Clock.of(times, Fraction(1, self._table.units_per_second))

    def read(self, indices: Sequence[int], *, short_side_px: int) -> NDArray[np.uint8]:
        """Decode whole pictures, scaled so that the shorter side has the length asked for.

        Args:
            indices: frame numbers, never falling, repeats allowed, each below `num_frames`.
            short_side_px: length of the shorter side of what is returned.

        Returns:
            uint8 [len(indices), h, w, 3], RGB, upright if the file asks for a rotation.

        Raises:
            VideoError: a frame cannot be decoded, or is of another size than the rest.
        """
        found: dict[int, NDArray[np.uint8]] = {}
        reformatter = VideoReformatter()  # one for all: a converter is costly to build

        def scale(number: int, frame: av.VideoFrame) -> None:
            found[number] = _scaled(frame, short_side_px, reformatter)

        self.decode(indices, scale)
        if len({picture.shape for picture in found.values()}) > 1:
            raise _error(self._video, "changes its picture size on the way")
        return np.stack([found[i] for i in indices])

    def read_square(self, indices: Sequence[int], crop: Crop, size_px: int) -> NDArray[np.uint8]:
        """Decode the same square of each picture, as planes that `pixels.to_rgb` takes.

        Args:
            indices: frame numbers, never falling, repeats allowed, each below `num_frames`.
            crop: which square, and whether it is mirrored.
            size_px: S, even, the side of what is returned.

        Returns:
            uint8 [len(indices), 3/2 · S²].

        Raises:
            VideoError: a frame cannot be decoded, or is of another size than the rest.
        """
        places = {number: place for place, number in enumerate(sorted(set(indices)))}
        cutter = Cutter(crop, len(places))

        def cut(number: int, frame: av.VideoFrame) -> None:
            cutter.add(places[number], frame)

        self.decode(indices, cut)
        frames = cutter.frames(size_px)
        return frames if len(frames) == len(indices) else frames[[places[i] for i in indices]]

    def decode(self, indices: Sequence[int], take: Take) -> None:
        """Decode frames and hand each to `take`, by rising numbers; some perhaps more than once.

        Args:
            indices: frame numbers, each below `num_frames`.
            take: may raise ValueError, which becomes the VideoError.

        Raises:
            VideoError: a frame cannot be decoded, or cannot be taken.
        """
        wanted, taken = sorted(set(indices)), set()

        def checked(number: int, frame: av.VideoFrame) -> None:
            sides = sorted((frame.width, frame.height))
            if sides[1] > MAX_ASPECT_RATIO * sides[0]:
                raise ValueError(f"is a strip of {frame.width}x{frame.height} pixels")
            take(number, frame)
            taken.add(number)

        try:
            if self._table is not None:
                with suppress(av.FFmpegError):  # the other way says what is wrong, if it is
                    _decode_samples(self._table, self._video.data, wanted, checked)
            if len(taken) < len(wanted):
                self._opened().decode(wanted, checked)
        except VideoError:
            raise
        except ValueError as error:
            raise _error(self._video, str(error)) from error

    def _opened(self) -> _File:
        if self._file is None:
            self._file = _File(self._video)
            if self._file.num_frames != self.num_frames:
                raise _error(
                    self._video,
                    f"its tables tell of {self.num_frames} frames, and {self._file.num_frames} "
                    "are there",
                )
        return self._file


class _Decoders(threading.local):
    """A thread's decoders, the one used last at the end: opening one takes longer than a frame."""

    def __init__(self) -> None:
        self._kept: dict[tuple[str, bytes], VideoCodecContext] = {}

    @contextmanager
    def borrow(self, table: SampleTable) -> Iterator[VideoCodecContext]:
        """A decoder for the table's video; one that failed is not kept."""
        kind = table.codec, table.extradata
        decoder = self._kept.pop(kind, None) or _new_decoder(table)
        yield decoder
        self._kept[kind] = decoder
        if len(self._kept) > KEPT_DECODERS:
            del self._kept[next(iter(self._kept))]


_decoders = _Decoders()


def _new_decoder(table: SampleTable) -> VideoCodecContext:
    decoder: VideoCodecContext = av.CodecContext.create(table.codec, "r")  # type: ignore[assignment]
    decoder.extradata = table.extradata
    decoder.thread_count = 1  # actors use the cores already
    return decoder


def _decode_samples(table: SampleTable, data: bytes, wanted: list[int], take: Take) -> None:
    """Decode the frames of the rising numbers `wanted`, as far as they come out."""
    with _decoders.borrow(table) as decoder:
        for run in table.runs(wanted, data):
            _decode_run(decoder, table, run, memoryview(data), take)


def _decode_run(
    decoder: VideoCodecContext, table: SampleTable, run: Run, data: memoryview, take: Take
) -> None:
    number_at = {int(table.shown[table.packet_of_frame[i]]): i for i in run.frames}

    def hand_on(frames: list[av.VideoFrame]) -> None:
        for frame in frames:
            if frame.pts in number_at:
                take(number_at[frame.pts], frame)

    for sample in run.packets:
        start = int(table.position[sample])
        # the stubs do not know that any buffer will do
        packet = av.Packet(data[start : start + int(table.size[sample])])  # type: ignore[arg-type]
        packet.pts = int(table.shown[sample])
        hand_on(decoder.decode(packet))
    hand_on(decoder.decode(None))
    decoder.flush_buffers()


class _File:
    """A video as FFmpeg opens it."""

    def __init__(self, video: EncodedVideo):
        self._video = video
        self._container, self._stream = self._open()
        try:
            self._times, self._keys = self._index()
        except BaseException:
            self._container.close()
            raise
        self.num_frames = len(self._times)

    @property
    def clock(self) -> Clock:
        base, rate = self._stream.time_base, self._stream.average_rate
        if isinstance(self._times, range) or base is None:
            return Clock.steady(self.num_frames, rate or ASSUMED_RATE)
        return Clock.of(self._times, base)

    def close(self) -> None:
        self._container.close()

    def decode(self, wanted: list[int], take: Take) -> None:
        """Decode the frames of the rising numbers `wanted`.

        Raises:
            VideoError: one cannot be decoded.
        """
        with self._reported("cannot be decoded"):
            if isinstance(self._times, range):
                self._decode_by_count(wanted, take)
            else:
                self._decode_by_time(wanted, self._times, take)

    def _open(self) -> tuple[InputContainer, av.VideoStream]:
        with self._reported("cannot be opened as a video"):
            # some genuine files carry metadata that is not UTF-8
            container = av.open(io.BytesIO(self._video.data), "r", metadata_errors="replace")
        try:
            return container, self._find_stream(container)
        except BaseException:
            container.close()
            raise

    def _find_stream(self, container: InputContainer) -> av.VideoStream:
        # a picture attached to an audio file is no video
        streams = [
            s
            for s in container.streams.video
            if not s.disposition & av.stream.Disposition.attached_pic
        ]
        if not streams:
            raise self._error("has no video stream")
        stream = streams[0]
        codec: VideoCodecContext | None = stream.codec_context  # the stubs do not know of None
        if codec is None:
            raise self._error("is of a codec that FFmpeg cannot decode")
        # frame threads with an early stop can hang, and actors use the cores already
        codec.thread_count = 1
        return stream

    def _index(self) -> tuple[list[int] | range, list[int]]:
        """Presentation times in order (a range of counts where there are none), and those of the
        key frames."""
        times: list[int | None] = []
        keys: list[int | None] = []
        num_packets = 0
        with self._reported("cannot be read to its end"):
            for packet in self._container.demux(self._stream):
                num_packets += packet.size > 0
                if packet.size and not packet.is_discard:
                    times.append(packet.pts)
                    if packet.is_keyframe:
                        keys.append(packet.pts)
        self._check_whole(num_packets)
        if not times:
            raise self._error("has no frames")
        known = {time for time in times if time is not None}
        if len(known) < len(times) or self._container.format.name in TIMELESS:
            return range(len(times)), []
        return sorted(known), sorted(time for time in keys if time is not None)

    def _check_whole(self, num_packets: int) -> None:
        # an MP4's header counts what its edit list cuts away, too; its index does not
        is_mp4 = "mp4" in self._container.format.name
        promised = len(self._stream.index_entries) if is_mp4 else self._stream.frames
        if promised > num_packets * (1 + MISSING_SHARE):
            raise self._error(f"is truncated: {num_packets} of {promised} frames are there")

    def _decode_by_time(self, wanted: list[int], times: list[int], take: Take) -> None:
        keys = [key for key in self._keys if key <= times[wanted[0]]]
        # some containers seek too late and some key frames are none: then from further back
        for start in [*keys[:-3:-1], None]:
            found: set[int] = set()
            with suppress(av.FFmpegError):  # what is missing in the end is said below
                for place, frame in self._frames_at([times[i] for i in wanted], start):
                    take(wanted[place], frame)
                    found.add(wanted[place])
            if len(found) == len(wanted):
                return
        missing = next(i for i in wanted if i not in found)
        raise self._error(f"frame {missing} of {self.num_frames} cannot be decoded")

    def _frames_at(
        self, times: list[int], start: int | None
    ) -> Iterator[tuple[int, av.VideoFrame]]:
        """The frames shown at the rising `times`, as (place in `times`, frame), up to the first
        that is not there."""
        number = 0
        for frame in self._frames_from(start):
            if frame.pts == times[number]:
                yield number, frame
                number += 1
            elif frame.pts is None or frame.pts > times[number]:
                return
            if number == len(times):
                return

    def _decode_by_count(self, wanted: list[int], take: Take) -> None:
        left = set(wanted)
        frame, count = None, 0
        for count, frame in enumerate(self._frames_from(None), start=1):
            if count - 1 in left:
                take(count - 1, frame)
                left.remove(count - 1)
            if not left:
                return
        # packed B-frames: packets that show nothing; the last picture stands for them
        if frame is None or count < self.num_frames * (1 - MISSING_SHARE):
            raise self._error(f"only {count} of {self.num_frames} frames can be decoded")
        for number in sorted(left):
            take(number, frame)

    def _frames_from(self, key: int | None) -> Iterator[av.VideoFrame]:
        """Decoded frames from the key frame at a time, or from the file's start."""
        if key is None:
            self._container.close()  # not every container can seek back to its start
            self._container, self._stream = self._open()
        else:
            self._container.seek(key, stream=self._stream)
        yield from self._container.decode(self._stream)

    @contextmanager
    def _reported(self, what: str) -> Iterator[None]:
        try:
            yield
        except VideoError:
            raise
        except av.FFmpegError as error:
            said = str(error.strerror or error)
            raise self._error(f"{what}: {' '.join(said.split())}") from error

    def _error(self, reason: str) -> VideoError:
        return _error(self._video, reason)


def _error(video: EncodedVideo, reason: str) -> VideoError:
    return VideoError(video.id, video.uri, reason)


def _scaled(
    frame: av.VideoFrame, short_side_px: int, reformatter: VideoReformatter
) -> NDArray[np.uint8]:
    """Scale and convert in one go, then turn upright."""
    scale = short_side_px / min(frame.width, frame.height)
    rgb: NDArray[Any] = reformatter.reformat(
        frame,
        width=max(round(frame.width * scale), short_side_px),
        height=max(round(frame.height * scale), short_side_px),
        format="rgb24",
        interpolation=Interpolation.BILINEAR,
    ).to_ndarray()
    matrix: Any = frame.side_data.get("DISPLAYMATRIX")
    return rgb if matrix is None else upright(rgb, np.frombuffer(matrix, np.int32))
