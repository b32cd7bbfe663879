"""A folder of features: what they are of, and a Parquet file for every few videos.

    OUT/manifest.json        what the features are of, so that no others come in; counts at the end
    OUT/part-00000.parquet   a row for each clip: id, clip, feature, label; whole or not there
    OUT/quarantine.jsonl     the videos that could not be used, written at the end, if there are any

A part's footer tells which of its videos could not be used, so that nothing is forgotten when the
work is broken off.
"""

from __future__ import annotations

import io
import json
import struct
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from pydantic import ValidationError

from ctp.config import Config
from ctp.data.catalog import MANIFEST, Sources
from ctp.data.quarantine import QuarantinedVideo, QuarantineLedger
from ctp.downstream.embed_config import FeatureConfig
from ctp.encoders.config import EncoderConfig
from ctp.storage import Storage
from ctp.training.run_folder import QUARANTINE
from ctp.video.config import ViewsConfig

Rows = Mapping[str, NDArray[Any]]
"""One row for each video: "id", "label" ("" if there is none), "quarantined" ("" or a
`QuarantinedVideo` as JSON), and "planes" or "feature", which are zeros for a quarantined video."""

SUMMARY = b"ctp.features"
FOOTER_END = struct.Struct("<I4s")  # the footer's bytes, "PAR1"
READ_AT_ONCE = 16
FREE = frozenset({"encoder", "counts"})
"""What may differ when the work goes on: the encoder's bytes count, not where they lie."""
MUST_AGREE = ("encoder_sha256", "encoder_config", "views", "features")
"""What features must have in common to be compared."""
MAY_DISAGREE = frozenset({"features.dtype"})


class Counts(Config):
    """What a folder of features holds when it is finished."""

    videos: int
    """Videos with features."""
    clips: int
    """Rows."""
    quarantined: int
    """Videos that could not be used, and files of the catalogue that could not be read."""


