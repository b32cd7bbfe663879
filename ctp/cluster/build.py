"""Building shards by Ray Data: an actor on each CPU builds one shard after the other."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from ctp.build.build import (
    Part,
    ShardTask,
    build_counted,
    create_or_resume,
    find_sources,
    finished_parts,
    plan_shards,
    splits_of,
    write_manifest,
)
from ctp.build.config import BuildConfig
from ctp.build.layouts import Contents
from ctp.cluster.connect import check_place, cluster
from ctp.cluster.memory import DecoderMemory
from ctp.cluster.path_visibility import check_lasting
from ctp.cluster.tasks import run_tasks
from ctp.data.parquet_folder import MANIFEST
from ctp.data.quarantine import QuarantinedVideo, format_quarantined
from ctp.lease import Attempt, hold
from ctp.progress import VideoCounter, duration
from ctp.storage import Storage
from ctp.training.run_folder import absolute
from ctp.video.limits import DecodingLimits


def build_shards(config: BuildConfig) -> str:
    """Build the shards of a data set, on this machine or on the cluster that `RAY_ADDRESS` names.

    Returns:
        the URI of their folder.

    Raises:
        ValueError: an option or the source does not fit, or no video can be used.
        StorageError: the source cannot be listed.
        LeaseError: another process writes the folder.
        StoppedError: the storage fails later.
    """
    started = time.monotonic()
    check_place()
    check_lasting(config.out, "out")
    contents = find_sources(config)
    tasks = plan_shards(config, contents)
    create_or_resume(config, tasks)
    out = Storage.from_uri(config.out)
    with hold(out, "build_shards") as lease:
        create_or_resume(config, tasks)
        _build_held(config, contents, tasks, lease.attempt)
    print(f"{out.uri} after {duration(time.monotonic() - started)}")
    return out.uri


def _build_held(
    config: BuildConfig, contents: Contents, tasks: Sequence[ShardTask], attempt: Attempt
) -> None:
    """Build the shards that are left in a folder that is held, and write the manifests."""
    finished = _finished(tasks)
    left = [task for task in tasks if (task.folder, task.name) not in finished]
    print(_describe(config, contents, tasks, left))
    if left:
        memory = DecoderMemory.without_torch(DecodingLimits(config.max_megapixels))
        print(f"each shard that is built takes {memory.describe()}")
        total = sum(len(task.sources) for task in left)
        paths = absolute(config.out), absolute(config.source)
        with cluster(paths=paths), VideoCounter(total) as counter:
            build(config, left, counter.add, attempt)
    else:
        print(f"{Storage.from_uri(config.out).uri} is finished: all shards exist")
    attempt.check()
    _write_manifests(config, contents, tasks)


def _finished(tasks: Sequence[ShardTask]) -> dict[tuple[str, str], Part]:
    """Return the shards that are complete, by folder and name."""
    names: dict[str, list[str]] = {}
    for task in tasks:
        names.setdefault(task.folder, []).append(task.name)
    return {
        (folder, name): part
        for folder, inside in names.items()
        for name, part in finished_parts(folder, inside).items()
    }


def _describe(
    config: BuildConfig, contents: Contents, tasks: Sequence[ShardTask], left: Sequence[ShardTask]
) -> str:
    missing = sum(map(len, contents.missing.values()))
    facts = [
        f"{sum(len(task.sources) for task in tasks)} videos of layout {config.layout}",
        f"{len(tasks)} shards",
        f"{len(tasks) - len(left)} of them are done" if len(left) < len(tasks) else "",
        f"{missing} videos are missing" if missing else "",
        f"{contents.num_unused} videos belong to no split" if contents.num_unused else "",
    ]
    return ", ".join(fact for fact in facts if fact)


def _write_manifests(config: BuildConfig, contents: Contents, tasks: Sequence[ShardTask]) -> None:
    """Write the manifests and print a summary of each.

    Raises:
        ValueError: no video can be used.
    """
    finished = _finished(tasks)
    by_split: dict[str, list[Part]] = {split: [] for split in splits_of(contents)}
    for task in tasks:
        by_split[task.sources[0].split].append(finished[task.folder, task.name])
    manifests = [write_manifest(config, contents, *split) for split in by_split.items()]
    for manifest in manifests:
        _print_manifest(manifest)
    if not any(manifest["videos"] for manifest in manifests):
        raise ValueError(f"no video can be used; see the reasons above, or in {MANIFEST}")


def _print_manifest(manifest: Mapping[str, Any]) -> None:
    split = f"{manifest['split']}: " if manifest["split"] else ""
    quarantined = manifest["quarantined"]
    print(
        f"{split}{manifest['videos']} videos, {manifest['frames']} frames, "
        f"{manifest['bytes'] / 2**20:.1f} MiB, {len(manifest['labels'])} labels, "
        f"{len(quarantined)} quarantined"
    )
    if quarantined:
        entries = [QuarantinedVideo(each["id"], "", each["reason"]) for each in quarantined]
        print(format_quarantined(entries, MANIFEST))


def build(
    config: BuildConfig,
    tasks: Sequence[ShardTask],
    report: Callable[[int], None],
    attempt: Attempt | None = None,
) -> None:
    """Build shards on the cluster that is joined.

    Args:
        config: of the build.
        tasks: the shards.
        report: called with the number of videos done since its last call.
        attempt: the claim of the folder; None: no other process writes it.

    Raises:
        StoppedError: the storage fails, or another process took over the folder.
    """
    work = partial(build_counted, config=config, attempt=attempt)
    run_tasks(tasks, work, config.video_seconds, config.num_tasks, report)
