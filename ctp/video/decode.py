"""Decode only the requested frames of a video, with PyAV.

A frame is a picture that FFmpeg shows when it decodes the whole file. Its number and time do not
depend on how it is found:

1. For a plain MP4 file, its tables give the positions of the packets (`ctp.video.mp4`), each of
   which is one picture. Those that a clip needs are passed to a decoder, which is reused for the
   next videos.
2. All other files are opened with FFmpeg. A first pass reads all packets, without decoding them.
   Their headers show which pictures FFmpeg displays, by the rules in `ctp.video.pictures`.
3. If the headers leave a doubt, the first pass decodes the video and counts its pictures. A process
   keeps the result for the next clips of the video; a shard records the number.

Frames are then found by their presentation times, starting at the key frame before. Raw streams
store no times, and AVI with B-frames stores only those of decoding. For these, for videos that were
decoded in order to count them, and if times are missing or repeated, frames are counted from the
start of the file.

Of a `StoredVideo`, a long file that stays in its storage, a machine keeps what the first pass has
found. A clip then costs the bytes of its packets, and the headers of the file if FFmpeg opens it.
"""

from __future__ import annotations

import threading
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import chain
from typing import TYPE_CHECKING, Any, Self

import av
import numpy as np
from av.container import InputContainer
from av.video.codeccontext import VideoCodecContext
from av.video.reformatter import Interpolation, VideoReformatter
from numpy.typing import NDArray

from ctp.video.container import find_stream, open_container
from ctp.video.encoded import (
    SIZE_CHANGES,
    DecodingError,
    EncodedVideo,
    VideoError,
    checked,
    decoding_errors,
    permanent_errors,
)
from ctp.video.file_bytes import FileBytes, open_bytes
from ctp.video.headers import Header, HeaderReader, UncertainError
from ctp.video.index_cache import IN_MEMORY, Arrays
from ctp.video.limits import DEFAULT_LIMITS, DecodingLimits
from ctp.video.mp4 import Colour, Run, SampleTable, read_sample_table
from ctp.video.nvdec import CODECS, OTHER_CODEC, Nvdec
from ctp.video.orientation import Orientation, display_matrix, upright
from ctp.video.pictures import (
    ONE_PICTURE,
    are_presentation_times,
    find_shown,
    open_headers,
)
from ctp.video.stored import StoredVideo
from ctp.video.truncation import missing_share

if TYPE_CHECKING:
    from ctp.video.planes import Crop

Take = Callable[[int, av.VideoFrame], None]
"""Callback for a frame's number and the frame, which is valid only during the call."""

MAX_ASPECT_RATIO = 16
"""Largest accepted aspect ratio: with a larger one, scaling the shorter side up could exceed the
memory."""
MAX_MISSING_SHARE = 0.1
"""A file is truncated if a larger share of its video is missing at its end."""
RAW_FORMATS = frozenset({"h264", "hevc", "m4v", "mpegvideo"})
"""Streams without a container, which store no times at all."""
MAX_CACHED_DECODERS = 8
"""Decoders that a thread keeps for the next videos of their kind."""
MAX_CACHED_PIXELS = 2**21
"""Pixels of a picture up to which decoders are kept, Full HD: they also keep their pictures."""
DEFAULT_RATE = Fraction(25)
"""Frames/s if the video does not specify a rate."""
SEEK_FRAMES = 100
"""Frames between two wanted ones from which it pays to seek, if a key frame is among them."""
INDEXED_FORMATS = frozenset({"mov", "matroska"})
"""FFmpeg's names of containers in which it finds a time without a pass over all packets before."""

