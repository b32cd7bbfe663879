"""From URIs to a catalogue: what `data.uri` may name, and the videos in it.

A source is one of

* a folder, local or `s3://…`: every video file below it, at any depth, and every video in the
  shards (`.parquet`, see `ctp.data.shards`) and WebDataset tars (`.tar`) below it. A
  video file in a subfolder is labelled by the name of its folder, one in a tar by its `.cls` or
  `.json`. Hidden names are skipped, and links are followed (`ctp.data.listing`). Shards and tars
  are also skipped if a part of their path below the folder begins with `_`, unless a pattern names
  such a part: these are files beside the shards (`ctp.data.parquet_folder`);
* one such file, or a pattern of them: a glob, `clips/**/*.mp4`, or braces,
  `shard-{000000..000146}.tar`, local or `s3://…`;
* a list file, `.txt`, `.csv` or `.tsv`: one path or URI of a video per line, with an optional label
  (`ctp.data.video_list`). Relative paths start at the list's folder;
* `corpus:NUMBER`: that many videos of the corpus that the project renders (`ctp.data.corpus`), or
  `corpus:FIRST-END`: those from number FIRST to number END - 1.

With several sources, each id starts with its source. In a damaged shard or tar, what is damaged is
lost. `Catalog.quarantined` names it, and links that lead nowhere. Bytes of a local name that are
not UTF-8 are written as `\\xff` in the id.
"""

from __future__ import annotations

import json
import posixpath
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from typing import Annotated, Any

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import BeforeValidator

from ctp.config import SplitBy, named_in_errors
from ctp.data import corpus, shards, tars
from ctp.data.catalog import SCHEMA, TEXT, Catalog, make_table
from ctp.data.listing import (
    VIDEO_SUFFIXES,
    Listing,
    is_video,
    list_source,
    split_sources,
    suffix_of,
)
from ctp.data.parquet_folder import MANIFEST, find_beside
from ctp.data.quarantine import QuarantinedVideo
from ctp.data.video_list import LIST_SUFFIXES, read_list
from ctp.storage import FileInfo, Storage, StorageError, readable
from ctp.text import one_line

OPEN_AT_ONCE = 16
"""Shards and tars opened at the same time, because an object store answers late."""

Listed = tuple[pa.Table, list[QuarantinedVideo]]
"""Videos, as a table of the catalogue's `SCHEMA`, and what could not be catalogued."""


def _unwrap_single(uri: object) -> object:
    return uri[0] if isinstance(uri, list | tuple) and len(uri) == 1 else uri


Sources = Annotated[str | tuple[str, ...], BeforeValidator(_unwrap_single), SplitBy(split_sources)]
"""The type of a config's field for `open_catalog`. A list with one element becomes the element, so
that an option, which is a list, and a file give the same ids."""


def open_catalog(uri: str | Sequence[str], option: str = "") -> Catalog:
    """List the videos of a source, or of several (see the module).

    Args:
        uri: the source, or several.
        option: name of the option that holds it, with which errors begin.

    Raises:
        ValueError: a source does not exist or holds no video; says where it looked.
        StorageError: the storage fails.
    """
    with named_in_errors(option):
        if isinstance(uri, str):
            listed = _list_videos(uri)
        else:
            listed = [_with_prefix(each, *part) for each in uri for part in _list_videos(each)]
    quarantined = [each for _, lost in listed for each in lost]
    return Catalog.from_tables([table for table, _ in listed], quarantined)


def source_rows(catalog: Catalog, uris: Sequence[str]) -> list[range]:
    """Return the rows of each of several sources in their catalogue, or in a part of it.

    Raises:
        ValueError: a source has no row, or is within another one.
    """
    ids, prefixes = catalog.columns["id"], [_prefix(uri) for uri in uris]
    if len(uris) == 1:
        return [range(len(ids))]  # its ids have no prefix
    ranges = []
    for uri, prefix in zip(uris, prefixes, strict=True):
        inside = [each for each in prefixes if each != prefix and each.startswith(prefix)]
        if inside:
            raise ValueError(
                f"data.mix: {inside[0]!r} is within {uri!r}, so that its videos would be of both "
                "sources. Name folders that do not contain each other"
            )
        # neighbours, because the ids are sorted
        is_own = pc.starts_with(ids, prefix)
        first, count = pc.index(is_own, True).as_py(), pc.sum(is_own).as_py()
        if not count:
            raise ValueError(
                f"data.mix: no video of {uri!r} is left to train on. Name a source with more "
                "videos, or give other data.heldout_share or data.share"
            )
        ranges.append(range(first, first + count))
    return ranges


def prepare_corpus(catalog: Catalog) -> None:
    """Render the catalogue's videos of the corpus that are not in the cache yet.

    A run does not need this, it renders them when it reads them; a measurement does.
    """
    for uri in catalog.files():
        if uri.startswith(corpus.SCHEME):
            corpus.read_video(uri.removeprefix(corpus.SCHEME))


