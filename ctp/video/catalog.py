"""The catalogue: what videos there are. It holds names only; bytes are read where they are used.

A catalogue is made from one of

* a folder, local or `s3://…`: every video file below it, at any depth; a video in a subfolder is
  labelled by the name of the folder it lies in;
* a glob, local: `clips/**/*.mp4`;
* a list file, `.txt`: a path or URI a line, relative ones taken from the list's folder, with an
  optional label after a tab;
* `corpus:NUMBER`: that many videos of the corpus the project makes itself (`ctp.video.corpus`).

Several sources make one catalogue; the ids are then led by their source.
"""

from __future__ import annotations

import glob
import hashlib
import os
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path, PurePosixPath
from typing import Annotated

from pydantic import BeforeValidator

from ctp.clip import EncodedVideo, VideoError
from ctp.rng import uniform_hash
from ctp.storage import Storage, StorageError
from ctp.video import corpus, corpus_cache

VIDEO_SUFFIXES = (
    *(".3gp", ".avi", ".flv", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4"),
    *(".mpeg", ".mpg", ".mts", ".ogv", ".ts", ".vob", ".webm", ".wmv"),
)
CORPUS = "corpus:"
RETRY_SECONDS = (0.5, 2.0, 8.0)
"""Pauses before a read that failed is tried again."""


def _one_is_one(uri: object) -> object:
    return uri[0] if isinstance(uri, list | tuple) and len(uri) == 1 else uri


Sources = Annotated[str | tuple[str, ...], BeforeValidator(_one_is_one)]
"""A config's field of what `open_catalog` takes. A list of one is that one: an option, which gives
lists, and a file mean the same videos by it."""


@dataclass(frozen=True)
class VideoEntry:
    """A video that can be read: a stable id, unique in its catalogue, its URI and its label."""

    id: str
    uri: str
    label: str | None = None

    def read(self) -> EncodedVideo:
        """Read the encoded bytes.

        Raises:
            VideoError: there is no such file, it may not be read, or it is empty.
            StorageError: the storage fails, and again after each of `RETRY_SECONDS`. That is no
                fault of the video, and which clips a run sees must not depend on it.
        """
        for pause in RETRY_SECONDS:
            try:
                return self._read_once()
            except StorageError:
                time.sleep(pause)
        return self._read_once()

    def _read_once(self) -> EncodedVideo:
        try:
            data = _read(self.uri)
        except StorageError as error:
            if not error.is_lasting:
                raise
            reason = " ".join(f"cannot be read: {error}".split())  # one line
            raise VideoError(self.id, self.uri, reason) from error
        if not data:
            raise VideoError(self.id, self.uri, "is empty")
        return EncodedVideo(self.id, self.uri, data, self.label)


@dataclass(frozen=True)
class Catalog:
    """The videos of a run, sorted by id, so that a listing's order never matters."""

    entries: tuple[VideoEntry, ...]

    @classmethod
    def of(cls, entries: Iterable[VideoEntry]) -> Catalog:
        """Sort entries into a catalogue.

        Raises:
            ValueError: two entries share an id.
        """
        ordered = tuple(sorted(entries, key=lambda entry: entry.id))
        for first, second in pairwise(ordered):
            if first.id == second.id:
                raise ValueError(
                    f"two videos share the id {first.id!r}: {first.uri} and {second.uri}. "
                    "Name each file once"
                )
        return cls(ordered)

    def __len__(self) -> int:
        return len(self.entries)

    def fingerprint(self) -> str:
        """A short hash of all ids: a run goes on only with the catalogue it started with."""
        digest = hashlib.blake2b(digest_size=8)
        for entry in self.entries:
            digest.update(entry.id.encode() + b"\0")
        return digest.hexdigest()

    def split(self, heldout_share: float, seed: int) -> tuple[Catalog, Catalog]:
        """Part the videos to train on from those held out.

        A video's side is a pure function of its id and `seed`, whatever else is in the catalogue.

        Returns:
            (train, held out); when the shares leave one side empty, a video moves over, so that
            neither is. A video that is alone is trained on.
        """
        rank = {entry.id: uniform_hash(seed, "heldout", entry.id) for entry in self.entries}
        heldout = [entry for entry in self.entries if rank[entry.id] < heldout_share]
        if heldout_share > 0:
            by_rank = sorted(self.entries, key=lambda entry: rank[entry.id])
            heldout = (heldout or by_rank[:1])[: len(self) - 1]
        taken = {entry.id for entry in heldout}
        train = (entry for entry in self.entries if entry.id not in taken)
        return Catalog.of(train), Catalog.of(heldout)


def open_catalog(uri: str | Sequence[str]) -> Catalog:
    """List the videos of a folder, glob, list file or corpus, or of several of them.

    Raises:
        ValueError: there is nothing there, or no video among it; says where it looked.
    """
    if not isinstance(uri, str):
        return Catalog.of(_named_apart([(each, open_catalog(each).entries) for each in uri]))
    if uri.startswith(CORPUS):
        return _open_corpus(uri)
    if "://" not in uri and glob.has_magic(uri) and not os.path.exists(uri):
        return _open_glob(uri)
    place = Storage.of(uri)
    if not place.exists():
        raise ValueError(
            f"data.uri: there is no {uri!r}. Wanted: a folder of videos, a glob, a .txt list, an "
            "s3:// prefix, or corpus:NUMBER"
        )
    if place.is_file():
        return _open_file(place)
    found = [i.path for i in place.list_files() if _is_video(i.path)]
    if not found:
        raise ValueError(
            f"data.uri: no video below {uri!r}; looked for files ending in "
            f"{' '.join(VIDEO_SUFFIXES)}"
        )
    return Catalog.of(VideoEntry(path, place.join(path).uri, _folder_label(path)) for path in found)


def prepare_corpus(catalog: Catalog, progress: corpus_cache.Progress | None = None) -> None:
    """Render the catalogue's videos of the embedded corpus that were not rendered before, so that
    no measurement waits for them; a run needs it not, it renders them as it meets them.

    Args:
        catalog: any.
        progress: called after each video with (rendered so far, to be rendered).
    """
    names = [e.uri.removeprefix(CORPUS) for e in catalog.entries if e.uri.startswith(CORPUS)]
    corpus_cache.fill(names, progress)


def _read(uri: str) -> bytes:
    if uri.startswith(CORPUS):
        return corpus_cache.read_video(uri.removeprefix(CORPUS))
    return Storage.of(uri).read_bytes()


def _open_corpus(uri: str) -> Catalog:
    number = uri.removeprefix(CORPUS)
    if not number.isdigit() or int(number) < 1:
        raise ValueError(f"data.uri: wanted corpus:NUMBER, e.g. corpus:240, got {uri!r}")
    try:
        names = corpus.video_names(int(number))
    except ValueError as error:
        raise ValueError(f"data.uri: {uri!r}: {error}") from error
    return Catalog.of(VideoEntry(name, CORPUS + name, corpus.label_of(name)) for name in names)


def _open_glob(pattern: str) -> Catalog:
    paths = [path for path in glob.glob(pattern, recursive=True) if os.path.isfile(path)]
    if not paths:
        raise ValueError(f"data.uri: no file matches {pattern!r}")
    # ids are relative to the part of the pattern that is no pattern
    parts = Path(pattern).parts
    fixed = next(i for i, part in enumerate(parts) if glob.has_magic(part))
    root = Path(*parts[:fixed]) if fixed else Path()
    named = [(Path(path).relative_to(root).as_posix(), Storage.of(path).uri) for path in paths]
    return Catalog.of(VideoEntry(name, uri, _folder_label(name)) for name, uri in named)


def _open_file(place: Storage) -> Catalog:
    name = PurePosixPath(place.path).name
    if _is_video(name):
        return Catalog.of([VideoEntry(name, place.uri)])
    if not name.endswith(".txt"):
        raise ValueError(
            f"data.uri: {place.uri!r} is neither a folder, nor a video, nor a .txt list of videos"
        )
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


def _named_apart(parts: list[tuple[str, tuple[VideoEntry, ...]]]) -> list[VideoEntry]:
    """Entries of several sources, each id led by its source."""
    return [
        VideoEntry(f"{source.rstrip('/')}/{entry.id}", entry.uri, entry.label)
        for source, entries in parts
        for entry in entries
    ]


def _is_video(path: str) -> bool:
    return PurePosixPath(path).suffix.lower() in VIDEO_SUFFIXES


def _folder_label(path: str) -> str | None:
    return PurePosixPath(path).parent.name or None
