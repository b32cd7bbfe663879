"""Decode only the requested frames of a video, with PyAV.

For a plain MP4 file, its tables give the positions of the packets (`ctp.video.mp4`). Those that a
clip needs are passed to a decoder, which is reused for the next videos.

All other files are opened with FFmpeg. A first pass reads the packet headers, which give every
frame's presentation time, and frames are then found by time, whatever the container's header says.
AVI and raw streams store no presentation times (with B-frames, the guessed ones are wrong). For
these, and if times are missing or repeated, frames are counted from the start in decoder order.
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

from ctp.video.encoded import DecodingError, EncodedVideo, VideoError, checked, decoding_errors
from ctp.video.limits import DEFAULT_LIMITS, DecodingLimits
from ctp.video.mp4 import Run, SampleTable, read_sample_table
from ctp.video.planes import SIZE_CHANGES, Crop, Cutter, display_matrix, upright

Take = Callable[[int, av.VideoFrame], None]
"""Callback for a frame's number and the frame, which is valid only during the call."""

MAX_ASPECT_RATIO = 16
"""Greater ones are refused: scaling the shorter side up could exceed the memory."""
MAX_MISSING_SHARE = 0.1
"""A file is truncated if its header promises more than this share of additional frames."""
FORMATS_WITHOUT_TIMES = frozenset({"avi", "h264", "hevc", "m4v", "mpegvideo"})
"""Formats that store no presentation times, so that FFmpeg guesses them."""
MAX_CACHED_DECODERS = 8
"""Decoders that a thread keeps for the next videos of their kind."""
MAX_CACHED_PIXELS = 2**21
"""Pixels of a picture up to which decoders are kept, Full HD: they also keep their pictures."""
DEFAULT_RATE = Fraction(25)
"""Frames/s if the video does not specify a rate."""


@dataclass(frozen=True)
class Clock:
    """Presentation times: frame i is shown at `times[i] * time_base` s, strictly rising from 0."""

    times: Sequence[int]
    time_base: Fraction

    @classmethod
    def from_times(cls, times: Sequence[int], time_base: Fraction) -> Clock:
        """Create from rising times, which may start at any value."""
        each = time_base.numerator
        return cls([(t - times[0]) * each for t in times], Fraction(1, time_base.denominator))

    @classmethod
    def from_rate(cls, num_frames: int, rate: Fraction) -> Clock:
        """Create for a constant rate in frames/s."""
        ticks = range(0, num_frames * rate.denominator, rate.denominator)
        return cls(ticks, Fraction(1, rate.numerator))

    @property
    def rate(self) -> float:
        """Average frames/s."""
        seconds = self.times[-1] * self.time_base
        return float((len(self.times) - 1) / seconds if seconds else DEFAULT_RATE)


