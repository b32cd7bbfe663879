"""WebDataset tars: which videos they hold and where, from the headers of their members.

Members belong together by their key, the path up to the first dot of the file's name: `a/7.mp4`
is the video and `a/7.cls` or `a/7.json` the label of `a/7`. A tar that is damaged loses what is
damaged: reading goes on at the next whole header.

An index takes a read for each member, or about one in each MiB, so it is kept in the cache folder
under the tar's URI, size and time. The cache is never needed.
"""

from __future__ import annotations

import hashlib
import json
import re
import struct
import tarfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from ctp.data.cache_folder import cache_folder
from ctp.data.listing import VIDEO_SUFFIXES, is_video
from ctp.storage import OpenFile, Storage, StorageError

SUFFIX = ".tar"
CACHE_VERSION = 1
"""To be raised with every change of what an index holds."""
BUFFER_BYTES = 2**20
MAX_LABEL_BYTES = 2**16
MAX_HEADER_BYTES = 2**20
"""Longer names and pax headers are damage."""
MAX_PROBLEMS_SAID = 3

BLOCK = tarfile.BLOCKSIZE
FIELDS = struct.Struct("100s 24x 12s 12x 8s c 100x 6s 82x 155s 12x")
"""Of a header: name, size, checksum, type, magic, prefix of the name."""
USTAR = b"ustar\0"
MAGIC = (slice(257, 262), b"ustar")
"""Where GNU's headers agree with that."""
BINARY_MARK = 0x80
DIGITS = "[0-9]{1,18}"
FILES = frozenset({tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.CONTTYPE})
WITHOUT_DATA = frozenset(
    {tarfile.LNKTYPE, tarfile.SYMTYPE, tarfile.DIRTYPE, tarfile.FIFOTYPE}
    | {tarfile.CHRTYPE, tarfile.BLKTYPE}
)
PAX = frozenset({tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE})

SCHEMA = pa.schema(
    [
        pa.field("key", pa.string(), nullable=False),
        pa.field("label", pa.string()),
        pa.field("offset", pa.int64(), nullable=False),
        pa.field("size", pa.int64(), nullable=False),
    ]
)


@dataclass(frozen=True)
class Damage:
    """What of a tar cannot be used: a member by its name, or the tar itself (""), and why."""

    name: str
    reason: str


@dataclass(frozen=True)
class TarIndex:
    """What a tar holds.

    Attributes:
        videos: a row for each video, in file order: key (string), label (string, nullable),
            offset and size (int64, bytes from the tar's start).
        damage: what cannot be used.
    """

    videos: pa.Table
    damage: tuple[Damage, ...]


def read_index(place: Storage) -> TarIndex:
    """What a tar holds, from the cache or from the tar.

    Raises:
        StorageError: it cannot be read.
    """
    cached = _cache_place(place)
    with suppress(OSError, ValueError, KeyError):
        return _from_bytes(cached.read_bytes())
    with place.opened() as file:
        index = _index(file)
    with suppress(StorageError):  # a home that cannot be written to stops no run
        cached.write_bytes(_to_bytes(index))
    return index


def _cache_place(place: Storage) -> Storage:
    key = repr((place.uri, *place.version(), VIDEO_SUFFIXES))
    name = hashlib.blake2b(key.encode(), digest_size=16).hexdigest()
    return Storage.of(cache_folder() / f"tars-{CACHE_VERSION}" / f"{name}.parquet")


def _to_bytes(index: TarIndex) -> bytes:
    damage = json.dumps([asdict(each) for each in index.damage])
    sink = pa.BufferOutputStream()
    pq.write_table(index.videos.replace_schema_metadata({"damage": damage}), sink)
    return bytes(sink.getvalue())


def _from_bytes(data: bytes) -> TarIndex:
    table = pq.read_table(pa.BufferReader(data))
    damage = tuple(Damage(**each) for each in json.loads(table.schema.metadata[b"damage"]))
    return TarIndex(table.replace_schema_metadata(), damage)


