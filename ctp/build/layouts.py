"""The folder layouts of published data sets: list their videos, labels and splits.

A layout lists sources and opens no video. The layouts in `LAYOUTS` are

* `folder`: any source of `ctp.data.sources.open_catalog`, without splits;
* `ucf101`: UCF-101's class folders and its `trainlist0N.txt`, `testlist0N.txt`, `classInd.txt`;
* `hmdb51`: HMDB-51's class folders and its `*_test_splitN.txt`;
* `kinetics400`: videos `<youtube id>_<start>_<end>.mp4` or `<youtube id>.mp4` in folders `train`,
  `val` and `test`, with or without class folders, and the CSV files that list them;
* `ssv1`: Something-Something-V1's frame folders and `something-something-v1-*.csv`;
* `got10k`: GOT-10k's frame folders with boxes, in `train`, `val` and `test`;
* `frames-zip`: a ZIP of JPEG frames for each video, all below a folder or those of a list.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from fractions import Fraction
from itertools import pairwise
from pathlib import PurePosixPath

from ctp.data.catalog import VideoEntry
from ctp.data.listing import is_hidden, is_video, list_below, suffix_of
from ctp.data.quarantine import QuarantinedVideo
from ctp.data.sources import dead_names, open_catalog
from ctp.storage import FileInfo, Storage, readable
from ctp.text import text_lines

SSV1_RATE = Fraction(12)
GOT10K_RATE = Fraction(10)
ZIP_RATE = Fraction(25)
"""Frames/s. A ZIP does not contain its rate; this is the usual one of videos."""
SSV1_FRAMES = "20bn-something-something-v1"
SPLITS = {
    "train": "train",
    "val": "val",
    "validate": "val",
    "validation": "val",
    "test": "test",
}
"""A data set's name of a split -> our name."""
HMDB51_SPLITS = {"1": "train", "2": "test"}
"""Number in a split file -> our name; 0 means that the video is unused."""
KINETICS_COLUMNS = {"youtube_id", "time_start", "time_end", "split"}


@dataclass(frozen=True)
class FrameFolder:
    """A video as a folder of pictures, one file per frame.

    Attributes:
        uri: the folder.
        rate: frames/s.
        has_boxes: whether it contains GOT-10k's annotations.
    """

    uri: str
    rate: Fraction
    has_boxes: bool = False


@dataclass(frozen=True)
class FrameZip:
    """A video as a ZIP of pictures.

    Attributes:
        uri: the file.
        rate: frames/s.
    """

    uri: str
    rate: Fraction


@dataclass(frozen=True)
class Source:
    """A video to convert into a row of a shard.

    Attributes:
        id: stable name, unique in its split.
        content: the video file or its frames.
        label: class name, or None.
        split: train, val or test; "" in a layout without splits.
    """

    id: str
    content: VideoEntry | FrameFolder | FrameZip
    label: str | None = None
    split: str = ""

    @property
    def uri(self) -> str:
        """Return where it is stored, for messages."""
        return self.content.uri


@dataclass(frozen=True)
class Contents:
    """The contents of a data set.

    Attributes:
        sources: the videos, sorted by split and id.
        missing: split -> names of videos that it lists and that do not exist.
        num_unused: number of videos that belong to no split.
        quarantined: what could not be listed, e.g. a damaged tar.
    """

    sources: tuple[Source, ...]
    missing: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    num_unused: int = 0
    quarantined: tuple[QuarantinedVideo, ...] = ()

    @classmethod
    def from_sources(
        cls, sources: Iterable[Source], missing: Iterable[tuple[str, str]] = (), num_unused: int = 0
    ) -> Contents:
        """Sort the sources and the (split, name) pairs of missing videos.

        Raises:
            ValueError: two videos of a split share an id.
        """
        ordered = tuple(sorted(sources, key=lambda source: (source.split, source.id)))
        for first, second in pairwise(ordered):
            if (first.split, first.id) == (second.split, second.id):
                raise ValueError(
                    f"two videos share the id {first.id!r}: {first.uri} and {second.uri}"
                )
        by_split: dict[str, list[str]] = {}
        for split, name in missing:
            by_split.setdefault(split, []).append(name)
        return cls(
            ordered,
            {split: tuple(sorted(names)) for split, names in sorted(by_split.items())},
            num_unused,
        )


Layout = Callable[[str, int], Contents]
"""(URI of the data set, number of the official split, if it has several) -> its contents.

Raises ValueError if the data set has another layout, StorageError if it cannot be read."""


def folder(uri: str, split_number: int) -> Contents:
    """List the videos of a folder, glob, list, tar or shard, labelled by their folder."""
    catalog = open_catalog(uri, "source")
    sources = (Source(entry.id, entry, entry.label) for entry in catalog)
    return Contents(tuple(sources), quarantined=catalog.quarantined)


