"""What is delivered is the run's stream, and its figures are those of the steady part."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator

import numpy as np
import pytest
import ray

from ctp.bench.processes import Memory
from ctp.cluster import ingest
from ctp.cluster.delivery import (
    Arrival,
    Delivery,
    Rate,
    Sample,
    Watch,
    arrivals_of,
    clips_per_second,
    deliver,
    wait_share,
)
from ctp.data.catalog import open_catalog
from ctp.pretext.clips import ClipMaker
from ctp.pretext.config import PretrainConfig


def batches_of(*sizes: int) -> Iterator[dict[str, np.ndarray]]:
    first = 0
    for size in sizes:
        yield {"position": np.arange(first, first + size)}
        first += size


def test_arrivals_count_the_clips() -> None:
    watch = Watch(1)
    arrivals = arrivals_of(batches_of(4, 4, 2), watch)
    assert [arrival.clips for arrival in arrivals] == [4, 8, 10]
    assert watch.clips == 10
    assert all(arrival.waited >= 0 for arrival in arrivals)


@pytest.mark.parametrize("positions", [[0, 2], [1, 2], [0, 1, 1]])
def test_what_is_not_the_stream_is_noticed(positions: list[int]) -> None:
    with pytest.raises(AssertionError, match="out of order"):
        arrivals_of([{"position": np.array(positions)}], Watch(1))


def arrivals(*at: float) -> list[Arrival]:
    """Batches of ten clips, each waited for half the time."""
    before = (0.0, *at)
    return [
        Arrival(10 * number, time, (time - before[number - 1]) / 2)
        for number, time in enumerate(at, start=1)
    ]


def test_the_rate_is_of_what_came_after_the_first() -> None:
    """70 clips in 7 seconds, however long the first ones took."""
    came = arrivals(60, 61, 62, 63, 64, 65, 66, 67)
    assert clips_per_second(came) == pytest.approx(10)
    assert wait_share(came) == pytest.approx(0.5)


def delivery(*samples: Sample) -> Delivery:
    """Two actors that deliver 160 clips/s, where one process alone makes 100 of 9 ms."""
    rate, alone = Rate(160, 10), Rate(100, 9)
    return Delivery("cpu", 2, 1000, rate, alone, 0.9, samples)


def test_the_ratio_is_of_what_all_cores_would_make() -> None:
    assert delivery().ratio == pytest.approx(0.8)
    assert delivery().cpu_ratio == pytest.approx(0.9)


def test_memory_grows_by_the_slope_of_its_samples() -> None:
    """3 MiB for each 1000 clips, whoever else uses the files; one look was not at memory."""
    looks = [
        Sample(1000 * i, 0, Memory(500 + 3 * i + of_files, 40, of_files))
        for i, of_files in enumerate((9, 0, 0, 4))
    ]
    grown = delivery(*looks, Sample(3500, 0, None))
    assert grown.mib_per_1000_clips == pytest.approx(3)
    row = grown.as_row()
    assert (row["peak_memory_mib"], row["peak_shared_mib"]) == (513, 40)
    assert json.loads(json.dumps(row)) == row
    assert delivery().mib_per_1000_clips is None
    assert delivery().as_row()["peak_memory_mib"] is None


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning:ray")
def test_a_stream_is_delivered_and_its_figures_are_there(
    small_run: PretrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every clip once and in order, or `arrivals_of` would not go on."""
    monkeypatch.setattr(ingest, "MOST_STEPS_PER_BLOCK", 5)
    config = small_run.replace(scaling={"num_actors": 2, "cpus_per_actor": 0.5})
    maker = ClipMaker(config, open_catalog("corpus:8"))
    ray.init("local", num_cpus=3, object_store_memory=256 * 2**20, include_dashboard=False)
    try:
        done = deliver(maker, 400, look_seconds=0.02)
    finally:
        ray.shutdown()
    assert done.clips == 400
    assert done.num_actors == 2
    assert done.rate.clips_per_second > 0
    assert done.alone.cpu_ms_per_clip is not None
    assert done.ratio > 0
    assert 0 < done.wait_share <= 1
    if sys.platform == "linux":
        assert all(100 <= sample.clips <= 500 for sample in done.samples)
        assert done.cpu_ratio is not None
        assert done.cpu_ratio > 0
