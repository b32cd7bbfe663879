"""The stream through Ray Data is the plan's, for any number of workers and from any clip on."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import ray
from ray.data import DataContext

from ctp.cluster.ingest import stream, worker_batches
from ctp.pretext.clips import ClipMaker, Makers, local_stream
from ctp.pretext.config import PretrainConfig

pytestmark = [pytest.mark.ray, pytest.mark.slow]


@pytest.fixture(scope="module")
def _cluster() -> Iterator[None]:
    ray.init(num_cpus=4, object_store_memory=256 * 2**20, include_dashboard=False)
    yield
    ray.shutdown()


@pytest.fixture
def maker(small_run: PretrainConfig) -> ClipMaker:
    config = small_run.replace(
        schedule={"unit": "steps", "length": 12, "decay_at": ()},
        scaling={"num_actors": 3, "cpus_per_actor": 0.5},  # they finish out of order
    )
    return Makers.of(config).train


@pytest.mark.usefixtures("_cluster")
@pytest.mark.filterwarnings("ignore::DeprecationWarning:ray")
@pytest.mark.parametrize(("world", "first_clip"), [(1, 0), (2, 0), (4, 0), (2, 20)])
def test_workers_get_the_plans_clips_in_its_order(
    maker: ClipMaker, world: int, first_clip: int
) -> None:
    DataContext.get_current().execution_options.preserve_order = True
    shards = stream(maker, first_clip, world).streaming_split(world, equal=True)
    share = maker.config.compute.total_batch // world

    def consume(shard: Any) -> list[Any]:
        return list(worker_batches(shard, share, first_clip))

    with ThreadPoolExecutor(world) as pool:
        came = list(pool.map(consume, shards))
    for rank, batches in enumerate(came):
        wanted = list(local_stream(maker, first_clip, rank, world))
        assert len(batches) == len(wanted) == 12 - first_clip // 4
        for ours, theirs in zip(batches, wanted, strict=True):
            for name in ("position", "frames", "boxes", "visible", "color"):
                assert np.array_equal(ours[name], theirs[name])
            assert list(ours["video"]) == theirs["video"]
            assert ours["rejected"] == theirs["rejected"]