Video = EncodedVideo | StoredVideo


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
        num_frames: number of pictures that FFmpeg shows when it decodes the whole video.
    """

    def __init__(
        self, video: Video, limits: DecodingLimits = DEFAULT_LIMITS, nvdec: Nvdec | None = None
    ):
        """Open a video and find its frames.

        Args:
            video: the video.
            limits: of decoding.
            nvdec: decodes what it can in place of the CPU.

        Raises:
            VideoError: it is not a video, has no video stream, is truncated, exceeds the limits, or
                has changed since it was opened.
            StorageError: the storage of a `StoredVideo` fails. Other methods raise it, too.
        """
        self._video, self._limits, self._nvdec = video, limits, nvdec
        with _file_errors(video):
            # the table is only a shortcut: whatever is wrong with it, FFmpeg's reader decides
            self._table = _find_table(video)
            self._file = None if self._table else _File(video, limits, nvdec)
        self.num_frames = len(self._table.size) if self._table else self._open_file().num_frames

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()

    @property
    def clock(self) -> Clock:
        """Return the presentation times; at the file's rate if it does not store them."""
        if self._table is None:
            with _file_errors(self._video):
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
        """Decode the same part of each frame, resized to a square.

        Args:
            indices: frame numbers below `num_frames`, never falling, repeats allowed.
            crop: the part, and whether it is mirrored.
            size_px: S, even, the side length of the result.

        Returns:
            uint8 [len(indices), 3/2 · S²], planes for `planes.to_rgb`.

        Raises:
            VideoError: a frame cannot be decoded, or has another size than the others.
        """
        from ctp.video.planes import Cutter  # torch, which nothing else here needs

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
            with _file_errors(self._video):
                # if one ends early, the next one starts again; _File reports what it cannot decode
                for frames in self._table_decoders(wanted):
                    if len(taken) < len(wanted):
                        for number, frame in frames:
                            check_and_take(number, frame)
                if len(taken) < len(wanted):
                    self._open_file().decode(wanted, check_and_take)
        except VideoError:
            raise
        except ValueError as error:
            raise _error(self._video, str(error)) from error

    def _table_decoders(self, wanted: list[int]) -> Iterator[Iterator[tuple[int, av.VideoFrame]]]:
        """Yield the ways to decode frames by the table, each as an iterator that may end early."""
        if self._table is None:
            return
        data, limits = self._video.data, self._limits
        if self._nvdec is not None:
            yield _nvdec_frames(self._nvdec, self._table, self._video, wanted, limits)
        yield _table_frames(self._table, data, wanted, limits)

    def _open_file(self) -> _File:
        if self._file is None:
            self._file = _File(self._video, self._limits)
            if self._file.num_frames != self.num_frames:
                raise _error(
                    self._video,
                    f"its tables list {self.num_frames} frames, but it has {self._file.num_frames}",
                )
        return self._file


def _find_table(video: Video) -> SampleTable | None:
    if isinstance(video, StoredVideo):
        return video.table
    with suppress(DecodingError), decoding_errors("has a damaged index"):
        return read_sample_table(video.data)
    return None


@contextmanager
def _file_errors(video: Video) -> Iterator[None]:
    """Check that a stored file stays the same inside the block.

    Raises:
        VideoError: it has changed, or cannot be read, and the storage is not to blame.
    """
    with permanent_errors(video.id, video.uri):
        try:
            yield
        finally:  # also after an error, of which a change may be the reason
            if isinstance(video, StoredVideo):
                video.data.check()


_Kind = tuple[str, bytes, Colour | None, DecodingLimits, bool]
"""Videos that one decoder can decode: codec, its extra data, colours, limits, whether by NVDEC."""


class _Decoders(threading.local):
    """A thread's decoders, least recently used first.

    They are kept because to open one takes longer than to decode a frame.
    """

    def __init__(self) -> None:
        self._cached: dict[_Kind, VideoCodecContext] = {}

    @contextmanager
    def borrow(
        self, table: SampleTable, limits: DecodingLimits, nvdec: Nvdec | None
    ) -> Iterator[VideoCodecContext]:
        """Lend a decoder for the table's video; it is not kept after an error."""
        kind = table.codec, table.extradata, table.colour, limits, nvdec is not None
        decoder = self._cached.pop(kind, None) or _new_decoder(table, limits, nvdec)
        yield decoder
        if decoder.width * decoder.height > MAX_CACHED_PIXELS:
            return
        self._cached[kind] = decoder
        if len(self._cached) > MAX_CACHED_DECODERS:
            del self._cached[next(iter(self._cached))]


_decoders = _Decoders()


