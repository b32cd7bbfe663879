"""How published data sets lie in their folders: which videos there are, their labels and splits.

A layout lists sources and opens no video. `LAYOUTS` names them all:

* `folder`: whatever `ctp.data.catalog.open_catalog` takes, without splits;
* `ucf101`: UCF-101's class folders and its `trainlist0N.txt`, `testlist0N.txt`, `classInd.txt`;
* `hmdb51`: HMDB-51's class folders and its `*_test_splitN.txt`;
* `kinetics400`: videos `<youtube id>_<start>_<end>.mp4` or `<youtube id>.mp4` in folders `train`,
  `val` and `test`, by class or not, and the CSV files that name them;
* `ssv1`: Something-Something-V1's frame folders and `something-something-v1-*.csv`;
* `got10k`: GOT-10k's frame folders with boxes, in `train`, `val` and `test`;
* `frames-zip`: a ZIP of JPEG frames for each video, all below a folder or those of a list.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import pairwise
from pathlib import PurePosixPath

from ctp.data.catalog import VideoEntry, open_catalog
from ctp.data.listing import is_video
from ctp.data.quarantine import QuarantinedVideo
from ctp.storage import FileInfo, Storage, readable

SSV1_RATE = Fraction(12)
GOT10K_RATE = Fraction(10)
ZIP_RATE = Fraction(25)
"""Frames/s. ZIPs do not tell theirs; most videos have about this."""
SSV1_FRAMES = "20bn-something-something-v1"
SPLITS = {
    "train": "train",
    "val": "val",
    "validate": "val",
    "validation": "val",
    "test": "test",
}
"""What data sets call their splits, and what we do."""
HMDB51_SPLITS = {"1": "train", "2": "test"}
"""0 is neither."""
KINETICS_COLUMNS = {"youtube_id", "time_start", "time_end", "split"}


@dataclass(frozen=True)
class FrameFolder:
    """A video as a folder of pictures, one file a frame.

    Attributes:
        uri: the folder.
        rate: frames/s.
        is_tracked: whether `groundtruth.txt` in it says where the object is.
    """

    uri: str
    rate: Fraction
    is_tracked: bool = False


@dataclass(frozen=True)
class FrameZip:
    """A video as a ZIP of pictures: its URI, and its rate in frames/s."""

    uri: str
    rate: Fraction


@dataclass(frozen=True)
class Source:
    """A video to be put into a shard.

    Attributes:
        id: stable name, unique in its split.
        content: how to get it.
        label: class name, if there is one.
        split: train, val or test; "" in a layout without splits.
    """

    id: str
    content: VideoEntry | FrameFolder | FrameZip
    label: str | None = None
    split: str = ""

    @property
    def uri(self) -> str:
        """Where it lies, for messages."""
        return self.content.uri


@dataclass(frozen=True)
class Contents:
    """What a layout found.

    Attributes:
        sources: the videos, sorted by split and id.
        missing: split -> names of videos that it should have and that are not there.
        num_unused: videos that are there and belong to no split.
        quarantined: what could not be listed, as a damaged tar.
    """

    sources: tuple[Source, ...]
    missing: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    num_unused: int = 0
    quarantined: tuple[QuarantinedVideo, ...] = ()

    @classmethod
    def of(
        cls, sources: Iterable[Source], missing: Iterable[tuple[str, str]] = (), num_unused: int = 0
    ) -> Contents:
        """Sort what was found; `missing` are (split, name).

        Raises:
            ValueError: two videos of a split share an id.
        """
        ordered = tuple(sorted(sources, key=lambda source: (source.split, source.id)))
        for first, second in pairwise(ordered):
            if (first.split, first.id) == (second.split, second.id):
                raise ValueError(f"{first.id!r} is named twice: {first.uri} and {second.uri}")
        by_split: dict[str, list[str]] = {}
        for split, name in missing:
            by_split.setdefault(split, []).append(name)
        return cls(
            ordered,
            {split: tuple(sorted(names)) for split, names in sorted(by_split.items())},
            num_unused,
        )


Layout = Callable[[str, int], Contents]
"""(where the data set lies, which of its official splits, where it has several) -> what is there.

