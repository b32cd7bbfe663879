"""The catalogue: what videos there are. It holds names only; bytes are read where they are used.

A catalogue is made from one of

* a folder, local or `s3://…`: every video file below it, at any depth, and all that is in the
  shards (`.parquet`, written by `jobs/build_shards.py`) and WebDataset tars (`.tar`) below it. A
  loose video in a subfolder is labelled by the name of the folder it lies in; one in a tar by its
  `.cls` or `.json`;
* one such file, or a pattern of them: a glob, `clips/**/*.mp4`, or braces,
  `shard-{000000..000146}.tar`, local or `s3://…`;
* a list file, `.txt`: a path or URI of a video a line, relative ones taken from the list's folder,
  with an optional label after a tab;
* `corpus:NUMBER`: that many videos of the corpus the project makes itself (`ctp.data.corpus`).

Several sources make one catalogue; the ids are then led by their source. A shard or tar that is
damaged costs what is damaged, and is named in `Catalog.quarantined`. What is not UTF-8 in a local
name is written as `\\xff` in the id.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import posixpath
import time
import zlib
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Annotated, Any, NamedTuple, SupportsIndex, overload

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pydantic import BeforeValidator

from ctp.data import corpus, corpus_cache, shards, tars
from ctp.data.listing import UNKNOWN, VIDEO_SUFFIXES, Listing, is_video, list_source, suffix_of
from ctp.data.quarantine import QuarantinedVideo
from ctp.rng import uniform_hash
from ctp.storage import FileInfo, Storage, StorageError, readable
from ctp.video.encoded import EncodedVideo, VideoError

CORPUS = "corpus:"
MANIFEST = "manifest.json"
"""What `jobs/build_shards.py` writes beside its shards."""
OPEN_AT_ONCE = 16
"""Shards and tars that are opened at the same time: an object store answers late, but many."""
RETRY_SECONDS = (1.0, 5.0)
"""Pauses before a video's read that failed is tried again. Storage waits for S3 over a minute, and
does so each time: a run should outlive an outage of minutes. A disk on the network fails at once,
and may be back a moment later."""
STRIDE = 2**16
"""Ids that are Python's at a time."""

TEXT = pa.large_string()  # 2 GiB of ids are not the end
NAME = pa.dictionary(pa.int32(), TEXT)
SCHEMA = pa.schema(
    [
        pa.field("id", TEXT, nullable=False),
        pa.field("file", NAME, nullable=False),
        pa.field("label", NAME),
        pa.field("offset", pa.int64(), nullable=False),
        pa.field("size", pa.int64(), nullable=False),
        pa.field("checksum", pa.int64(), nullable=False),
    ]
)


def _one_is_one(uri: object) -> object:
    return uri[0] if isinstance(uri, list | tuple) and len(uri) == 1 else uri


Sources = Annotated[str | tuple[str, ...], BeforeValidator(_one_is_one)]
"""A config's field of what `open_catalog` takes. A list of one is that one: an option, which gives
lists, and a file mean the same videos by it."""


@dataclass(frozen=True)
class VideoEntry:
    """A video that can be read: a range of the bytes of a file.

    Attributes:
        id: stable, unique in its catalogue.
        uri: the file: the video itself, or a shard or tar that holds it.
        label: class name, if there is one.
        offset: where in the file the video begins, in bytes.
        size: its bytes, if they are known; from `offset` to the file's end otherwise.
        checksum: CRC-32 of these bytes, if it is known.
    """

    id: str
    uri: str
    label: str | None = None
    offset: int = 0
    size: int | None = None
    checksum: int | None = None

    def read(self) -> EncodedVideo:
        """Read the encoded bytes, by one request.

        Raises:
            VideoError: there is no such file, it may not be read, it is empty, damaged, or no
                longer what was catalogued.
            StorageError: the storage fails, and again after each of `RETRY_SECONDS`. That is no
                fault of the video, and which clips a run sees must not depend on it.
        """
        try:
            data = self._read_patiently()
        except StorageError as error:
            if not error.is_lasting:
                raise
            reason = _one_line(f"cannot be read: {error}")
            raise VideoError(self.id, self.uri, reason) from error
        fault = self._fault(data)
        if fault:
            raise VideoError(self.id, self.uri, fault)
        return EncodedVideo(self.id, self.uri, data, self.label)

    def _read_patiently(self) -> bytes:
        for pause in RETRY_SECONDS:
            try:
                return self._read_bytes()
            except StorageError as error:
                if error.is_lasting:
                    raise
                time.sleep(pause)
        return self._read_bytes()

    def _read_bytes(self) -> bytes:
        if self.uri.startswith(CORPUS):
            return corpus_cache.read_video(self.uri.removeprefix(CORPUS))
        # what lies at the start is a whole file: all of it is read, for it may have grown
        return Storage.of(self.uri).read_bytes(self.offset, self.size if self.offset else None)

    def _fault(self, data: bytes) -> str | None:
        if self.size is not None and len(data) != self.size:
            return (
                f"has changed since it was catalogued: {len(data)} bytes, {self.size} were listed"
            )
        if not data:
            return "is empty"
        if self.checksum is not None and zlib.crc32(data) != self.checksum:
            return (
                f"is damaged: its checksum is {zlib.crc32(data):08x}, {self.checksum:08x} was "
                "recorded"
            )
        return None