@dataclass
class _Found:
    """The members of a tar by key, as they are met."""

    videos: dict[str, _Member] = field(default_factory=dict)
    labels: dict[str, str] = field(default_factory=dict)
    damage: list[Damage] = field(default_factory=list)

    def add_video(self, member: _Member) -> None:
        """Take in a video."""
        if member.key in self.videos and self.videos[member.key].name != member.name:
            reason = f"is a second video under the key {member.key!r} of its tar"
            self.damage.append(Damage(member.name, reason))
        else:  # a member that comes again replaces the first, as in every tar
            self.videos[member.key] = member

    def add_label(self, member: _Member, data: bytes) -> None:
        """Take in a member that may hold the label of its key; .cls goes before .json."""
        if member.suffix == "cls":
            self.labels[member.key] = data.decode(errors="replace").strip()
            return
        with suppress(ValueError):  # JSON may hold anything
            content = json.loads(data)
            if isinstance(content, dict) and isinstance(content.get("label"), str | int):
                self.labels.setdefault(member.key, str(content["label"]))

    def to_index(self) -> TarIndex:
        """What was found."""
        found = self.videos.items()
        columns = [
            [key for key, _ in found],
            [self.labels.get(key) or None for key, _ in found],
            [member.offset for _, member in found],
            [member.size for _, member in found],
        ]
        arrays = [
            pa.array(column, kind) for column, kind in zip(columns, SCHEMA.types, strict=True)
        ]
        return TarIndex(pa.Table.from_arrays(arrays, schema=SCHEMA), tuple(self.damage))


def _index(file: OpenFile) -> TarIndex:
    walk, found = _Walk(file), _Found()
    for member in walk.members():
        if member.is_hidden:
            continue
        if is_video(member.name):
            found.add_video(member)
        elif member.suffix in {"cls", "json"} and member.size <= MAX_LABEL_BYTES:
            found.add_label(member, walk.read(member.offset, member.size))
    if walk.problems:
        said = "; ".join(walk.problems[:MAX_PROBLEMS_SAID])
        more = len(walk.problems) - MAX_PROBLEMS_SAID
        found.damage.append(Damage("", said + (f"; and {more} more" if more > 0 else "")))
    elif not found.videos and not found.damage:
        found.damage.append(Damage("", "holds no video"))
    return found.to_index()


@dataclass(frozen=True)
class _Member:
    """A file in a tar: where its bytes are, and its name as WebDataset takes it apart."""

    name: str
    offset: int
    size: int

    @property
    def key(self) -> str:
        """The path up to the first dot of the file's name."""
        folder, slash, name = self.name.rpartition("/")
        return folder + slash + name.partition(".")[0]

    @property
    def is_hidden(self) -> bool:
        """Whether it has no key: WebDataset gives it to nobody."""
        return self.name.rpartition("/")[2].startswith(".")

    @property
    def suffix(self) -> str:
        """What follows that dot."""
        return self.name.rpartition("/")[2].partition(".")[2].lower()


class _DamagedHeaderError(ValueError):
    """A header that is none."""


