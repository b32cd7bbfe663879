"""The stream through Ray Data is the plan's, for any number of workers and from any clip on."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import ray
from ray.data import DataContext

from ctp.cluster import ingest
from ctp.cluster.ingest import MOST_STEPS_PER_BLOCK, Shares, stream, worker_batches
from ctp.pretext.clips import ClipMaker
from ctp.pretext.config import PretrainConfig
from ctp.pretext.pretrain import Pretraining
from ctp.training.maker import local_stream
from ctp.training.sealed import SealedMaker


@pytest.mark.parametrize("num_workers", [1, 2, 8, 32, 512])
@pytest.mark.parametrize("steps_per_block", [1, 3, 8])
def test_blocks_give_every_step_its_clips_in_order(num_workers: int, steps_per_block: int) -> None:
    """As if the blocks went to the workers in turn, each taking its share of a step after step."""
    batch, steps, first = 512, 11, 7 * 512
    shares = Shares(first, steps * batch, batch, num_workers, steps_per_block)
    streams: list[list[int]] = [[] for _ in range(num_workers)]
    for block in range(shares.num_blocks):
        streams[block % num_workers] += shares.positions(block)
    share = batch // num_workers
    for step in range(steps):
        came = [clip for each in streams for clip in each[step * share : (step + 1) * share]]
        assert came == list(range(first + step * batch, first + (step + 1) * batch))
    assert {len(each) for each in streams} == {steps * share}


def test_blocks_are_of_as_many_steps_as_fit(small_run: PretrainConfig) -> None:
    maker = Pretraining.of(small_run).train
    steps = Shares.of(SealedMaker.of(maker), 0, 1).steps_per_block
    assert 1 < steps <= MOST_STEPS_PER_BLOCK
    large = small_run.replace(augment={"frame_size_px": 1024, "short_sides_px": (1024,)})
    larger = SealedMaker.of(ClipMaker(large, maker.catalog))
    assert Shares.of(larger, 0, 1).steps_per_block == 1


@pytest.fixture(scope="module")
def _cluster() -> Iterator[None]:
    ray.init("local", num_cpus=4, object_store_memory=256 * 2**20, include_dashboard=False)
    yield
    ray.shutdown()


@pytest.fixture
def maker(small_run: PretrainConfig) -> ClipMaker:
    config = small_run.replace(
        schedule={"unit": "steps", "length": 12, "decay_at": ()},
        scaling={"num_actors": 3, "cpus_per_actor": 0.5},  # they finish out of order
    )
    return Pretraining.of(config).train


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.usefixtures("_cluster")
@pytest.mark.filterwarnings("ignore::DeprecationWarning:ray")
@pytest.mark.parametrize(("world", "first_clip"), [(1, 0), (2, 0), (4, 0), (2, 20)])
def test_workers_get_the_plans_clips_in_its_order(
    maker: ClipMaker, world: int, first_clip: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ingest, "MOST_STEPS_PER_BLOCK", 5)  # of 12: the last block is shorter
    DataContext.get_current().execution_options.preserve_order = True
    clips = stream(ray.put(SealedMaker.of(maker)), first_clip, world)
    shards = clips.streaming_split(world, equal=True)
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
            assert ours["quarantined"] == theirs["quarantined"]