class _Views(NamedTuple):
    """The columns of a catalogue as a look-up wants them."""

    ids: Any
    files: Any
    file_numbers: NDArray[np.int32]
    labels: Any
    label_numbers: Any
    offsets: NDArray[np.int64]
    sizes: NDArray[np.int64]
    checksums: NDArray[np.int64]


@dataclass(frozen=True)
class Catalog(Sequence[VideoEntry]):
    """The videos of a run, sorted by id, so that a listing's order never matters.

    It is a sequence of `VideoEntry`, each made when it is asked for: ten million videos are some
    hundred megabytes of columns, which go to another process as they lie in memory.

    Attributes:
        columns: of `SCHEMA`, sorted by id: id, file (its URI), label, offset, size and checksum
            (−1 where unknown).
        quarantined: shards, tars and what is in them that could not be catalogued.
    """

    columns: pa.RecordBatch
    quarantined: tuple[QuarantinedVideo, ...] = ()

    @classmethod
    def of(
        cls, entries: Iterable[VideoEntry], quarantined: Iterable[QuarantinedVideo] = ()
    ) -> Catalog:
        """Sort entries into a catalogue.

        Raises:
            ValueError: two entries share an id.
        """
        rows = [(e.id, e.uri, e.label, e.offset, e.size, e.checksum) for e in entries]
        names = [[row[i] for row in rows] for i in range(3)]
        numbers = [[UNKNOWN if r[i] is None else r[i] for r in rows] for i in range(3, 6)]
        return _sorted([_table(*names, *numbers)], quarantined)

    def __len__(self) -> int:
        return int(self.columns.num_rows)

    @overload
    def __getitem__(self, index: SupportsIndex) -> VideoEntry: ...
    @overload
    def __getitem__(self, index: slice) -> Catalog: ...
    def __getitem__(self, index: SupportsIndex | slice) -> VideoEntry | Catalog:
        if isinstance(index, slice):
            return self.select(np.arange(len(self))[index], self.quarantined)
        row, views = range(len(self))[index], self._views
        label, size, checksum = views.label_numbers[row], views.sizes[row], views.checksums[row]
        return VideoEntry(
            id=views.ids[row].as_py(),
            uri=views.files[views.file_numbers.item(row)].as_py(),
            label=views.labels[label.as_py()].as_py() if label.is_valid else None,
            offset=views.offsets.item(row),
            size=int(size) if size >= 0 else None,
            checksum=int(checksum) if checksum >= 0 else None,
        )

    def __reduce__(self) -> tuple[type[Catalog], tuple[Any, ...]]:
        return type(self), (self.columns, self.quarantined)  # without the views

    def save(self, path: Path) -> None:
        """Write the columns to a file that `mapped` takes."""
        with path.open("wb") as file:
            self._write(file)

    def mapped(self, path: Path) -> Catalog:
        """This catalogue, its columns mapped from the file that `save` wrote: however many
        processes it is sent to on this machine, they are in its memory once."""
        return _Mapped(_columns_of(path), self.quarantined, path)

    def digest(self) -> str:
        """A hash of all columns."""
        hashing = _Hashing()
        self._write(hashing)
        return hashing.digest.hexdigest()

    def fingerprint(self) -> str:
        """A short hash of all ids: a run goes on only with the catalogue it started with."""
        digest = hashlib.blake2b(digest_size=8)
        for ids in self._ids():
            digest.update("".join(f"{each}\0" for each in ids).encode())
        return digest.hexdigest()

    def split(self, heldout_share: float, seed: int) -> tuple[Catalog, Catalog]:
        """Part the videos to train on from those held out.

        A video's side is a pure function of its id and `seed`, whatever else is in the catalogue.

        Returns:
            (train, held out); when the shares leave one side empty, a video moves over, so that
            neither is. A video that is alone is trained on. What was quarantined stays with train.
        """
        ranks = np.fromiter(
            (uniform_hash(seed, "heldout", each) for ids in self._ids() for each in ids),
            np.float64,
            len(self),
        )
        heldout = ranks < heldout_share
        if heldout_share > 0 and len(self):
            heldout[ranks.argmin()] = True  # true already, unless it is the only one
            heldout[-1] &= not heldout.all()
        train = self.select(np.flatnonzero(~heldout), self.quarantined)
        return train, self.select(np.flatnonzero(heldout))

    def files(self) -> list[str]:
        """The URIs of all files that hold videos, in the order in which the ids lead to them."""
        return list(self.columns["file"].dictionary.to_pylist())

    def select(
        self, rows: NDArray[np.int64], quarantined: tuple[QuarantinedVideo, ...] = ()
    ) -> Catalog:
        """The videos of these rising row numbers, with what is to be told of as quarantined."""
        return Catalog(_compact(self.columns.take(pa.array(rows))), quarantined)

    def _write(self, file: io.IOBase) -> None:
        with pa.ipc.new_file(file, SCHEMA) as writer:
            writer.write_batch(self.columns)

    def _ids(self) -> Iterator[list[str]]:
        """All ids, `STRIDE` at a time."""
        for start in range(0, len(self), STRIDE):
            ids = self.columns["id"].slice(start, STRIDE)
            yield ids.to_numpy(zero_copy_only=False).tolist()

    @cached_property
    def _views(self) -> _Views:
        ids, files, labels, *numbers = self.columns.columns
        return _Views(
            ids,
            files.dictionary,
            files.indices.to_numpy(),
            labels.dictionary,
            labels.indices,
            *(column.to_numpy() for column in numbers),
        )


