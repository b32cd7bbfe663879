"""Judge by a file's structure how much of its video is missing at its end."""

from __future__ import annotations

import struct

from av.container import InputContainer
from av.video.stream import VideoStream

from ctp.video.file_bytes import FileBytes

UNKNOWN_AVI_SIZE = 0x7FFFFF00
"""From this number of bytes on, the writer of an AVI file did not know the size."""
EBML, SEGMENT, SEEK_HEAD, SEEK = 0x1A45DFA3, 0x18538067, 0x114D9B74, 0x4DBB
SEEK_ID, SEEK_POSITION, CUES, CLUSTER = 0x53AB, 0x53AC, 0x1C53BB6B, 0x1F43B675
"""Ids of Matroska's elements (RFC 9559)."""
MAX_HEADER_BYTES = 18
"""Most bytes of the id and the size of an element, which a damaged one may begin with."""


def missing_share(data: FileBytes, container: InputContainer, stream: VideoStream) -> float:
    """Return the share of the video's bytes that are missing at the end of a file, from 0 to 1.

    * MP4: the packets in the sample tables that end after the file's end.
    * AVI: the part of the `movi` lists after the file's end.
    * Matroska: the part of the segment after the file's end; if it has an index after its
      clusters, up to the index.
    * Other formats do not say where they end: 0.

    Args:
        data: the file.
        container, stream: the file, opened; only the tables are used.
    """
    names = container.format.name.split(",")
    if "mp4" in names:
        return _missing_in_mp4(len(data), stream)
    if "avi" in names:
        return _missing_in_avi(data)
    if "matroska" in names:
        try:
            return _missing_in_matroska(data)
        except IndexError:  # the header itself is cut; FFmpeg finds no packets then
            return 0.0
    return 0.0


def _missing_in_mp4(num_bytes: int, stream: VideoStream) -> float:
    total = missing = 0
    for entry in stream.index_entries:
        total += entry.size
        if entry.pos + entry.size > num_bytes:
            missing += entry.size
    return missing / total if total else 0.0


def _missing_in_avi(data: FileBytes) -> float:
    """Sum over all RIFF chunks: large files have several (OpenDML)."""
    total = missing = 0
    riff = 0
    while data[riff : riff + 4] == b"RIFF":
        (riff_size,) = struct.unpack("<I", data[riff + 4 : riff + 8])
        at = riff + 12
        while at + 12 <= len(data) and at < riff + 8 + riff_size:
            kind, size, list_kind = struct.unpack("<4sI4s", data[at : at + 12])
            if kind == b"LIST" and list_kind == b"movi" and size < UNKNOWN_AVI_SIZE:
                total += size
                missing += max(at + 8 + size - len(data), 0)
            at += 8 + size + size % 2
        riff += 8 + riff_size + riff_size % 2
    return missing / total if total else 0.0


def _missing_in_matroska(data: FileBytes) -> float:
    kind, size, at = _element(data, 0)
    if kind != EBML or size is None:
        return 0.0
    kind, size, start = _element(data, at + size)
    if kind != SEGMENT or size is None:  # a live recording has no size
        return 0.0
    end = start + size
    cues = _find_cues(data, start, end)
    # what is after an index at the end is no video
    end = end if cues is None else cues
    return max(end - len(data), 0) / max(end - start, 1)


def _find_cues(data: FileBytes, start: int, end: int) -> int | None:
    """Return where the index is, if it is after the first cluster."""
    at, cues = start, None
    while at < min(end, len(data)):
        kind, size, content = _element(data, at)
        if kind == CLUSTER:
            return cues if cues is not None and cues > at else None
        if size is None:
            return None
        if kind == SEEK_HEAD:
            cues = _position_in_seek_head(data, content, content + size, start)
        at = content + size
    return None


def _position_in_seek_head(data: FileBytes, at: int, end: int, start: int) -> int | None:
    while at < end:
        kind, size, content = _element(data, at)
        if size is None:
            return None
        at = content + size
        if kind != SEEK:
            continue
        fields = {}
        inner = content
        while inner < at:
            name, length, value = _element(data, inner)
            inner = value + (length or 0)
            fields[name] = int.from_bytes(data[value:inner], "big")
        if fields.get(SEEK_ID) == CUES and SEEK_POSITION in fields:
            return start + fields[SEEK_POSITION]
    return None


def _element(data: FileBytes, at: int) -> tuple[int, int | None, int]:
    """Return id, size and start of the content of an EBML element; size None if unknown.

    Raises:
        IndexError: the file ends before.
    """
    header = data[at : at + MAX_HEADER_BYTES]
    id_bytes = 9 - header[0].bit_length()
    kind = int.from_bytes(header[:id_bytes], "big")
    size_bytes = 9 - header[id_bytes].bit_length()
    mask = (1 << 7 * size_bytes) - 1
    size = int.from_bytes(header[id_bytes : id_bytes + size_bytes], "big") & mask
    return kind, None if size == mask else size, at + id_bytes + size_bytes
