"""Annotated videos: a catalogue of shards, and the box of the object in each frame."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from itertools import compress
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ctp.config import named_in_errors
from ctp.data import corpus
from ctp.data.catalog import Catalog, VideoEntry
from ctp.data.got10k import is_visible
from ctp.data.listing import suffix_of
from ctp.data.quarantine import QuarantinedVideo
from ctp.data.shards import SUFFIX, read_annotations
from ctp.data.sources import OPEN_AT_ONCE, open_catalog
from ctp.storage import Storage
from ctp.text import listed
from ctp.video.encoded import VideoError

MIN_FRAMES = 2
"""Least number of frames with a visible object: one is given and one is predicted."""
FRAME_LIST = "list.txt"
"""A file in GOT-10k's own folders that folders of shards do not have."""
KEPT_SHARDS = 128
"""Shards whose annotations a process keeps; a shard of 128 videos needs about 0.4 MB."""
BUILD_COMMAND = "jobs/build_shards.py --layout got10k"

Row = dict[str, Any]
"""The annotations of a video: name of a column of `read_annotations` -> Arrow scalar."""


@dataclass(frozen=True)
class Track:
    """The track of the object of a video.

    Attributes:
        boxes: float32 [N, 4], xyxy pixels of the stored video, inside its picture.
        counted: bool [N], the frames in which the object is visible.
        width, height: pixels of the stored video.
    """

    boxes: NDArray[np.float32]
    counted: NDArray[np.bool_]
    width: int
    height: int


@dataclass(frozen=True)
class Tracks:
    """The tracks of all videos of a catalogue, in a few arrays, which are pickled fast.

    Attributes:
        ends: int64 [V], where each video's frames end in `boxes` and `counted`.
        boxes, counted: those of `Track`, concatenated.
        sizes: int64 [V, 2], width and height.
    """

    ends: NDArray[np.int64]
    boxes: NDArray[np.float32]
    counted: NDArray[np.bool_]
    sizes: NDArray[np.int64]

    @classmethod
    def from_list(cls, tracks: Sequence[Track]) -> Tracks:
        """Concatenate at least one track."""
        return cls(
            np.cumsum([len(track.boxes) for track in tracks]),
            np.concatenate([track.boxes for track in tracks]),
            np.concatenate([track.counted for track in tracks]),
            np.array([(track.width, track.height) for track in tracks], np.int64),
        )

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, video: int) -> Track:
        frames = slice(self.ends[video - 1] if video else 0, self.ends[video])
        width, height = self.sizes[video].tolist()
        return Track(self.boxes[frames], self.counted[frames], width, height)


@dataclass(frozen=True)
class AnnotatedVideos:
    """Videos and the tracks of their objects, in the same order."""

    catalog: Catalog
    tracks: Tracks


def open_annotated(uri: str | Sequence[str], option: str = "") -> AnnotatedVideos:
    """List annotated videos.

    A video whose object is visible in fewer than `MIN_FRAMES` frames is quarantined.

    Args:
        uri: as in `open_catalog`.
        option: name of the option that holds it, for errors.

    Raises:
        ValueError: there are no videos, or some have no boxes, or only a box in the first frame.
        StorageError: the storage fails.
    """
    with named_in_errors(option):
        for each in [uri] if isinstance(uri, str) else uri:
            _check_is_built(each)
        return _open_annotated(uri)


def _open_annotated(uri: str | Sequence[str]) -> AnnotatedVideos:
    catalog = open_catalog(uri)
    tracks = [_to_track(row) for row in _read_rows(catalog)]
    # before a video is decoded: the annotations are read as columns
    usable = np.array([track.counted.sum() >= MIN_FRAMES for track in tracks], np.bool_)
    if not usable.any():
        raise ValueError(f"no object is visible in any of the {len(catalog)} videos of {uri}")
    reason = f"its object is visible in fewer than {MIN_FRAMES} frames"
    lost = [QuarantinedVideo(each.id, each.uri, reason) for each in compress(catalog, ~usable)]
    kept = catalog.select(np.flatnonzero(usable), (*catalog.quarantined, *lost))
    return AnnotatedVideos(kept, Tracks.from_list(list(compress(tracks, usable))))


@dataclass(frozen=True)
class Objects:
    """The tracks of all objects of a video.

    Attributes:
        tracks: the track of each object.
        weights: float32 [K, N], how much each box counts; 0 where there is none.
        parts: int64 [K, N], equal for the frames of one target: a tracker that lost its target
            follows another one from then on.
    """

    tracks: tuple[Track, ...]
    weights: NDArray[np.float32]
    parts: NDArray[np.int64]