Raises ValueError where it is not laid out so, StorageError where it cannot be read."""


def folder(uri: str, split_number: int) -> Contents:
    """The videos of a folder, glob, list, tar or shard, labelled by their folder."""
    try:
        catalog = open_catalog(uri)
    except ValueError as error:
        raise ValueError(f"source: {str(error).removeprefix('data.uri: ')}") from error
    sources = (Source(entry.id, entry, entry.label) for entry in catalog)
    return Contents(tuple(sources), quarantined=catalog.quarantined)


def ucf101(uri: str, split_number: int) -> Contents:
    """UCF-101: `<Class>/v_<Class>_g01_c01.avi`."""
    root, files = _listed(uri)
    classes = {name for _, name in _pairs(root.join(_path_of(files, "classInd.txt", uri)))}
    split_of = {}
    for split in ("train", "test"):
        name = f"{split}list{split_number:02d}.txt"
        for line in _lines(root.join(_path_of(files, name, uri))):
            path = line.split()[0]
            if path.split("/")[0] not in classes:
                raise ValueError(f"{name} names {path}, whose class is not in classInd.txt")
            split_of[path] = split
    return _by_class(root, files, split_of)


def hmdb51(uri: str, split_number: int) -> Contents:
    """HMDB-51: `<class>/<name>.avi`; a split leaves some videos out."""
    root, files = _listed(uri)
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
    """Kinetics-400, and the later ones: labels and splits are in CSV files."""
    root, files = _listed(uri)
    videos = {_kinetics_key(info.path): info for info in files if is_video(info.path)}
    sources, missing, used = [], set(), set()
    for clip in dict.fromkeys(_kinetics_clips(root, files)):  # some CSVs repeat what others say
        tried = [(place, name) for place in (clip.split, "") for name in clip.names]
        key = next((key for key in tried if key in videos), None)
        if key is None:
            missing.add((clip.split, clip.names[0]))
            continue
        used.add(key)
        entry = _entry(root, videos[key], clip.names[0], clip.label)
        sources.append(Source(entry.id, entry, entry.label, clip.split))
    return Contents.of(sources, missing, len(videos) - len(used))


def ssv1(uri: str, split_number: int) -> Contents:
    """Something-Something-V1: `20bn-something-something-v1/<id>/00001.jpg`, 12 frames/s."""
    root = _root(uri)
    place = root.join(SSV1_FRAMES)
    there = set(place.list_folders())
    if not there:
        raise ValueError(f"no frame folders in {place.uri}; unpack the data set below {uri}")
    sources, missing = [], []
    for name in ("train", "validation", "test"):
        for number, label in _ssv1_rows(root.join(f"something-something-v1-{name}.csv")):
            if number in there:
                content = FrameFolder(place.join(number).uri, SSV1_RATE)
                sources.append(Source(number, content, label, SPLITS[name]))
            else:
                missing.append((SPLITS[name], number))
    return Contents.of(sources, missing, len(there) - len(sources))


def got10k(uri: str, split_number: int) -> Contents:
    """GOT-10k: `train/list.txt`, `train/GOT-10k_Train_000001/00000001.jpg`, …, 10 frames/s."""
    root = _root(uri)
    sources, missing, num_unused = [], [], 0
    splits = [name for name in root.list_folders() if name in SPLITS.values()]
    if not splits:
        raise ValueError(f"none of the folders train, val and test is in {uri}")
    for split in splits:
        there = set(root.join(split).list_folders())
        names = _lines(root.join(split, "list.txt"))
        missing += [(split, name) for name in names if name not in there]
        num_unused += len(there - set(names))
        for name in there & set(names):
            content = FrameFolder(root.join(split, name).uri, GOT10K_RATE, is_tracked=True)
            sources.append(Source(name, content, split=split))
    return Contents.of(sources, missing, num_unused)


def frames_zip(uri: str, split_number: int) -> Contents:
    """ZIPs of JPEG frames: all below a folder, or those of a list `relative/path [label]`."""
    place = _root(uri)
    root = place.parent if place.is_file() else place
    there = {info.path for info in root.list_files() if info.path.endswith(".zip")}
    if place.is_file():
        named = dict(map(_zip_line, _lines(place)))
    else:
        named = {path: readable(PurePosixPath(path).parent.name) or None for path in there}
    if not named:
        raise ValueError(f"no .zip below {uri}")
    sources = [
        Source(readable(path), FrameZip(root.join(path).uri, ZIP_RATE), label)
        for path, label in named.items()
        if path in there
    ]
    missing = [("", path) for path in named if path not in there]
    return Contents.of(sources, missing, len(there) - len(sources))


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
    root = Storage.of(uri)
    if not root.exists():
        raise ValueError(f"source: there is no {uri!r}")
    return root


def _listed(uri: str) -> tuple[Storage, list[FileInfo]]:
    root = _root(uri)
    return root, root.list_files()


def _lines(place: Storage) -> list[str]:
    """The lines of a text file that are not empty."""
    try:
        lines = place.read_bytes().decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"{place.uri} is not UTF-8: {error}") from error
    return [line.strip() for line in lines if line.strip()]


def _pairs(place: Storage) -> Iterator[tuple[str, str]]:
    """The lines of a text file, each cut in two at its last space."""
    for line in _lines(place):
        first, _, second = line.rpartition(" ")
        if not first:
            raise ValueError(f"{place.uri}: wanted two words a line, got {line!r}")
        yield first.strip(), second


def _path_of(files: list[FileInfo], name: str, uri: str) -> str:
    """The path of the file of a name, in whatever folder it lies."""
    path = next((i.path for i in files if PurePosixPath(i.path).name == name), None)
    if path is None:
        raise ValueError(f"no {name} below {uri}; unpack the official splits there")
    return path


def _entry(root: Storage, info: FileInfo, name: str, label: str | None) -> VideoEntry:
    return VideoEntry(name, root.join(info.path).uri, label, size=info.size)


def _by_class(root: Storage, files: list[FileInfo], split_of: Mapping[str, str]) -> Contents:
    """The videos of class folders; `split_of` is class/name -> split."""
    there = {"/".join(i.path.split("/")[-2:]): i for i in files if is_video(i.path)}
    entries = {
        name: _entry(root, there[name], name, name.split("/")[0])
        for name in split_of
        if name in there
    }
    return Contents.of(
        (Source(name, entry, entry.label, split_of[name]) for name, entry in entries.items()),
        ((split, name) for name, split in split_of.items() if name not in there),
        len(there) - len(entries),
    )


def _kinetics_key(path: str) -> tuple[str, str]:
    """(split, name without ending) of a video file."""
    pure = PurePosixPath(path)
    splits = [SPLITS[part] for part in pure.parts[:-1] if part in SPLITS]
    return splits[0] if splits else "", pure.stem


@dataclass(frozen=True)
class _KineticsClip:
    """A line of a CSV; the file may have either of the names."""

    split: str
    names: tuple[str, str]
    label: str | None


def _kinetics_clips(root: Storage, files: list[FileInfo]) -> Iterator[_KineticsClip]:
    found = False
    for path in (info.path for info in files if info.path.endswith(".csv")):
        rows = csv.DictReader(_lines(root.join(path)))
        if set(rows.fieldnames or ()) >= KINETICS_COLUMNS:
            found = True
            for row in rows:
                yield _kinetics_clip(row, path)
    if not found:
        wanted = ", ".join(sorted(KINETICS_COLUMNS))
        raise ValueError(f"no CSV below {root.uri} has the columns {wanted}")


def _kinetics_clip(row: Mapping[str, str], path: str) -> _KineticsClip:
    try:
        split = SPLITS[row["split"].strip()]
        first, last = (int(float(row[name])) for name in ("time_start", "time_end"))
    except (KeyError, ValueError, TypeError, AttributeError) as error:
        raise ValueError(f"{path}: no line of Kinetics: {dict(row)}") from error
    name = row["youtube_id"]
    return _KineticsClip(split, (f"{name}_{first:06d}_{last:06d}", name), row.get("label") or None)


def _ssv1_rows(place: Storage) -> Iterator[tuple[str, str | None]]:
    """(id, label) of the videos of a split; a test set has no labels."""
    for line in _lines(place):
        number, _, label = line.partition(";")
        yield number, label or None


def _zip_line(line: str) -> tuple[str, str | None]:
    """(path, label) of a line; a tab or the last space parts them."""
    path, _, label = line.partition("\t") if "\t" in line else line.rpartition(" ")
    path, label = (path, label) if path else (label, "")
    return path if path.endswith(".zip") else f"{path}.zip", label.strip() or None