class _Hashing(io.RawIOBase):
    """A file that keeps but a hash of what is written."""

    def __init__(self) -> None:
        super().__init__()
        self.digest = hashlib.blake2b(digest_size=16)

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self.digest.update(data)
        return len(data)


@dataclass(frozen=True)
class _Mapped(Catalog):
    path: Path = Path()

    def __reduce__(self) -> tuple[Any, ...]:
        return _open_mapped, (self.path, self.quarantined)


def _open_mapped(path: Path, quarantined: tuple[QuarantinedVideo, ...]) -> Catalog:
    return _Mapped(_columns_of(path), quarantined, path)


def _columns_of(path: Path) -> pa.RecordBatch:
    return pa.ipc.open_file(pa.memory_map(str(path))).get_batch(0)


def open_catalog(uri: str | Sequence[str]) -> Catalog:
    """List the videos of a folder, file, pattern, list file or corpus, or of several of them.

    Raises:
        ValueError: there is nothing there, or no video among it; says where it looked.
        StorageError: the storage fails.
    """
    if not isinstance(uri, str):
        return _joined([(each, open_catalog(each)) for each in uri])
    if uri.startswith(CORPUS):
        return _open_corpus(uri)
    place = Storage.of(uri)
    if place.is_file():
        return _open_file(uri, place)
    return _open_files(uri, list_source(uri))


def prepare_corpus(catalog: Catalog, progress: corpus_cache.Progress | None = None) -> None:
    """Render the catalogue's videos of the embedded corpus that were not rendered before, so that
    no measurement waits for them; a run needs it not, it renders them as it meets them.

    Args:
        catalog: any.
        progress: called after each video with (rendered so far, to be rendered).
    """
    names = [uri.removeprefix(CORPUS) for uri in catalog.files() if uri.startswith(CORPUS)]
    corpus_cache.fill(names, progress)