class _Walk:
    """A walk over the headers of a tar of ustar, GNU or pax format.

    Attributes:
        problems: what was wrong on the way, a line each.
    """

    def __init__(self, file: OpenFile):
        self._file, self._length = file, file.size
        self._buffer, self._buffer_offset = b"", 0
        self._named: dict[str, str] = {}  # by headers that are about the member that follows
        self.problems: list[str] = []

    def read(self, offset: int, size: int) -> bytes:
        """Bytes of the tar; fewer at its end."""
        start = offset - self._buffer_offset
        if not 0 <= start <= start + size <= len(self._buffer):
            self._buffer = self._file.read(offset, max(size, BUFFER_BYTES))
            self._buffer_offset, start = offset, 0
        return self._buffer[start : start + size]

    def members(self) -> Iterator[_Member]:
        """The files in the tar that are whole."""
        offset, is_ended = 0, False
        while offset < self._length:
            block = self.read(offset, BLOCK)
            is_ended = not block.strip(b"\0")
            if is_ended:  # tars that were joined go on after it
                offset += BLOCK
                continue
            try:
                header = self._next(block, offset + BLOCK)
            except _DamagedHeaderError:
                offset = self._skip_damage(offset)
                continue
            if header.type in FILES and self._is_whole(header, offset + BLOCK):
                yield _Member(header.name.removeprefix("./"), offset + BLOCK, header.size)
            offset += BLOCK + header.data_bytes
        if not self._length:
            self.problems.append("is empty")
        elif not is_ended and not self.problems:
            self.problems.append("has no end mark: it may have been cut short")

    def _next(self, block: bytes, offset: int) -> _Header:
        """The header in `block`, its data at `offset`, under the name that those before gave."""
        header = _Header.parse(block)
        if header.type == tarfile.GNUTYPE_LONGNAME:
            path = self._header_data(header, offset).partition(b"\0")[0]
            self._named["path"] = _text(path)
        elif header.type in PAX:
            self._named |= _pax_records(self._header_data(header, offset))
        elif header.type not in {tarfile.GNUTYPE_LONGLINK, tarfile.XGLTYPE}:
            named, self._named = self._named, {}
            size = named.get("size", "")
            header = header._replace(
                name=named.get("path", header.name),
                size=int(size) if re.fullmatch(DIGITS, size) else header.size,
            )
        return header

    def _is_whole(self, header: _Header, offset: int) -> bool:
        there = max(self._length - offset, 0)
        if there < header.size:
            self.problems.append(
                f"is cut short: {there} of the {header.size} bytes of {header.name} are there"
            )
        return there >= header.size

    def _header_data(self, header: _Header, offset: int) -> bytes:
        if header.size > MAX_HEADER_BYTES:
            raise _DamagedHeaderError
        return self.read(offset, header.size)

    def _skip_damage(self, start: int) -> int:
        """Where the first whole header after `start` is, or the end of the tar."""
        self._named = {}
        place, magic = MAGIC
        offset = start + BLOCK
        while offset < self._length:
            block = self.read(offset, BLOCK)
            if block[place] == magic:
                with suppress(_DamagedHeaderError):
                    _Header.parse(block)
                    break
            offset += BLOCK
        offset = min(offset, self._length)
        self.problems.append(f"is damaged: {offset - start} bytes from byte {start} on are no tar")
        return offset


class _Header(NamedTuple):
    """What a header block says of the bytes that follow it."""

    name: str
    size: int
    type: bytes

    @classmethod
    def parse(cls, block: bytes) -> _Header:
        """Take a header apart; `tarfile` does the same and takes four times as long.

        Raises:
            _DamagedHeaderError: it is none.
        """
        if len(block) < BLOCK:
            raise _DamagedHeaderError
        name, size, checksum, kind, magic, prefix = FIELDS.unpack(block)
        if _number(checksum) not in _checksums(block, checksum):
            raise _DamagedHeaderError
        if magic == USTAR and prefix[0]:  # GNU has other things there
            name = prefix.partition(b"\0")[0] + b"/" + name
        return cls(_text(name.partition(b"\0")[0]), _number(size), kind)

    @property
    def data_bytes(self) -> int:
        """What the data takes up, with its padding."""
        return 0 if self.type in WITHOUT_DATA else -(-self.size // BLOCK) * BLOCK


def _checksums(block: bytes, field: bytes) -> Iterator[int]:
    """The sum of a header's bytes, with spaces for the checksum itself; some old writers took
    the bytes as signed."""
    spaces = len(field) * ord(" ")
    yield sum(block) - sum(field) + spaces
    yield sum(memoryview(block).cast("b")) - sum(memoryview(field).cast("b")) + spaces


def _number(field: bytes) -> int:
    """A number as octal digits or, where these do not do, binary after a mark."""
    if field[0] == BINARY_MARK:
        return int.from_bytes(field[1:], "big")
    digits = field.partition(b"\0")[0].strip()
    if digits.strip(b"01234567"):
        raise _DamagedHeaderError
    return int(digits or b"0", 8)


def _text(name: bytes) -> str:
    return name.decode(errors="backslashreplace")


def _pax_records(data: bytes) -> dict[str, str]:
    """The records `LENGTH KEY=VALUE\\n` of a pax header."""
    records = {}
    while data.strip(b"\0"):
        digits = data.partition(b" ")[0]
        length = int(digits) if re.fullmatch(DIGITS, _text(digits)) else 0
        key, mark, value = data[len(digits) + 1 : length].partition(b"=")
        if not mark or not value.endswith(b"\n"):
            raise _DamagedHeaderError
        records[_text(key)] = _text(value[:-1])
        data = data[length:]
    return records
