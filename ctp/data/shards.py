"""Shards: many encoded videos in one Parquet file, which any Parquet reader opens.

The column `data` is written so that the file is also a plain archive: uncompressed, one page per
row group, each value as [u32 little-endian length][bytes]. The offset of every video then follows
from the footer, and one range read gets one video, also from an object store. The footer has a copy
of the small columns, as an index, so that a shard is catalogued by reading the footer only.
"""

from __future__ import annotations

import base64
import hashlib
import mmap
import tempfile
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from ctp.storage import SeekableFile, Storage, temporary_file_error
from ctp.text import one_line

ROW_GROUP_BYTES = 4 * 2**20
MAX_VIDEO_BYTES = 2**30
"""A Parquet page must be smaller than 2 GiB, and a row group is one page."""
SUFFIX = ".parquet"

MARK = {b"ctp.shard": b"1"}
INDEX = b"ctp.index"
COUNTED = {b"ctp.num_frames": b"pictures"}
"""Marks shards whose `num_frames` are pictures that FFmpeg shows; earlier ones counted packets."""
FOOTER_BYTES = 64 * 1024
"""How much of a shard's end is read first; it nearly always contains the footer."""
TRAILER_BYTES = 8
MAGIC = b"PAR1"
MAX_PAGE_HEADER_BYTES = 32
"""Upper bound on the length of a page header; two headers are longer."""
LENGTH_BYTES = 4

SCHEMA = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("data", pa.binary(), nullable=False),
        pa.field("size", pa.int64(), nullable=False),
        pa.field("checksum", pa.uint32(), nullable=False),
        pa.field("label", pa.string()),
        pa.field("num_frames", pa.int32(), nullable=False),
        pa.field("rate", pa.float64(), nullable=False),
        pa.field("width", pa.int32(), nullable=False),
        pa.field("height", pa.int32(), nullable=False),
        pa.field("boxes", pa.list_(pa.list_(pa.float32(), 4))),
        pa.field("absence", pa.list_(pa.int8())),
        pa.field("cover", pa.list_(pa.int8())),
        pa.field("weights", pa.list_(pa.float32())),
    ],
    MARK,
)
INDEXED = ["id", "label", "size", "checksum", "num_frames"]
ANNOTATED = ["num_frames", "width", "height", "boxes", "absence", "cover", "weights"]


class ShardError(ValueError):
    """A file that is not a shard, or damaged; the message names it and says what to do."""

    def __init__(self, uri: str, reason: str):
        super().__init__(f"{uri} {reason}. Build this shard again with jobs/build_shards.py")
        self.uri, self.reason = uri, reason

    def __reduce__(self) -> tuple[type[ShardError], tuple[str, str]]:
        return type(self), (self.uri, self.reason)  # args hold the message only


@dataclass(frozen=True)
class ShardRow:
    """One video of a shard.

    Attributes:
        id: stable name inside its data set.
        data: the encoded file, at most `MAX_VIDEO_BYTES`.
        num_frames: N, number of pictures that FFmpeg shows.
        rate: average frames/s.
        width, height: pixels of the stored video.
        label: class name, or None.
        boxes: float32 [N, 4], xyxy pixels of the stored video, or None; fewer rows if only the
            first frames are annotated. Of K objects [K·N, 4]: all frames of one after the other.
        absence: int8 [N], 1 where the object is not in the picture, or None.
        cover: int8 [N], visible eighths of the object, or None.
        weights: float32 [K·N] in [0, 1], how far each box of a tracker can be trusted, or None. A
            frame of weight 0 ends a track: boxes behind it are of another target.
        extra: values of further columns, by name.
    """

    id: str
    data: bytes
    num_frames: int
    rate: float
    width: int
    height: int
    label: str | None = None
    boxes: NDArray[np.float32] | None = None
    absence: NDArray[np.int8] | None = None
    cover: NDArray[np.int8] | None = None
    weights: NDArray[np.float32] | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)

    @property
    def size(self) -> int:
        """Return the number of bytes of `data`."""
        return len(self.data)

    @property
    def checksum(self) -> int:
        """Return the CRC-32 of `data`."""
        return zlib.crc32(self.data)


@dataclass(frozen=True)
class ShardSummary:
    """The contents of a shard.

    Attributes:
        videos, frames: their numbers.
        bytes: size of the file.
        checksum: BLAKE2b-256 of the file, hexadecimal.
        labels: label -> number of videos, sorted.
    """

    videos: int
    frames: int
    bytes: int
    checksum: str
    labels: Mapping[str, int]


