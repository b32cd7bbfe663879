"""The run's stream is received in order, and its figures are those of the timed part."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from ctp.bench.processes import Memory
from ctp.cluster.delivery import Arrival, Delivery, Drawn, receive
from ctp.data.stream import Batch


def batch_of(*positions: int, errors: tuple[str, ...] = ()) -> Batch[Any]:
    return Batch(np.array(positions, np.int64), (), [], list(errors))


def test_arrivals_count_the_clips() -> None:
    batches = [batch_of(0, 1, 2, 3), batch_of(4, 5, 6, 7), batch_of(8, 9)]
    arrivals = receive(batches, usage_seconds=0)
    assert [arrival.clips for arrival in arrivals] == [4, 8, 10]
    assert all(arrival.wait_seconds >= 0 for arrival in arrivals)
    if sys.platform == "linux":
        assert all(arrival.cpu_seconds for arrival in arrivals)
        assert [arrival.memory is not None for arrival in arrivals] == [True, False, False]


@pytest.mark.skipif(sys.platform != "linux", reason="CPU time of all processes is read from /proc")
def test_cpu_time_is_measured_where_it_is_asked_for_however_fast_the_batches_come() -> None:
    batches = [batch_of(2 * number, 2 * number + 1) for number in range(5)]
    arrivals = receive(batches, usages_at=(4, 8), usage_seconds=1e6)
    measured = [each.clips for each in arrivals if each.cpu_seconds is not None]
    assert measured == [2, 4, 8]


@pytest.mark.parametrize("positions", [(0, 2), (1, 2), (0, 1, 1)])
def test_samples_out_of_order_are_an_error(positions: tuple[int, ...]) -> None:
    with pytest.raises(AssertionError, match="order"):
        receive([batch_of(*positions)])


def test_a_sample_that_cannot_be_drawn_is_an_error() -> None:
    with pytest.raises(ValueError, match="no disk"):
        receive([batch_of(0, errors=("no disk",))])


def delivery(*arrivals: Arrival) -> Delivery:
    """Two actors; one process alone draws 10 clips/s, 90 ms of CPU time each."""
    return Delivery("ctp", 2, arrivals, Drawn(50, 5, 4.5))


def arrivals_at(*seconds: float) -> Iterator[Arrival]:
    """Batches of ten clips that take a second of CPU time; the worker waits half the time."""
    before = seconds[0]
    for number, now in enumerate(seconds, start=1):
        yield Arrival(10 * number, now, (now - before) / 2, cpu_seconds=5.0 + number)
        before = now


def test_speed_is_of_the_clips_after_the_first_arrival() -> None:
    """70 clips in 7 · ⅝ seconds are 16 clips/s, 100 ms of CPU time each."""
    came = delivery(*arrivals_at(*(60 + number * 0.625 for number in range(8))))
    assert came.clips == 70
    assert came.clips_per_second == pytest.approx(16)
    assert came.cpu_ms_per_clip == pytest.approx(100)
    assert came.wait_share == pytest.approx(0.5)


def test_efficiency_is_the_fraction_of_linear_scaling() -> None:
    came = delivery(*arrivals_at(*(number * 0.625 for number in range(8))))
    assert came.efficiency == pytest.approx(0.8)  # 16 of 2 · 10 clips/s
    assert came.figures()["cpu_efficiency"] == pytest.approx(0.9)


def test_memory_grows_by_the_slope_of_its_measurements() -> None:
    """3 MiB for each 1000 clips; memory of files is left out."""
    measured = [
        Arrival(1000 * i, i, 0, i, Memory(500 + 3 * i + files, 40, files))
        for i, files in enumerate((9, 0, 0, 4))
    ]
    grown = delivery(*measured, Arrival(3500, 4, 0))
    assert grown.mib_per_1000_clips == pytest.approx(3)
    figures = grown.figures()
    assert (figures["peak_memory_mib"], figures["peak_shared_mib"]) == (513, 40)
    assert json.loads(json.dumps(figures)) == figures


def test_figures_of_a_system_without_proc_are_none() -> None:
    came = delivery(Arrival(10, 1, 0), Arrival(20, 2, 0.5))
    figures = came.figures()
    assert figures["clips_per_second"] == 10
    for name in ("cpu_ms_per_clip", "cpu_efficiency", "peak_memory_mib", "mib_per_1000_clips"):
        assert figures[name] is None
