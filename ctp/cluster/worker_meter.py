"""Measurements of a training worker, from the times at which it takes its batches.

The meter never waits for the device: the delay of a worker is visible at its next batch.
"""

from __future__ import annotations

import time
from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from ctp.training.trainer import peak_memory_gib

REPORT_SECONDS = 5.0
MAX_QUEUED_STEPS = 10_000
"""Longer queues are reported as this long."""

B = TypeVar("B")
"""A batch."""


class WorkerMeter:
    """Measures one worker and reports every few seconds."""

    def __init__(
        self,
        report: Callable[[dict[str, float]], None],
        *,
        monotonic: Callable[[], float] = time.monotonic,
        now: Callable[[], float] = time.time,
    ):
        """Start.

        Args:
            report: is called with values named as in `ctp.cluster.metrics.WORKER_GAUGES`; it must
                not block.
            monotonic: a clock for durations, in seconds.
            now: seconds since 1970.
        """
        self._report, self._monotonic, self._now = report, monotonic, now
        self._taken: deque[float] = deque(maxlen=MAX_QUEUED_STEPS)

    def watch(self, batches: Iterable[tuple[B, float]]) -> Iterator[B]:
        """Yield the batches.

        Args:
            batches: pairs of a batch and the time at which it was drawn, in seconds since 1970.
        """
        iterator = iter(batches)
        began, waited, steps = self._monotonic(), 0.0, 0
        while True:
            asked = self._monotonic()
            try:
                batch, drawn_time = next(iterator)
            except StopIteration:
                return
            got = self._monotonic()
            waited, steps = waited + got - asked, steps + 1
            if got - began >= REPORT_SECONDS:
                self._report(
                    {
                        "worker_step_seconds": (got - began) / steps,
                        "worker_wait_share": waited / (got - began),
                        "worker_queue_steps": self._queued(drawn_time),
                        "worker_memory_gib": peak_memory_gib(),
                    }
                )
                began, waited, steps = got, 0.0, 0
            self._taken.append(self._now())
            yield batch

    def _queued(self, drawn_time: float) -> float:
        """Return how many batches were taken since a batch was drawn: it waited behind them."""
        taken = list(self._taken)
        return float(len(taken) - bisect_right(taken, drawn_time))