def _new_decoder(
    table: SampleTable, limits: DecodingLimits, nvdec: Nvdec | None
) -> VideoCodecContext:
    decoder: VideoCodecContext
    if nvdec is not None:
        decoder = nvdec.new_decoder(table.codec)
    else:
        decoder = av.CodecContext.create(table.codec, "r")  # type: ignore[assignment]
    decoder.extradata = table.extradata
    if table.colour is not None:
        decoder.color_primaries = table.colour.primaries
        decoder.color_trc = table.colour.transfer
        decoder.colorspace = table.colour.matrix
        decoder.color_range = table.colour.range
    decoder.thread_count = 1  # actors use the cores already
    decoder.options = limits.codec_options
    return decoder


def _table_frames(
    table: SampleTable, data: FileBytes, wanted: list[int], limits: DecodingLimits
) -> Iterator[tuple[int, av.VideoFrame]]:
    """Decode the frames of the rising numbers `wanted`, with their numbers, up to an error; some
    may be missing."""
    with suppress(DecodingError):
        yield from checked(_decode_samples(table, data, wanted, limits), "has a damaged index")


def _nvdec_frames(
    nvdec: Nvdec, table: SampleTable, video: Video, wanted: list[int], limits: DecodingLimits
) -> Iterator[tuple[int, av.VideoFrame]]:
    """Decode as `_table_frames` does, by NVDEC. It is recorded if frames are missing."""
    missing, reason = set(wanted), OTHER_CODEC
    if table.codec in CODECS:
        reason = "frames are missing"
        try:
            frames = _decode_samples(table, video.data, wanted, limits, nvdec)
            for number, frame in checked(frames, "cannot be decoded"):
                missing.discard(number)
                yield number, frame
        except DecodingError as error:
            reason = str(error)
    if missing:
        nvdec.refuse(table.codec, video.id, reason)


def _decode_samples(
    table: SampleTable,
    data: FileBytes,
    wanted: list[int],
    limits: DecodingLimits,
    nvdec: Nvdec | None = None,
) -> Iterator[tuple[int, av.VideoFrame]]:
    runs = table.runs(wanted)
    numbers = list(chain.from_iterable(run.packets for run in runs))
    packets = table.read_packets(data, numbers)
    with _decoders.borrow(table, limits, nvdec) as decoder:
        for run in runs:
            for number, frame in _decode_run(decoder, table, run, packets):
                yield number, nvdec.to_host(frame, decoder) if nvdec is not None else frame


def _decode_run(
    decoder: VideoCodecContext, table: SampleTable, run: Run, packets: Iterator[memoryview]
) -> Iterator[tuple[int, av.VideoFrame]]:
    """Decode the next packets, which are those of the run."""
    number_at = {int(table.shown[table.packet_of_frame[i]]): i for i in run.frames}
    for sample in run.packets:
        packet = av.Packet(next(packets))  # type: ignore[arg-type]  # the stubs allow few buffers
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


@dataclass(frozen=True)
class _FrameIndex:
    """The frames of a file.

    Attributes:
        num_frames: their number.
        times: int64 [N], rising presentation times, or None if the file does not store them.
        keys: int64, times of the key frames at which decoding may start. If empty, frames are
            counted from the start of the file.
        orientation: of all frames; None if each frame has the right one.
        has_times: whether `times` were looked for.
        is_cut: whether the end of the file is missing.
    """

    num_frames: int
    times: NDArray[np.int64] | None
    keys: NDArray[np.int64]
    orientation: Orientation | None = None
    has_times: bool = True
    is_cut: bool = False

    def to_arrays(self) -> Arrays:
        """Return the index as arrays, for a file."""
        arrays: dict[str, NDArray[Any] | None] = {
            "num_frames": np.array(self.num_frames),
            "times": self.times,
            "keys": self.keys,
            "matrix": self.orientation.matrix if self.orientation else None,
            "has_orientation": np.array(self.orientation is not None),
            "has_times": np.array(self.has_times),
            "is_cut": np.array(self.is_cut),
        }
        return {name: array for name, array in arrays.items() if array is not None}

    @classmethod
    def from_arrays(cls, arrays: Arrays) -> Self:
        """Create from what `to_arrays` returned."""
        return cls(
            int(arrays["num_frames"]),
            arrays.get("times"),
            arrays["keys"],
            Orientation(arrays.get("matrix")) if arrays["has_orientation"] else None,
            bool(arrays["has_times"]),
            bool(arrays["is_cut"]),
        )


