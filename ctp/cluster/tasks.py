"""Pass pickled tasks through actors of Ray Data that decode videos and may die."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Sequence
from typing import Any

import ray
import ray.data

from ctp.cluster.connect import Demand
from ctp.cluster.errors import stopped_errors
from ctp.cluster.losses import keep_losses
from ctp.cluster.stream import map_by_actors
from ctp.cluster.task_worker import TaskWorker, Work
from ctp.cluster.waiting import silence_reported


def run_tasks(
    tasks: Sequence[Any],
    work: Work,
    video_seconds: float,
    num_tasks: int | None,
    report: Callable[[int], None],
) -> None:
    """Do tasks on the cluster that is joined.

    A video that ends two processes is blamed; its task begins again without it.

    Args:
        tasks: anything that can be pickled.
        work: does a task.
        video_seconds: time limit for a video.
        num_tasks: tasks at the same time; None: one for each CPU.
        report: called with the number of videos done since its last call.

    Raises:
        StoppedError: the storage fails, or another process took over the folder.
    """
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.target_max_block_size = 1  # what an actor yields arrives at once
    # as bytes: Arrow would take the dataclass apart
    rows = [{"task": pickle.dumps(task)} for task in tasks]
    cpus = ray.cluster_resources().get("CPU", 0)  # type: ignore[no-untyped-call]
    at_a_time = min(num_tasks or max(int(cpus), 1), len(rows))
    demands = [Demand("builder", at_a_time, 1.0, 0.0, "num_tasks")]
    blocks = ray.data.from_items(rows, override_num_blocks=len(rows))
    arguments = work, keep_losses(), video_seconds
    done = map_by_actors(blocks, TaskWorker, arguments, at_a_time, num_cpus=1)
    with stopped_errors(), silence_reported("finished video", demands) as progress:
        for row in done.iter_rows():
            progress()
            report(int(row["videos"]))