class VideoReader:
    """An open video, for use in a `with` statement.

    Attributes:
        num_frames: number of frames. If frames are counted (see the module), the decoder may not
            return the last one or two.
    """

    def __init__(self, video: EncodedVideo, limits: DecodingLimits = DEFAULT_LIMITS):
        """Open a video and find its frames.

        Raises:
            VideoError: it is not a video, has no video stream, is truncated, or exceeds the limits.
        """
        self._video, self._limits = video, limits
        self._table: SampleTable | None = None
        # the table is only a shortcut: whatever is wrong with it, FFmpeg's reader decides
        with suppress(DecodingError), decoding_errors("has a damaged index"):
            self._table = read_sample_table(video.data)
        self._file = None if self._table else _File(video, limits)
        self.num_frames = len(self._table.size) if self._table else self._open_file().num_frames

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()

    @property
    def clock(self) -> Clock:
        """The presentation times; if frames are counted, at the file's rate."""
        if self._table is None:
            return self._open_file().clock
        times = self._table.shown[self._table.packet_of_frame].tolist()
        return Clock.from_times(times, Fraction(1, self._table.units_per_second))

    def read(self, indices: Sequence[int], *, short_side_px: int) -> NDArray[np.uint8]:
        """Decode whole frames and scale their shorter side.

        Args:
            indices: frame numbers below `num_frames`, never falling, repeats allowed.
            short_side_px: length of the shorter side of the result.

        Returns:
            uint8 [len(indices), h, w, 3], RGB, upright even if the file specifies a rotation.

        Raises:
            VideoError: a frame cannot be decoded, or has another size than the others.
        """
        frames: dict[int, NDArray[np.uint8]] = {}
        reformatter = VideoReformatter()  # shared, because a converter is expensive to create

        def add(number: int, frame: av.VideoFrame) -> None:
            frames[number] = _scale(frame, short_side_px, reformatter)

        self.decode(indices, add)
        if len({frame.shape for frame in frames.values()}) > 1:
            raise _error(self._video, SIZE_CHANGES)
        return np.stack([frames[i] for i in indices])

    def read_square(self, indices: Sequence[int], crop: Crop, size_px: int) -> NDArray[np.uint8]:
        """Decode the same square of each frame.

        Args:
            indices: frame numbers below `num_frames`, never falling, repeats allowed.
            crop: the square, and whether it is mirrored.
            size_px: S, even, the side length of the result.

        Returns:
            uint8 [len(indices), 3/2 · S²], planes for `planes.to_rgb`.

        Raises:
            VideoError: a frame cannot be decoded, or has another size than the others.
        """
        rows = {number: row for row, number in enumerate(sorted(set(indices)))}
        cutter = Cutter(crop, len(rows), size_px)
        self.decode(indices, lambda number, frame: cutter.add(rows[number], frame))
        frames = cutter.frames()
        return frames if len(frames) == len(indices) else frames[[rows[i] for i in indices]]

    def decode(self, indices: Sequence[int], take: Take) -> None:
        """Decode frames and call `take` with each, by rising numbers, possibly repeatedly.

        Args:
            indices: frame numbers below `num_frames`.
            take: may raise ValueError, which becomes the VideoError.

        Raises:
            VideoError: a frame cannot be decoded, or `take` raised ValueError.
        """
        wanted, taken = sorted(set(indices)), set()

        def check_and_take(number: int, frame: av.VideoFrame) -> None:
            self._limits.check_size(frame.width, frame.height)
            sides = sorted((frame.width, frame.height))
            if sides[1] > MAX_ASPECT_RATIO * sides[0]:
                raise ValueError(
                    f"has {frame.width}x{frame.height} pixels, expected an aspect ratio of at most "
                    f"{MAX_ASPECT_RATIO}"
                )
            take(number, frame)
            taken.add(number)

        try:
            if self._table is not None:
                data = self._video.data
                # if it ends early, _File reports it if it cannot decode either
                for number, frame in _table_frames(self._table, data, wanted, self._limits):
                    check_and_take(number, frame)
            if len(taken) < len(wanted):
                self._open_file().decode(wanted, check_and_take)
        except VideoError:
            raise
        except ValueError as error:
            raise _error(self._video, str(error)) from error

    def _open_file(self) -> _File:
        if self._file is None:
            self._file = _File(self._video, self._limits)
            if self._file.num_frames != self.num_frames:
                raise _error(
                    self._video,
                    f"its tables list {self.num_frames} frames, but it has {self._file.num_frames}",
                )
        return self._file


class _Decoders(threading.local):
    """A thread's decoders, least recently used first.

    They are kept because to open one takes longer than to decode a frame.
    """

    def __init__(self) -> None:
        self._cached: dict[tuple[str, bytes, DecodingLimits], VideoCodecContext] = {}

    @contextmanager
    def borrow(self, table: SampleTable, limits: DecodingLimits) -> Iterator[VideoCodecContext]:
        """Lend a decoder for the table's video; it is not kept after an error."""
        kind = table.codec, table.extradata, limits
        decoder = self._cached.pop(kind, None) or _new_decoder(table, limits)
        yield decoder
        if decoder.width * decoder.height > MAX_CACHED_PIXELS:
            return
        self._cached[kind] = decoder
        if len(self._cached) > MAX_CACHED_DECODERS:
            del self._cached[next(iter(self._cached))]


_decoders = _Decoders()


def _new_decoder(table: SampleTable, limits: DecodingLimits) -> VideoCodecContext:
    decoder: VideoCodecContext = av.CodecContext.create(table.codec, "r")  # type: ignore[assignment]
    decoder.extradata = table.extradata
    decoder.thread_count = 1  # actors use the cores already
    decoder.options = limits.codec_options
    return decoder


def _table_frames(
    table: SampleTable, data: bytes, wanted: list[int], limits: DecodingLimits
) -> Iterator[tuple[int, av.VideoFrame]]:
    """Decode the frames of the rising numbers `wanted`, with their numbers, up to an error; some
    may be missing."""
    with suppress(DecodingError):
        yield from checked(_decode_samples(table, data, wanted, limits), "has a damaged index")


