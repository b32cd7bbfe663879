"""A source becomes a row of a shard: read, coded anew if that is asked for, and looked at."""

from __future__ import annotations

import io
import re
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import partial
from pathlib import PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ctp.build.config import TranscodeConfig
from ctp.build.layouts import FrameFolder, FrameZip, Source
from ctp.build.transcode import encode_frames, inspect, transcode
from ctp.data import got10k
from ctp.data.catalog import VideoEntry
from ctp.data.shards import MAX_VIDEO_BYTES, ShardRow
from ctp.isolation import working_on
from ctp.storage import Storage
from ctp.video.encoded import EncodedVideo, VideoError

PICTURE_SUFFIXES = (".jpg", ".jpeg", ".png")
READ_AT_ONCE = 8
"""Files of a folder of frames that are read at the same time."""

Convert = Callable[[Source], ShardRow]


def converter(config: TranscodeConfig | None) -> Convert:
    """`convert` with its settings, picklable."""
    return partial(convert, config=config)


def convert(source: Source, config: TranscodeConfig | None) -> ShardRow:
    """Make a shard's row of a source.

    Args:
        source: what there is.
        config: how it is coded anew; None keeps the bytes of a video file. Frames need one.

    Raises:
        VideoError: it cannot be read, decoded or coded, or its annotations do not fit it.
        StorageError: the storage fails; that is no fault of the video.
    """
    content = source.content
    if isinstance(content, VideoEntry):
        return _from_video(source, content, config)
    assert config is not None, "frames are always coded"
    if isinstance(content, FrameZip):
        data = _read(source, content.uri)
        with working_on(source.id), _told(source):
            return _from_pictures(source, _unzipped(data), content.rate, config)
    return _from_folder(source, content, config)


@dataclass(frozen=True)
class _Track:
    """The annotations of a sequence, boxes in pixels of its pictures; see `ShardRow`."""

    boxes: NDArray[np.float32]
    absence: NDArray[np.int8] | None
    cover: NDArray[np.int8] | None
    label: str | None

    @classmethod
    def of(cls, files: Mapping[str, bytes], num_frames: int) -> _Track:
        absence, cover = (
            got10k.parse_flags(files[name], name) if name in files else None
            for name in (got10k.ABSENCE, got10k.COVER)
        )
        label = got10k.parse_class(files[got10k.META]) if got10k.META in files else None
        track = cls(got10k.parse_boxes(files.get(got10k.BOXES, b"")), absence, cover, label)
        track._check(num_frames)
        return track

    def _check(self, num_frames: int) -> None:
        if len(self.boxes) not in {1, num_frames}:  # a test set gives the first alone
            raise ValueError(f"{len(self.boxes)} boxes for {num_frames} frames")
        for flags in (self.absence, self.cover):
            if flags is not None and len(flags) != num_frames:
                raise ValueError(f"{len(flags)} labels of frames for {num_frames} frames")


def _from_video(source: Source, entry: VideoEntry, config: TranscodeConfig | None) -> ShardRow:
    video = entry.read()
    with working_on(source.id):
        return _row(source, video.data if config is None else transcode(video, config))


def _from_folder(source: Source, folder: FrameFolder, config: TranscodeConfig) -> ShardRow:
    place = Storage.of(folder.uri)
    names = [info.path for info in place.list_files() if "/" not in info.path]
    pictures = _in_order(name for name in names if _is_picture(name))
    annotations = [name for name in names if folder.is_tracked and name in got10k.FILES]
    wanted = pictures + annotations
    with ThreadPoolExecutor(READ_AT_ONCE) as pool:
        read = pool.map(lambda name: _read(source, place.join(name).uri), wanted)
        files = dict(zip(wanted, read, strict=True))
    with working_on(source.id), _told(source):
        track = _Track.of(files, len(pictures)) if folder.is_tracked else None
        row = _from_pictures(source, [files[n] for n in pictures], folder.rate, config)
        return row if track is None else _tracked(row, track, _picture(files[pictures[0]]))


def _tracked(row: ShardRow, track: _Track, picture: NDArray[np.uint8]) -> ShardRow:
    height, width = picture.shape[:2]
    scale = np.array([row.width / width, row.height / height] * 2, np.float32)
    return replace(
        row,
        boxes=track.boxes * scale,
        absence=track.absence,
        cover=track.cover,
        label=track.label or row.label,
    )


def _from_pictures(
    source: Source, pictures: Sequence[bytes], rate: Fraction, config: TranscodeConfig
) -> ShardRow:
    if not pictures:
        raise ValueError(f"has no frames; looked for {' '.join(PICTURE_SUFFIXES)}")
    return _row(source, encode_frames(map(_picture, pictures), len(pictures), rate, config))


def _row(source: Source, data: bytes) -> ShardRow:
    if len(data) > MAX_VIDEO_BYTES:
        raise VideoError(source.id, source.uri, f"is longer than {MAX_VIDEO_BYTES} bytes")
    facts = inspect(EncodedVideo(source.id, source.uri, data))
    return ShardRow(
        source.id, data, facts.num_frames, facts.rate, facts.width, facts.height, source.label
    )


def _read(source: Source, uri: str) -> bytes:
    return VideoEntry(source.id, uri).read().data


def _unzipped(data: bytes) -> list[bytes]:
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as file:
            return [file.read(name) for name in _in_order(filter(_is_picture, file.namelist()))]
    except (zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError, EOFError) as error:
        raise ValueError(f"is no whole ZIP: {error}") from error


def _picture(data: bytes) -> NDArray[np.uint8]:
    """uint8 [h, w, 3], RGB."""
    try:
        with Image.open(io.BytesIO(data)) as image:
            return np.asarray(image.convert("RGB"))
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:  # as Pillow says it
        raise ValueError(f"a frame is no picture: {error}") from error


def _is_picture(name: str) -> bool:
    return PurePosixPath(name).suffix.lower() in PICTURE_SUFFIXES


def _in_order(names: Iterator[str]) -> list[str]:
    """By the numbers in the names, for not all are written with leading zeros."""

    def key(name: str) -> list[Any]:
        return [int(part) if part.isdigit() else part for part in re.split(r"([0-9]+)", name)]

    return sorted(names, key=key)


@contextmanager
def _told(source: Source) -> Iterator[None]:
    """What does not fit is this video's error."""
    try:
        yield
    except VideoError:
        raise
    except ValueError as error:
        raise VideoError(source.id, source.uri, str(error)) from error
