"""Convert a source to a row of a shard: read it, transcode it if requested, and inspect it."""

from __future__ import annotations

import io
import re
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ctp.build.config import TranscodeConfig
from ctp.build.layouts import FrameFolder, FrameZip, Source
from ctp.build.transcode import encode_frames, inspect, transcode
from ctp.data import got10k
from ctp.data.catalog import VideoEntry
from ctp.data.journal import Journal, working_on
from ctp.data.listing import is_hidden, list_below
from ctp.data.shards import MAX_VIDEO_BYTES, ShardRow
from ctp.storage import Storage
from ctp.text import one_line
from ctp.video.encoded import EncodedVideo, VideoError, decoding_errors
from ctp.video.limits import DEFAULT_LIMITS, DecodingLimits, limited_memory

PICTURE_SUFFIXES = (".jpg", ".jpeg", ".png")
# Pillow's own limit knows no option and warns; `_decode_picture` checks ours, also unallocated
Image.MAX_IMAGE_PIXELS = None
READ_AT_ONCE = 8
"""Files of a folder of frames read at the same time."""
MAX_PICTURE_BYTES = 2**26
"""Upper bound on a picture file; one of 8K takes a tenth of it."""
MAX_UNPACKED_RATIO = 100
"""Upper bound on the unpacked size of a ZIP's pictures over the size of the ZIP. Picture files are
compressed already, so a ratio near 1 is usual; a ratio of 1000 is an attack on the memory."""
PACKINGS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
"""Packings that Python unpacks in steps of a given size; of others a few bytes may become GiB."""


def convert(
    source: Source,
    config: TranscodeConfig | None,
    journal: Journal | None = None,
    limits: DecodingLimits = DEFAULT_LIMITS,
) -> ShardRow:
    """Convert a source to a row of a shard.

    Args:
        source: a video file, or a folder or ZIP of frames.
        config: how to transcode; None keeps the bytes of a video file and is invalid for frames.
        journal: the journal of this process.
        limits: the limits of decoding.

    Raises:
        VideoError: the source cannot be read, decoded or encoded, exceeds the limits, or its
            annotations do not fit.
        StorageError: the storage fails.
    """
    content = source.content
    if isinstance(content, VideoEntry):
        video = content.read()
        with _working_on(source, journal, limits):
            return _from_video(source, video, config, limits)
    assert config is not None, "frames are always encoded"
    if isinstance(content, FrameZip):
        data = _read(source, content.uri)
        with _working_on(source, journal, limits), _open_zip(data) as file:
            names = _find_pictures(file, len(data))
            pictures = (_unzip(file, name) for name in names)
            return _from_pictures(source, pictures, len(names), content.rate, config, limits)
    return _from_folder(source, content, config, journal, limits)


@dataclass(frozen=True)
class _Annotations:
    """The annotations of a GOT-10k sequence, boxes in pixels of its pictures; see `ShardRow`."""

    boxes: NDArray[np.float32]
    absence: NDArray[np.int8] | None
    cover: NDArray[np.int8] | None
    label: str | None

    @classmethod
    def parse(cls, files: Mapping[str, bytes], num_frames: int) -> _Annotations:
        """Parse a sequence's files, by name.

        Raises:
            ValueError: a file is malformed, or does not fit the number of frames.
        """
        absence, cover = (
            got10k.parse_flags(files[name], name) if name in files else None
            for name in (got10k.ABSENCE, got10k.COVER)
        )
        label = got10k.parse_class(files[got10k.META]) if got10k.META in files else None
        boxes = got10k.parse_boxes(files.get(got10k.BOXES, b""))
        if len(boxes) not in {1, num_frames}:  # a test set has only the first one
            raise ValueError(f"{len(boxes)} boxes for {num_frames} frames")
        for flags in (absence, cover):
            if flags is not None and len(flags) != num_frames:
                raise ValueError(f"{len(flags)} labels of frames for {num_frames} frames")
        return cls(boxes, absence, cover, label)


def _from_video(
    source: Source, video: EncodedVideo, config: TranscodeConfig | None, limits: DecodingLimits
) -> ShardRow:
    data = video.data if config is None else transcode(video, config, limits)
    return to_row(source, data, limits)


def _from_folder(
    source: Source,
    folder: FrameFolder,
    config: TranscodeConfig,
    journal: Journal | None,
    limits: DecodingLimits,
) -> ShardRow:
    place = Storage.from_uri(folder.uri)
    listed = list_below(place, each_once=False).files
    sizes = {info.path: info.size or 0 for info in listed if "/" not in info.path}
    names = list(sizes)
    pictures = _sort_pictures(names)
    for name in pictures:  # before any is read
        if sizes[name] > MAX_PICTURE_BYTES:
            reason = f"holds {name} of {sizes[name]} bytes, expected at most {MAX_PICTURE_BYTES}"
            raise VideoError(source.id, source.uri, reason)
    others = [name for name in names if folder.has_boxes and name in got10k.FILES]
    with ThreadPoolExecutor(READ_AT_ONCE) as pool:
        data = pool.map(lambda name: _read(source, place.join(name).uri), pictures + others)
        files = dict(zip(pictures + others, data, strict=True))
    with _working_on(source, journal, limits):
        # before the pictures, because it is fast
        annotations = _Annotations.parse(files, len(pictures)) if folder.has_boxes else None
        frames = (files[name] for name in pictures)
        row = _from_pictures(source, frames, len(pictures), folder.rate, config, limits)
        if annotations is None:
            return row
        height, width, _ = _decode_picture(files[pictures[0]], limits).shape
        scale = np.array([row.width / width, row.height / height] * 2, np.float32)
        return replace(
            row,
            boxes=annotations.boxes * scale,
            absence=annotations.absence,
            cover=annotations.cover,
            label=annotations.label or row.label,
        )


