"""Read the sample table of a plain MP4 file: where its packets are and when they are shown.

Most videos are plain MP4 files with one H.264 or H.265 track, or an MPEG-4 track of key frames, as
shards have them. Their tables (ISO/IEC 14496-12,
8.5-8.7) contain the position of each frame's packet, its presentation time, and which packets are
key frames. `read_sample_table` reads these; all other files are left to FFmpeg. It knows all boxes
that a plain file has, so a file with any other box is left to FFmpeg, too. It also checks, by the
headers of the packets, that each of them is shown as one picture.

Of a long file that stays in its storage, only the tables and, once, the headers of all packets are
read, then the packets of the frames that are needed.

FFmpeg probes the streams and allocates a demuxer and a decoder for every file. Opening a transcoded
clip takes 0.65 ms with FFmpeg and 0.25 ms with this module, of about 5 ms for the whole clip.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Set
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from ctp.video.file_bytes import FileBytes
from ctp.video.headers import UncertainError
from ctp.video.samples import H264Check, H265Check, Mpeg4Check, SampleCheck

CODECS = {
    b"avc1": ("h264", b"avcC"),
    b"hvc1": ("hevc", b"hvcC"),
    b"hev1": ("hevc", b"hvcC"),
    b"mp4v": ("mpeg4", b"esds"),
}
"""Sample entry -> FFmpeg's name of the codec, and the box that configures it (14496-15)."""
VISUAL_ENTRY_BYTES = 78
DESCRIPTORS = (3, 3), (4, 13), (5, 0)
"""Tags of the nested descriptors of an MPEG-4 stream, decoder and its configuration, and the bytes
of the fields before the next one; 0: all."""
STREAM_OPTIONS, MPEG4_VISUAL = 0b1110_0000, 0x20
IDENTITY_MATRIX = struct.pack(">9i", 1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30)
BOXES = {
    name: frozenset(kinds.encode().split())
    for name, kinds in {
        "file": "ftyp moov mdat free skip wide",
        "moov": "mvhd trak udta iods meta free skip",
        "trak": "tkhd edts mdia udta tref free skip",
        "edts": "elst",
        "mdia": "mdhd hdlr minf elng",
        "minf": "vmhd dinf stbl hdlr",
        "dinf": "dref",
        "stbl": "stsd stts ctts cslg stss stsc stsz stco co64 sdtp",
        "entry": "avcC hvcC esds colr pasp fiel btrt",
    }.items()
}
"""Box -> boxes in it that are read here, or change neither frames nor pixels."""
REPEATED = frozenset({b"trak", b"mdat", b"free", b"skip", b"wide", b"udta", b"meta"})
"""Boxes that may occur several times."""
COLOUR_NUMBERS = frozenset(range(1, 19))
"""Numbers in a `colr` box that FFmpeg passes to the decoder unchanged."""
CHECKS: dict[str, type[SampleCheck]] = {
    "h264": H264Check,
    "hevc": H265Check,
    "mpeg4": Mpeg4Check,
}
BOX_HEADER = struct.Struct(">I4s").unpack
MAX_DURATION = 2**31 - 1
"""Longest duration that FFmpeg does not correct."""
GAP_BYTES = 2**18
"""Packets that are at most this far apart are read together: to read what is between them takes a
disk or an object store less time than another request."""
GROUP_BYTES = 2**23
"""Most bytes that are read together, unless a packet is longer."""
PADDING_BYTES = 8
"""Bytes after the packets of a group that are read with them, for checks of their ends."""


@dataclass(frozen=True)
class Run:
    """Packets to decode one after another, starting at a key frame.

    Attributes:
        packets: their numbers, rising, in the order of the file.
        frames: the numbers of the requested frames among them.
    """

    packets: list[int]
    frames: list[int]


class Colour(NamedTuple):
    """How colours are coded, in FFmpeg's numbers (ITU-T H.273).

    Attributes:
        primaries, transfer, matrix: of the colour space.
        range: 1 for 16-235, 2 for 0-255, 0 if the file does not say it.
    """

    primaries: int
    transfer: int
    matrix: int
    range: int