def _decode_samples(
    table: SampleTable, data: bytes, wanted: list[int], limits: DecodingLimits
) -> Iterator[tuple[int, av.VideoFrame]]:
    with _decoders.borrow(table, limits) as decoder:
        for run in table.runs(wanted, data):
            yield from _decode_run(decoder, table, run, memoryview(data))


def _decode_run(
    decoder: VideoCodecContext, table: SampleTable, run: Run, data: memoryview
) -> Iterator[tuple[int, av.VideoFrame]]:
    number_at = {int(table.shown[table.packet_of_frame[i]]): i for i in run.frames}

    for sample in run.packets:
        start = int(table.position[sample])
        # the stubs do not allow all buffers
        packet = av.Packet(data[start : start + int(table.size[sample])])  # type: ignore[arg-type]
        packet.pts = int(table.shown[sample])
        yield from _numbered(decoder.decode(packet), number_at)
    yield from _numbered(decoder.decode(None), number_at)
    decoder.flush_buffers()


def _numbered(
    frames: list[av.VideoFrame], number_at: dict[int, int]
) -> Iterator[tuple[int, av.VideoFrame]]:
    """Yield the frames whose times are in `number_at`, with their numbers."""
    for frame in frames:
        if frame.pts in number_at:
            yield number_at[frame.pts], frame