def ucf101(uri: str, split_number: int) -> Contents:
    """List UCF-101: `<Class>/v_<Class>_g01_c01.avi`."""
    root = _root(uri)
    files = _all_names(root)
    classes = {name for _, name in _pairs(root.join(_find_path(files, "classInd.txt", uri)))}
    split_of = {}
    for split in ("train", "test"):
        name = f"{split}list{split_number:02d}.txt"
        for line in _lines(root.join(_find_path(files, name, uri))):
            path = line.split()[0]
            if path.split("/")[0] not in classes:
                raise ValueError(f"{name} names {path}, whose class is not in classInd.txt")
            split_of[path] = split
    return _by_class(root, files, split_of)


def hmdb51(uri: str, split_number: int) -> Contents:
    """List HMDB-51: `<class>/<name>.avi`; a split does not use all videos."""
    root = _root(uri)
    files = _all_names(root)
    ending = f"_test_split{split_number}.txt"
    lists = [info.path for info in files if info.path.endswith(ending)]
    if not lists:
        raise ValueError(f"no file *{ending} below {uri}; unpack the official splits there")
    split_of = {}
    for path in lists:
        label = PurePosixPath(path).name.removesuffix(ending)
        for name, use in _pairs(root.join(path)):
            if use in HMDB51_SPLITS:
                split_of[f"{label}/{name}"] = HMDB51_SPLITS[use]
    return _by_class(root, files, split_of)


def kinetics400(uri: str, split_number: int) -> Contents:
    """List Kinetics-400 or a later version: labels and splits are in CSV files."""
    root = _root(uri)
    files = _all_names(root)
    videos = {_kinetics_key(info.path): info for info in files if is_video(info.path)}
    sources, missing, used = [], set(), set()
    for clip in dict.fromkeys(_kinetics_clips(root, files)):  # some CSVs repeat others
        possible = [(split, name) for split in (clip.split, "") for name in clip.names]
        key = next((key for key in possible if key in videos), None)
        if key is None:
            missing.add((clip.split, clip.names[0]))
            continue
        used.add(key)
        entry = _entry(root, videos[key], clip.names[0], clip.label)
        sources.append(Source(entry.id, entry, entry.label, clip.split))
    return Contents.from_sources(sources, missing, len(videos) - len(used))


def ssv1(uri: str, split_number: int) -> Contents:
    """List Something-Something-V1: `20bn-something-something-v1/<id>/00001.jpg`, 12 frames/s."""
    root = _root(uri)
    frames = root.join(SSV1_FRAMES)
    existing = set(_folders(frames))
    if not existing:
        raise ValueError(f"no frame folders in {frames.uri}; unpack the data set below {uri}")
    listed = []
    for split in ("train", "validation", "test"):
        for line in _lines(root.join(f"something-something-v1-{split}.csv")):
            number, _, label = line.partition(";")  # the test split has no labels
            listed.append((SPLITS[split], number, label or None))
    return _collect(listed, existing, lambda n: FrameFolder(frames.join(n).uri, SSV1_RATE))


def got10k(uri: str, split_number: int) -> Contents:
    """List GOT-10k: `train/list.txt`, `train/GOT-10k_Train_000001/00000001.jpg`, 10 frames/s."""
    root = _root(uri)
    sources, missing, num_unused = [], [], 0
    splits = [name for name in root.list_folders() if name in SPLITS.values()]
    if not splits:
        raise ValueError(f"none of the folders train, val and test is in {uri}")
    for split in splits:
        existing = set(_folders(root.join(split)))
        names = _lines(root.join(split, "list.txt"))
        missing += [(split, name) for name in names if name not in existing]
        num_unused += len(existing - set(names))
        for name in existing & set(names):
            content = FrameFolder(root.join(split, name).uri, GOT10K_RATE, has_boxes=True)
            sources.append(Source(name, content, split=split))
    return Contents.from_sources(sources, missing, num_unused)


def frames_zip(uri: str, split_number: int) -> Contents:
    """List ZIPs of JPEG frames: all below a folder, or those of a list `relative/path [label]`."""
    place = _root(uri)
    root = place.parent if place.is_file() else place
    listing = list_below(root, each_once=not place.is_file())
    existing = {info.path for info in listing.files if suffix_of(info.path) == ".zip"}
    dead: tuple[QuarantinedVideo, ...] = ()
    if place.is_file():
        label_of = dict(map(_parse_zip_line, _lines(place)))
    else:
        label_of = {path: readable(PurePosixPath(path).parent.name) or None for path in existing}
        dead = dead_names(listing)
    if not label_of:
        raise ValueError(f"no .zip below {uri}")
    listed = [("", path, label) for path, label in label_of.items()]
    contents = _collect(listed, existing, lambda path: FrameZip(root.join(path).uri, ZIP_RATE))
    return replace(contents, quarantined=dead)