def _list_videos(uri: str) -> list[Listed]:
    if uri.startswith(corpus.SCHEME):
        return [(_list_corpus(uri), [])]
    place = Storage.from_uri(uri)
    if suffix_of(place.path) in LIST_SUFFIXES and place.is_file():
        return [(_list_named(place), [])]
    listing = list_source(uri)
    root, files, dead = listing.root, listing.files, list(dead_names(listing))
    loose = [info for info in files if is_video(info.path)]
    names_beside = re.search("[/{,]_", place.path.removeprefix(root.path))
    packed = [
        info.path
        for info in files
        if suffix_of(info.path) in PACKED and (names_beside or "/_" not in f"/{info.path}")
    ]
    if not loose and not packed and not dead:
        raise ValueError(
            f"no video in {uri!r}; looked for files ending in "
            f"{' '.join(VIDEO_SUFFIXES)}, {' '.join(PACKED)} (not where a name begins with _), or "
            f"a list of videos ({' '.join(LIST_SUFFIXES)})"
        )
    with ThreadPoolExecutor(OPEN_AT_ONCE) as pool:
        listed = [(_list_loose(root, loose), dead), *pool.map(partial(_list_packed, root), packed)]
    if not any(table.num_rows for table, _ in listed):
        lost = [each for _, quarantined in listed for each in quarantined]
        reasons = "; ".join(f"{each.video_id} {each.reason}" for each in lost[:3])
        raise ValueError(f"no video in {uri!r} can be used: {reasons}")
    return listed


def _list_corpus(uri: str) -> pa.Table:
    first, dash, end = uri.removeprefix(corpus.SCHEME).rpartition("-")
    if not end.isdigit() or (dash and not first.isdigit()) or int(first or 0) >= int(end):
        raise ValueError(
            "expected corpus:NUMBER, e.g. corpus:240, or corpus:FIRST-END, e.g. "
            f"corpus:240-300, got {uri!r}"
        )
    try:
        names = list(corpus.video_names(int(end))[int(first or 0) :])
    except ValueError as error:
        raise ValueError(f"{uri!r}: {error}") from error
    return make_table(
        names,
        [corpus.SCHEME + name for name in names],
        [corpus.label_of(name) for name in names],
        num_frames=corpus.NUM_FRAMES,
    )


def _list_named(place: Storage) -> pa.Table:
    videos = read_list(place)
    paths, uris, labels = (list(column) for column in zip(*videos, strict=True))
    return make_table(paths, uris, labels)


def _list_loose(root: Storage, files: Sequence[FileInfo]) -> pa.Table:
    folders = [readable(posixpath.basename(posixpath.dirname(info.path))) for info in files]
    return make_table(
        [readable(info.path) for info in files],
        [root.join(info.path).uri for info in files],
        [folder or None for folder in folders],
        size=[info.size for info in files],
    )


def _list_packed(root: Storage, path: str) -> Listed:
    """List the videos of a shard or tar below `root`."""
    place, suffix, name = root.join(path), suffix_of(path), readable(path)
    try:
        return PACKED[suffix](place, name)
    except StorageError as error:
        if not error.is_permanent:
            raise
        reason = one_line(f"cannot be read: {error}")
    except shards.ShardError as error:
        reason = one_line(error.reason)
    reason += _count_lost(place) if suffix == shards.SUFFIX else ""
    return SCHEMA.empty_table(), [QuarantinedVideo(name, place.uri, reason)]


def _list_shard(place: Storage, name: str) -> Listed:
    index = shards.read_index(place)
    columns = [index[column] for column in ("offset", "size", "checksum", "num_frames")]
    return make_table(index["id"], place.uri, index["label"], *columns), []


def _list_tar(place: Storage, name: str) -> Listed:
    index = tars.read_index(place)
    videos = index.videos
    quarantined = [
        QuarantinedVideo(f"{name}/{each.name}" if each.name else name, place.uri, each.reason)
        for each in index.damage
    ]
    ids = _prefixed(f"{name}/", videos["key"])
    columns = [videos[column] for column in ("label", "offset", "size")]
    return make_table(ids, place.uri, *columns), quarantined


PACKED = {shards.SUFFIX: _list_shard, tars.SUFFIX: _list_tar}
"""Ending of a file that holds many videos -> function that lists them."""


def _count_lost(place: Storage) -> str:
    """Say how many videos a shard held, according to the manifest beside it."""
    try:
        listed = json.loads(find_beside(place.parent, MANIFEST).read_bytes())["shards"]
        videos = {posixpath.basename(shard["name"]): int(shard["videos"]) for shard in listed}
        return f"; its {videos[posixpath.basename(place.path)]} videos are lost"
    except (StorageError, ValueError, KeyError, TypeError, RecursionError):
        return ""  # there is no manifest, or it is not one of ours


def dead_names(listing: Listing) -> tuple[QuarantinedVideo, ...]:
    """Return the entries of names that lead to no file, such as dead links."""
    return tuple(
        QuarantinedVideo(readable(path), listing.root.join(path).uri, readable(reason))
        for path, reason in listing.problems
    )


def _with_prefix(source: str, table: pa.Table, quarantined: list[QuarantinedVideo]) -> Listed:
    """Prefix each id with its source."""
    prefix = _prefix(source)
    renamed = [replace(each, video_id=prefix + each.video_id) for each in quarantined]
    return table.set_column(0, SCHEMA.field("id"), _prefixed(prefix, table["id"])), renamed


def _prefix(source: str) -> str:
    return f"{readable(source).rstrip('/')}/"


def _prefixed(prefix: str, names: Any) -> Any:
    texts = [pa.scalar(text, TEXT) for text in (prefix, "")]
    return pc.binary_join_element_wise(texts[0], names.cast(TEXT), texts[1])
