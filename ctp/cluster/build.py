"""Building shards by Ray Data: a task for each, wherever there is a CPU, again if it is lost."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator, Sequence
from functools import cache, partial
from typing import Any

import ray
import ray.data
from ray.data import TaskPoolStrategy

from ctp.build.build import ShardTask, build_shard, guarded_converter
from ctp.build.config import BuildConfig
from ctp.build.convert import Convert
from ctp.cluster.connect import DATA_PLUMBING_CPUS
from ctp.cluster.faults import told_in_a_line

VIDEOS_A_REPORT = 8
"""What tells of progress costs Ray about as long as a short video."""

Show = Callable[[int], None]
"""Is told how many videos are done since it was told last."""


def build(config: BuildConfig, tasks: Sequence[ShardTask], show: Show) -> None:
    """Build shards on the cluster that is joined.

    Raises:
        StoppedError: the storage fails, or processes end that work on no video.
    """
    with told_in_a_line():
        for row in _done(config, tasks).iter_rows():
            show(int(row["videos"]))


def _done(config: BuildConfig, tasks: Sequence[ShardTask]) -> ray.data.Dataset:
    """How many videos are done, a row now and then, while it is read."""
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.target_max_block_size = 1  # what a task yields is told at once
    rows = [{"task": pickle.dumps(task)} for task in tasks]
    cpus = ray.cluster_resources().get("CPU", 0) - DATA_PLUMBING_CPUS  # type: ignore[no-untyped-call]
    at_a_time = config.num_tasks or max(int(cpus), 1)
    return ray.data.from_items(rows, override_num_blocks=len(rows)).map_batches(
        partial(_build, config=config),
        batch_size=1,
        compute=TaskPoolStrategy(size=min(at_a_time, len(rows))),
        num_cpus=1,
    )


def _build(batch: dict[str, Any], config: BuildConfig) -> Iterator[dict[str, list[int]]]:
    """Build the shard of a row; a task that is tried again yields as many rows as at first."""
    task: ShardTask = pickle.loads(batch["task"][0])
    unsaid = 0
    for _ in build_shard(task, _converter(config)):
        unsaid += 1
        if unsaid == VIDEOS_A_REPORT:
            yield {"videos": [unsaid]}
            unsaid = 0
    yield {"videos": [unsaid]}


@cache
def _converter(config: BuildConfig) -> Convert:
    """One for all the shards that this process builds: its child takes seconds to start."""
    return guarded_converter(config)
