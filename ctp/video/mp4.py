"""Where the frames of a plain MP4 file lie, read from its sample table.

Opening a container probes streams, allocates a demuxer and a decoder: half a millisecond, much for
a clip of a few. Most videos are plain MP4 files of one H.264 or H.265 track, and tell by a few
tables (ISO/IEC 14496-12, 8.5–8.7) where each frame's packet lies, when it is shown and which are
key frames. `read_sample_table` reads these; whatever is not plain it leaves to FFmpeg.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

CODECS = {b"avc1": ("h264", b"avcC"), b"hvc1": ("hevc", b"hvcC"), b"hev1": ("hevc", b"hvcC")}
"""Sample entry -> FFmpeg's name of the codec, and the box that configures it (14496-15)."""
VISUAL_ENTRY_BYTES = 78
IDENTITY_MATRIX = struct.pack(">9i", 1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30)
SLICES = frozenset({1, 5})
"""H.264's NAL unit types that hold pictures, and begin a packet's essential part."""


@dataclass(frozen=True)
class Run:
    """Packets to decode in a row, from a key frame on.

    Attributes:
        packets: their numbers, rising, in the order of the file.
        frames: the frames wanted of them, by frame number.
    """

    packets: list[int]
    frames: list[int]


@dataclass(frozen=True)
class SampleTable:
    """The packets of a video in decoding order.

    Attributes:
        codec: FFmpeg's name.
        extradata: what configures the decoder.
        position, size: int64 [N], where in the file each packet lies, in bytes.
        shown: int64 [N], when its frame is shown, in the track's time units; no two alike.
        is_key: bool [N].
        units_per_second: of the track's time.
    """

    codec: str
    extradata: bytes
    position: NDArray[np.int64]
    size: NDArray[np.int64]
    shown: NDArray[np.int64]
    is_key: NDArray[np.bool_]
    units_per_second: int

    @cached_property
    def packet_of_frame(self) -> NDArray[np.int64]:
        """int64 [N], the packet that holds the n-th frame shown."""
        return np.argsort(self.shown, kind="stable")

    def runs(self, frames: list[int], data: bytes) -> list[Run]:
        """What to decode for frames of rising numbers: from key frames on, and no more than needed.

        Packets that no other depends on are left out unless wanted.
        """
        key_packets = np.flatnonzero(self.is_key)
        found: list[Run] = []
        for frame in frames:
            packet = int(self.packet_of_frame[frame])
            start = self._key_before(packet, key_packets)
            if not found or found[-1].packets[0] != start:
                found.append(Run([start], []))
            run = found[-1]
            run.frames.append(frame)
            run.packets.extend(range(run.packets[-1] + 1, packet + 1))
        return [self._needed(run, data) for run in found]

    def _key_before(self, packet: int, key_packets: NDArray[np.int64]) -> int:
        """The packet to decode from, so that `packet` comes out whole."""
        number = int(np.searchsorted(key_packets, packet, side="right")) - 1
        # a frame shown before its key frame refers to what comes before that
        while number > 0 and self.shown[packet] < self.shown[key_packets[number]]:
            number -= 1
        return int(key_packets[max(number, 0)])

    def _needed(self, run: Run, data: bytes) -> Run:
        wanted = {int(self.packet_of_frame[frame]) for frame in run.frames}
        if self.codec != "h264":
            return run
        packets = [p for p in run.packets if p in wanted or not self._is_disposable(p, data)]
        return Run(packets, run.frames)

    def _is_disposable(self, packet: int, data: bytes) -> bool:
        """Whether no frame refers to it: its first slice's nal_ref_idc is 0 (H.264, 7.4.1)."""
        length_bytes = (self.extradata[4] & 3) + 1
        at, end = int(self.position[packet]), int(self.position[packet] + self.size[packet])
        while at + length_bytes < end:
            unit = at + length_bytes
            if data[unit] & 31 in SLICES:
                return not data[unit] & 0b0110_0000
            at = unit + int.from_bytes(data[at:unit], "big")
        return False


class _NotPlainError(Exception):
    """The file has something that these tables do not tell all about."""


