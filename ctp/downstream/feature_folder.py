"""A folder of features: a manifest, and a Parquet file for each group of videos.

    OUT/_manifest.json       encoder, options and videos; at the end also counts
    OUT/part-00000.parquet   a row for each clip: id, clip, feature, label; always complete
    OUT/_quarantine.jsonl    quarantined videos, if there are any; written at the end

The metadata of a part lists its quarantined videos, so that none is lost if the job is
interrupted.
"""

from __future__ import annotations

import io
import json
import struct
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from pydantic import ValidationError

from ctp.config import Config, describe, differences, option_names
from ctp.data.parquet_folder import MANIFEST, QUARANTINE, find_beside
from ctp.data.quarantine import QuarantinedVideo, QuarantineLedger
from ctp.data.sources import Sources
from ctp.downstream.embed_config import FeatureConfig
from ctp.encoders.config import AnyEncoderConfig
from ctp.storage import Storage
from ctp.text import one_line
from ctp.versions import describe_writer
from ctp.video.config import ViewsConfig

Rows = Mapping[str, NDArray[Any]]
"""One row for each video: "id", "label" ("" if there is none), "quarantined" ("" or a
`QuarantinedVideo` as JSON), and "planes" or "feature", which are zeros for a quarantined video."""

SUMMARY = b"ctp.features"
FOOTER_END = struct.Struct("<I4s")  # the footer's bytes, "PAR1"
READ_AT_ONCE = 16
FREE = frozenset({"encoder", "counts", "recipe", "written_by"})
"""Fields that may differ when the job continues; the encoder is compared by its hash."""
MUST_AGREE = {
    "encoder_sha256": True,
    "encoder_config": True,
    "views": True,
    "features": {"pooling", "precision"},  # features of two data types can be compared
}
"""Fields that must be equal for features to be compared, as pydantic's `include`."""


class Counts(Config):
    """Counts of a finished folder."""

    videos: int
    """Videos with features."""
    clips: int
    """Rows."""
    quarantined: int
    """Quarantined videos, also those that could not be catalogued."""