# ---- sources ------------------------------------------------------------------------------------


def _open_corpus(uri: str) -> Catalog:
    number = uri.removeprefix(CORPUS)
    if not number.isdigit() or int(number) < 1:
        raise ValueError(f"data.uri: wanted corpus:NUMBER, e.g. corpus:240, got {uri!r}")
    try:
        names = corpus.video_names(int(number))
    except ValueError as error:
        raise ValueError(f"data.uri: {uri!r}: {error}") from error
    return Catalog.of(VideoEntry(name, CORPUS + name, corpus.label_of(name)) for name in names)


def _open_file(uri: str, place: Storage) -> Catalog:
    name = posixpath.basename(place.path)
    if name.endswith(".txt"):
        return _open_list(place)
    if not is_video(name) and suffix_of(name) not in OPENERS:
        raise ValueError(
            f"data.uri: {uri!r} is neither a folder, nor a video, nor a .txt list of videos, nor "
            "a shard (.parquet) or .tar of them"
        )
    return _open_files(uri, Listing(place.parent, [FileInfo(name, UNKNOWN)]))


def _open_list(place: Storage) -> Catalog:
    try:
        lines = place.read_bytes().decode().splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"data.uri: the list {place.uri!r} is not UTF-8: {error}") from error
    entries = [_list_entry(line, place.parent) for line in lines if line.strip()]
    if not entries:
        raise ValueError(f"data.uri: the list {place.uri!r} names no video")
    return Catalog.of(entries)


def _list_entry(line: str, folder: Storage) -> VideoEntry:
    path, _, label = line.strip().partition("\t")
    relative = "://" not in path and not os.path.isabs(path)
    uri = folder.join(path).uri if relative else path
    return VideoEntry(path, uri, label.strip() or None)


def _open_files(uri: str, listing: Listing) -> Catalog:
    """Loose videos, and what is in shards and tars, all among `listing`."""
    loose = [info for info in listing.files if is_video(info.path)]
    packed = [info.path for info in listing.files if suffix_of(info.path) in OPENERS]
    if not loose and not packed:
        raise ValueError(
            f"data.uri: no video below {uri!r}; looked for files ending in "
            f"{' '.join((*VIDEO_SUFFIXES, *OPENERS))}"
        )
    with ThreadPoolExecutor(OPEN_AT_ONCE) as pool:
        opened = list(pool.map(partial(_open_packed, listing.root), packed))
    quarantined = [each for _, lost in opened for each in lost]
    tables = [_loose_table(listing.root, loose), *(table for table, _ in opened)]
    if not any(table.num_rows for table in tables):
        said = "; ".join(f"{each.video_id} {each.reason}" for each in quarantined[:3])
        raise ValueError(f"data.uri: no video below {uri!r} can be used: {said}")
    return _sorted(tables, quarantined)


def _loose_table(root: Storage, files: Sequence[FileInfo]) -> pa.Table:
    return _table(
        [readable(info.path) for info in files],
        [root.join(info.path).uri for info in files],
        [readable(posixpath.basename(posixpath.dirname(info.path))) or None for info in files],
        size=[info.size for info in files],
    )


Opened = tuple[pa.Table, list[QuarantinedVideo]]


def _open_packed(root: Storage, path: str) -> Opened:
    """What a shard or tar below `root` holds, and what of it is lost."""
    place, suffix, name = root.join(path), suffix_of(path), readable(path)
    try:
        return OPENERS[suffix](place, name)
    except StorageError as error:
        if not error.is_lasting:
            raise
        reason = _one_line(f"cannot be read: {error}")
    except shards.ShardError as error:
        reason = _one_line(error.reason)
    reason += _loss(place) if suffix == shards.SUFFIX else ""
    return SCHEMA.empty_table(), [QuarantinedVideo(name, place.uri, reason)]


def _open_shard(place: Storage, name: str) -> Opened:
    index = shards.read_index(place)
    columns = [index[name] for name in ("offset", "size", "checksum")]
    return _table(index["id"], place.uri, index["label"], *columns), []