class ShardWriter:
    """Writes a shard, for use in a `with` statement; a reader sees the whole shard or none.

    Memory holds one row group. The file grows on this machine's disk and is then copied.
    """

    def __init__(
        self,
        place: Storage,
        row_group_bytes: int = ROW_GROUP_BYTES,
        extra: Sequence[pa.Field] = (),
    ):
        """Create a writer; nothing is written yet.

        Args:
            place: the file to write.
            row_group_bytes: a row group is complete when its videos have this many bytes.
            extra: further columns, with values in `ShardRow.extra`.
        """
        self._place, self._row_group_bytes = place, row_group_bytes
        self._schema = pa.schema([*SCHEMA, *extra], MARK)
        self._group: list[ShardRow] = []
        self._group_bytes = 0
        self._indices = [SCHEMA.empty_table().select(INDEXED)]

    def __enter__(self) -> Self:
        self._file = tempfile.TemporaryFile()
        self._writer = pq.ParquetWriter(self._file, self._schema, **_layout(self._schema))
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(OSError):  # finish() reports errors; here another one was raised before
            self._writer.close()
        self._file.close()

    def add(self, row: ShardRow) -> None:
        """Add a video.

        Raises:
            ValueError: it has more than `MAX_VIDEO_BYTES`.
            StorageError: this machine's disk is full.
        """
        if row.size > MAX_VIDEO_BYTES:
            raise ValueError(
                f"video {row.id!r} has {row.size} bytes, expected at most {MAX_VIDEO_BYTES}"
            )
        self._group.append(row)
        self._group_bytes += row.size
        if self._group_bytes >= self._row_group_bytes:
            self._close_group()

    def finish(self) -> ShardSummary:
        """Write the shard to its place.

        Raises:
            StorageError: it cannot be written.
        """
        if self._group:
            self._close_group()
        index = pa.concat_tables(self._indices)
        self._writer.add_key_value_metadata({INDEX: _to_text(index), **COUNTED})
        with _disk_errors():
            self._writer.close()
        self._file.seek(0)
        checksum = hashlib.file_digest(self._file, _new_digest).hexdigest()
        with mmap.mmap(self._file.fileno(), 0, access=mmap.ACCESS_READ) as whole:
            self._place.write_bytes(whole)
            size = len(whole)
        labels = Counter(label for label in index["label"].to_pylist() if label is not None)
        frames = sum(index["num_frames"].to_pylist())
        return ShardSummary(len(index), frames, size, checksum, dict(sorted(labels.items())))

    def _close_group(self) -> None:
        table = _to_table(self._group, self._schema)
        with _disk_errors():
            self._writer.write_table(table, row_group_size=len(table))
        self._indices.append(table.select(INDEXED))
        self._group, self._group_bytes = [], 0


def write_shard(
    place: Storage, rows: Iterable[ShardRow], row_group_bytes: int = ROW_GROUP_BYTES
) -> ShardSummary:
    """Write a shard from an iterable of rows; see `ShardWriter`."""
    with ShardWriter(place, row_group_bytes) as writer:
        for row in rows:
            writer.add(row)
        return writer.finish()


def read_index(place: Storage) -> pa.Table:
    """Return what a shard holds and where, reading only its footer.

    Returns:
        a row for each video, in file order: id (string), label (string, nullable), offset and
        size (int64, bytes from the file's start), checksum (uint32, CRC-32), num_frames (int32,
        null if an earlier version of ctp wrote the shard and counted packets instead).

    Raises:
        ShardError: it is not a shard, or truncated, or its footer is damaged.
        StorageError: it cannot be read.
    """
    metadata = _parse_footer(place, _read_footer(place))
    marks = metadata.metadata or {}
    if any(marks.get(key) != value for key, value in MARK.items()) or INDEX not in marks:
        raise ShardError(place.uri, "is a Parquet file, but not a shard of version 1")
    try:
        index = pa.ipc.open_stream(base64.b64decode(marks[INDEX])).read_all()
    except (ValueError, OSError) as error:  # all of pyarrow's errors are one of these
        raise ShardError(place.uri, f"has a damaged index: {error}") from error
    if any(marks.get(key) != value for key, value in COUNTED.items()):
        column = index.schema.get_field_index("num_frames")
        unknown = pa.nulls(len(index), pa.int32())
        index = index.set_column(column, "num_frames", unknown)
    offsets = pa.array(_offsets(place, metadata, index["size"].to_numpy()))
    return index.add_column(2, "offset", offsets)


