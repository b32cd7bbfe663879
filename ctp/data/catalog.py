"""The catalogue: which videos there are, as columns. The bytes are read where they are used."""

from __future__ import annotations

import hashlib
import re
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, SupportsIndex, TypeVar, overload

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from ctp.data import corpus
from ctp.data.cache_folder import cache_folder
from ctp.data.listing import suffix_of
from ctp.data.quarantine import QuarantinedVideo
from ctp.data.time_limit import paused
from ctp.rng import uniform_hash
from ctp.storage import Storage, StorageError, WatchedFile
from ctp.video.encoded import EncodedVideo, VideoError, permanent_errors
from ctp.video.file_bytes import FileBytes, StoredBytes
from ctp.video.stored import StoredVideo

RETRY_SECONDS = (1.0, 5.0)
"""Pauses before a failed read of a video is repeated. For S3, the storage itself waits over a
minute each time, so that a run survives an outage of minutes; a network disk fails at once."""
LONG_BYTES = 2**24
"""Bytes from which a video is not read whole for each clip, if its format allows it. On a disk,
parts of smaller files are read faster, too; but an object store sends some MiB in the time that the
two requests for a part take, and whole files are read ahead."""
TABLE_SUFFIXES = ".3gp", ".m4v", ".mkv", ".mov", ".mp4", ".webm"
"""Endings of MP4, QuickTime and Matroska files. In others, frames are found only in order."""
HEAD_BYTES, MATROSKA = 8, b"\x1a\x45\xdf\xa3"
INDEX_VERSION = 1
"""Increase this with every change of what an index of a long video holds, or of the rules by which
its frames are found."""
IDS_PER_CHUNK = 2**16
"""Ids that are Python objects at the same time."""

T = TypeVar("T")

TEXT = pa.large_string()  # ids may exceed 2 GiB
NAME = pa.dictionary(pa.int32(), TEXT)
SCHEMA = pa.schema(
    [
        pa.field("id", TEXT, nullable=False),
        pa.field("uri", NAME, nullable=False),
        pa.field("label", NAME),
        pa.field("offset", pa.int64(), nullable=False),
        pa.field("size", pa.int64()),
        pa.field("checksum", pa.int64()),
        pa.field("num_frames", pa.int32()),
    ]
)
"""The columns of a catalogue: the fields of `VideoEntry`."""


