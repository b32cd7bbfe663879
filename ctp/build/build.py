"""Build a data set of shards: assign videos to shards, find finished shards, write the manifest.

    OUT/_build.json                               the build's identity
    OUT/SPLIT/shard-00000-of-00012.parquet        the videos
    OUT/SPLIT/_parts/shard-00000-of-00012.json    the contents, written when the shard is finished
    OUT/SPLIT/_manifest.json                      the contents of all shards, written last

A layout without splits has no SPLIT folders. The shard of a video is a pure function of the seed
and the ids, so that an interrupted build resumes with the shards that are not finished.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

from ctp.build import identity
from ctp.build.config import BuildConfig, TranscodeConfig
from ctp.build.convert import convert
from ctp.build.identity import canonical
from ctp.build.layouts import LAYOUTS, Contents, Source
from ctp.config import describe_kept, keep_stored
from ctp.data.catalog import VideoEntry
from ctp.data.journal import Journal
from ctp.data.parquet_folder import MANIFEST, find_beside
from ctp.data.quarantine import QuarantinedVideo
from ctp.data.shards import SUFFIX, ShardSummary, ShardWriter
from ctp.lease import Attempt
from ctp.rng import uniform_hash
from ctp.storage import Storage
from ctp.versions import written_by
from ctp.video.encoded import VideoError
from ctp.video.limits import DEFAULT_LIMITS, DecodingLimits

FORMAT = 1
BUILD = "_build.json"
PARTS = "_parts"
MAX_LISTED_MISSING = 10
READ_AT_ONCE = 16
VIDEOS_PER_REPORT = 8
"""Videos between two progress reports: a report takes Ray as long as a short video."""
CHANGEABLE_OPTIONS = frozenset({"out", "recipe", "allow_missing", "num_tasks", "video_seconds"})
"""Options that may change when a build is resumed, because shards do not depend on them."""


@dataclass(frozen=True)
class ShardTask:
    """A shard to build.

    Attributes:
        folder: URI of the split's folder.
        name: the shard's file name without ending.
        sources: its videos, in this order.
    """

    folder: str
    name: str
    sources: tuple[Source, ...]


@dataclass(frozen=True)
class Part(ShardSummary):
    """The contents of a finished shard.

    Attributes:
        name: the shard's file name.
        quarantined: the shard's videos that could not be used.
    """

    name: str
    quarantined: tuple[QuarantinedVideo, ...]

    def to_json(self) -> dict[str, Any]:
        """Return a JSON object."""
        return asdict(self) | {"quarantined": _quarantined_to_json(self.quarantined)}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Part:
        """Create a part from the result of `to_json`."""
        quarantined = tuple(
            QuarantinedVideo(r["id"], r["uri"], r["reason"]) for r in values["quarantined"]
        )
        return cls(**{**values, "quarantined": quarantined})


def find_sources(config: BuildConfig) -> Contents:
    """List the videos to build shards of.

    Raises:
        ValueError: an option is missing or does not fit the layout, there is no video, or videos
            are missing and this is not allowed.
        StorageError: the source cannot be listed.
    """
    for name in ("source", "out"):
        if not getattr(config, name):
            raise ValueError(f"--{name} is missing: expected a folder or URI")
    if f"{canonical(config.out)}/".startswith(f"{canonical(config.source)}/"):
        raise ValueError(
            f"--out {config.out} is inside --source {config.source}, so that its shards would "
            "become sources. Use another --out"
        )
    contents = LAYOUTS[config.layout](config.source, config.split_number)
    if not contents.sources:
        raise ValueError(f"no video of layout {config.layout} below {config.source}")
    if config.transcode is None and not isinstance(contents.sources[0].content, VideoEntry):
        raise ValueError(
            f"layout {config.layout} has frames instead of videos and needs transcoding. Use "
            "--recipe training or options of --transcode"
        )
    if not config.allow_missing:
        _check_missing(contents)
    return contents


def plan_shards(config: BuildConfig, contents: Contents) -> list[ShardTask]:
    """Assign the sources to shards: a pure function of the seed and the ids."""
    out = Storage.from_uri(config.out)
    tasks = []
    for split in splits_of(contents):
        sources = _shuffled([s for s in contents.sources if s.split == split], config)
        wanted = config.num_shards or -(-len(sources) // config.videos_per_shard)
        number = min(wanted, len(sources))
        # sizes of shards differ by one at most
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
    """Return the names of the splits, sorted."""
    return sorted({source.split for source in contents.sources})


def create_or_resume(config: BuildConfig, tasks: Sequence[ShardTask]) -> None:
    """Write the build's identity to the folder `out`, or check that it is there.

    A job calls it twice: before it claims the folder, so that it claims no folder of other files;
    and while `ctp.lease.hold` holds the folder, since another job may have created it meanwhile.

    Raises:
        ValueError: the folder holds another build, or other files; says what differs.
        StorageError: the folder cannot be written to.
    """
    place = find_beside(Storage.from_uri(config.out), BUILD)
    identity.create_or_resume(place, _identity(config, tasks), {"recipe": config.recipe})


def with_stored_defaults(config: BuildConfig, given: Iterable[str]) -> BuildConfig:
    """Return the config with the values of the build that it resumes, where the user gave none.

    So the same command resumes a build although a default of ctp has changed. Prints each value
    that is taken from the build.

    Args:
        config: of the build.
        given: dotted names of the options that the user gave.

    Raises:
        ValueError: the stored values do not fit the given options.
        StorageError: the folder cannot be read.
    """
    place = find_beside(Storage.from_uri(config.out), BUILD)
    if not config.out or not place.exists():
        return config
    theirs = json.loads(place.read_bytes())
    if theirs.get("recipe", "") != config.recipe:
        return config  # another recipe is no changed default: its values are meant
    stored = {name: theirs[name] for name in BuildConfig.model_fields if name in theirs}
    kept = keep_stored(config, stored, [*given, *CHANGEABLE_OPTIONS, "source"])
    for line in describe_kept(config, kept, place.uri):
        print(line)
    return kept


def finished_parts(folder: str, names: Iterable[str]) -> dict[str, Part]:
    """Return the contents of the finished shards of a split, by the names of the shards."""
    place = Storage.from_uri(folder)
    sizes = {info.path: info.size for info in place.list_files()}
    folders = (PARTS, PARTS.removeprefix("_"))  # the second one in builds of earlier versions
    listed = [n for n in names if any(f"{each}/{n}.json" in sizes for each in folders)]
    with ThreadPoolExecutor(READ_AT_ONCE) as pool:
        parts = dict(zip(listed, pool.map(partial(_read_part, place), listed), strict=True))
    # a shard of another size was replaced or cut short after it was finished
    return {n: part for n, part in parts.items() if part and sizes.get(part.name) == part.bytes}


def build_shard(
    task: ShardTask,
    config: TranscodeConfig | None,
    journal: Journal | None = None,
    limits: DecodingLimits = DEFAULT_LIMITS,
    attempt: Attempt | None = None,
    teacher: str | None = None,
) -> Iterator[Source]:
    """Build a shard; yield each source after it was processed.

    Args:
        task: the shard.
        config: how videos are encoded; None: they keep their bytes.
        journal: names the video that is being read.
        attempt: checked before the shard is declared finished; None: no other process builds it.
        teacher: "kcf" labels videos without boxes; None: videos without boxes get none.

    Raises:
        SupersededError: another process took over the folder.
        StorageError: the storage fails while a video is read or the shard is written.
    """
    folder = Storage.from_uri(task.folder)
    quarantined = []
    file = f"{task.name}{SUFFIX}"
    with ShardWriter(folder.join(file)) as writer:
        for source in task.sources:
            try:
                row = convert(source, config, journal, limits)
                if teacher is not None and row.boxes is None:
                    from ctp.build.kcf import with_teacher  # torch, for this alone

                    row = with_teacher(row, source.uri, journal, limits)
                writer.add(row)
            except VideoError as error:
                quarantined.append(QuarantinedVideo.from_error(error))
            yield source
        summary = writer.finish()
    if attempt is not None:
        attempt.check()
    part = Part(name=file, quarantined=tuple(quarantined), **asdict(summary))
    folder.join(PARTS, f"{task.name}.json").write_bytes(json.dumps(part.to_json()).encode())


def build_counted(
    task: ShardTask, journal: Journal, config: BuildConfig, attempt: Attempt | None
) -> Iterator[int]:
    """Build a shard; yield how many videos are done since the last report.

    Takes and raises the same as `build_shard`.
    """
    limits = DecodingLimits(config.max_megapixels)
    sources = build_shard(task, config.transcode, journal, limits, attempt, config.teacher)
    unreported = 0
    for _ in sources:
        unreported += 1
        if unreported == VIDEOS_PER_REPORT:
            yield unreported
            unreported = 0
    yield unreported


def write_manifest(
    config: BuildConfig, contents: Contents, split: str, parts: Sequence[Part]
) -> dict[str, Any]:
    """Write and return the manifest of a split."""
    shards = [{k: getattr(p, k) for k in ("name", "videos", "bytes", "checksum")} for p in parts]
    labels: Counter[str] = Counter()
    for part in parts:
        labels.update(part.labels)
    quarantined = [each for part in parts for each in part.quarantined]
    manifest = {
        "format": FORMAT,
        "written_by": dict(written_by()),
        "split": split,
        "config": config.model_dump(mode="json"),
        "videos": sum(part.videos for part in parts),
        "frames": sum(part.frames for part in parts),
        "bytes": sum(part.bytes for part in parts),
        "shards": shards,
        "labels": dict(sorted(labels.items())),
        "quarantined": _quarantined_to_json([*contents.quarantined, *quarantined]),
        "missing": list(contents.missing.get(split, ())),
        "unused": contents.num_unused,
    }
    place = find_beside(_folder(Storage.from_uri(config.out), split), MANIFEST)
    place.write_bytes(json.dumps(manifest, indent=2).encode())
    return manifest


def _quarantined_to_json(quarantined: Iterable[QuarantinedVideo]) -> list[dict[str, str]]:
    return [{"id": each.video_id, "uri": each.uri, "reason": each.reason} for each in quarantined]


def _check_missing(contents: Contents) -> None:
    names = [f"{split}/{n}" if split else n for split, ns in contents.missing.items() for n in ns]
    if names:
        shown = "\n  ".join(names[:MAX_LISTED_MISSING])
        num_more = len(names) - MAX_LISTED_MISSING
        more = f"\n  and {num_more} more" if num_more > 0 else ""
        raise ValueError(
            f"{len(names)} video(s) of the splits are missing:\n  {shown}{more}\n"
            "Add them, or build without them by --allow_missing true"
        )


def _shuffled(sources: list[Source], config: BuildConfig) -> list[Source]:
    def rank(source: Source) -> tuple[float, str]:
        # the id decides between equal hashes
        return uniform_hash(config.seed, "shard", source.id), source.id

    return sorted(sources, key=rank)[: config.limit]


def _folder(out: Storage, split: str) -> Storage:
    return out.join(split) if split else out


def _read_part(folder: Storage, name: str) -> Part | None:
    try:
        return Part.from_json(json.loads(find_beside(folder, PARTS, f"{name}.json").read_bytes()))
    except (ValueError, KeyError, TypeError):
        return None  # it is incomplete, so build the shard again


def _identity(config: BuildConfig, tasks: Sequence[ShardTask]) -> dict[str, Any]:
    """Return what must be equal to resume a build."""
    # a hash instead of the ids, of which there may be millions
    digest = hashlib.blake2b(digest_size=8)
    for task in tasks:
        ids = [source.id for source in task.sources]
        digest.update(repr((task.sources[0].split, ids)).encode())
    values = config.model_dump(mode="json", exclude=set(CHANGEABLE_OPTIONS))
    values["source"] = canonical(config.source)
    videos = sum(len(task.sources) for task in tasks)
    return {"format": FORMAT, **values, "videos": videos, "ids": digest.hexdigest()}
