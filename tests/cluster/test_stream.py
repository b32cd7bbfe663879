"""The stream through Ray Data is the plan's, for any number of workers and from any sample on."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import ray
import ray.data

from ctp.cluster import stream as cluster_stream
from ctp.cluster.losses import keep_losses
from ctp.cluster.pacing import ROUND_SECONDS, PacedRounds, pace
from ctp.cluster.stream import (
    BLOCK_SAMPLES,
    BlockLayout,
    StreamSpec,
    from_row,
    map_by_actors,
    to_row,
    worker_batches,
    worker_blocks,
)
from ctp.data.stream import Batch
from ctp.pretext.config import PretrainConfig
from ctp.pretext.pretraining import open_pretraining
from ctp.training.trainer import TrainingSpec


@pytest.mark.parametrize("num_workers", [1, 2, 8, 32, 512])
@pytest.mark.parametrize("steps_per_block", [1, 3, 8])
def test_blocks_give_every_step_its_samples_in_order(
    num_workers: int, steps_per_block: int
) -> None:
    """Each worker takes its share of step after step."""
    batch, steps, first = 512, 11, 7 * 512
    streams: list[list[int]] = []
    for rank in range(num_workers):
        layout = BlockLayout(first, steps * batch, batch, num_workers, rank, steps_per_block)
        blocks = [layout.positions(block) for block in range(layout.num_blocks)]
        assert {len(each) for each in blocks[:-1]} <= {steps_per_block * layout.worker_batch}
        streams.append([position for block in blocks for position in block])
    share = batch // num_workers
    for step in range(steps):
        came = [s for each in streams for s in each[step * share : (step + 1) * share]]
        assert came == list(range(first + step * batch, first + (step + 1) * batch))
    assert {len(each) for each in streams} == {steps * share}


def test_blocks_hold_as_many_steps_as_fit(small_run: PretrainConfig) -> None:
    def steps_per_block(config: PretrainConfig) -> int:
        spec = StreamSpec.from_stream(config, open_pretraining(config).stream)
        return BlockLayout.from_spec(spec, 0, 1).steps_per_block

    assert steps_per_block(small_run) == BLOCK_SAMPLES // small_run.compute.total_batch
    augment = {"frame_size_px": 4096, "short_sides_px": (4096,)}
    assert steps_per_block(small_run.replace(task=small_run.task.replace(augment=augment))) == 1


def check_equal(ours: Batch[Any], theirs: Batch[Any]) -> None:
    assert type(ours.samples) is type(theirs.samples)
    for first, second in zip(ours.samples, theirs.samples, strict=True):
        assert first.dtype == second.dtype
        np.testing.assert_array_equal(first, second)
    np.testing.assert_array_equal(ours.positions, theirs.positions)
    assert (ours.quarantined, ours.errors) == (theirs.quarantined, theirs.errors)


@pytest.mark.parametrize("curriculum", [None, (0.3, 0.7)])
def test_a_block_keeps_samples_quarantined_videos_and_errors(
    small_run: PretrainConfig, video_folder: Any, curriculum: tuple[float, float] | None
) -> None:
    task = small_run.task.replace(curriculum=curriculum)  # without, a field has no elements
    for folder in (video_folder(good=3, bad=3), video_folder(bad=2)):
        config = small_run.replace(task=task, data={"uri": str(folder)})
        stream = open_pretraining(config).stream
        drawn = stream.draw_many(range(4))
        came = list(from_row(to_row(drawn, 5.0), stream.drawer, 2))
        assert [drawn_time for _, drawn_time in came] == [5.0, 5.0]
        for (ours, _), part in zip(came, (drawn[:2], drawn[2:]), strict=True):
            check_equal(ours, Batch.from_drawn(part))


@pytest.fixture(scope="module")
def _cluster() -> Iterator[None]:
    ray.init(
        "local",
        num_cpus=4,
        num_gpus=1,  # a number for Ray, whether or not there is one
        object_store_memory=256 * 2**20,
        include_dashboard=False,
    )
    yield
    ray.shutdown()


@pytest.fixture
def spec(small_run: PretrainConfig) -> TrainingSpec[Any]:
    config = small_run.replace(
        schedule={"unit": "steps", "length": 12, "decay_at": ()},
        scaling={"num_actors": 3},  # they finish out of order
    )
    return open_pretraining(config)


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.usefixtures("_cluster")
@pytest.mark.filterwarnings("ignore::DeprecationWarning:ray")
# Ray Data leaves a log file open where a process has several streams
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize(("world_size", "first"), [(1, 0), (4, 0), (2, 20)])
def test_workers_get_the_plans_samples_in_its_order(
    spec: TrainingSpec[Any], world_size: int, first: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream, losses = spec.stream, keep_losses()
    share = stream.total_batch // world_size
    # of 12: the last is shorter
    monkeypatch.setattr(cluster_stream, "BLOCK_SAMPLES", 5 * share)
    described, reference = StreamSpec.from_stream(spec.config, stream), ray.put(stream)

    def consume(rank: int) -> list[Batch[Any]]:
        layout = BlockLayout.from_spec(described, first, world_size, rank)
        assert layout.steps_per_block == 5
        blocks = worker_blocks(reference, described, layout, losses)
        return list(worker_batches(blocks, stream.drawer, share))

    with ThreadPoolExecutor(world_size) as pool:
        came = list(pool.map(consume, range(world_size)))
    for rank, batches in enumerate(came):
        expected = list(stream.batches(first, rank, world_size))
        assert len(batches) == len(expected) == 12 - first // 4
        for ours, theirs in zip(batches, expected, strict=True):
            check_equal(ours, theirs)


class GpuShare:
    """Returns the rows of a block and the share of a GPU that this actor has."""

    def __call__(self, block: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        share = ray.get_runtime_context().get_assigned_resources()["GPU"]
        return {"rows": np.array([len(block["item"])]), "share": np.array([share])}


@pytest.mark.ray
@pytest.mark.usefixtures("_cluster")
@pytest.mark.filterwarnings("ignore::DeprecationWarning:ray")
def test_actors_with_a_share_of_a_gpu_get_whole_blocks() -> None:
    blocks = ray.data.from_items(list(range(10)), override_num_blocks=2)
    mapped = map_by_actors(blocks, GpuShare, (), 2, num_cpus=0.5, num_gpus=0.25)
    assert mapped.take_all() == [{"rows": 5, "share": 0.25}] * 2


@pytest.mark.ray
@pytest.mark.usefixtures("_cluster")
@pytest.mark.filterwarnings("ignore::DeprecationWarning:ray")
def test_ray_data_keeps_the_pace(monkeypatch: pytest.MonkeyPatch) -> None:
    rounds: list[float] = []
    original = PacedRounds.on_execution_step

    def count(self: PacedRounds, executor: Any) -> None:
        original(self, executor)
        rounds.append(time.monotonic())

    monkeypatch.setattr(PacedRounds, "on_execution_step", count)
    data = ray.data.range(20, override_num_blocks=20).map_batches(lambda batch: batch)
    pace(data.context)
    for _ in data.iter_batches(batch_size=None):
        time.sleep(0.05)
    assert len(rounds) > 2
    assert (rounds[-1] - rounds[0]) / (len(rounds) - 1) >= ROUND_SECONDS - 0.001
