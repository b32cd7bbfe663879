"""A worker's measurements, with clocks that the test turns."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from ctp.cluster.metrics import WORKER_GAUGES
from ctp.cluster.worker_meter import WorkerMeter


class Clock:
    """Shows the seconds that the test sets."""

    def __init__(self) -> None:
        self.seconds = 1000.0

    def __call__(self) -> float:
        return self.seconds


def batch(drawn: float) -> tuple[str, float]:
    return "samples", drawn


def test_a_worker_is_measured_by_its_batches() -> None:
    """Each batch arrives after a second of waiting, is worked on for three, and was drawn ten
    seconds before, so the worker took two or three others meanwhile."""
    clock, reports = Clock(), list[dict[str, float]]()

    def batches() -> Iterator[tuple[str, float]]:
        for _ in range(12):
            clock.seconds += 1
            yield batch(drawn=clock.seconds - 10)

    meter = WorkerMeter(reports.append, monotonic=clock, now=clock)
    for came in meter.watch(batches()):
        assert came == "samples"
        clock.seconds += 3
    # the first after two batches, when 5 s have passed
    assert len(reports) == 6
    assert all(report.keys() == WORKER_GAUGES.keys() for report in reports)
    assert reports[0]["worker_step_seconds"] == 2.5
    assert reports[0]["worker_wait_share"] == 0.4
    assert reports[0]["worker_queue_steps"] == 1
    for report in reports[1:]:
        assert report["worker_step_seconds"] == 4
        assert report["worker_wait_share"] == 0.25
        assert report["worker_queue_steps"] == 2
        assert 0 < report["worker_memory_gib"] < 1000


@pytest.mark.parametrize("ahead", [0, 1, 7])
def test_the_queue_is_as_long_as_the_batches_ahead(ahead: int) -> None:
    """All batches exist from the start but the last, which is drawn when `ahead` are left."""
    clock, reports = Clock(), list[dict[str, float]]()

    def batches() -> Iterator[tuple[str, float]]:
        for number in range(10):
            if number == 10 - ahead:
                drawn = clock.seconds - 1e-3
            yield batch(drawn=1000)
        if not ahead:
            drawn = clock.seconds
        yield batch(drawn)

    for _ in WorkerMeter(reports.append, monotonic=clock, now=clock).watch(batches()):
        clock.seconds += 6
    assert reports[-1]["worker_queue_steps"] == ahead


def test_a_fast_worker_reports_seldom() -> None:
    clock, reports = Clock(), list[dict[str, float]]()
    for _ in WorkerMeter(reports.append, monotonic=clock, now=clock).watch([batch(1000)] * 1000):
        clock.seconds += 0.01
    assert len(reports) == 1
