"""Curating raw videos by Ray Data: an actor on each CPU measures, and later encodes, videos."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any, TypeVar

from ctp.cluster.connect import check_place, cluster
from ctp.cluster.memory import DecoderMemory
from ctp.cluster.path_visibility import check_lasting
from ctp.cluster.tasks import run_tasks
from ctp.curation.config import CurateConfig
from ctp.curation.curate import (
    Curation,
    create_or_resume,
    decide_all,
    estimate,
    open_curation,
    plan_writing,
    read_written,
    unmeasured,
    write_manifest,
)
from ctp.curation.measure import Group, measure_group
from ctp.curation.page import PAGE, write_page
from ctp.curation.write import WriteTask, write_group
from ctp.data.parquet_folder import MANIFEST
from ctp.data.quarantine import QuarantinedVideo, format_quarantined
from ctp.lease import Attempt, hold
from ctp.progress import VideoCounter, duration
from ctp.storage import Storage
from ctp.training.run_folder import absolute
from ctp.video.limits import DecodingLimits

T = TypeVar("T", Group, WriteTask)


def curate(config: CurateConfig) -> str:
    """Curate raw videos, on this machine or on the cluster that `RAY_ADDRESS` names.

    Returns:
        the URI of the folder with the shards.

    Raises:
        ValueError: an option or the source does not fit, no video can be used, or the rules drop
            everything.
        StorageError: the source cannot be listed.
        LeaseError: another process writes the folder.
        StoppedError: the storage fails later.
    """
    started = time.monotonic()
    check_place()
    check_lasting(config.out, "out")
    curation = open_curation(config)
    create_or_resume(curation)
    with hold(curation.out, "curate") as lease:
        create_or_resume(curation, lease.attempt)
        _curate_held(curation, lease.attempt)
    print(f"{curation.out.uri} after {duration(time.monotonic() - started)}")
    return curation.out.uri


def _curate_held(curation: Curation, attempt: Attempt) -> None:
    """Do what is left in a folder that is held, and write page and manifest."""
    groups = unmeasured(curation)
    print(_describe(curation, groups))
    with _Cluster(curation) as run:
        run(groups, partial(measure_group, attempt=attempt), _num_measured)
        decided, facts = decide_all(curation)
        # before anything is encoded: the page shows why nothing is kept, too
        write_page(curation, decided, facts)
        run(plan_writing(curation, decided), partial(write_group, attempt=attempt), _num_written)
    attempt.check()
    written = read_written(curation)
    _print_manifest(write_manifest(curation, decided, facts, written), curation.out)
    if curation.config.dry_run:
        whole = estimate(curation, decided, facts, written)
        write_page(curation, decided, facts, whole)
        print(f"estimate for all videos: {whole.describe()}")


class _Cluster(ExitStack):
    """Does tasks on the cluster, which is joined when there are any."""

    def __init__(self, curation: Curation):
        super().__init__()
        self._curation, self._has_joined = curation, False

    def __call__(
        self, tasks: Sequence[T], work: Callable[..., Iterator[int]], size: Callable[[T], int]
    ) -> None:
        """Do tasks; `size` returns the number of videos of a task."""
        if not tasks:
            return
        self._join()
        config = self._curation.config
        bound = partial(work, config=config, out=self._curation.out)
        with VideoCounter(sum(map(size, tasks))) as counter:
            run_tasks(tasks, bound, config.video_seconds, config.num_tasks, counter.add)

    def _join(self) -> None:
        if self._has_joined:
            return
        config = self._curation.config
        memory = DecoderMemory.without_torch(DecodingLimits(config.max_megapixels))
        print(f"each video that is decoded takes {memory.describe()}")
        paths = tuple(absolute(each) for each in (config.out, *config.sources))
        self.enter_context(cluster(paths=paths))
        self._has_joined = True


def _num_measured(group: Group) -> int:
    return len(group.entries)


def _num_written(task: WriteTask) -> int:
    return len(task.kept)


def _describe(curation: Curation, groups: Sequence[Group]) -> str:
    number = len(curation.catalog)
    left = sum(len(group.entries) for group in groups)
    sample = f", a sample: {curation.share:.0%} of all" if curation.config.dry_run else ""
    done = f", {number - left} of them are measured" if left < number else ""
    return f"{number} raw videos{sample}{done}"


def _print_manifest(manifest: Mapping[str, Any], out: Storage) -> None:
    sources = manifest["sources"]
    print(
        f"{sources['videos']} raw videos, {duration(sources['seconds'])}: "
        f"{sources['segments']} segments, {manifest['videos']} kept"
    )
    for name, rule in manifest["rules"].items():
        if rule["segments"] or rule["marked"]:
            marked = f", {rule['marked']} marked" if rule["marked"] else ""
            print(f"  {name}: {rule['segments']} dropped{marked} ({rule['setting']})")
    print(
        f"{manifest['videos']} videos, {manifest['frames']} frames, "
        f"{manifest['bytes'] / 2**20:.1f} MiB in {len(manifest['shards'])} shards; "
        f"{len(manifest['quarantined'])} quarantined, {len(manifest['damage'])} damaged in part"
    )
    quarantined = manifest["quarantined"]
    if quarantined:
        entries = [QuarantinedVideo(each["id"], "", each["reason"]) for each in quarantined]
        print(format_quarantined(entries, MANIFEST))
    print(f"look at {out.join(PAGE).uri}")