def read_annotations(place: Storage) -> pa.Table:
    """Return the annotations of a shard's videos, without reading the videos.

    Returns:
        a row for each video, in file order: offset as in `read_index`, and the columns
        `ANNOTATED` as in `ShardRow`.

    Raises:
        ShardError, StorageError: see `read_index`.
    """
    offsets = read_index(place)["offset"]
    with place.open() as file:
        table = pq.ParquetFile(pa.PythonFile(SeekableFile(file), "r")).read(ANNOTATED)
    return table.append_column("offset", offsets)


@contextmanager
def _disk_errors() -> Iterator[None]:
    """Turn OSError into StorageError with a hint."""
    try:
        yield
    except OSError as error:
        raise temporary_file_error("a shard", error) from error


def _layout(schema: pa.Schema) -> dict[str, Any]:
    """Return the options for one page per row group and uncompressed videos."""
    return {
        "use_dictionary": False,
        "write_statistics": False,
        "compression": {path: "none" if path == "data" else "zstd" for path in _leaf_paths(schema)},
        "data_page_version": "1.0",
        "data_page_size": 2**31 - 1,
        "write_batch_size": 2**30,
    }


def _new_digest() -> hashlib.blake2b:
    return hashlib.blake2b(digest_size=32)


def _to_table(rows: list[ShardRow], schema: pa.Schema) -> pa.Table:
    columns: dict[str, Any] = {name: [getattr(r, name) for r in rows] for name in SCHEMA.names}
    for name in schema.names[len(SCHEMA.names) :]:
        columns[name] = [row.extra[name] for row in rows]
    boxes = columns["boxes"]
    columns["boxes"] = [None if b is None else np.asarray(b, np.float32).tolist() for b in boxes]
    return pa.table(columns, schema=schema)


def _leaf_paths(schema: pa.Schema) -> list[str]:
    return [each.name + ".list.element" * _depth(each.type) for each in schema]


def _depth(kind: pa.DataType) -> int:
    """Return how many lists are inside each other."""
    is_list = pa.types.is_list(kind) or pa.types.is_fixed_size_list(kind)
    return 1 + _depth(kind.value_type) if is_list else 0


def _to_text(table: pa.Table) -> bytes:
    """Encode a table in Arrow's stream format as ASCII, which Parquet's metadata requires."""
    sink = pa.BufferOutputStream()
    options = pa.ipc.IpcWriteOptions(compression="zstd")
    with pa.ipc.new_stream(sink, table.schema.remove_metadata(), options=options) as writer:
        writer.write_table(table.replace_schema_metadata().combine_chunks())
    return base64.b64encode(sink.getvalue())


def _read_footer(place: Storage) -> bytes:
    """Return the end of the file with the whole footer; the whole file if it is too short."""
    with place.open() as file:
        tail = file.read(max(file.size - FOOTER_BYTES, 0))
        size = int.from_bytes(tail[-TRAILER_BYTES:-4], "little") + TRAILER_BYTES
        # a footer that is longer than the first read: read it once more, whole
        if tail.endswith(MAGIC) and len(tail) < size <= file.size:
            tail = file.read(file.size - size)
        return tail


def _parse_footer(place: Storage, tail: bytes) -> pq.FileMetaData:
    if not tail.endswith(MAGIC):
        raise ShardError(place.uri, "is truncated or not a Parquet file: it has no footer")
    try:
        return pq.read_metadata(pa.BufferReader(tail))
    except (ValueError, OSError) as error:
        raise ShardError(place.uri, f"has a damaged footer: {one_line(error)}") from error


def _offsets(place: Storage, metadata: pq.FileMetaData, sizes: NDArray[Any]) -> NDArray[np.int64]:
    """Return each video's offset: the values of a row group are the end of its column chunk."""
    if metadata.num_rows != len(sizes):
        raise ShardError(place.uri, f"has {metadata.num_rows} videos but {len(sizes)} in its index")
    column = SCHEMA.get_field_index("data")
    offsets = np.empty(len(sizes), np.int64)
    first = 0
    for number in range(metadata.num_row_groups):
        group = metadata.row_group(number)
        chunk = group.column(column)
        inside = slice(first, first + group.num_rows)
        ends = np.cumsum(LENGTH_BYTES + sizes[inside])
        # counted from the chunk's end: the length of the page header varies
        start = chunk.data_page_offset + chunk.total_compressed_size - ends[-1]
        header = start - chunk.data_page_offset
        if chunk.compression != "UNCOMPRESSED" or not 0 < header <= MAX_PAGE_HEADER_BYTES:
            raise ShardError(place.uri, "was rewritten by another program: its pages differ")
        offsets[inside] = start + ends - sizes[inside]
        first += group.num_rows
    return offsets