LAYOUTS: dict[str, Layout] = {
    "folder": folder,
    "ucf101": ucf101,
    "hmdb51": hmdb51,
    "kinetics400": kinetics400,
    "ssv1": ssv1,
    "got10k": got10k,
    "frames-zip": frames_zip,
}


def _root(uri: str) -> Storage:
    root = Storage.from_uri(uri)
    if not root.exists():
        raise ValueError(f"source: there is no {uri!r}")
    return root


def _lines(place: Storage) -> list[str]:
    """Return the lines of a text file that are not empty."""
    return text_lines(place.read_bytes(), place.uri)


def _all_names(root: Storage) -> list[FileInfo]:
    """Return the files below a folder, by each of their names: the lists may use any of them."""
    return list_below(root, each_once=False).files


def _folders(root: Storage) -> list[str]:
    """Return the names of the subfolders, without hidden ones."""
    return [name for name in root.list_folders() if not is_hidden(name)]


def _pairs(place: Storage) -> Iterator[tuple[str, str]]:
    """Split each line of a text file at its last space."""
    for line in _lines(place):
        first, _, second = line.rpartition(" ")
        if not first:
            raise ValueError(f"{place.uri}: expected two words per line, got {line!r}")
        yield first.strip(), second


def _find_path(files: list[FileInfo], name: str, uri: str) -> str:
    """Return the path of the file with a name, in any folder."""
    path = next((i.path for i in files if PurePosixPath(i.path).name == name), None)
    if path is None:
        raise ValueError(f"no {name} below {uri}; unpack the official splits there")
    return path


def _entry(root: Storage, info: FileInfo, name: str, label: str | None) -> VideoEntry:
    return VideoEntry(name, root.join(info.path).uri, label, size=info.size)


def _by_class(root: Storage, files: list[FileInfo], split_of: Mapping[str, str]) -> Contents:
    """List the videos of class folders; `split_of` is class/name -> split."""
    existing = {"/".join(i.path.split("/")[-2:]): i for i in files if is_video(i.path)}
    listed = [(split, name, name.split("/")[0]) for name, split in split_of.items()]
    return _collect(
        listed, existing, lambda name: _entry(root, existing[name], name, name.split("/")[0])
    )


def _collect(
    listed: Iterable[tuple[str, str, str | None]],
    existing: Collection[str],
    content: Callable[[str], VideoEntry | FrameFolder | FrameZip],
) -> Contents:
    """Return the contents of a data set that lists (split, name, label) of its videos."""
    sources, missing = [], []
    for split, name, label in listed:
        if name in existing:
            sources.append(Source(readable(name), content(name), label, split))
        else:
            missing.append((split, name))
    return Contents.from_sources(sources, missing, len(existing) - len(sources))


def _kinetics_key(path: str) -> tuple[str, str]:
    """Return (split, name without ending) of a video file."""
    pure = PurePosixPath(path)
    splits = [SPLITS[part] for part in pure.parts[:-1] if part in SPLITS]
    return splits[0] if splits else "", pure.stem


@dataclass(frozen=True)
class _KineticsClip:
    """A line of a CSV. The video file may have either of the names."""

    split: str
    names: tuple[str, str]
    label: str | None


def _kinetics_clips(root: Storage, files: list[FileInfo]) -> Iterator[_KineticsClip]:
    found = False
    for path in (info.path for info in files if suffix_of(info.path) == ".csv"):
        rows = csv.DictReader(_lines(root.join(path)))
        if set(rows.fieldnames or ()) >= KINETICS_COLUMNS:
            found = True
            for row in rows:
                yield _parse_kinetics_row(row, path)
    if not found:
        columns = ", ".join(sorted(KINETICS_COLUMNS))
        raise ValueError(f"no CSV below {root.uri} has the columns {columns}")


def _parse_kinetics_row(row: Mapping[str, str], path: str) -> _KineticsClip:
    try:
        split = SPLITS[row["split"].strip()]
        first, last = (int(float(row[name])) for name in ("time_start", "time_end"))
    except (KeyError, ValueError, TypeError, AttributeError) as error:
        raise ValueError(f"{path}: not a line of Kinetics: {dict(row)}") from error
    name = row["youtube_id"]
    return _KineticsClip(split, (f"{name}_{first:06d}_{last:06d}", name), row.get("label") or None)


def _parse_zip_line(line: str) -> tuple[str, str | None]:
    """Return (path, label) of a line, separated by a tab or the last space."""
    path, _, label = line.partition("\t") if "\t" in line else line.rpartition(" ")
    path, label = (path, label) if path else (label, "")
    return path if suffix_of(path) == ".zip" else f"{path}.zip", label.strip() or None