def _from_pictures(
    source: Source,
    pictures: Iterable[bytes],
    number: int,
    rate: Fraction,
    config: TranscodeConfig,
    limits: DecodingLimits,
) -> ShardRow:
    if not number:
        raise ValueError(f"has no frames; looked for {' '.join(PICTURE_SUFFIXES)}")
    frames = (_decode_picture(picture, limits) for picture in pictures)
    return to_row(source, encode_frames(frames, number, rate, config), limits)


def to_row(source: Source, data: bytes, limits: DecodingLimits) -> ShardRow:
    """Return the row of a shard for an encoded video, after its first frame was decoded.

    Raises:
        VideoError: it is too large, or cannot be decoded.
    """
    if len(data) > MAX_VIDEO_BYTES:
        reason = f"has {len(data)} bytes, expected at most {MAX_VIDEO_BYTES}"
        raise VideoError(source.id, source.uri, reason)
    facts = inspect(EncodedVideo(source.id, source.uri, data), limits)
    return ShardRow(
        source.id, data, facts.num_frames, facts.rate, facts.width, facts.height, source.label
    )


def _read(source: Source, uri: str) -> bytes:
    return VideoEntry(source.id, uri).read().data


@contextmanager
def _zip_errors() -> Iterator[None]:
    """Turn the errors of `zipfile` into ValueError; a damaged file may raise almost any error."""
    try:
        yield
    except ValueError:
        raise
    except Exception as error:
        raise ValueError(f"is a damaged ZIP: {one_line(error)}") from error


@_zip_errors()
def _open_zip(data: bytes) -> zipfile.ZipFile:
    return zipfile.ZipFile(io.BytesIO(data))


@_zip_errors()
def _find_pictures(file: zipfile.ZipFile, zip_bytes: int) -> list[str]:
    """Return the names of a ZIP's pictures in order, without hidden ones.

    Raises:
        ValueError: they would unpack to far more bytes than such a ZIP of pictures may.
    """
    names = _sort_pictures({name for name in file.namelist() if not is_hidden(name)})
    infos = [file.getinfo(name) for name in names]
    for info in infos:
        if info.file_size > MAX_PICTURE_BYTES:
            raise ValueError(
                f"holds {info.filename} of {info.file_size} bytes, expected at most "
                f"{MAX_PICTURE_BYTES}"
            )
        if info.compress_type not in PACKINGS:
            raise ValueError(
                f"holds {info.filename} packed by method {info.compress_type}, expected stored or "
                "deflated. Pack the ZIP again"
            )
    unpacked = sum(info.file_size for info in infos)
    if unpacked > MAX_UNPACKED_RATIO * zip_bytes:
        raise ValueError(
            f"unpacks to {unpacked} bytes, more than {MAX_UNPACKED_RATIO} times its size of "
            f"{zip_bytes} bytes"
        )
    return names


@_zip_errors()
def _unzip(file: zipfile.ZipFile, name: str) -> bytes:
    """Return the bytes of a picture, at most the size that the ZIP declares for it."""
    size = file.getinfo(name).file_size
    with file.open(name) as member:
        data = member.read(size)
        # reading behind the end compares the checksum
        if len(data) != size or member.read(1):
            raise ValueError(f"is a damaged ZIP: {name} has not the {size} bytes that it lists")
    return data


def _decode_picture(data: bytes, limits: DecodingLimits) -> NDArray[np.uint8]:
    """Return uint8 [h, w, 3], RGB."""
    with decoding_errors("a frame cannot be decoded"), Image.open(io.BytesIO(data)) as image:
        limits.check_size(*image.size)  # nothing is decoded yet
        return np.asarray(image.convert("RGB"))


def _sort_pictures(names: Iterable[str]) -> list[str]:
    """Sort the file names of pictures by their numbers, because some have no leading zeros."""

    def key(name: str) -> list[Any]:
        return [int(part) if part.isdigit() else part for part in re.split(r"([0-9]+)", name)]

    return sorted((n for n in names if n.lower().endswith(PICTURE_SUFFIXES)), key=key)


@contextmanager
def _working_on(source: Source, journal: Journal | None, limits: DecodingLimits) -> Iterator[None]:
    """Blame the source for the end of the process, bound its memory, and turn ValueError into its
    VideoError."""
    try:
        with working_on(journal, source.id, source.uri), limited_memory(limits.memory_bytes):
            yield
    except VideoError:
        raise
    except ValueError as error:
        raise VideoError(source.id, source.uri, str(error)) from error
