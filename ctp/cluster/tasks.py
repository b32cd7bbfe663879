"""Pass pickled tasks through actors of Ray Data that decode videos and may die."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import ray
import ray.data

from ctp.cluster.connect import Demand
from ctp.cluster.errors import stopped_errors
from ctp.cluster.losses import keep_losses, open_journal
from ctp.cluster.stream import Columns, map_by_actors
from ctp.cluster.waiting import silence_reported
from ctp.data.journal import Journal

Work = Callable[[Any, Journal], Iterator[int]]
"""(task, journal of the process) -> yields numbers of videos that are done."""


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
    done = map_by_actors(blocks, _Worker, arguments, at_a_time, num_cpus=1)
    with stopped_errors(), silence_reported("finished video", demands) as progress:
        for row in done.iter_rows():
            progress()
            report(int(row["videos"]))


class _Worker:
    """Does tasks. A bad video may end its process; the task is then done again."""

    def __init__(self, work: Work, losses: Any, video_seconds: float):
        # first, so that a process that dies while it starts is known
        self._journal = open_journal(losses, video_seconds, slow=True)
        self._work = work

    def __call__(self, row: Columns) -> Iterator[Columns]:
        """Do the task of a row; yield how many videos are done since the last report."""
        with self._journal.task():
            for number in self._work(pickle.loads(row["task"][0]), self._journal):
                yield {"videos": np.array([number])}
