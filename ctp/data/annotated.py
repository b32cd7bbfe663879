"""AnnotatedVideos videos: a catalogue of shards, and where the object is in each frame."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ctp.data.catalog import OPEN_AT_ONCE, Catalog, VideoEntry, open_catalog
from ctp.data.got10k import in_sight
from ctp.data.quarantine import QuarantinedVideo
from ctp.data.shards import SUFFIX, read_annotations
from ctp.storage import Storage
from ctp.text import listed

MIN_FRAMES = 2
"""Frames with an object that a video must have: one is given, and one is to be predicted."""
FRAME_LIST = "list.txt"
"""What GOT-10k's own folders have, and shards have not."""
BUILD = "jobs/build_shards.py --layout got10k"
BARE = f"have no boxes (build shards that do by {BUILD})"
SHORT = "have a box in their first frame alone, as in GOT-10k's test part (take train and val)"
PLACE = ("file", "offset")
FLAGS = ("absence", "cover")

Place = tuple[str, int]
Row = dict[str, Any]


@dataclass(frozen=True)
class Track:
    """Where the object of a video is.

    Attributes:
        boxes: float32 [N, 4], xyxy pixels of the stored video, inside its picture.
        counted: bool [N], the frames in which there is an object to be found.
        width, height: pixels of the stored video.
    """

    boxes: NDArray[np.float32]
    counted: NDArray[np.bool_]
    width: int
    height: int


@dataclass(frozen=True)
class Tracks:
    """The tracks of all videos of a catalogue, one after the other in few arrays, so that they go
    to other processes fast.

    Attributes:
        ends: int64 [V], where in `boxes` and `counted` each video's frames end.
        boxes, counted: as of `Track`.
        sizes: int64 [V, 2], width and height.
    """

    ends: NDArray[np.int64]
    boxes: NDArray[np.float32]
    counted: NDArray[np.bool_]
    sizes: NDArray[np.int64]

    @classmethod
    def of(cls, tracks: Sequence[Track]) -> Tracks:
        """Join tracks, one at least."""
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
    """Videos, and where their objects are, in the same order."""

    catalog: Catalog
    tracks: Tracks


def open_annotated(uri: str | Sequence[str]) -> AnnotatedVideos:
    """List annotated videos.

    A video whose object is in sight in fewer than `MIN_FRAMES` frames is among the catalogue's
    quarantined ones.

    Raises:
        ValueError: there are none, or some have no boxes, or but the first; names them and says
            what to do.
        StorageError: the storage fails.
    """
    for each in [uri] if isinstance(uri, str) else uri:
        _check_built(each)
    catalog = open_catalog(uri)
    rows = _annotations(catalog)
    tracks = [_track(row) for row in rows]
    usable = np.array([track.counted.sum() >= MIN_FRAMES for track in tracks], np.bool_)
    bad = [_quarantined(catalog[int(number)]) for number in np.flatnonzero(~usable)]
    if not usable.any():
        raise ValueError(
            f"data: no object is in sight in any of the {len(catalog)} videos of {uri}"
        )
    kept = catalog.select(np.flatnonzero(usable), (*catalog.quarantined, *bad))
    return AnnotatedVideos(
        kept, Tracks.of([t for t, good in zip(tracks, usable, strict=True) if good])
    )


def _check_built(uri: str) -> None:
    place = Storage.of(uri)
    parts = (place, *(place.join(part) for part in ("train", "val")))
    if any(part.join(FRAME_LIST).exists() for part in parts):
        raise ValueError(
            f"{uri} holds folders of frames, as GOT-10k comes. Build shards of it: {BUILD}"
        )


def _annotations(catalog: Catalog) -> list[Row]:
    """A row of `read_annotations` for each video.

    Raises:
        ValueError: some have no boxes, or but the first.
    """
    shards = [file for file in catalog.files() if file.endswith(SUFFIX)]
    with ThreadPoolExecutor(OPEN_AT_ONCE) as pool:
        tables = pool.map(lambda file: read_annotations(Storage.of(file)), shards)
        found = dict(_by_place(shards, tables))
    places = zip(*(catalog.columns[name].to_pylist() for name in PLACE), strict=True)
    rows = [found.get(place, {}) for place in places]
    _check(catalog, [not row or not row["boxes"].is_valid for row in rows], BARE)
    _check(catalog, [_is_short(row) for row in rows], SHORT)
    return rows


def _by_place(shards: Sequence[str], tables: Iterator[Any]) -> Iterator[tuple[Place, Row]]:
    """Each row by the shard it is in, and where."""
    for shard, table in zip(shards, tables, strict=True):
        columns = {name: table[name].combine_chunks() for name in table.column_names}
        for number in range(len(table)):
            row = {name: column[number] for name, column in columns.items()}
            yield (shard, row["offset"].as_py()), row


def _is_short(row: Row) -> bool:
    return len(row["boxes"].values) < int(row["num_frames"].as_py())


def _check(catalog: Catalog, are_wrong: Sequence[bool], reason: str) -> None:
    wrong = [number for number, is_wrong in enumerate(are_wrong) if is_wrong]
    if wrong:
        names = listed(catalog[number].id for number in wrong)
        raise ValueError(f"{len(wrong)} of {len(catalog)} videos {reason}: {names}")


def _track(row: Row) -> Track:
    boxes = row["boxes"].values.flatten().to_numpy().reshape(-1, 4)
    width, height = (int(row[name].as_py()) for name in ("width", "height"))
    inside = np.clip(np.nan_to_num(boxes), 0, np.array([width, height] * 2, np.float32))
    flags = [row[name].values.to_numpy() if row[name].is_valid else None for name in FLAGS]
    counted = in_sight(boxes, *flags) & in_sight(inside, None, None)
    return Track(inside, counted, width, height)


def _quarantined(entry: VideoEntry) -> QuarantinedVideo:
    reason = f"its object is in sight in fewer than {MIN_FRAMES} frames"
    return QuarantinedVideo(entry.id, entry.uri, reason)