def read_objects(entry: VideoEntry) -> Objects:
    """Read the boxes of a video from its shard, whose annotations this process keeps.

    Videos of the corpus have boxes without a shard. There, an object counts in the frames that show
    its centre.

    Raises:
        VideoError: the video is in no shard, or has no boxes, or not one for each frame.
        StorageError: the storage fails.
    """
    if entry.uri.startswith(corpus.SCHEME):
        return _objects_of_corpus(entry.uri.removeprefix(corpus.SCHEME))
    row = None
    if _is_shard(entry.uri):
        table, numbers = _annotations_of(entry.uri)
        row = {name: table[name][numbers[entry.offset]] for name in table.column_names}
    if row is None or not row["boxes"].is_valid:
        reason = f"has no boxes. Build shards with boxes by {BUILD_COMMAND}"
        raise VideoError(entry.id, entry.uri, reason)
    num_frames, count = row["num_frames"].as_py(), len(row["boxes"].values)
    if count == 0 or count % num_frames:
        reason = f"has {count} boxes, expected one for each of its {num_frames} frames"
        raise VideoError(entry.id, entry.uri, reason)
    boxes = row["boxes"].values.flatten().to_numpy().reshape(-1, num_frames, 4)
    if "weights" in row and row["weights"].is_valid:
        weights = row["weights"].values.to_numpy().reshape(-1, num_frames)
        width, height = (int(row[name].as_py()) for name in ("width", "height"))
        each = zip(boxes, weights, strict=True)
        tracks = tuple(Track(own, weight > 0, width, height) for own, weight in each)
        # a tracker's targets are separated by frames of weight 0
        return Objects(tracks, weights, np.cumsum(weights == 0, axis=1))
    tracks = tuple(_to_track({**row, "boxes": pa.scalar(own.tolist())}) for own in boxes)
    weights = np.stack([track.counted for track in tracks]).astype(np.float32)
    return Objects(tracks, weights, np.zeros(weights.shape, np.int64))


def _objects_of_corpus(name: str) -> Objects:
    size = np.array([corpus.WIDTH, corpus.HEIGHT], np.float32)
    tracks = []
    for boxes in corpus.object_boxes(name):
        centers = (boxes[:, :2] + boxes[:, 2:]) / 2
        counted = ((centers >= 0) & (centers < size)).all(axis=1)
        inside = np.clip(boxes, 0, np.tile(size, 2))
        tracks.append(Track(inside, counted, corpus.WIDTH, corpus.HEIGHT))
    weights = np.stack([track.counted for track in tracks]).astype(np.float32)
    return Objects(tuple(tracks), weights, np.zeros(weights.shape, np.int64))


@lru_cache(KEPT_SHARDS)
def _annotations_of(shard: str) -> tuple[Any, dict[int, int]]:
    """Return the annotations of a shard, and the row of each offset in it."""
    table = read_annotations(Storage.from_uri(shard)).combine_chunks()
    return table, {offset: row for row, offset in enumerate(table["offset"].to_pylist())}


def _is_shard(uri: str) -> bool:
    return suffix_of(Storage.from_uri(uri).path) == SUFFIX


def _check_is_built(uri: str) -> None:
    place = Storage.from_uri(uri)
    parts = (place, *(place.join(part) for part in ("train", "val")))
    if any(part.join(FRAME_LIST).exists() for part in parts):
        raise ValueError(
            f"{uri} holds GOT-10k's folders of frames. Build shards from them: {BUILD_COMMAND}"
        )


def _read_rows(catalog: Catalog) -> list[Row]:
    """Return the annotations of each video.

    Raises:
        ValueError: some videos have no boxes, or only a box in the first frame.
    """
    shards = [file for file in catalog.files() if _is_shard(file)]
    with ThreadPoolExecutor(OPEN_AT_ONCE) as pool:
        tables = pool.map(lambda file: read_annotations(Storage.from_uri(file)), shards)
        found = dict(_rows_by_location(shards, tables))
    locations = zip(*(catalog.columns[name].to_pylist() for name in ("uri", "offset")), strict=True)
    rows = [found.get(location, {}) for location in locations]
    _refuse(
        catalog,
        [not row or not row["boxes"].is_valid for row in rows],
        f"have no boxes (build shards with boxes by {BUILD_COMMAND})",
    )
    _refuse(
        catalog,
        [len(row["boxes"].values) < int(row["num_frames"].as_py()) for row in rows],
        "have a box only in their first frame, like GOT-10k's test part (use train and val)",
    )
    return rows


def _rows_by_location(
    shards: Sequence[str], tables: Iterable[Any]
) -> Iterator[tuple[tuple[str, int], Row]]:
    """Yield ((shard, offset), row) of all videos."""
    for shard, table in zip(shards, tables, strict=True):
        columns = {name: table[name].combine_chunks() for name in table.column_names}
        for number in range(len(table)):
            row = {name: column[number] for name, column in columns.items()}
            yield (shard, row["offset"].as_py()), row


def _refuse(catalog: Catalog, are_wrong: Sequence[bool], reason: str) -> None:
    wrong = [entry.id for entry in compress(catalog, are_wrong)]
    if wrong:
        raise ValueError(f"{len(wrong)} of {len(catalog)} videos {reason}: {listed(wrong)}")


def _to_track(row: Row) -> Track:
    boxes = row["boxes"].values.flatten().to_numpy().reshape(-1, 4)
    boxes = boxes[: row["num_frames"].as_py()]  # the first object
    width, height = (int(row[name].as_py()) for name in ("width", "height"))
    # GOT-10k has boxes that reach over the edge of the picture
    inside = np.clip(np.nan_to_num(boxes), 0, np.array([width, height] * 2, np.float32))
    flags = [
        row[name].values.to_numpy() if row[name].is_valid else None for name in ("absence", "cover")
    ]
    counted = is_visible(boxes, *flags) & is_visible(inside, None, None)
    return Track(inside, counted, width, height)