@dataclass(frozen=True)
class VideoEntry:
    """A video that can be read: a range of the bytes of a file.

    Attributes:
        id: stable, unique in its catalogue.
        uri: the file: the video itself, or a shard or tar that holds it.
        label: class name, or None.
        offset: where in the file the video begins, in bytes.
        size: bytes of the video; None if unknown, which means from `offset` to the file's end.
        checksum: CRC-32 of the video's bytes, or None if unknown.
        num_frames: frames of the video, or None if unknown.
    """

    id: str
    uri: str
    label: str | None = None
    offset: int = 0
    size: int | None = None
    checksum: int | None = None
    num_frames: int | None = None

    def read(self) -> EncodedVideo:
        """Read the encoded bytes, by one request.

        Raises:
            VideoError: the file does not exist, may not be read, is empty or damaged, or has
                changed since it was catalogued.
            StorageError: the storage fails, also after the pauses of `RETRY_SECONDS`. The video
                is not to blame, and the clips that a run sees must not depend on it.
        """
        with permanent_errors(self.id, self.uri):
            data = _with_retries(self._read_bytes)
        fault = self._find_fault(data)
        if fault:
            raise VideoError(self.id, self.uri, fault)
        return EncodedVideo(self.id, self.uri, data, self.label, self.num_frames)

    def open_long(self, size: int) -> StoredVideo | None:
        """Open a long video, of which only the parts that are needed will be read.

        Args:
            size: bytes of the video.

        Returns:
            None if it has to be read whole: it is short, has a checksum, is in a format whose
            frames are found only in order, or cannot be opened, which `read` will report.
        """
        if size < LONG_BYTES or self.checksum is not None:
            return None
        try:
            place = Storage.from_uri(self.uri)
            file = WatchedFile(place)
            data = self._stored_bytes(file, size)
            if not self._has_tables(place, file):
                return None
        except (StorageError, ValueError):
            return None
        version = repr((self.uri, self.offset, size, file.version))
        folder = cache_folder() / f"long-videos-{INDEX_VERSION}"
        return StoredVideo(self.id, self.uri, data, version, folder, self.label, self.num_frames)

    def open_bytes(self) -> FileBytes:
        """Return the encoded bytes; those of a long video are read when they are needed.

        Raises:
            VideoError, StorageError: see `read`. Reading a long video raises StorageError later.
        """
        is_short = self.size is not None and self.size < LONG_BYTES
        if is_short or self.checksum is not None or self.uri.startswith(corpus.SCHEME):
            return self.read().data
        with permanent_errors(self.id, self.uri):
            file = _with_retries(lambda: WatchedFile(Storage.from_uri(self.uri)))
        return self._stored_bytes(file, self.size or file.size - self.offset)

    def _stored_bytes(self, file: WatchedFile, size: int) -> StoredBytes:
        """Return the bytes of the video in its file.

        Raises:
            VideoError: the file has another size.
        """
        found = file.size - self.offset
        # a file that has grown is no longer the one that was catalogued
        if found < size or (found > size and not self.offset):
            raise VideoError(self.id, self.uri, _size_fault(found, size))
        return StoredBytes(
            size,
            lambda at, count: _with_retries(lambda: file.read(self.offset + at, count)),
            lambda: _with_retries(file.check),
        )

    def _has_tables(self, place: Storage, file: WatchedFile) -> bool:
        """Return whether the format has tables from which the place of a frame is found."""
        if self.offset:  # a member of a tar, whose name is not in the catalogue
            head = file.read(self.offset, HEAD_BYTES)
            return head[4:8] == b"ftyp" or head.startswith(MATROSKA)
        return suffix_of(place.path) in TABLE_SUFFIXES

    def _read_bytes(self) -> bytes:
        if self.uri.startswith(corpus.SCHEME):
            return corpus.read_video(self.uri.removeprefix(corpus.SCHEME))
        # a video at offset 0 is a file of its own: read all of it, to notice if it has grown
        size = self.size if self.offset else None
        return Storage.from_uri(self.uri).read_bytes(self.offset, size)

    def _find_fault(self, data: bytes) -> str | None:
        if self.size is not None and len(data) != self.size:
            return _size_fault(len(data), self.size)
        if not data:
            return "is empty"
        checksum = zlib.crc32(data)
        if self.checksum is not None and checksum != self.checksum:
            return f"is damaged: its checksum is {checksum:08x}, {self.checksum:08x} was recorded"
        return None


def _size_fault(found: int, listed: int) -> str:
    return f"has changed since it was catalogued: {found} bytes, {listed} were listed"


def _with_retries(read: Callable[[], T]) -> T:
    """Call `read` again after an error of the storage that may be short.

    The time limit of a video does not count this time, or an outage would be blamed on the video.
    """
    with paused():
        for pause_seconds in RETRY_SECONDS:
            try:
                return read()
            except StorageError as error:
                if error.is_permanent:
                    raise
                time.sleep(pause_seconds)
        return read()