class Manifest(Config):
    """What the features of a folder are of."""

    format: Literal[1] = 1
    """Of the folder."""
    encoder: str
    """Where the encoder came from."""
    encoder_sha256: str
    """Of the encoder as safetensors: that of its file, where it has one that tells all."""
    encoder_config: EncoderConfig
    """What it is, as it was used."""
    views: ViewsConfig
    """Which clips of each video."""
    features: FeatureConfig
    """What a feature is."""
    data_uri: Sources
    """Where the videos were."""
    catalog: str
    """Fingerprint of the catalogue's ids."""
    num_listed: int
    """Videos of the catalogue."""
    videos_per_part: int
    """Videos of the catalogue in a part, in its order; the last may have fewer."""
    counts: Counts | None = None
    """What there is, once all parts are whole."""

    @property
    def num_parts(self) -> int:
        """Parts of all."""
        return -(-self.num_listed // self.videos_per_part)


@dataclass(frozen=True)
class PartSummary:
    """What a part holds: videos with features, rows, and the videos that could not be used."""

    videos: int
    clips: int
    quarantined: tuple[QuarantinedVideo, ...]


@dataclass(frozen=True)
class VideoFeatures:
    """Features of videos, each the mean over its clips.

    Attributes:
        ids: N.
        labels: N class names, None where there is none.
        features: float32 [N, D].
    """

    ids: Sequence[str]
    labels: Sequence[str | None]
    features: NDArray[np.float32]


def claim(folder: Storage, ours: Manifest) -> None:
    """Make a folder that of these features, or find that it is.

    Raises:
        ValueError: it holds features of something else, or other files; says what differs.
        StorageError: it cannot be written.
    """
    if not folder.join(MANIFEST).exists():
        if folder.list_files():
            raise ValueError(f"{folder.uri} holds files that are no features. Take another --out")
        folder.check_writable()
        _write_manifest(folder, ours)
        return
    differences = _differences(read_manifest(folder), ours, set(Manifest.model_fields) - FREE)
    if differences:
        raise ValueError(
            f"{folder.uri} holds features of something else:\n  " + "\n  ".join(differences) + "\n"
            "Take another --out, or the same options"
        )


def read_manifest(folder: Storage) -> Manifest:
    """What the features of a folder are of.

    Raises:
        ValueError: it is no folder of features.
        StorageError: it cannot be read.
    """
    place = folder.join(MANIFEST)
    if not place.exists():
        raise ValueError(f"{folder.uri} is no folder of features: it has no {MANIFEST}")
    try:
        return Manifest.model_validate_json(place.read_bytes())
    except ValidationError as error:
        raise ValueError(f"{place.uri} is not the manifest of features: {error}") from error


def missing_parts(folder: Storage, manifest: Manifest) -> list[int]:
    """The parts that are not there yet, rising."""
    there = {info.path for info in folder.list_files()}
    return [n for n in range(manifest.num_parts) if part_name(n) not in there]


def part_name(number: int) -> str:
    """The file of a part."""
    return f"part-{number:05d}.parquet"


def write_part(folder: Storage, number: int, rows: Rows) -> PartSummary:
    """Write a part, whole or not at all.

    Args:
        folder: where to.
        number: which part.
        rows: of its videos, "feature" [n, num_clips, D], float32 or float16.

    Raises:
        StorageError: it cannot be written.
    """
    features, good = rows["feature"], rows["quarantined"] == ""
    quarantined = tuple(QuarantinedVideo(**json.loads(each)) for each in rows["quarantined"][~good])
    summary = PartSummary(int(good.sum()), int(good.sum()) * features.shape[1], quarantined)
    table = _table(rows["id"][good], rows["label"][good], features[good])
    data = io.BytesIO()
    told = {SUMMARY: json.dumps(asdict(summary)).encode()}
    # a dictionary of numbers that are all different costs time only
    pq.write_table(
        table.replace_schema_metadata(told),
        data,
        compression="zstd",
        use_dictionary=["id", "clip", "label"],
    )
    folder.join(part_name(number)).write_bytes(data.getvalue())
    return summary


def finish(
    folder: Storage, manifest: Manifest, quarantined: Sequence[QuarantinedVideo]
) -> Manifest:
    """Say what there is, now that all parts are whole.

    Args:
        folder: of the features.
        manifest: its own.
        quarantined: what could not even be catalogued.

    Returns:
        The manifest, complete.
    """
    with ThreadPoolExecutor(READ_AT_ONCE) as pool:
        parts = list(pool.map(partial(_read_summary, folder), range(manifest.num_parts)))
    ledger = QuarantineLedger(
        [*quarantined, *(each for part in parts for each in part.quarantined)]
    )
    if len(ledger) or folder.join(QUARANTINE).exists():
        folder.join(QUARANTINE).write_bytes(ledger.to_jsonl())
    videos, clips = sum(part.videos for part in parts), sum(part.clips for part in parts)
    complete = manifest.replace(counts=Counts(videos=videos, clips=clips, quarantined=len(ledger)))
    _write_manifest(folder, complete)
    return complete


def read_features(uri: str) -> tuple[Manifest, VideoFeatures]:
    """All features of a folder, each video's the mean over its clips.

    Raises:
        ValueError: it is no folder of features, not finished, or damaged.
        StorageError: it cannot be read.
    """
    folder = Storage.of(uri)
    manifest = read_manifest(folder)
    if manifest.counts is None:
        left = len(missing_parts(folder, manifest))
        raise ValueError(
            f"{folder.uri} is not finished: {left} of {manifest.num_parts} parts are missing. Let "
            "jobs/embed.py go on with it"
        )
    if not manifest.counts.videos:
        raise ValueError(f"{folder.uri} holds no features: none of its videos could be used")
    ids: list[str] = []
    labels: list[str | None] = []
    features: NDArray[np.float32] | None = None
    for part_ids, part_labels, means in _read_parts(folder, manifest):
        if features is None:
            features = np.empty((manifest.counts.videos, means.shape[1]), np.float32)
        features[len(ids) : len(ids) + len(means)] = means
        ids += part_ids
        labels += part_labels
    if features is None or len(ids) != manifest.counts.videos:
        raise ValueError(f"{folder.uri} holds {len(ids)} of {manifest.counts.videos} videos")
    return manifest, VideoFeatures(ids, labels, features)


def check_comparable(first: Manifest, second: Manifest) -> None:
    """Check that features mean the same.

    Raises:
        ValueError: they are of different encoders, views or kinds; says what differs.
    """
    differences = [
        line
        for line in _differences(first, second, set(MUST_AGREE))
        if line.split()[0] not in MAY_DISAGREE
    ]
    if differences:
        raise ValueError(
            "the two folders' features cannot be compared:\n  " + "\n  ".join(differences) + "\n"
            "Compute both with the same encoder and options"
        )


def _table(ids: NDArray[Any], labels: NDArray[Any], features: NDArray[Any]) -> pa.Table:
    """A row for each clip of features [n, num_clips, D]."""
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
    """Ids, labels and means of the parts that have any, in order."""
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
    ids, labels = (table[name].to_pylist()[::num_clips] for name in ("id", "label"))
    return ids, labels, features.mean(axis=1, dtype=np.float32)


def _read_summary(folder: Storage, number: int) -> PartSummary:
    place = folder.join(part_name(number))
    try:
        with place.opened() as file:
            size, _ = FOOTER_END.unpack(file.read(file.size - FOOTER_END.size))
            footer = file.read(file.size - FOOTER_END.size - size)
        told = json.loads(pq.read_metadata(pa.BufferReader(footer)).metadata[SUMMARY])
    except (ValueError, KeyError, TypeError, struct.error) as error:
        raise _damaged(place, error) from error
    quarantined = tuple(QuarantinedVideo(**each) for each in told["quarantined"])
    return PartSummary(told["videos"], told["clips"], quarantined)


def _damaged(place: Storage, error: Exception) -> ValueError:
    return ValueError(
        f"{place.uri} is no part of features, or damaged ({error}). Delete it, and let "
        "jobs/embed.py make it again"
    )


def _write_manifest(folder: Storage, manifest: Manifest) -> None:
    folder.join(MANIFEST).write_bytes(manifest.model_dump_json(indent=2).encode())


def _differences(first: Manifest, second: Manifest, fields: set[str]) -> list[str]:
    """A line for each value in `fields` that differs, led by its dotted name."""
    values = (_flat("", each.model_dump(mode="json", include=fields)) for each in (first, second))
    was, is_now = (dict(each) for each in values)
    return [
        f"{name} is {was.get(name)!r} there, and {is_now.get(name)!r} here"
        for name in {**was, **is_now}
        if was.get(name) != is_now.get(name)
    ]


def _flat(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    if not isinstance(value, dict):
        yield name, value
        return
    for key, below in value.items():
        yield from _flat(f"{name}.{key}" if name else key, below)