@dataclass(frozen=True)
class SampleTable:
    """The packets of a video in decoding order.

    Attributes:
        codec: FFmpeg's name.
        extradata: the decoder's configuration.
        position, size: int64 [N], byte offset in the file and length of each packet.
        shown: int64 [N], presentation time of each packet in the track's time units, all distinct.
        is_key: bool [N].
        is_disposable: bool [N], whether no other picture refers to the packet's.
        units_per_second: of the track's time.
        colour: None if the file does not say it outside of the packets.
    """

    codec: str
    extradata: bytes
    position: NDArray[np.int64]
    size: NDArray[np.int64]
    shown: NDArray[np.int64]
    is_key: NDArray[np.bool_]
    is_disposable: NDArray[np.bool_]
    units_per_second: int
    colour: Colour | None

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """Return the table as arrays, for a file."""
        return {
            "codec": np.array(self.codec),
            "extradata": np.frombuffer(self.extradata, np.uint8),
            # differences take less space in a compressed file: most packets follow each other
            "gap": np.diff(self.position, prepend=0) - np.append(0, self.size[:-1]),
            "size": self.size,
            "shown": np.diff(self.shown, prepend=0),
            "is_key": self.is_key,
            "is_disposable": self.is_disposable,
            "units_per_second": np.array(self.units_per_second),
            "colour": np.array(self.colour or (), np.int64),
        }

    @classmethod
    def from_arrays(cls, arrays: dict[str, NDArray[Any]]) -> Self:
        """Create from what `to_arrays` returned."""
        colour, size = arrays["colour"].tolist(), arrays["size"]
        return cls(
            str(arrays["codec"]),
            arrays["extradata"].tobytes(),
            np.cumsum(arrays["gap"]) + np.cumsum(size) - size,
            size,
            np.cumsum(arrays["shown"]),
            arrays["is_key"],
            arrays["is_disposable"],
            int(arrays["units_per_second"]),
            Colour(*colour) if colour else None,
        )

    def read_packets(self, data: FileBytes, numbers: list[int]) -> Iterator[memoryview]:
        """Yield the bytes of packets, in the given order; of a stored file by few reads."""
        position, size = self.position[numbers], self.size[numbers]
        for group in _groups(data, position, size):
            view = memoryview(group.data)
            starts, sizes = group.position.tolist(), group.size.tolist()
            yield from (view[at : at + n] for at, n in zip(starts, sizes, strict=True))

    @cached_property
    def packet_of_frame(self) -> NDArray[np.int64]:
        """Return int64 [N], the packet that holds the n-th frame shown."""
        return np.argsort(self.shown, kind="stable")

    def runs(self, frames: list[int]) -> list[Run]:
        """Return the packets to decode for frames of rising numbers, starting at key frames.

        Packets that no other packet depends on are skipped unless their frame is requested.
        """
        packets = self.packet_of_frame[frames]
        if self.is_disposable.all():
            return [Run(sorted(packets.tolist()), frames)]
        runs: list[Run] = []
        for frame, packet, start in zip(
            frames, packets.tolist(), self._keys_before(packets).tolist(), strict=True
        ):
            if not runs or runs[-1].packets[0] != start:
                runs.append(Run([start], []))
            run = runs[-1]
            run.frames.append(frame)
            run.packets.extend(range(run.packets[-1] + 1, packet + 1))
        return [self._without_disposable(run) for run in runs]

    def _keys_before(self, packets: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the key packet to start at, so that each packet can be decoded completely."""
        key_packets = np.flatnonzero(self.is_key)
        number = np.searchsorted(key_packets, packets, side="right") - 1
        # a frame that is shown before its key frame refers to frames before that
        while (is_leading := self.shown[packets] < self.shown[key_packets[number]]).any():
            number = np.maximum(number - is_leading, 0)
            if (number[is_leading] == 0).all():
                break
        keys: NDArray[np.int64] = key_packets[number]
        return keys

    def _without_disposable(self, run: Run) -> Run:
        requested = set(self.packet_of_frame[run.frames].tolist())
        is_disposable = self.is_disposable[run.packets].tolist()
        packets = [
            packet
            for packet, may_skip in zip(run.packets, is_disposable, strict=True)
            if not may_skip or packet in requested
        ]
        return Run(packets, run.frames)


class _UnsupportedError(Exception):
    """The sample table does not describe the file completely."""


class _Box:
    """The content of a box of an MP4 file, bytes `start` to `stop` (14496-12, 4.2)."""

    def __init__(self, data: bytes, start: int, stop: int):
        self.data, self.start, self.stop = data, start, stop
        self.repeated: set[bytes] = set()

    @cached_property
    def children(self) -> dict[bytes, list[_Box]]:
        """Type -> the boxes of this type in this box."""
        return self.parse(0)

    def parse(self, offset: int) -> dict[bytes, list[_Box]]:
        """Return the boxes from byte `offset` of the content on."""
        found: dict[bytes, list[_Box]] = {}
        for kind, start, stop in _boxes(self.data, self.start + offset, self.stop):
            box = _Box(self.data, start, stop)
            if kind in found:
                found[kind].append(box)
                self.repeated.add(kind)
            else:
                found[kind] = [box]
        return found

    def find(self, *path: bytes) -> _Box:
        """Return the first box at a path of types."""
        box = self
        for kind in path:
            if kind not in box.children:
                raise _UnsupportedError(f"no box {kind!r}")
            box = box.children[kind][0]
        return box

    def check_children(self, name: str) -> None:
        """Refuse boxes that `BOXES` does not list for a box of this name."""
        _check_kinds(name, self.children.keys(), self.repeated)

    def numbers(self, layout: str, offset: int) -> tuple[int, ...]:
        """Unpack numbers from byte `offset` of the content on."""
        return struct.unpack_from(layout, self.data, self.start + offset)

    @property
    def is_version_1(self) -> bool:
        """Return whether times have 64 bits instead of 32."""
        return self.data[self.start] == 1

    def table(self, kind: str, columns: int) -> NDArray[np.int64]:
        """Return the rows of a table, `columns` numbers of type `kind` each."""
        (count,) = self.numbers(">I", 4)
        values: NDArray[Any] = np.frombuffer(self.data, kind, count * columns, self.start + 8)
        return values.astype(np.int64).reshape(count, columns)


def read_sample_table(data: FileBytes) -> SampleTable | None:
    """Return the sample table of an MP4 file's video track.

    Returns:
        None for any other file, and for all properties that the table does not describe: boxes
        that are not in `BOXES`, fragments, edits that cut or repeat frames, turned video, repeated
        presentation times, packets outside of `data` or that are not shown as one picture each,
        and other codecs.
    """
    if data[:8][4:] != b"ftyp":
        return None
    try:
        return _read_movie(_find_movie(data), data)
    except (_UnsupportedError, UncertainError, struct.error, ValueError, IndexError):
        return None


def _find_movie(data: FileBytes) -> _Box:
    """Read the box with the tables."""
    places: dict[bytes, tuple[int, int]] = {}
    repeated = set()
    for kind, start, stop in _boxes(data, 0, len(data)):
        if kind in places:
            repeated.add(kind)
        places[kind] = start, stop
    _check_kinds("file", places.keys(), repeated)
    if b"moov" not in places:
        raise _UnsupportedError("no tables")
    start, stop = places[b"moov"]
    return _Box(data[start:stop], 0, stop - start)


def _boxes(data: FileBytes, at: int, stop: int) -> Iterator[tuple[bytes, int, int]]:
    """Yield type, start and end of the content of the boxes from byte `at` to `stop`."""
    while at + 8 <= stop:
        size, kind = BOX_HEADER(data[at : at + 8])
        header_bytes = 8
        if size == 1:
            (size,) = struct.unpack(">Q", data[at + 8 : at + 16])
            header_bytes = 16
        elif size == 0:
            size = stop - at
        if size < header_bytes or at + size > stop:
            raise _UnsupportedError("a truncated box")
        yield kind, at + header_bytes, at + size
        at += size


def _check_kinds(name: str, kinds: Set[bytes], repeated: Set[bytes]) -> None:
    """Refuse boxes in a box `name` that `BOXES` does not list."""
    if not (kinds <= BOXES[name] and repeated <= REPEATED):
        raise _UnsupportedError(f"boxes in {name} that are not read here")


def _read_movie(movie: _Box, data: FileBytes) -> SampleTable:
    """Read the tables in the box `movie` of a file, and check the packets in the file."""
    movie.check_children("moov")
    _check_matrix(movie.find(b"mvhd"), 36, 48)
    track = _video_track(movie)
    tables = track.find(b"mdia", b"minf", b"stbl")
    codec, extradata, colour = _description(tables.find(b"stsd"))
    size = _sizes(tables.find(b"stsz"), len(data))
    shown = _times(tables, len(size))
    position, is_key = _positions(tables, size), _keys(tables, len(size))
    units_per_second = _time_scale(track.find(b"mdia", b"mdhd"))
    _check_packets(position, size, shown, is_key, len(data))
    _check_edits(track, units_per_second / _time_scale(movie.find(b"mvhd")), shown)
    check = CHECKS[codec](extradata)
    for group in _groups(data, position, size):
        check.add(group.data, group.position, group.size)
    return SampleTable(
        codec,
        extradata,
        position,
        size,
        shown,
        is_key,
        check.find_disposable(shown),
        units_per_second,
        colour,
    )


class _Group(NamedTuple):
    """Packets that are read together: a part of the file, and where they are in it."""

    data: bytes
    position: NDArray[np.int64]
    size: NDArray[np.int64]


def _groups(
    data: FileBytes, position: NDArray[np.int64], size: NDArray[np.int64]
) -> Iterator[_Group]:
    """Read packets in the given order, in groups of neighbours."""
    if isinstance(data, bytes):
        yield _Group(data, position, size)
        return
    starts, stops = position.tolist(), (position + size).tolist()
    first = 0
    while first < len(starts):
        low, high, end = starts[first], stops[first], first + 1
        while end < len(starts):
            lowest, highest = min(low, starts[end]), max(high, stops[end])
            gap = (highest - lowest) - (high - low) - (stops[end] - starts[end])
            if gap > GAP_BYTES or highest - lowest > GROUP_BYTES:
                break
            low, high, end = lowest, highest, end + 1
        block = data.read(low, min(high + PADDING_BYTES, len(data)) - low)
        yield _Group(block, position[first:end] - low, size[first:end])
        first = end


def _video_track(movie: _Box) -> _Box:
    for track in movie.children.get(b"trak", []):
        handler = track.find(b"mdia", b"hdlr").start + 8
        if movie.data[handler : handler + 4] == b"vide":
            _check_track(track)
            return track
    raise _UnsupportedError("no video track")


def _check_track(track: _Box) -> None:
    media = track.find(b"mdia")
    information = media.find(b"minf")
    data, tables = information.find(b"dinf"), information.find(b"stbl")
    parts = {"trak": track, "mdia": media, "minf": information, "dinf": data, "stbl": tables}
    for name, box in parts.items():
        box.check_children(name)
    _check_matrix(track.find(b"tkhd"), 40, 52)
    (count, _, _, flags) = data.find(b"dref").numbers(">I4s4sI", 4)
    if count != 1 or not flags & 1:
        raise _UnsupportedError("packets in another file")


def _check_matrix(header: _Box, offset: int, offset_of_version_1: int) -> None:
    matrix = header.start + (offset_of_version_1 if header.is_version_1 else offset)
    if header.data[matrix : matrix + 36] != IDENTITY_MATRIX:
        raise _UnsupportedError("turned video")


def _description(descriptions: _Box) -> tuple[str, bytes, Colour | None]:
    """Return codec, extradata and colour of the only sample description."""
    entries = [(k, box) for k, boxes in descriptions.parse(8).items() for box in boxes]
    if len(entries) != 1 or entries[0][0] not in CODECS:
        raise _UnsupportedError("another codec, or several")
    kind, entry = entries[0]
    codec, configuration = CODECS[kind]
    inner = _Box(entry.data, entry.start + VISUAL_ENTRY_BYTES, entry.stop)
    inner.check_children("entry")
    box = inner.find(configuration)
    colour = _colour(inner.find(b"colr")) if b"colr" in inner.children else None
    extradata = box.data[box.start : box.stop]
    return codec, _decoder_info(extradata) if codec == "mpeg4" else extradata, colour


def _decoder_info(descriptors: bytes) -> bytes:
    """Return the decoder's configuration from an `esds` box (14496-1, 7.2.6)."""
    at, fields = 4, []
    for tag, num_bytes in DESCRIPTORS:
        if descriptors[at] != tag:
            raise _UnsupportedError("a descriptor that is not read here")
        length, has_more = 0, True
        while has_more:
            at += 1
            length, has_more = length << 7 | descriptors[at] & 127, descriptors[at] > 127
        fields.append(descriptors[at + 1 : at + 1 + (num_bytes or length)])
        at += 1 + num_bytes
    stream, decoder, info = fields
    if stream[2] & STREAM_OPTIONS or decoder[0] != MPEG4_VISUAL:
        raise _UnsupportedError("another codec, or another file")
    return info


def _colour(box: _Box) -> Colour:
    kind = box.data[box.start : box.start + 4]
    if kind not in {b"nclx", b"nclc"}:
        raise _UnsupportedError("a colour profile")
    numbers = box.numbers(">3H", 4)
    if not COLOUR_NUMBERS.issuperset(numbers):
        raise _UnsupportedError("unknown colours")
    # QuickTime's form has no range
    is_full = box.numbers(">B", 10)[0] >> 7 if kind == b"nclx" else -1
    return Colour(numbers[0], numbers[1], numbers[2], is_full + 1)


def _sizes(box: _Box, num_bytes: int) -> NDArray[np.int64]:
    common, count = box.numbers(">II", 4)
    if count > num_bytes:
        raise _UnsupportedError("more packets than bytes")
    if common:
        return np.full(count, common, np.int64)
    return np.frombuffer(box.data, ">u4", count, box.start + 12).astype(np.int64)


def _positions(tables: _Box, size: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return byte offsets: packets are contiguous in chunks, stsc gives the packets of each."""
    name, kind = (b"co64", ">u8") if b"co64" in tables.children else (b"stco", ">u4")
    chunk = tables.find(name).table(kind, 1)[:, 0]
    runs = tables.find(b"stsc").table(">u4", 3)
    first_chunk = runs[:, 0]
    lengths = np.concatenate([first_chunk[1:], [len(chunk) + 1]]) - first_chunk
    per_chunk = _repeat(runs[:, 1], lengths, len(chunk))
    if per_chunk.sum() != len(size):
        raise _UnsupportedError("chunks that do not hold all packets")
    before = np.cumsum(size) - size  # as if all packets were contiguous
    first = np.cumsum(per_chunk) - per_chunk
    return _repeat(chunk - before[first], per_chunk, len(size)) + before


def _times(tables: _Box, num_packets: int) -> NDArray[np.int64]:
    duration = tables.find(b"stts").table(">u4", 2)
    if (duration[:, 1] > MAX_DURATION).any():
        raise _UnsupportedError("negative durations")
    each = _repeat(duration[:, 1], duration[:, 0], num_packets)
    times: NDArray[np.int64] = np.cumsum(each) - each
    if b"ctts" in tables.children:
        delay = tables.find(b"ctts").table(">i4", 2)
        times = times + _repeat(delay[:, 1], delay[:, 0], num_packets)
    return times


def _repeat(values: NDArray[np.int64], counts: NDArray[np.int64], total: int) -> NDArray[np.int64]:
    # check before, because a damaged table may ask for more than the memory
    if len(counts) == 0 or counts.min() < 0 or counts.sum() != total:
        raise _UnsupportedError(f"a table that does not describe {total} packets")
    return np.repeat(values, counts)


def _keys(tables: _Box, num_packets: int) -> NDArray[np.bool_]:
    if b"stss" not in tables.children:
        return np.ones(num_packets, np.bool_)
    is_key = np.zeros(num_packets, np.bool_)
    is_key[tables.find(b"stss").table(">u4", 1)[:, 0] - 1] = True
    return is_key


def _time_scale(header: _Box) -> int:
    (units_per_second,) = header.numbers(">I", 20 if header.is_version_1 else 12)
    if not units_per_second:
        raise _UnsupportedError("a time scale of 0")
    return units_per_second


def _check_packets(
    position: NDArray[np.int64],
    size: NDArray[np.int64],
    shown: NDArray[np.int64],
    is_key: NDArray[np.bool_],
    num_bytes: int,
) -> None:
    if not len(size) or not is_key[0]:
        raise _UnsupportedError("no packets, or no key frame at the start")
    if size.min() <= 0 or position.min() < 0 or (position + size).max() > num_bytes:
        raise _UnsupportedError("packets outside of the file")
    if size.sum() > num_bytes:  # each would have to be read
        raise _UnsupportedError("packets that overlap")
    rises = (shown[1:] > shown[:-1]).all()
    if not rises and len(np.unique(shown)) < len(shown):
        raise _UnsupportedError("repeated presentation times")


def _check_edits(track: _Box, units_ratio: float, shown: NDArray[np.int64]) -> None:
    """Accept an edit list only if it has no effect: all frames are shown once, in order."""
    if b"edts" not in track.children:
        return
    track.find(b"edts").check_children("edts")
    edits = track.find(b"edts", b"elst")
    (count,) = edits.numbers(">I", 4)
    duration, first, rate = edits.numbers(">QqI" if edits.is_version_1 else ">IiI", 8)
    is_whole = first <= shown.min() and shown.max() < first + duration * units_ratio
    if count != 1 or first < 0 or rate != 1 << 16 or not is_whole:
        raise _UnsupportedError("edits")