class Manifest(Config):
    """The origin of the features in a folder."""

    format: Literal[1] = 1
    """Version of the folder format."""
    encoder: str
    """Origin of the encoder."""
    encoder_sha256: str
    """Hash of the encoder as safetensors."""
    encoder_config: AnyEncoderConfig
    """Config of the encoder."""
    views: ViewsConfig
    """The clips of each video."""
    features: FeatureConfig
    """How features were computed and stored."""
    data_uri: Sources
    """Location of the videos."""
    catalog: str
    """Fingerprint of the catalogue's ids."""
    num_listed: int
    """Videos of the catalogue."""
    videos_per_part: int
    """Consecutive videos of the catalogue in a part; the last part may have fewer."""
    counts: Counts | None = None
    """Counts, when all parts are complete."""
    recipe: str = ""
    """Recipe that the options started from; nothing in older folders."""
    written_by: Mapping[str, str] = {}
    """Versions of ctp, torch and Ray, and the commit; nothing in older folders."""

    @property
    def num_parts(self) -> int:
        """Return the number of parts."""
        return -(-self.num_listed // self.videos_per_part)


@dataclass(frozen=True)
class PartSummary:
    """Counts of a part: videos with features and rows; and its quarantined videos."""

    videos: int
    clips: int
    quarantined: tuple[QuarantinedVideo, ...]


@dataclass(frozen=True)
class VideoFeatures:
    """Features of N videos, each the mean over its clips.

    Attributes:
        ids: ids of the videos.
        labels: class names; None for a video without a label.
        features: float32 [N, D].
    """

    ids: Sequence[str]
    labels: Sequence[str | None]
    features: NDArray[np.float32]


def by_pooling(videos: VideoFeatures, config: FeatureConfig) -> dict[str, VideoFeatures]:
    """Return the features of each pooling, which are parts of the same length."""
    parts = np.split(videos.features, len(config.poolings), axis=1)
    named = zip(config.poolings, parts, strict=True)
    return {name: replace(videos, features=part) for name, part in named}


def create_or_resume(folder: Storage, ours: Manifest) -> None:
    """Create the folder of features, or check that it is the one of the same features.

    A job calls it twice: before it claims the folder, so that it claims no folder of other files;
    and while `ctp.lease.hold` holds the folder, since another job may have created it meanwhile.

    Raises:
        ValueError: it contains other features, or other files; names what differs.
        StorageError: it cannot be written.
    """
    if not find_beside(folder, MANIFEST).exists():
        if folder.list_files():
            raise ValueError(
                f"{folder.uri} contains other files than features. Choose another --out"
            )
        folder.check_writable()
        _write_manifest(folder, ours)
        return
    lines = _differences(read_manifest(folder), ours, set(Manifest.model_fields) - FREE)
    if lines:
        raise ValueError(
            f"{folder.uri} contains other features:\n  " + "\n  ".join(lines) + "\n"
            "Choose another --out, or the same options"
        )


def read_manifest(folder: Storage) -> Manifest:
    """Read the manifest of a folder.

    Raises:
        ValueError: it is not a folder of features.
        StorageError: it cannot be read.
    """
    place = find_beside(folder, MANIFEST)
    if not place.exists():
        raise ValueError(f"{folder.uri} is not a folder of features: it contains no {MANIFEST}")
    try:
        return Manifest.model_validate_json(place.read_bytes())
    except ValidationError as error:
        names = option_names(Manifest)
        raise ValueError(
            f"{place.uri} is not a manifest of features of this version of ctp: "
            f"{one_line(describe(error, names))}. It was written by "
            f"{describe_writer(_writer_of(place))}. Use that version, or choose another folder"
        ) from error


def _writer_of(place: Storage) -> object:
    with suppress(ValueError, AttributeError):
        return json.loads(place.read_bytes()).get("written_by")
    return None


def missing_parts(folder: Storage, manifest: Manifest) -> list[int]:
    """Return the numbers of the parts that do not exist yet, in order."""
    there = {info.path for info in folder.list_files()}
    return [n for n in range(manifest.num_parts) if part_name(n) not in there]


def part_name(number: int) -> str:
    """Return the file name of a part."""
    return f"part-{number:05d}.parquet"


def write_part(folder: Storage, number: int, rows: Rows) -> PartSummary:
    """Write a part; an incomplete part is never visible.

    Args:
        folder: of the features.
        number: of the part.
        rows: of its videos, with "feature" [n, num_clips, D], float32 or float16.

    Raises:
        StorageError: it cannot be written.
    """
    features, good = rows["feature"], rows["quarantined"] == ""
    quarantined = tuple(QuarantinedVideo(**json.loads(each)) for each in rows["quarantined"][~good])
    summary = PartSummary(int(good.sum()), int(good.sum()) * features.shape[1], quarantined)
    table = _table(rows["id"][good], rows["label"][good], features[good])
    # in memory first: an object store has no append, and a local file would be visible half-written
    data = io.BytesIO()
    metadata = {SUMMARY: json.dumps(asdict(summary)).encode()}
    # a dictionary of distinct numbers takes time and saves nothing
    pq.write_table(
        table.replace_schema_metadata(metadata),
        data,
        compression="zstd",
        use_dictionary=["id", "clip", "label"],
    )
    folder.join(part_name(number)).write_bytes(data.getvalue())
    return summary


def finish(
    folder: Storage, manifest: Manifest, quarantined: Sequence[QuarantinedVideo]
) -> Manifest:
    """Write the ledger, and the counts of all parts into the manifest.

    Args:
        folder: of the features, with all parts.
        manifest: of the folder.
        quarantined: videos that could not be catalogued.

    Returns:
        the manifest with counts.
    """
    with ThreadPoolExecutor(READ_AT_ONCE) as pool:
        parts = list(pool.map(partial(_read_summary, folder), range(manifest.num_parts)))
    ledger = QuarantineLedger(
        [*quarantined, *(each for part in parts for each in part.quarantined)]
    )
    place = find_beside(folder, QUARANTINE)
    if len(ledger) or place.exists():
        place.write_bytes(ledger.to_jsonl())
    videos, clips = sum(part.videos for part in parts), sum(part.clips for part in parts)
    complete = manifest.replace(counts=Counts(videos=videos, clips=clips, quarantined=len(ledger)))
    _write_manifest(folder, complete)
    return complete


def read_features(uri: str) -> tuple[Manifest, VideoFeatures]:
    """Read the features of a folder, the mean over the clips of each video.

    Raises:
        ValueError: it is not a folder of features, is not finished, or is damaged.
        StorageError: it cannot be read.
    """
    folder = Storage.from_uri(uri)
    manifest = read_manifest(folder)
    if manifest.counts is None:
        left = len(missing_parts(folder, manifest))
        raise ValueError(
            f"{folder.uri} is not finished: {left} of {manifest.num_parts} parts are missing. "
            "Run the same jobs/embed.py again"
        )
    if not manifest.counts.videos:
        raise ValueError(f"{folder.uri} contains no features: all videos are quarantined")
    ids: list[str] = []
    labels: list[str | None] = []
    features: NDArray[np.float32] | None = None
    for part_ids, part_labels, means in _read_parts(folder, manifest):
        # allocated once for all parts: a list of arrays would need twice the memory when joined
        if features is None:
            features = np.empty((manifest.counts.videos, means.shape[1]), np.float32)
        features[len(ids) : len(ids) + len(means)] = means
        ids += part_ids
        labels += part_labels
    if features is None or len(ids) != manifest.counts.videos:
        raise ValueError(f"{folder.uri} contains {len(ids)} of {manifest.counts.videos} videos")
    return manifest, VideoFeatures(ids, labels, features)


def check_comparable(first: Manifest, second: Manifest) -> None:
    """Check that the features of two folders can be compared.

    Raises:
        ValueError: encoders, views or kinds of features differ; names the differences.
    """
    lines = _differences(first, second, MUST_AGREE)
    if lines:
        raise ValueError(
            "the two folders' features cannot be compared:\n  " + "\n  ".join(lines) + "\n"
            "Compute both with the same encoder and options"
        )


def _table(ids: NDArray[Any], labels: NDArray[Any], features: NDArray[Any]) -> pa.Table:
    """Return a row for each clip of features [n, num_clips, D]."""
    number, num_clips, size = features.shape
    names = [label or None for label in labels.tolist()]
    columns = {
        "id": pa.array(np.repeat(ids, num_clips).tolist(), pa.string()),
        "clip": pa.array(np.tile(np.arange(num_clips, dtype=np.int32), number)),
        "feature": pa.FixedSizeListArray.from_arrays(pa.array(features.reshape(-1)), size),
        "label": pa.array([name for name in names for _ in range(num_clips)], pa.string()),
    }
    return pa.table(columns)


Part = tuple[list[str], list[str | None], NDArray[np.float32]]


def _read_parts(folder: Storage, manifest: Manifest) -> Iterator[Part]:
    """Yield ids, labels and means of the parts with features, in order."""
    read = partial(_read_part, folder, manifest.views.num_clips)
    with ThreadPoolExecutor(READ_AT_ONCE) as pool:
        for part in pool.map(read, range(manifest.num_parts)):
            if part[0]:
                yield part


def _read_part(folder: Storage, num_clips: int, number: int) -> Part:
    place = folder.join(part_name(number))
    try:
        table = pq.read_table(pa.BufferReader(place.read_bytes()))
    except ValueError as error:
        raise _damaged(place, error) from error
    column = table["feature"].combine_chunks()
    features = column.flatten().to_numpy().reshape(-1, num_clips, column.type.list_size)
    # all clips of a video have the same
    ids, labels = (table[name].to_pylist()[::num_clips] for name in ("id", "label"))
    return ids, labels, features.mean(axis=1, dtype=np.float32)


def _read_summary(folder: Storage, number: int) -> PartSummary:
    place = folder.join(part_name(number))
    try:
        with place.open() as file:
            # Parquet ends with its footer, the footer's length and "PAR1": two small reads instead
            # of the whole part
            size, _ = FOOTER_END.unpack(file.read(file.size - FOOTER_END.size))
            footer = file.read(file.size - FOOTER_END.size - size)
        found = json.loads(pq.read_metadata(pa.BufferReader(footer)).metadata[SUMMARY])
    except (ValueError, KeyError, TypeError, struct.error) as error:
        raise _damaged(place, error) from error
    quarantined = tuple(QuarantinedVideo(**each) for each in found["quarantined"])
    return PartSummary(found["videos"], found["clips"], quarantined)


def _damaged(place: Storage, error: Exception) -> ValueError:
    return ValueError(
        f"{place.uri} is damaged, or not a part of features ({error}). Delete it, and run the same "
        "jobs/embed.py again"
    )


def _write_manifest(folder: Storage, manifest: Manifest) -> None:
    find_beside(folder, MANIFEST).write_bytes(manifest.model_dump_json(indent=2).encode())


def _differences(there: Manifest, here: Manifest, fields: Any) -> list[str]:
    """Return a line for each value that differs; `fields` is as pydantic's `include`."""
    ours, theirs = (each.model_dump(mode="json", include=fields) for each in (here, there))
    return [
        f"{each.name} is {each.there!r} there, and {each.here!r} here"
        for each in differences(ours, theirs)
    ]
