"""Building a data set of shards: which video goes where, what is done already, what came of it.

    OUT/build.json                                what is built here, so that nothing else is
    OUT/SPLIT/shard-00000-of-00012.parquet        the videos
    OUT/SPLIT/parts/shard-00000-of-00012.json     what is in it, written after it: then it is whole
    OUT/SPLIT/manifest.json                       what is in all of them, written last

A layout without splits has no SPLIT folders. The shard of a video is a pure function of the seed
and the ids, and a shard's name tells how many there are, so that a build that was broken off goes
on with the shards that are not whole.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

from ctp.build.config import BuildConfig
from ctp.build.convert import Convert, converter
from ctp.build.layouts import LAYOUTS, Contents, Source
from ctp.data.catalog import CORPUS, MANIFEST, VideoEntry
from ctp.data.quarantine import QuarantinedVideo
from ctp.data.shards import SUFFIX, ShardRow, ShardSummary, ShardWriter
from ctp.rng import uniform_hash
from ctp.storage import Storage
from ctp.video.encoded import VideoError
from ctp.video.guarded import Guarded

FORMAT = 1
BUILD = "build.json"
PARTS = "parts"
SHOWN_MISSING = 10
READ_AT_ONCE = 16
FREE = frozenset({"out", "allow_missing", "num_tasks", "video_seconds"})
"""Options that may change when a build goes on: they change no shard."""


@dataclass(frozen=True)
class ShardTask:
    """A shard to build.

    Attributes:
        folder: URI of the split's folder.
        name: without ending.
        sources: what goes in, in this order.
    """

    folder: str
    name: str
    sources: tuple[Source, ...]


@dataclass(frozen=True)
class Part(ShardSummary):
    """What a shard that is whole holds.

    Attributes:
        name: of the shard's file.
        quarantined: the videos that it should hold and that could not be used.
    """

    name: str
    quarantined: tuple[QuarantinedVideo, ...]

    def to_json(self) -> dict[str, Any]:
        """A JSON object."""
        return asdict(self) | {"quarantined": [_rejection(each) for each in self.quarantined]}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Part:
        """The inverse of `to_json`."""
        quarantined = tuple(
            QuarantinedVideo(r["id"], r["uri"], r["reason"]) for r in values["quarantined"]
        )
        return cls(**{**values, "quarantined": quarantined})


def find_sources(config: BuildConfig) -> Contents:
    """List what is to be built.

    Raises:
        ValueError: an option is missing or does not fit the layout, nothing is there, or videos
            are missing and that is not allowed.
        StorageError: the source cannot be listed.
    """
    for name in ("source", "out"):
        if not getattr(config, name):
            raise ValueError(f"--{name} is missing: a folder or URI")
    if f"{_address(config.out)}/".startswith(f"{_address(config.source)}/"):
        raise ValueError(f"--out {config.out} lies in --source; its shards would become sources")
    contents = LAYOUTS[config.layout](config.source, config.split_number)
    if not contents.sources:
        raise ValueError(f"no video of layout {config.layout} below {config.source}")
    if config.transcode is None and not isinstance(contents.sources[0].content, VideoEntry):
        raise ValueError(
            f"layout {config.layout} has frames, and no video whose bytes could be kept. Take "
            "--recipe training, or options of --transcode"
        )
    if not config.allow_missing:
        _check_missing(contents)
    return contents


def plan_shards(config: BuildConfig, contents: Contents) -> list[ShardTask]:
    """Deal the sources out to shards: a pure function of the seed and the ids."""
    out = Storage.of(config.out)
    tasks = []
    for split in splits_of(contents):
        sources = _shuffled([s for s in contents.sources if s.split == split], config)
        wanted = config.num_shards or -(-len(sources) // config.videos_per_shard)
        number = min(wanted, len(sources))
        ends = [i * len(sources) // number for i in range(number + 1)]
        tasks += [
            ShardTask(
                _folder(out, split).uri,
                f"shard-{i:05d}-of-{number:05d}",
                tuple(sources[ends[i] : ends[i + 1]]),
            )
            for i in range(number)
        ]
    return tasks


def splits_of(contents: Contents) -> list[str]:
    """The names of the splits, sorted."""
    return sorted({source.split for source in contents.sources})


def claim(config: BuildConfig, tasks: Sequence[ShardTask]) -> None:
    """Make `out` this build's, or find that it is.

    Raises:
        ValueError: it holds another build, or other files; says what differs.
        StorageError: it cannot be written.
    """
    out = Storage.of(config.out)
    place = out.join(BUILD)
    ours = _identity(config, tasks)
    if not place.exists():
        if out.list_files():
            raise ValueError(f"{out.uri} holds files that are no build. Take another --out")
        out.check_writable()
        place.write_bytes(json.dumps(ours, indent=2).encode())
        return
    differences = _differences(json.loads(place.read_bytes()), ours)
    if differences:
        raise ValueError(
            f"{out.uri} holds another build: {'; '.join(differences)}. Take another --out, or the "
            "same options"
        )


def whole_parts(folder: str, names: Iterable[str]) -> dict[str, Part]:
    """Those of a split's shards that are whole, by name without ending."""
    place = Storage.of(folder)
    sizes = {info.path: info.size for info in place.list_files()}
    listed = [name for name in names if f"{PARTS}/{name}.json" in sizes]
    with ThreadPoolExecutor(READ_AT_ONCE) as pool:
        parts = dict(zip(listed, pool.map(partial(_read_part, place), listed), strict=True))
    return {n: part for n, part in parts.items() if part and sizes.get(part.name) == part.bytes}


