"""Measure raw videos, some at a time; each group's segments are a file, so that a job resumes."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field

import cv2
import pyarrow as pa
import pyarrow.parquet as pq

from ctp.curation.config import CurateConfig
from ctp.curation.segments import Segment, divide, to_table
from ctp.curation.timeline import DECODER_OPTIONS, measure_video
from ctp.data.catalog import Catalog, VideoEntry
from ctp.data.journal import Journal, working_on
from ctp.data.quarantine import QuarantinedVideo, collect_errors
from ctp.lease import Attempt
from ctp.storage import Storage
from ctp.video.encoded import DecodingError, VideoError, permanent_errors
from ctp.video.file_bytes import StoredBytes, open_bytes
from ctp.video.limits import DecodingLimits, limited_memory
from ctp.video.sequence import Sequence as VideoSequence
from ctp.video.sequence import SequenceFrame, open_sequence

MEASURED = "_measured"
FACTS = b"ctp.facts"
GROUP_BYTES, GROUP_VIDEOS = 256 * 2**20, 64
"""Videos are measured together up to this number of bytes, or of videos; a longer one alone."""
FRAMES_PER_RENEWAL = 100
"""Frames between two renewals of a video's time limit."""


@dataclass(frozen=True)
class Group:
    """Videos that one process measures, and later encodes, one after the other.

    Attributes:
        name: of the files with the results.
        entries: the videos.
    """

    name: str
    entries: tuple[VideoEntry, ...]


@dataclass
class Facts:
    """What is known of a group besides its segments.

    Attributes:
        videos, seconds, bytes: number of videos, their duration, and their size.
        cpu_seconds: CPU time of measuring.
        quarantined: videos that cannot be decoded at all: id, uri, reason.
        damage: id -> what is broken in a video of which the rest is used.
    """

    videos: int = 0
    seconds: float = 0.0
    bytes: int = 0
    cpu_seconds: float = 0.0
    quarantined: list[dict[str, str]] = field(default_factory=list)
    damage: dict[str, list[str]] = field(default_factory=dict)


def plan_groups(catalog: Catalog) -> list[Group]:
    """Divide a catalogue into groups, in the order of the ids."""
    groups: list[list[VideoEntry]] = []
    room = 0
    for entry in catalog:
        size = entry.size or 0
        if not groups or room < size or len(groups[-1]) == GROUP_VIDEOS:
            groups.append([])
            room = GROUP_BYTES
        groups[-1].append(entry)
        room -= size
    digits = max(len(str(len(groups) - 1)), 5)
    return [Group(f"{i:0{digits}d}", tuple(each)) for i, each in enumerate(groups)]


def measure_group(
    group: Group,
    journal: Journal | None,
    config: CurateConfig,
    out: Storage,
    attempt: Attempt | None = None,
) -> Iterator[int]:
    """Measure the videos of a group; yield 1 after each. Their segments are written at the end.

    Args:
        group: the videos.
        journal: names the video that is decoded.
        config: of the curation.
        out: its folder.
        attempt: checked before the file is written; None: no other process curates.

    Raises:
        SupersededError: another process took over the folder.
        StorageError: the storage fails.
    """
    cv2.setNumThreads(1)  # actors use the cores already
    facts, segments = Facts(), list[Segment]()
    quarantined: list[QuarantinedVideo] = []
    began = time.process_time()
    for entry in group.entries:
        facts.videos += 1
        facts.bytes += entry.size or 0
        with collect_errors(quarantined):
            found, damage = _measure(entry, config, journal)
            segments += found
            facts.seconds += found[-1].end_seconds
            if damage:
                facts.damage[entry.id] = damage
        yield 1
    facts.cpu_seconds = time.process_time() - began
    facts.quarantined = [
        {"id": each.video_id, "uri": each.uri, "reason": each.reason} for each in quarantined
    ]
    table = to_table(segments).replace_schema_metadata({FACTS: json.dumps(asdict(facts))})
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    if attempt is not None:
        attempt.check()
    measured_file(out, group).write_bytes(memoryview(sink.getvalue()))


def measured_file(out: Storage, group: Group) -> Storage:
    """Return the file with a group's segments."""
    return out.join(MEASURED, f"{group.name}.parquet")


def read_measured(place: Storage, columns: Sequence[str]) -> tuple[pa.Table, Facts]:
    """Read a group's segments, with some of the columns of `segments.SCHEMA`."""
    file = pq.ParquetFile(pa.BufferReader(place.read_bytes()))
    return file.read(list(columns)), Facts(**json.loads(file.schema_arrow.metadata[FACTS]))


@contextmanager
def decoding(
    entry: VideoEntry,
    limits: DecodingLimits,
    journal: Journal | None,
    codec_options: dict[str, str] | None = None,
) -> Iterator[tuple[VideoSequence, Iterator[SequenceFrame]]]:
    """Open a raw video, for use in a `with` statement.

    Yields:
        the open video and its frames. Each hundred frames, its time limit begins anew.

    Raises:
        VideoError: it cannot be read or decoded.
        StorageError: the storage fails.
    """
    data = entry.open_bytes()
    try:
        with (
            permanent_errors(entry.id, entry.uri),
            working_on(journal, entry.id, entry.uri),
            limited_memory(limits.memory_bytes),
            open_sequence(open_bytes(data), limits, codec_options) as sequence,
        ):
            yield sequence, _renewing(sequence.frames(), journal)
            if isinstance(data, StoredBytes):
                data.check()
    except DecodingError as error:
        raise VideoError(entry.id, entry.uri, str(error)) from error


def _measure(
    entry: VideoEntry, config: CurateConfig, journal: Journal | None
) -> tuple[list[Segment], list[str]]:
    """Return a video's segments, and what is broken in it."""
    limits = DecodingLimits(config.max_megapixels)
    with decoding(entry, limits, journal, DECODER_OPTIONS) as (sequence, frames):
        line = measure_video(frames, config.cuts)
        damage = list(sequence.damage)
    segments = divide(entry, line, config.cuts.max_seconds, crops_bars=config.crops_bars)
    return segments, damage


def _renewing(frames: Iterator[SequenceFrame], journal: Journal | None) -> Iterator[SequenceFrame]:
    for each in frames:
        if journal is not None and each.number % FRAMES_PER_RENEWAL == 0:
            journal.renew()
        yield each