class _File:
    """A video that is opened with FFmpeg."""

    def __init__(self, video: EncodedVideo, limits: DecodingLimits):
        self._video, self._limits = video, limits
        self._container, self._stream = self._open()
        try:
            self._times, self._keys = self._index()
        except BaseException:
            self._container.close()
            raise
        self.num_frames = len(self._times)

    @property
    def clock(self) -> Clock:
        with self._video_errors("has invalid presentation times"):
            base, rate = self._stream.time_base, self._stream.average_rate
            if isinstance(self._times, range) or base is None:
                return Clock.from_rate(self.num_frames, rate or DEFAULT_RATE)
            return Clock.from_times(self._times, base)

    def close(self) -> None:
        self._container.close()

    def decode(self, wanted: list[int], take: Take) -> None:
        """Decode the frames of the rising numbers `wanted`.

        Raises:
            VideoError: one cannot be decoded.
        """
        try:
            if isinstance(self._times, range):
                self._decode_by_count(wanted, take)
            else:
                self._decode_by_time(wanted, self._times, take)
        except VideoError as error:  # frames are missing
            raise self._error(error.reason + self._refused_size()) from error

    def _refused_size(self) -> str:
        """Return what to add to the reason if the decoder may have refused a picture's size.

        Raises:
            VideoError: the pictures are too large.
        """
        codec = self._stream.codec_context
        with self._video_errors("cannot be opened as a video"):
            if codec.width:  # some decoders keep the size that they refuse, others set it to 0
                self._limits.check_size(codec.width, codec.height)
                return ""
            with self._open_container(self._limits.size_options) as container:
                size: Any = container.streams[self._stream.index].codec_context
                self._limits.check_size(size.width, size.height)
        return f"; perhaps the size of its pictures changes, and {self._limits.describe()}"

    def _open(self) -> tuple[InputContainer, av.VideoStream]:
        container = self._open_container(self._limits.open_options)
        try:
            with self._video_errors("has damaged headers"):
                return container, self._find_stream(container)
        except BaseException:
            container.close()
            raise

    def _open_container(self, options: dict[str, str]) -> InputContainer:
        with self._video_errors("cannot be opened as a video"):
            try:
                # the metadata of some real files is not UTF-8
                return av.open(
                    io.BytesIO(self._video.data), "r", options=options, metadata_errors="replace"
                )
            except av.error.ArgumentError as error:  # all that FFmpeg says of a refused format
                raise self._error("is in no format of FFmpeg that can hold a video") from error

    def _find_stream(self, container: InputContainer) -> av.VideoStream:
        # a picture attached to an audio file is not a video
        streams = [
            s
            for s in container.streams.video
            if not s.disposition & av.stream.Disposition.attached_pic
        ]
        if not streams:
            raise self._error("has no video stream")
        stream = streams[0]
        codec: VideoCodecContext | None = stream.codec_context  # the stubs do not include None
        if codec is None:
            raise self._error("has a codec that FFmpeg cannot decode")
        self._limits.check_size(codec.width, codec.height)
        # frame threads with an early stop can hang, and actors use the cores already
        codec.thread_count = 1
        codec.options = self._limits.codec_options
        return stream

    def _index(self) -> tuple[list[int] | range, list[int]]:
        """Return the sorted presentation times of all frames and of the key frames.

        If frames are counted, the times are a range and the key frames empty.
        """
        times: list[int | None] = []
        keys: list[int | None] = []
        num_packets = 0
        with self._video_errors("cannot be read to its end"):
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
        if len(known) < len(times) or self._container.format.name in FORMATS_WITHOUT_TIMES:
            return range(len(times)), []
        return sorted(known), sorted(time for time in keys if time is not None)

    def _check_whole(self, num_packets: int) -> None:
        # the header of an MP4 file also counts frames that its edit list cuts, its index does not
        is_mp4 = "mp4" in self._container.format.name
        promised = len(self._stream.index_entries) if is_mp4 else self._stream.frames
        if promised > num_packets * (1 + MAX_MISSING_SHARE):
            raise self._error(f"is truncated: it has {num_packets} of {promised} frames")

    def _decode_by_time(self, wanted: list[int], times: list[int], take: Take) -> None:
        keys = [key for key in self._keys if key <= times[wanted[0]]]
        # some containers seek too late, and some key frames are not decodable: retry from earlier
        for start in [*keys[:-3:-1], None]:
            num_taken = 0
            for frame in self._until_error(self._frames_at([times[i] for i in wanted], start)):
                take(wanted[num_taken], frame)
                num_taken += 1
            if num_taken == len(wanted):
                return
        raise self._error(f"frame {wanted[num_taken]} of {self.num_frames} cannot be decoded")

    def _until_error(self, frames: Iterator[av.VideoFrame]) -> Iterator[av.VideoFrame]:
        """Yield frames up to an error, which the caller reports if some are missing."""
        with suppress(DecodingError):
            yield from checked(frames, "cannot be decoded")

    def _frames_at(self, times: list[int], start: int | None) -> Iterator[av.VideoFrame]:
        """Decode the frames at the rising `times`, up to the first that is missing."""
        number = 0
        for frame in self._frames_from(start):
            if frame.pts == times[number]:
                yield frame
                number += 1
            elif frame.pts is None or frame.pts > times[number]:
                return
            if number == len(times):
                return

    def _decode_by_count(self, wanted: list[int], take: Take) -> None:
        left = set(wanted)
        frame, count = None, 0
        for count, frame in enumerate(self._until_error(self._frames_from(None)), start=1):
            if count - 1 in left:
                take(count - 1, frame)
                left.remove(count - 1)
            if not left:
                return
        # packed B-frames: some packets have no frame; repeat the last one instead
        if frame is None or count < self.num_frames * (1 - MAX_MISSING_SHARE):
            raise self._error(f"only {count} of {self.num_frames} frames can be decoded")
        for number in sorted(left):
            take(number, frame)

    def _frames_from(self, key: int | None) -> Iterator[av.VideoFrame]:
        """Decode frames from the key frame at a time on, or from the file's start."""
        if key is None:
            self._container.close()  # not every container can seek back to its start
            self._container, self._stream = self._open()
        else:
            self._container.seek(key, stream=self._stream)
        yield from self._container.decode(self._stream)

    @contextmanager
    def _video_errors(self, what: str) -> Iterator[None]:
        """Turn errors of FFmpeg and DecodingError into VideoError, as `decoding_errors` does."""
        try:
            with decoding_errors(what):
                yield
        except DecodingError as error:
            raise self._error(str(error)) from error

    def _error(self, reason: str) -> VideoError:
        return _error(self._video, reason)


def _error(video: EncodedVideo, reason: str) -> VideoError:
    return VideoError(video.id, video.uri, reason)


def _scale(
    frame: av.VideoFrame, short_side_px: int, reformatter: VideoReformatter
) -> NDArray[np.uint8]:
    """Scale and convert to RGB in one step, then rotate upright."""
    with decoding_errors("has frames that cannot be converted"):
        scale = short_side_px / min(frame.width, frame.height)
        rgb: NDArray[Any] = reformatter.reformat(
            frame,
            width=max(round(frame.width * scale), short_side_px),
            height=max(round(frame.height * scale), short_side_px),
            format="rgb24",
            interpolation=Interpolation.BILINEAR,
        ).to_ndarray()
        matrix = display_matrix(frame)
        return rgb if matrix is None else upright(rgb, matrix)
