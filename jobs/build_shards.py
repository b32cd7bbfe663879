"""Build shards of a data set: from files as they were published to what training reads fast."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

from ctp import recipes
from ctp.build.build import (
    Part,
    ShardTask,
    claim,
    find_sources,
    plan_shards,
    splits_of,
    whole_parts,
    write_manifest,
)
from ctp.build.config import BuildConfig
from ctp.build.layouts import Contents
from ctp.cli import CommandLine
from ctp.cluster.build import build
from ctp.cluster.connect import check_place, cluster
from ctp.cluster.faults import StoppedError
from ctp.cluster.places import check_lasting
from ctp.data.quarantine import QuarantinedVideo, format_quarantined
from ctp.progress import VideoCounter, duration
from ctp.storage import Storage, StorageError
from ctp.training.claim import absolute

ABOUT = """Build Parquet shards of a data set, for training and for any Parquet reader.

Videos are coded anew for fast loading, or kept as they are. OUT gets shards and a manifest.json
that lists them, labels, and every video that could not be used. The same command goes on with a
build that was broken off."""


def main(argv: list[str] | None = None) -> None:
    """Parse, build, and say what came out."""
    _, config = CommandLine(recipes.BUILD, "training", ABOUT).parse(argv)
    try:
        _run(config)
    except KeyboardInterrupt:
        sys.exit("stopped; the same command goes on from here")
    except (ValueError, StorageError, ConnectionError) as error:
        sys.exit(f"error: {error}")
    except StoppedError as error:
        sys.exit(f"error: {error}\nThe same command goes on from here")


def _run(config: BuildConfig) -> None:
    started = time.monotonic()
    check_place()
    check_lasting(config.out, "out")
    contents = find_sources(config)
    tasks = plan_shards(config, contents)
    claim(config, tasks)
    left = _not_whole(tasks)
    print(_plan_line(config, contents, tasks, left))
    if left:
        total = sum(len(task.sources) for task in left)
        places = absolute(config.out), absolute(config.source)
        with cluster(places=places), VideoCounter(total) as counter:
            build(config, left, counter.add)
    _report(config, contents, tasks)
    print(f"{Storage.of(config.out).uri} after {duration(time.monotonic() - started)}")


def _not_whole(tasks: Sequence[ShardTask]) -> list[ShardTask]:
    whole = _whole(tasks)
    return [task for task in tasks if (task.folder, task.name) not in whole]


def _whole(tasks: Sequence[ShardTask]) -> dict[tuple[str, str], Part]:
    """The shards that are whole, by folder and name."""
    names: dict[str, list[str]] = {}
    for task in tasks:
        names.setdefault(task.folder, []).append(task.name)
    return {
        (folder, name): part
        for folder, inside in names.items()
        for name, part in whole_parts(folder, inside).items()
    }


def _plan_line(
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


def _report(config: BuildConfig, contents: Contents, tasks: Sequence[ShardTask]) -> None:
    """Write the manifests and say what is in them.

    Raises:
        ValueError: no video could be used.
    """
    whole = _whole(tasks)
    by_split: dict[str, list[Part]] = {split: [] for split in splits_of(contents)}
    for task in tasks:
        by_split[task.sources[0].split].append(whole[task.folder, task.name])
    manifests = [write_manifest(config, contents, split, p) for split, p in by_split.items()]
    for manifest in manifests:
        _say(manifest)
    if not any(manifest["videos"] for manifest in manifests):
        raise ValueError("no video could be used; see the reasons above, or in manifest.json")


def _say(manifest: Mapping[str, Any]) -> None:
    split = f"{manifest['split']}: " if manifest["split"] else ""
    quarantined = manifest["quarantined"]
    print(
        f"{split}{manifest['videos']} videos, {manifest['frames']} frames, "
        f"{manifest['bytes'] / 2**20:.1f} MiB, {len(manifest['labels'])} labels, "
        f"{len(quarantined)} quarantined"
    )
    if quarantined:
        entries = [QuarantinedVideo(each["id"], "", each["reason"]) for each in quarantined]
        print(format_quarantined(entries, "manifest.json"))


if __name__ == "__main__":
    main()
