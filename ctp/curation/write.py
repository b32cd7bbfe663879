"""Encode the segments that are kept, and write them into shards."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from fractions import Fraction
from itertools import chain, count, islice, takewhile
from typing import Any

import pyarrow as pa

from ctp.build.build import Part
from ctp.build.convert import to_row
from ctp.build.layouts import Source
from ctp.build.transcode import VideoEncoder
from ctp.curation import segments
from ctp.curation.config import CurateConfig
from ctp.curation.measure import Group, decoding
from ctp.data.catalog import VideoEntry
from ctp.data.journal import Journal
from ctp.data.quarantine import QuarantinedVideo, collect_errors
from ctp.data.shards import ROW_GROUP_BYTES, SUFFIX, ShardRow, ShardWriter
from ctp.data.time_limit import paused
from ctp.lease import Attempt
from ctp.storage import Storage
from ctp.video.encoded import VideoError
from ctp.video.limits import DecodingLimits
from ctp.video.sequence import SequenceFrame

WRITTEN = "_written"
TIME_BASE = Fraction(1, 90_000)
"""Unit of a segment's times, in seconds: MPEG's, which the usual rates divide."""
MEASURES = (
    *("source", "start_seconds", "end_seconds", "crop", "brightness", "motion", "shake"),
    *("text_share", "cut_score", "hashes"),
)
COLUMNS = (
    *(segments.SCHEMA.field(name) for name in MEASURES),
    pa.field("marks", pa.string(), nullable=False),
)
"""The columns that a shard has besides those of any shard; see `segments.Segment`."""


@dataclass(frozen=True)
class KeptSegment:
    """A segment to encode.

    Attributes:
        id: of the segment.
        label: class name, or None.
        first_frame, num_frames: its frames in the video.
        crop: see `segments.Segment`.
        extra: values of `COLUMNS`.
    """

    id: str
    label: str | None
    first_frame: int
    num_frames: int
    crop: tuple[int, int, int, int]
    extra: Mapping[str, Any]


@dataclass(frozen=True)
class WriteTask:
    """Segments to encode.

    Attributes:
        group: their videos.
        kept: id of a video -> its segments, by rising frame numbers.
    """

    group: Group
    kept: Mapping[str, tuple[KeptSegment, ...]]


@dataclass
class Written:
    """The shards of a group.

    Attributes:
        parts: their contents.
        quarantined: segments that could not be encoded.
        cpu_seconds: CPU time of encoding.
    """

    parts: list[Part] = field(default_factory=list)
    quarantined: list[QuarantinedVideo] = field(default_factory=list)
    cpu_seconds: float = 0.0

    @classmethod
    def from_bytes(cls, data: bytes) -> Written:
        """Create from the result of `to_bytes`.

        Raises:
            ValueError, KeyError, TypeError: the file is incomplete.
        """
        values = json.loads(data)
        return cls(
            [Part.from_json(each) for each in values["parts"]],
            [QuarantinedVideo(**each) for each in values["quarantined"]],
            values["cpu_seconds"],
        )

    def to_bytes(self) -> bytes:
        """Return a JSON object."""
        values = asdict(self) | {"parts": [each.to_json() for each in self.parts]}
        return json.dumps(values).encode()


def written_file(out: Storage, group: Group) -> Storage:
    """Return the file that says which shards a group has; it is written last."""
    return out.join(WRITTEN, f"{group.name}.json")


def write_group(
    task: WriteTask,
    journal: Journal | None,
    config: CurateConfig,
    out: Storage,
    attempt: Attempt | None = None,
) -> Iterator[int]:
    """Encode the segments of a group and write its shards; yield the number of their videos.

    Args:
        task: the segments.
        journal: names the video that is decoded.
        config: of the curation.
        out: its folder.
        attempt: checked before the shards are declared finished; None: no other process curates.

    Raises:
        SupersededError: another process took over the folder.
        StorageError: the storage fails.
    """
    written, began = Written(), time.process_time()
    rows = _rows(task, config, journal, written.quarantined)
    for first in rows:
        name = _shard_name(task.group, len(written.parts))
        with ShardWriter(out.join(name), ROW_GROUP_BYTES, COLUMNS) as writer:
            for row in chain([first], islice(rows, config.segments_per_shard - 1)):
                writer.add(row)
            summary = writer.finish()
        written.parts.append(Part(name=name, quarantined=(), **asdict(summary)))
    written.cpu_seconds = time.process_time() - began
    if attempt is not None:
        attempt.check()
    _delete_from(out, task.group, len(written.parts))
    written_file(out, task.group).write_bytes(written.to_bytes())
    yield len(task.kept)


def _shard_name(group: Group, number: int) -> str:
    return f"shard-{group.name}-{number:03d}{SUFFIX}"


def _delete_from(out: Storage, group: Group, number: int) -> None:
    """Delete the shards of a group from a number on: of an attempt that wrote more of them."""
    places = (out.join(_shard_name(group, each)) for each in count(number))
    # the last one first, so that an interruption leaves no gap
    for place in reversed(list(takewhile(Storage.exists, places))):
        place.delete_file()


def _rows(
    task: WriteTask,
    config: CurateConfig,
    journal: Journal | None,
    quarantined: list[QuarantinedVideo],
) -> Iterator[ShardRow]:
    limits = DecodingLimits(config.max_megapixels)
    for entry in task.group.entries:
        kept = task.kept.get(entry.id, ())
        if kept:
            with (
                collect_errors(quarantined),
                decoding(entry, limits, journal) as (_, frames),
            ):
                for row in _encode(entry, frames, kept, config, limits, quarantined):
                    with paused():  # what follows may wait for the storage
                        yield row


def _encode(
    entry: VideoEntry,
    frames: Iterator[SequenceFrame],
    kept: Sequence[KeptSegment],
    config: CurateConfig,
    limits: DecodingLimits,
    quarantined: list[QuarantinedVideo],
) -> Iterator[ShardRow]:
    """Encode a video's segments as their frames come; stop after the last one."""
    for segment in kept:
        with collect_errors(quarantined):
            try:
                data = _encode_segment(segment, frames, config)
                source = Source(segment.id, entry, segment.label)
                row = to_row(source, data, limits)
            except VideoError:
                raise
            except ValueError as error:
                raise VideoError(segment.id, entry.uri, str(error)) from error
            yield replace(row, extra=segment.extra)


def _encode_segment(
    segment: KeptSegment, frames: Iterator[SequenceFrame], config: CurateConfig
) -> bytes:
    """Return a segment as an MP4 file.

    Args:
        segment: the segment.
        frames: of its video, none of them behind the segment's first one yet.
        config: of the curation.

    Raises:
        ValueError: the video has other frames than when it was measured, or one cannot be encoded.
    """
    start = None
    with VideoEncoder(config.transcode, TIME_BASE, segment.crop) as encoder:
        for each in frames:
            if each.number < segment.first_frame:
                continue
            start = each.seconds if start is None else start
            shown = round((each.seconds - start) / TIME_BASE)
            encoder.add(encoder.num_frames, each.frame, shown)
            if encoder.num_frames == segment.num_frames:
                return encoder.finish()
        raise ValueError(
            f"has {encoder.num_frames} of the {segment.num_frames} frames that were measured. "
            "Perhaps the file has changed: curate it again, with another --out"
        )