def _open_tar(place: Storage, name: str) -> Opened:
    index = tars.read_index(place)
    videos = index.videos
    ids = _prefixed(f"{name}/", videos["key"])
    quarantined = [
        QuarantinedVideo(f"{name}/{each.name}" if each.name else name, place.uri, each.reason)
        for each in index.damage
    ]
    return _table(ids, place.uri, videos["label"], videos["offset"], videos["size"]), quarantined


OPENERS = {shards.SUFFIX: _open_shard, tars.SUFFIX: _open_tar}


def _loss(place: Storage) -> str:
    """What the manifest beside a shard says of how many videos it held."""
    try:
        listed = json.loads(place.parent.join(MANIFEST).read_bytes())["shards"]
        videos = {posixpath.basename(shard["name"]): int(shard["videos"]) for shard in listed}
        return f"; its {videos[posixpath.basename(place.path)]} videos are lost"
    except (StorageError, ValueError, KeyError, TypeError):
        return ""  # no manifest, or none of ours


# ---- columns ------------------------------------------------------------------------------------


def _joined(parts: Sequence[tuple[str, Catalog]]) -> Catalog:
    """Catalogues of several sources as one, each id led by its source."""
    tables, quarantined = [], []
    for source, catalog in parts:
        lead = f"{readable(source).rstrip('/')}/"
        batch = catalog.columns
        tables.append(_table(_prefixed(lead, batch["id"]), *batch.columns[1:]))
        quarantined += [
            replace(each, video_id=lead + each.video_id) for each in catalog.quarantined
        ]
    return _sorted(tables, quarantined)


def _table(
    ids: Any, file: Any, label: Any, offset: Any = 0, size: Any = UNKNOWN, checksum: Any = UNKNOWN
) -> pa.Table:
    """Columns as a table of `SCHEMA`; a single value is that of all rows."""
    given = (ids, file, label, offset, size, checksum)
    columns = [_column(v, kind, len(ids)) for v, kind in zip(given, SCHEMA.types, strict=True)]
    return pa.Table.from_arrays(columns, schema=SCHEMA)


def _column(values: Any, kind: pa.DataType, num_rows: int) -> Any:
    plain = TEXT if kind == NAME else kind
    if isinstance(values, str | int):
        values = pa.repeat(pa.scalar(values, plain), num_rows)
    elif isinstance(values, list):
        values = pa.array(values, plain)
    if values.type == kind:
        return values
    values = values.cast(plain)
    return values.dictionary_encode() if kind == NAME else values


def _prefixed(lead: str, names: Any) -> Any:
    texts = [pa.scalar(text, TEXT) for text in (lead, "")]
    return pc.binary_join_element_wise(texts[0], names.cast(TEXT), texts[1])


def _sorted(tables: Sequence[pa.Table], quarantined: Iterable[QuarantinedVideo]) -> Catalog:
    """Tables of `SCHEMA` as a catalogue.

    Raises:
        ValueError: two videos share an id.
    """
    table = pa.concat_tables(tables).unify_dictionaries()
    order = pc.sort_indices(table["id"])  # by UTF-8 bytes, which is as Python sorts str
    # column by column, for they are large
    columns = [column.combine_chunks().take(order) for column in table.columns]
    batch = pa.RecordBatch.from_arrays(columns, schema=SCHEMA)
    ids = batch["id"]
    same = pc.equal(ids[:-1], ids[1:]).to_numpy(zero_copy_only=False).nonzero()[0]
    if len(same):
        first, second = (batch["file"][int(same[0]) + i].as_py() for i in range(2))
        raise ValueError(
            f"two videos share the id {ids[int(same[0])].as_py()!r}: {first} and {second}. "
            "Name each file once"
        )
    return Catalog(_compact(batch), tuple(quarantined))


def _compact(batch: pa.RecordBatch) -> pa.RecordBatch:
    """A batch whose dictionaries hold what is used, in the order of its first use: equal
    catalogues are equal columns, and a part does not carry the names of the whole."""
    columns = [
        _compact_names(column) if column.type == NAME else column for column in batch.columns
    ]
    return pa.RecordBatch.from_arrays(columns, schema=SCHEMA)


def _compact_names(column: Any) -> Any:
    numbers = column.indices.dictionary_encode()
    names = column.dictionary.take(numbers.dictionary)
    return pa.DictionaryArray.from_arrays(numbers.indices, names)


def _one_line(text: str) -> str:
    return " ".join(text.split())