@dataclass(frozen=True)
class Catalog(Sequence[VideoEntry]):
    """The videos of a run, sorted by id, so that the order of a listing never matters.

    It is a sequence of `VideoEntry`, each created on access: ten million videos are a few hundred
    megabytes of columns, which are pickled without a copy.

    Attributes:
        columns: of `SCHEMA`, sorted by id.
        quarantined: shards, tars and members of them that could not be catalogued.
    """

    columns: pa.RecordBatch
    quarantined: tuple[QuarantinedVideo, ...] = ()

    @classmethod
    def from_entries(
        cls, entries: Iterable[VideoEntry], quarantined: Iterable[QuarantinedVideo] = ()
    ) -> Catalog:
        """Sort entries into a catalogue.

        Raises:
            ValueError: two entries share an id.
        """
        rows = list(entries)
        columns = {name: [getattr(row, name) for row in rows] for name in SCHEMA.names}
        return cls.from_tables([make_table(**columns)], quarantined)

    @classmethod
    def from_tables(
        cls, tables: Sequence[pa.Table], quarantined: Iterable[QuarantinedVideo]
    ) -> Catalog:
        """Sort the rows of tables of `SCHEMA` into a catalogue.

        Raises:
            ValueError: two rows share an id.
        """
        table = pa.concat_tables(tables).unify_dictionaries()
        order = pc.sort_indices(table["id"])  # by UTF-8 bytes, which is the order of Python's str
        # one column at a time, because they are large
        columns = [column.combine_chunks().take(order) for column in table.columns]
        batch = pa.RecordBatch.from_arrays(columns, schema=SCHEMA)
        ids = batch["id"]
        same = pc.equal(ids[:-1], ids[1:]).to_numpy(zero_copy_only=False).nonzero()[0]
        if len(same):
            row = int(same[0])
            first, second = (batch["uri"][row + i].as_py() for i in range(2))
            raise ValueError(
                f"two videos share the id {ids[row].as_py()!r}: {first} and {second}. "
                "Name each file once"
            )
        return cls(_compact(batch), tuple(quarantined))

    def __len__(self) -> int:
        return int(self.columns.num_rows)

    @overload
    def __getitem__(self, index: SupportsIndex) -> VideoEntry: ...
    @overload
    def __getitem__(self, index: slice) -> Catalog: ...
    def __getitem__(self, index: SupportsIndex | slice) -> VideoEntry | Catalog:
        if isinstance(index, slice):
            return self.select(np.arange(len(self))[index], self.quarantined)
        row = range(len(self))[index]
        return VideoEntry(*(column[row].as_py() for column in self.columns.columns))

    def fingerprint(self) -> str:
        """Return a short hash of all ids: a run resumes only with the catalogue it began with."""
        digest = hashlib.blake2b(digest_size=8)
        for ids in self._id_chunks():
            # \0 ends each id, so that (a, bc) differs from (ab, c)
            digest.update("".join(f"{each}\0" for each in ids).encode())
        return digest.hexdigest()

    def split(self, heldout_share: float, seed: int) -> tuple[Catalog, Catalog]:
        """Separate the videos to train on from those held out.

        A video's side is a pure function of its id and `seed`, whatever else is in the catalogue.

        Returns:
            (train, held out). If one side would be empty, one video changes sides; a single video
            is trained on. `quarantined` stays with train.
        """
        ranks = self._ranks("heldout", seed)
        heldout = ranks < heldout_share
        if heldout_share > 0 and len(self):
            heldout[ranks.argmin()] = True  # changes something only if no video was held out
            # if all were held out, the last one is trained on
            heldout[-1] &= not heldout.all()
        train = self.select(np.flatnonzero(~heldout), self.quarantined)
        return train, self.select(np.flatnonzero(heldout))

    def share(self, share: float, seed: int) -> Catalog:
        """Return a share of the videos, rounded to whole videos; at least one, if there is any.

        The choice is a pure function of the ids and `seed`. A larger share contains a smaller one.
        `quarantined` stays.
        """
        if share == 1:
            return self
        count = max(round(share * len(self)), 1)
        chosen = np.argsort(self._ranks("share", seed), kind="stable")[:count]
        return self.select(np.sort(chosen), self.quarantined)

    def largest_read(self) -> int:
        """Return the most bytes that are read of a video at once; 0 if no size is known.

        Members of tars count whole, because the catalogue does not know their format.
        """
        return pc.max(self.columns["size"].filter(pc.invert(self._are_in_parts()))).as_py() or 0

    def describe_long(self) -> str:
        """Return a line on long files that are read whole for each clip, or "" if there are none.

        Shards are left out, and the members of tars, whose format the catalogue does not know.
        """
        columns = self.columns
        is_file = pc.and_(pc.equal(columns["offset"], 0), pc.is_null(columns["checksum"]))
        is_long = pc.greater_equal(pc.fill_null(columns["size"], 0), LONG_BYTES)
        is_whole = pc.and_(pc.and_(is_file, is_long), pc.invert(self._are_in_parts()))
        long = columns.filter(is_whole)
        if not long.num_rows:
            return ""
        largest = long["size"].to_numpy().argmax()
        name, size = (long[column][largest].as_py() for column in ("id", "size"))
        return (
            f"{long.num_rows} video file(s) of {LONG_BYTES / 2**20:.0f} MiB or more are read whole "
            f"for each clip; the largest, {name}, has {size / 2**20:.0f} MiB. Build shards of them "
            "(jobs/build_shards.py), or copy them into MP4 or Matroska files"
        )

    def _are_in_parts(self) -> pa.BooleanArray:
        """Return for each video whether only parts of it are read if it is long, by its name."""
        uris = self.columns["uri"]
        pattern = f"({'|'.join(map(re.escape, TABLE_SUFFIXES))})([?].*)?$"
        has_tables = pc.match_substring_regex(uris.dictionary, pattern, ignore_case=True)
        return pc.and_(has_tables.take(uris.indices), pc.is_null(self.columns["checksum"]))

    def files(self) -> list[str]:
        """Return the URIs of all files that hold videos, in the order of the ids."""
        return list(self.columns["uri"].dictionary.to_pylist())

    def select(
        self, rows: NDArray[np.int64], quarantined: tuple[QuarantinedVideo, ...] = ()
    ) -> Catalog:
        """Return the videos of these rising row numbers, with another `quarantined`."""
        return Catalog(_compact(self.columns.take(pa.array(rows))), quarantined)

    def _ranks(self, purpose: str, seed: int) -> NDArray[np.float64]:
        """Return a number in [0, 1) for each video, which depends on its id, not on the others."""
        hashes = (uniform_hash(seed, purpose, each) for ids in self._id_chunks() for each in ids)
        return np.fromiter(hashes, np.float64, len(self))

    def _id_chunks(self) -> Iterator[list[str]]:
        for start in range(0, len(self), IDS_PER_CHUNK):
            yield self.columns["id"].slice(start, IDS_PER_CHUNK).to_pylist()


