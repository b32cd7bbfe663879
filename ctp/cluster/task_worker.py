"""The actor that does tasks. It imports no torch, which would take most of its memory."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from ctp.cluster.losses import open_journal
from ctp.data.journal import Journal

Work = Callable[[Any, Journal], Iterator[int]]
"""(task, journal of the process) -> yields numbers of videos that are done."""


class TaskWorker:
    """Does tasks. A bad video may end its process; the task is then done again."""

    def __init__(self, work: Work, losses: Any, video_seconds: float):
        # first, so that a process that dies while it starts is known
        self._journal = open_journal(losses, video_seconds, slow=True)
        self._work = work

    def __call__(self, row: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """Do the task of a row; yield how many videos are done since the last report."""
        with self._journal.task():
            for number in self._work(pickle.loads(row["task"][0]), self._journal):
                yield {"videos": np.array([number])}