def read_sample_table(data: bytes) -> SampleTable | None:
    """The sample table of an MP4 file's video track.

    Returns:
        None for any other file, and for what is not plain: fragments, edits that cut frames away
        or show them twice, a picture to be turned, doubled times, packets that lie outside of
        `data`, other codecs.
    """
    if data[4:8] != b"ftyp":
        return None
    try:
        return _read_movie(data)
    except (_NotPlainError, struct.error, ValueError, IndexError):
        return None


def _read_movie(data: bytes) -> SampleTable:
    movie = _only(data, 0, len(data), b"moov")
    inside = _boxes(data, *movie)
    if b"mvex" in inside:
        raise _NotPlainError("fragments")
    track = _video_track(data, inside.get(b"trak", []))
    header = _first(inside, b"mvhd")
    media = _boxes(data, *_first(track, b"mdia"))
    tables = _boxes(data, *_path(data, media, b"minf", b"stbl"))
    codec, extradata = _codec(data, _first(tables, b"stsd"))
    size = _sizes(data, tables)
    shown = _times(data, tables, len(size))
    position, is_key = _positions(data, tables, size), _keys(data, tables, len(size))
    scale = _time_scale(data, _first(media, b"mdhd"))
    table = SampleTable(codec, extradata, position, size, shown, is_key, scale)
    _check_plain(table, len(data))
    _check_edits(data, track, scale / _time_scale(data, header), shown)
    return table


def _boxes(data: bytes, start: int, stop: int) -> dict[bytes, list[tuple[int, int]]]:
    """The boxes from `start` to `stop`: type -> (start, stop) of what each holds."""
    found: dict[bytes, list[tuple[int, int]]] = {}
    for kind, first, last in _walk(data, start, stop):
        found.setdefault(kind, []).append((first, last))
    return found


def _walk(data: bytes, start: int, stop: int) -> Iterator[tuple[bytes, int, int]]:
    while start + 8 <= stop:
        size, kind = struct.unpack_from(">I4s", data, start)
        head = 8
        if size == 1:
            (size,) = struct.unpack_from(">Q", data, start + 8)
            head = 16
        elif size == 0:
            size = stop - start
        if size < head or start + size > stop:
            raise _NotPlainError("a box that is cut short")
        yield kind, start + head, start + size
        start += size


def _only(data: bytes, start: int, stop: int, kind: bytes) -> tuple[int, int]:
    return _first(_boxes(data, start, stop), kind)


def _first(boxes: dict[bytes, list[tuple[int, int]]], kind: bytes) -> tuple[int, int]:
    if kind not in boxes:
        raise _NotPlainError(f"no box {kind!r}")
    return boxes[kind][0]


def _path(data: bytes, boxes: dict[bytes, list[tuple[int, int]]], *kinds: bytes) -> tuple[int, int]:
    for kind in kinds:
        inside = _first(boxes, kind)
        boxes = _boxes(data, *inside)
    return inside


def _video_track(data: bytes, tracks: list[tuple[int, int]]) -> dict[bytes, list[tuple[int, int]]]:
    for place in tracks:
        track = _boxes(data, *place)
        handler, _ = _path(data, track, b"mdia", b"hdlr")
        if data[handler + 8 : handler + 12] == b"vide":
            _check_upright(data, *_first(track, b"tkhd"))
            return track
    raise _NotPlainError("no video track")


def _check_upright(data: bytes, start: int, stop: int) -> None:
    matrix = start + (52 if data[start] == 1 else 40)
    if data[matrix : matrix + 36] != IDENTITY_MATRIX:
        raise _NotPlainError("a picture to be turned")


def _codec(data: bytes, place: tuple[int, int]) -> tuple[str, bytes]:
    start, stop = place
    entries = list(_walk(data, start + 8, stop))
    if len(entries) != 1 or entries[0][0] not in CODECS:
        raise _NotPlainError("another codec, or several")
    kind, first, last = entries[0]
    codec, configuration = CODECS[kind]
    inside = _boxes(data, first + VISUAL_ENTRY_BYTES, last)
    at, end = _first(inside, configuration)
    return codec, data[at:end]


def _table(data: bytes, place: tuple[int, int], kind: str, columns: int) -> NDArray[np.int64]:
    """A full box's rows of `columns` numbers of type `kind`, after version, flags and count."""
    (count,) = struct.unpack_from(">I", data, place[0] + 4)
    values: NDArray[Any] = np.frombuffer(data, kind, count * columns, place[0] + 8)
    return values.astype(np.int64).reshape(count, columns)


