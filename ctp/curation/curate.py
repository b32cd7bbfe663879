"""Curate raw videos: what a folder of results holds, decisions, manifest and estimate.

    OUT/_curation.json            what is curated, and how it is measured
    OUT/_measured/00000.parquet   segments of a group of videos, measured
    OUT/_segments.parquet         all segments, with the rule that drops each
    OUT/_rules.json               rules and encoding of the shards
    OUT/_written/00000.json       the shards of a group
    OUT/shard-00000-000.parquet   segments that are kept
    OUT/_manifest.json            contents of the shards, and what each rule dropped
    OUT/_page.html                histograms and pictures to judge the rules by

A run that was stopped continues with the groups that are not finished.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from ctp.build import identity
from ctp.build.build import FORMAT
from ctp.curation import segments
from ctp.curation.config import CurateConfig
from ctp.curation.measure import MEASURED, Facts, Group, measured_file, plan_groups, read_measured
from ctp.curation.rules import NAMES, check_something_is_kept, count_by_rule, decide, describe
from ctp.curation.write import (
    COLUMNS,
    WRITTEN,
    KeptSegment,
    WriteTask,
    Written,
)
from ctp.data.catalog import Catalog
from ctp.data.parquet_folder import MANIFEST
from ctp.data.quarantine import QuarantinedVideo
from ctp.data.sources import open_catalog
from ctp.lease import ATTEMPTS, Attempt
from ctp.progress import duration
from ctp.rng import generator
from ctp.storage import Storage
from ctp.versions import written_by

IDENTITY, RULES_FILE, SEGMENTS = "_curation.json", "_rules.json", "_segments.parquet"
DRY_RUN = "_dry_run"
EXAMPLES = 10
"""Segments that the manifest names for each rule."""
READ_AT_ONCE = 16
MAX_REASONS = 3
"""Videos that an error names if none can be used."""
DECIDED = [name for name in segments.SCHEMA.names if name != "pictures"]


@dataclass(frozen=True)
class Curation:
    """What is curated.

    Attributes:
        config: of the curation.
        catalog: the raw videos, in a dry run a sample of them.
        out: the folder of the results, in a dry run a folder inside `config.out`.
        share: share of all videos that is curated, by their bytes if all are known.
    """

    config: CurateConfig
    catalog: Catalog
    out: Storage
    share: float

    @cached_property
    def groups(self) -> list[Group]:
        """Return the videos in groups."""
        return plan_groups(self.catalog)


def open_curation(config: CurateConfig) -> Curation:
    """List the raw videos.

    Raises:
        ValueError: an option is missing, or there is no video.
        StorageError: the source cannot be listed.
    """
    for name in ("source", "out"):
        if not getattr(config, name):
            raise ValueError(f"--{name} is missing: expected a folder or URI")
    for source in config.sources:
        if f"{identity.canonical(config.out)}/".startswith(f"{identity.canonical(source)}/"):
            raise ValueError(
                f"--out {config.out} is inside --source {source}, so that its shards would become "
                "sources. Use another --out"
            )
    catalog = open_catalog(config.source, "source")
    out = Storage.from_uri(config.out)
    if not config.dry_run:
        return Curation(config, catalog, out, 1.0)
    number = min(config.sample, len(catalog))
    rows = generator(config.seed, "sample").choice(len(catalog), number, replace=False)
    sample = catalog.select(np.sort(rows).astype(np.int64), catalog.quarantined)
    return Curation(config, sample, out.join(DRY_RUN), _share(sample, catalog))


def create_or_resume(curation: Curation, attempt: Attempt | None = None) -> None:
    """Write what is curated into the folder, or check that it is the same.

    A job calls it twice: before it claims the folder, so that it claims no folder of other files;
    and while `ctp.lease.hold` holds the folder, since another job may have created it meanwhile.

    Args:
        curation: what is curated.
        attempt: the claim that holds the folder. With it, a dry run deletes the results of other
            rules.

    Raises:
        SupersededError: another process took over the folder.
        ValueError: the folder holds something else, or shards of other rules; says what differs.
        StorageError: the folder cannot be written to.
    """
    config, out = curation.config, curation.out
    measured = {
        "format": FORMAT,
        "source": [identity.canonical(each) for each in config.sources],
        "videos": len(curation.catalog),
        "ids": curation.catalog.fingerprint(),
        **config.model_dump(mode="json", include={"cuts", "crops_bars", "max_megapixels"}),
    }
    noted = {"recipe": config.recipe}
    identity.create_or_resume(out.join(IDENTITY), measured, noted, [DRY_RUN])
    place = out.join(RULES_FILE)
    if not place.exists():
        return
    differences = identity.find_differences(json.loads(place.read_bytes()), _rules(config))
    if differences and not config.dry_run:
        raise ValueError(
            f"{out.uri} holds shards of other rules: {'; '.join(differences)}. Use another --out, "
            "or the same rules. A dry run (--dry_run true) may change them"
        )
    if differences and attempt is not None:
        attempt.check()
        for file in out.list_files():
            # the rules are replaced later, so that a deletion that was interrupted is repeated
            if file.path.partition("/")[0] not in {MEASURED, ATTEMPTS, IDENTITY, RULES_FILE}:
                out.join(file.path).delete_file()


def unmeasured(curation: Curation) -> list[Group]:
    """Return the groups that are not measured yet."""
    finished = _finished(curation.out, MEASURED)
    return [group for group in curation.groups if f"{group.name}.parquet" not in finished]


def decide_all(curation: Curation) -> tuple[pd.DataFrame, list[Facts]]:
    """Apply the rules to all measured segments and write the decisions.

    Returns:
        the segments, see `rules.decide`, with their `group`; and the facts of each group.

    Raises:
        ValueError: no video can be used; gives the reasons of some.
        StorageError: the folder cannot be read or written.
    """
    groups, out = curation.groups, curation.out
    with ThreadPoolExecutor(READ_AT_ONCE) as pool:
        places = [measured_file(out, group) for group in groups]
        read = list(pool.map(lambda place: read_measured(place, DECIDED), places))
    if not any(len(table) for table, _ in read):
        lost = [entry for _, facts in read for entry in facts.quarantined]
        reasons = "; ".join(f"{each['id']} {each['reason']}" for each in lost[:MAX_REASONS])
        raise ValueError(f"no video can be used: {reasons}")
    tables = [table.to_pandas() for table, _ in read]
    number = np.repeat(np.arange(len(tables)), [len(table) for table in tables])
    found = decide(pd.concat(tables).assign(group=number), curation.config.rules)
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pandas(found, preserve_index=False), sink)
    out.join(SEGMENTS).write_bytes(memoryview(sink.getvalue()))
    return found, [facts for _, facts in read]


def plan_writing(curation: Curation, decided: pd.DataFrame) -> list[WriteTask]:
    """Return the segments to encode of each group that is not written yet.

    Raises:
        ValueError: no segment is kept.
    """
    check_something_is_kept(decided, curation.config.rules)
    curation.out.join(RULES_FILE).write_bytes(json.dumps(_rules(curation.config)).encode())
    finished = _finished(curation.out, WRITTEN)
    kept = decided[decided["rule"] == ""]
    by_group = dict(iter(kept.groupby("group")))
    tasks = []
    for number, group in enumerate(curation.groups):
        if number in by_group and f"{group.name}.json" not in finished:
            rows = by_group[number].sort_values("first_frame")
            by_source = {str(name): _kept(each) for name, each in rows.groupby("source")}
            tasks.append(WriteTask(group, by_source))
    return tasks


def read_written(curation: Curation) -> list[Written]:
    """Return what was written of each group that has segments."""
    places = [curation.out.join(WRITTEN, name) for name in sorted(_finished(curation.out, WRITTEN))]
    with ThreadPoolExecutor(READ_AT_ONCE) as pool:
        return list(pool.map(lambda place: Written.from_bytes(place.read_bytes()), places))


def write_manifest(
    curation: Curation, decided: pd.DataFrame, facts: Sequence[Facts], written: Sequence[Written]
) -> dict[str, Any]:
    """Write and return the manifest; its first keys are those of a build of shards."""
    config = curation.config
    parts = [part for each in written for part in each.parts]
    labels: Counter[str] = Counter()
    for part in parts:
        labels.update(part.labels)
    quarantined = [
        *_to_json(curation.catalog.quarantined),
        *(entry for each in facts for entry in each.quarantined),
        *_to_json(entry for each in written for entry in each.quarantined),
    ]
    manifest = {
        "format": FORMAT,
        "written_by": dict(written_by()),
        "config": config.model_dump(mode="json"),
        "videos": sum(part.videos for part in parts),
        "frames": sum(part.frames for part in parts),
        "bytes": sum(part.bytes for part in parts),
        "shards": [
            {k: getattr(p, k) for k in ("name", "videos", "bytes", "checksum")} for p in parts
        ],
        "labels": dict(sorted(labels.items())),
        "quarantined": quarantined,
        "damage": {name: lines for each in facts for name, lines in each.damage.items()},
        "sources": {
            "videos": sum(each.videos for each in facts),
            "seconds": sum(each.seconds for each in facts),
            "segments": len(decided),
        },
        "rules": _describe_rules(decided, config),
    }
    curation.out.join(MANIFEST).write_bytes(json.dumps(manifest, indent=2).encode())
    return manifest


@dataclass(frozen=True)
class Estimate:
    """What the whole would need, from a sample.

    Attributes:
        segments, hours, bytes: of the shards.
        cpu_hours: of measuring and encoding.
    """

    segments: float
    hours: float
    bytes: float
    cpu_hours: float

    def describe(self) -> str:
        """Return the estimate in words."""
        return (
            f"{self.segments:,.0f} segments, {self.hours:.3g} hours, {self.bytes / 2**30:.3g} GiB, "
            f"{duration(3600 * self.cpu_hours)} of one CPU core"
        )


def estimate(
    curation: Curation, decided: pd.DataFrame, facts: Sequence[Facts], written: Sequence[Written]
) -> Estimate:
    """Scale what a sample needed to all videos."""
    kept = decided[decided["rule"] == ""]
    cpu_seconds = sum(each.cpu_seconds for each in facts)
    cpu_seconds += sum(each.cpu_seconds for each in written)
    return Estimate(
        len(kept) / curation.share,
        float(kept["seconds"].sum()) / 3600 / curation.share,
        sum(part.bytes for each in written for part in each.parts) / curation.share,
        cpu_seconds / 3600 / curation.share,
    )


def _to_json(quarantined: Iterable[QuarantinedVideo]) -> list[dict[str, str]]:
    return [{"id": each.video_id, "uri": each.uri, "reason": each.reason} for each in quarantined]


def _share(sample: Catalog, catalog: Catalog) -> float:
    sizes = [each.columns["size"] for each in (sample, catalog)]
    if any(each.null_count for each in sizes):
        return len(sample) / len(catalog)
    totals = [each.to_numpy().sum() for each in sizes]
    return float(totals[0] / max(totals[1], 1))


def _finished(out: Storage, folder: str) -> set[str]:
    place = out.join(folder)
    return {info.path for info in place.list_files()} if place.exists() else set()


def _rules(config: CurateConfig) -> dict[str, Any]:
    return config.model_dump(mode="json", include={"rules", "transcode", "segments_per_shard"})


def _kept(rows: pd.DataFrame) -> tuple[KeptSegment, ...]:
    names = [column.name for column in COLUMNS]
    kept = []
    for row in rows.to_dict("records"):
        x, y, width, height = (int(value) for value in row["crop"])
        label = row["label"] if isinstance(row["label"], str) else None
        extra = {name: row[name] for name in names}
        frames = int(row["first_frame"]), int(row["num_frames"])
        kept.append(KeptSegment(row["id"], label, *frames, (x, y, width, height), extra))
    return tuple(kept)


def _describe_rules(decided: pd.DataFrame, config: CurateConfig) -> dict[str, Any]:
    counts = count_by_rule(decided)
    described: dict[str, Any] = {}
    for name in NAMES:
        number, seconds = counts.get(name, (0, 0.0))
        marked = decided["marks"].str.split().map(lambda marks, name=name: name in marks)
        ids = decided["id"][(decided["rule"] == name) | marked]
        described[name] = {
            "setting": describe(name, config.rules),
            "segments": number,
            "seconds": seconds,
            "marked": int(marked.sum()),
            "examples": list(ids[:EXAMPLES]),
        }
    return described