def build_shard(task: ShardTask, convert: Convert) -> Iterator[Source]:
    """Build a shard, and say after each video that it is done.

    Raises:
        StorageError: a video cannot be read through no fault of its own, or the shard written.
    """
    folder = Storage.of(task.folder)
    quarantined = []
    file = f"{task.name}{SUFFIX}"
    with ShardWriter(folder.join(file)) as writer:
        for source in task.sources:
            try:
                writer.add(convert(source))
            except VideoError as error:
                quarantined.append(QuarantinedVideo.from_error(error))
            yield source
        summary = writer.finish()
    part = Part(name=file, quarantined=tuple(quarantined), **asdict(summary))
    _part_place(folder, task.name).write_bytes(json.dumps(part.to_json()).encode())


def guarded_converter(config: BuildConfig) -> Guarded[Source, ShardRow]:
    """`ctp.build.convert.convert` in a child process: a video that crashes or hangs it costs
    itself."""
    return Guarded(partial(converter, config.transcode), video_seconds=config.video_seconds)


def write_manifest(
    config: BuildConfig, contents: Contents, split: str, parts: Sequence[Part]
) -> dict[str, Any]:
    """Say what is in all shards of a split; returns what is written."""
    shards = [{k: getattr(p, k) for k in ("name", "videos", "bytes", "checksum")} for p in parts]
    labels: Counter[str] = Counter()
    for part in parts:
        labels.update(part.labels)
    quarantined = [each for part in parts for each in part.quarantined]
    manifest = {
        "format": FORMAT,
        "split": split,
        "config": config.model_dump(mode="json"),
        "videos": sum(part.videos for part in parts),
        "frames": sum(part.frames for part in parts),
        "bytes": sum(part.bytes for part in parts),
        "shards": shards,
        "labels": dict(sorted(labels.items())),
        "quarantined": [_rejection(each) for each in (*contents.quarantined, *quarantined)],
        "missing": list(contents.missing.get(split, ())),
        "unused": contents.num_unused,
    }
    place = _folder(Storage.of(config.out), split).join(MANIFEST)
    place.write_bytes(json.dumps(manifest, indent=2).encode())
    return manifest


def _rejection(quarantined: QuarantinedVideo) -> dict[str, str]:
    """A quarantined video as it is in a manifest."""
    return {"id": quarantined.video_id, "uri": quarantined.uri, "reason": quarantined.reason}


def _check_missing(contents: Contents) -> None:
    names = [f"{split}/{n}" if split else n for split, ns in contents.missing.items() for n in ns]
    if names:
        shown = "\n  ".join(names[:SHOWN_MISSING])
        more = f"\n  and {len(names) - SHOWN_MISSING} more" if len(names) > SHOWN_MISSING else ""
        raise ValueError(
            f"{len(names)} video(s) are named and not there:\n  {shown}{more}\n"
            "Add them, or go on without them by --allow_missing true"
        )


def _shuffled(sources: list[Source], config: BuildConfig) -> list[Source]:
    def rank(source: Source) -> tuple[float, str]:
        return uniform_hash(config.seed, "shard", source.id), source.id

    return sorted(sources, key=rank)[: config.limit]


def _folder(out: Storage, split: str) -> Storage:
    return out.join(split) if split else out


def _part_place(folder: Storage, name: str) -> Storage:
    return folder.join(PARTS, f"{name}.json")


def _read_part(folder: Storage, name: str) -> Part | None:
    try:
        return Part.from_json(json.loads(_part_place(folder, name).read_bytes()))
    except (ValueError, KeyError, TypeError):
        return None  # it was cut short: the shard is built again


def _identity(config: BuildConfig, tasks: Sequence[ShardTask]) -> dict[str, Any]:
    """What makes a build this one."""
    digest = hashlib.blake2b(digest_size=8)
    for task in tasks:
        ids = [source.id for source in task.sources]
        digest.update(repr((task.sources[0].split, ids)).encode())
    values = config.model_dump(mode="json", exclude=set(FREE))
    values["source"] = _address(config.source)
    videos = sum(len(task.sources) for task in tasks)
    return {"format": FORMAT, **values, "videos": videos, "ids": digest.hexdigest()}


def _address(uri: str) -> str:
    """The same for a place however it is written: from here or from the root, with links or not."""
    if uri.startswith(CORPUS):
        return uri
    place = Storage.of(uri)
    return os.path.realpath(place.path) if place.is_local else place.uri


def _differences(theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> list[str]:
    names = [name for name in {**theirs, **ours} if theirs.get(name) != ours.get(name)]
    return [f"{name} was {theirs.get(name)}, now {ours.get(name)}" for name in names]