def check_apart(train: Catalog, test: Catalog, train_option: str, test_option: str) -> None:
    """Check that no video is both trained and tested on.

    The same video is the same range of bytes of the same file. Ids do not tell: those of two
    sources may be equal by chance.

    Args:
        train, test: the videos.
        train_option, test_option: names of the options that choose them, for the error.

    Raises:
        ValueError: some videos are on both sides; says how many, and names one.
    """
    both = _rows_also_in(train, test)
    if len(both):
        example = test[both.min()]
        raise ValueError(
            f"{len(both)} of {len(test)} test videos ({test_option}) are also training videos "
            f"({train_option}), such as {example.id!r} of {example.uri}: test videos must not be "
            "trained on. Let the two options name different videos, and each video only once"
        )


def _rows_also_in(other: Catalog, catalog: Catalog) -> NDArray[np.int64]:
    """Return the rows of `catalog` whose bytes are in `other`, too, in any order."""
    theirs, ours = other.columns["uri"], catalog.columns["uri"]
    # files by their numbers in `other`, because millions of names are slow to compare
    file = pc.index_in(ours.dictionary, value_set=theirs.dictionary).take(ours.indices)
    names, row = ["file", "offset"], np.arange(len(catalog))
    mine = pa.table([file, catalog.columns["offset"], pa.array(row)], [*names, "row"])
    mine = mine.filter(file.is_valid())
    if mine.num_rows:
        mine = mine.join(
            pa.table([theirs.indices, other.columns["offset"]], names), names, join_type="left semi"
        )
    rows: NDArray[np.int64] = mine["row"].to_numpy()
    return rows


def make_table(
    id: Any,
    uri: Any,
    label: Any = None,
    offset: Any = 0,
    size: Any = None,
    checksum: Any = None,
    num_frames: Any = None,
) -> pa.Table:
    """Return a table of `SCHEMA`.

    Args:
        id: list or Arrow array of str, one for each row.
        uri, label, offset, size, checksum, num_frames: list or Arrow array, or one value for all
            rows.
    """
    given = (id, uri, label, offset, size, checksum, num_frames)
    columns = [
        _to_column(values, kind, len(id)) for values, kind in zip(given, SCHEMA.types, strict=True)
    ]
    return pa.Table.from_arrays(columns, schema=SCHEMA)


def _to_column(values: Any, kind: pa.DataType, num_rows: int) -> Any:
    if values is None or isinstance(values, str | int):
        values = [values] * num_rows
    return pa.array(values, kind) if isinstance(values, list) else values.cast(kind)


def _compact(batch: pa.RecordBatch) -> pa.RecordBatch:
    """Keep only the names that are used, in the order of their first use.

    Equal catalogues then have equal columns, and a part does not carry the names of the whole.
    """
    columns = [
        _compact_names(column) if column.type == NAME else column for column in batch.columns
    ]
    return pa.RecordBatch.from_arrays(columns, schema=SCHEMA)


def _compact_names(column: Any) -> Any:
    numbers = column.indices.dictionary_encode()
    # only the names that still occur
    names = column.dictionary.take(numbers.dictionary)
    return pa.DictionaryArray.from_arrays(numbers.indices, names)