@dataclass(frozen=True)
class _Packets:
    """What is known about all packets of a stream, in decoding order, without decoding them."""

    headers: list[Header]
    times: list[int | None]
    discarded: list[bool]
    positions: list[int | None]

    @classmethod
    def read(cls, packets: Iterable[av.Packet[Any]], reader: HeaderReader) -> _Packets:
        """Read packets.

        Raises:
            UncertainError: see `HeaderReader`.
        """
        found = cls([], [], [], [])
        for packet in packets:
            if packet.size:  # an empty one is no picture
                found.headers.append(reader.read(bytes(packet), packet.is_keyframe))
                found.times.append(packet.pts)
                found.discarded.append(packet.is_discard)
                found.positions.append(packet.pos)
        reader.finish()
        return found

    def key_times(self) -> list[int]:
        """Return the times of the packets at which decoding may start."""
        pairs = zip(self.times, self.headers, strict=True)
        return [time for time, header in pairs if header.is_key and time is not None]


class _File:
    """A video that is opened with FFmpeg."""

    def __init__(self, video: Video, limits: DecodingLimits, nvdec: Nvdec | None = None):
        self._video, self._limits = video, limits
        self._nvdec, self._is_on_gpu = nvdec, False
        self._container, self._stream = self._open()
        try:
            self._is_cut = False
            self._index = self._find_index()
            self._is_cut = self._index.is_cut
        except BaseException:
            self._container.close()
            raise
        self.num_frames = self._index.num_frames

    @property
    def clock(self) -> Clock:
        if not self._index.has_times:
            self._index = self._count()
        with self._video_errors("has invalid presentation times"):
            base, rate = self._stream.time_base, self._stream.average_rate
            if self._index.times is None or base is None:
                return Clock.from_rate(self.num_frames, rate or DEFAULT_RATE)
            return Clock.from_times(self._index.times.tolist(), base)

    def close(self) -> None:
        self._container.close()

    def decode(self, wanted: list[int], take: Take) -> None:
        """Decode the frames of the rising numbers `wanted`.

        Raises:
            VideoError: one cannot be decoded.
        """

        def orient_and_take(number: int, frame: av.VideoFrame) -> None:
            if self._nvdec is not None:
                frame = self._nvdec.to_host(frame, self._stream.codec_context)
            frame.opaque = self._index.orientation
            take(number, frame)

        if self._nvdec is not None:
            try:
                self._use_nvdec()
                self._decode(wanted, orient_and_take)
                return
            except (DecodingError, VideoError) as error:
                self._leave_nvdec(error)
        with self._refused_size_named():
            self._decode(wanted, orient_and_take)

    def _use_nvdec(self) -> None:
        """Open the file for NVDEC.

        Raises:
            DecodingError, VideoError: that is not possible.
        """
        if self._stream.codec_context.codec.canonical_name not in CODECS:
            raise DecodingError(OTHER_CODEC)
        if not self._is_on_gpu:
            self._is_on_gpu = True
            self._reopen()

    def _leave_nvdec(self, error: DecodingError | VideoError) -> None:
        """Open the file for the CPU, after an error of NVDEC."""
        assert self._nvdec is not None
        nvdec, self._nvdec, self._is_on_gpu = self._nvdec, None, False
        self._reopen()
        reason = error.reason if isinstance(error, VideoError) else str(error)
        nvdec.refuse(self._stream.codec_context.codec.canonical_name, self._video.id, reason)

    def _decode(self, wanted: list[int], take: Take) -> None:
        if self._index.times is None or not len(self._index.keys):
            self._decode_by_count(wanted, take)
        else:
            self._decode_by_time(wanted, self._index.times, take)

    @contextmanager
    def _refused_size_named(self) -> Iterator[None]:
        """Add the size of the pictures to an error that frames are missing, if it is the cause."""
        try:
            yield
        except VideoError as error:
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
                return container, find_stream(container, self._limits)
        except BaseException:
            container.close()
            raise

    def _reopen(self) -> None:
        self._container.close()
        self._container, self._stream = self._open()

    def _open_container(self, options: dict[str, str]) -> InputContainer:
        hwaccel = self._nvdec.hwaccel if self._nvdec is not None and self._is_on_gpu else None
        with self._video_errors("cannot be opened as a video"):
            return open_container(open_bytes(self._video.data), options, hwaccel)

    def _find_index(self) -> _FrameIndex:
        is_indexed = not INDEXED_FORMATS.isdisjoint(self._container.format.name.split(","))
        if isinstance(self._video, StoredVideo) and is_indexed:
            rules = f"PyAV {av.__version__}, {self._limits}"
            return self._video.find(_FrameIndex, self._find_frames, rules=rules)
        return self._find_frames()

    def _find_frames(self) -> _FrameIndex:
        try:
            index = self._index_by_headers()
        except (UncertainError, DecodingError):
            self._check_whole()
            index = self._index_from_shard() or self._count()
        if not index.num_frames:
            raise self._error("has no frames")
        return replace(index, is_cut=self._is_cut)

    def _index_from_shard(self) -> _FrameIndex | None:
        number = self._video.num_frames
        if number is None:
            return None
        return _FrameIndex(number, None, _sorted([]), self._first_orientation(), has_times=False)

    def _count(self) -> _FrameIndex:
        video = self._video
        version = video.version if isinstance(video, StoredVideo) else zlib.crc32(video.data)
        return IN_MEMORY.find((video.id, video.uri, version), self._index_by_decoding)

    def _check_whole(self) -> None:
        share = missing_share(self._video.data, self._container, self._stream)
        if share > MAX_MISSING_SHARE:
            raise self._error(f"is truncated: {share:.0%} of its video is missing at its end")
        self._is_cut = share > 0

    def _index_by_headers(self) -> _FrameIndex:
        """Find the frames without decoding them.

        Raises:
            UncertainError, DecodingError: the headers leave a doubt, or are damaged.
        """
        context, name = self._stream.codec_context, self._container.format.name
        codec = context.codec.canonical_name
        with decoding_errors("has damaged headers"):  # VideoError of the demuxer stays what it is
            reader = open_headers(codec, context.extradata or b"")
            packets = _Packets.read(self._demux(), reader)
        self._check_whole()
        if self._is_cut:
            raise UncertainError("the last packet may be incomplete")
        if "mp4" in name and len(set(packets.positions)) < len(packets.positions):
            raise UncertainError("edits that repeat packets")
        shown = find_shown(packets.headers, packets.times, packets.discarded)
        is_reordered = any(header.is_reordered for header in packets.headers)
        if is_reordered and not context.has_b_frames:
            raise UncertainError("the decoder does not know that pictures are reordered")
        has_times = name not in RAW_FORMATS and not (name == "avi" and is_reordered)
        has_times &= None not in packets.times
        if has_times and not are_presentation_times(packets.headers, packets.times):
            raise UncertainError("presentation times that do not give the order")
        can_seek = (
            has_times
            # packed pictures have the times of other packets
            and all(header.num_pictures <= 1 for header in packets.headers)
            # after a seek in a program stream, FFmpeg guesses the times of all but a packet's first
            # picture, and with B-frames it may guess others than in a pass from the start
            and name != "mpeg"
            # without an index, FFmpeg takes all packets of an AVI file for key frames
            and (name != "avi" or codec not in ONE_PICTURE)
        )
        orientation = self._first_orientation() if reader.has_orientation else None
        return self._make_index(shown, packets.key_times() if can_seek else [], orientation)

    def _demux(self) -> Iterator[av.Packet[Any]]:
        """Yield all packets, from the start of the file."""
        with self._video_errors("cannot be read to its end"):
            yield from self._container.demux(self._stream)

    def _index_by_decoding(self) -> _FrameIndex:
        """Find the frames by decoding all of them.

        They are counted from the start, because a decoder that starts elsewhere may show others.
        """
        times: list[int | None] = []
        orientation: Orientation | None = None
        with self._refused_size_named(), self._video_errors("cannot be decoded"):
            for frame in self._frames_from(None):
                times.append(frame.pts)
                orientation = orientation or Orientation(display_matrix(frame))
        return self._make_index(times, [], orientation)

    def _make_index(
        self, shown: list[int | None], keys: list[int], orientation: Orientation | None
    ) -> _FrameIndex:
        """Create an index from the time of each picture, in any order."""
        known = {time for time in shown if time is not None}
        if len(known) < len(shown) or self._container.format.name in RAW_FORMATS:
            return _FrameIndex(len(shown), None, _sorted([]), orientation)
        return _FrameIndex(len(shown), _sorted(known), _sorted(keys), orientation)

    def _first_orientation(self) -> Orientation:
        """Return the first picture's orientation, which is used for all.

        A message in the stream may turn some pictures only. Players turn the whole video or none.
        """
        with self._video_errors("cannot be decoded"):
            for frame in self._frames_from(None):
                return Orientation(display_matrix(frame))
        return Orientation(None)

    def _decode_by_time(self, wanted: list[int], times: NDArray[np.int64], take: Take) -> None:
        keys = np.searchsorted(self._index.keys, times[wanted], side="right")
        # the views of a long video are far from each other
        is_far = (np.diff(wanted) > SEEK_FRAMES) & (np.diff(keys) > 0)
        for near in np.split(np.array(wanted), np.flatnonzero(is_far) + 1):
            self._decode_near(near.tolist(), times[near].tolist(), take)

    def _decode_near(self, wanted: list[int], times: list[int], take: Take) -> None:
        """Decode frames and those between them; `times` are those of the wanted frames."""
        number = int(np.searchsorted(self._index.keys, times[0], side="right"))
        keys = self._index.keys[max(number - 2, 0) : number].tolist()
        # some containers seek too late, and some key frames are not decodable: retry from earlier
        for start in [*keys[::-1], None]:
            num_taken = 0
            frames = self._frames_at(times, start)
            with suppress(DecodingError):  # missing frames are reported below
                for frame in checked(frames, "cannot be decoded"):
                    take(wanted[num_taken], frame)
                    num_taken += 1
            if num_taken == len(wanted):
                return
        raise self._error(f"frame {wanted[num_taken]} of {self.num_frames} cannot be decoded")

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
        left = iter(wanted)
        number = next(left, None)
        for count, frame in enumerate(self._all_frames()):
            if number is None:
                return
            if count == number:
                take(count, frame)
                number = next(left, None)
        if number is not None:
            raise self._error(f"frame {number} of {self.num_frames} cannot be decoded")

    def _all_frames(self) -> Iterator[av.VideoFrame]:
        """Decode all frames, in order; errors are VideoError."""
        with self._video_errors("cannot be decoded"):
            yield from self._frames_from(None)

    def _frames_from(self, key: int | None) -> Iterator[av.VideoFrame]:
        """Decode frames from the key frame at a time on, or from the file's start."""
        if key is None:
            self._reopen()  # not every container can seek back to its start
        else:
            self._container.seek(key, stream=self._stream)
        has_started, has_reached_key = key is not None, key is None
        first_error: DecodingError | None = None
        for packet in self._container.demux(self._stream):
            if not packet.size:  # an empty chunk of an AVI file; the last one is passed below
                continue
            if not has_reached_key:
                if packet.pts != key:
                    if key is not None and packet.dts is not None and packet.dts > key:
                        return  # the container has gone too far
                    continue
                has_reached_key = True
            try:
                with decoding_errors("cannot be decoded"):
                    frames = packet.decode()
            except DecodingError as error:
                if has_started and not self._is_cut:
                    raise
                first_error = first_error or error
                continue  # a packet before the first key frame, or the last one of a cut file
            has_started |= bool(frames)
            yield from frames
        yield from self._stream.decode()
        if first_error and not has_started:
            raise first_error

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


def _error(video: Video, reason: str) -> VideoError:
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


def _sorted(times: Iterable[int]) -> NDArray[np.int64]:
    return np.sort(np.fromiter(times, np.int64))