def _sizes(data: bytes, tables: dict[bytes, list[tuple[int, int]]]) -> NDArray[np.int64]:
    start, _ = _first(tables, b"stsz")
    same, count = struct.unpack_from(">II", data, start + 4)
    if count > len(data):
        raise _NotPlainError("more packets than bytes")
    if same:
        return np.full(count, same, np.int64)
    return np.frombuffer(data, ">u4", count, start + 12).astype(np.int64)


def _positions(
    data: bytes, tables: dict[bytes, list[tuple[int, int]]], size: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Packets follow each other in chunks; stsc says how many are in each."""
    long = b"co64" in tables
    name, kind = (b"co64", ">u8") if long else (b"stco", ">u4")
    chunk = _table(data, _first(tables, name), kind, 1)[:, 0]
    runs = _table(data, _first(tables, b"stsc"), ">u4", 3)
    lengths = np.diff(np.append(runs[:, 0], len(chunk) + 1))
    per_chunk = _repeated(runs[:, 1], lengths, len(chunk))
    if per_chunk.sum() != len(size):
        raise _NotPlainError("chunks that do not hold all packets")
    before = np.cumsum(size) - size  # as if all followed each other
    first = np.cumsum(per_chunk) - per_chunk
    return _repeated(chunk - before[first], per_chunk, len(size)) + before


def _times(
    data: bytes, tables: dict[bytes, list[tuple[int, int]]], num_packets: int
) -> NDArray[np.int64]:
    duration = _table(data, _first(tables, b"stts"), ">u4", 2)
    each = _repeated(duration[:, 1], duration[:, 0], num_packets)
    times: NDArray[np.int64] = np.cumsum(each) - each
    if b"ctts" in tables:
        delay = _table(data, _first(tables, b"ctts"), ">i4", 2)
        times = times + _repeated(delay[:, 1], delay[:, 0], num_packets)
    return times


def _repeated(values: NDArray[np.int64], times: NDArray[np.int64], total: int) -> NDArray[np.int64]:
    """Each value so many times: as tables write what many packets share."""
    # a damaged table may ask for more than the memory holds
    if (times < 0).any() or times.sum() != total:
        raise _NotPlainError(f"a table that does not tell of all {total}")
    return np.repeat(values, times)


def _keys(
    data: bytes, tables: dict[bytes, list[tuple[int, int]]], num_packets: int
) -> NDArray[np.bool_]:
    if b"stss" not in tables:
        return np.ones(num_packets, np.bool_)
    is_key = np.zeros(num_packets, np.bool_)
    is_key[_table(data, _first(tables, b"stss"), ">u4", 1)[:, 0] - 1] = True
    return is_key


def _time_scale(data: bytes, place: tuple[int, int]) -> int:
    start = place[0]
    (scale,) = struct.unpack_from(">I", data, start + (20 if data[start] == 1 else 12))
    if not scale:
        raise _NotPlainError("time without a unit")
    return int(scale)


def _check_plain(table: SampleTable, num_bytes: int) -> None:
    if not len(table.size) or not table.is_key[0]:
        raise _NotPlainError("no packets, or none to begin with")
    if (table.size <= 0).any() or (table.position + table.size > num_bytes).any():
        raise _NotPlainError("packets outside of the file")
    in_order = table.shown[table.packet_of_frame].tolist()
    if any(first == second for first, second in pairwise(in_order)):
        raise _NotPlainError("frames shown at one time")


def _check_edits(
    data: bytes,
    track: dict[bytes, list[tuple[int, int]]],
    scale: float,
    shown: NDArray[np.int64],
) -> None:
    """An edit list may only say what is so without it: all frames are shown, once, in order."""
    if b"edts" not in track:
        return
    start, _ = _path(data, track, b"edts", b"elst")
    layout = ">QqI" if data[start] == 1 else ">IiI"
    (count,) = struct.unpack_from(">I", data, start + 4)
    duration, first, rate = struct.unpack_from(layout, data, start + 8)
    is_whole = first <= shown.min() and shown.max() < first + duration * scale
    if count != 1 or first < 0 or rate != 1 << 16 or not is_whole:
        raise _NotPlainError("edits")
