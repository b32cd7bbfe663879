"""Shards built by Ray equal those built in one process, and errors take one line."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import ray

from ctp.build.build import build_shard, find_sources, finished_parts, plan_shards
from ctp.build.config import BuildConfig, TranscodeConfig
from ctp.cluster.build import build
from ctp.cluster.errors import StoppedError

pytestmark = [
    pytest.mark.ray,
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::DeprecationWarning:ray"),
]


@pytest.fixture(scope="module", autouse=True)
def _cluster() -> Iterator[None]:
    ray.init("local", num_cpus=3, object_store_memory=256 * 2**20, include_dashboard=False)
    yield
    ray.shutdown()


@pytest.fixture
def config(video_folder: Callable[..., Path], tmp_path: Path) -> BuildConfig:
    return BuildConfig(
        source=str(video_folder(good=20, bad=1)),
        out=str(tmp_path / "ray"),
        num_shards=2,
        transcode=TranscodeConfig(short_side_px=32),
    )


def test_shards_built_on_ray_equal_those_of_one_process(
    config: BuildConfig, tmp_path: Path
) -> None:
    contents = find_sources(config)
    tasks = plan_shards(config, contents)
    shown: list[int] = []
    build(config, tasks, shown.append)
    assert sum(shown) == 21
    assert max(shown) <= 8  # reported on the way, not at the end
    alone = config.replace(out=str(tmp_path / "alone"))
    for task in plan_shards(alone, contents):
        list(build_shard(task, config.transcode))
    names = [task.name for task in tasks]
    by_ray, by_one = (finished_parts(each.out, names) for each in (config, alone))
    assert set(by_ray) == set(names)
    assert by_ray == by_one  # checksums and all


@pytest.mark.skipif(not Path("/proc").exists(), reason="finds processes by /proc")
def test_a_killed_actor_changes_nothing(
    config: BuildConfig,
    video_folder: Callable[..., Path],
    own_processes: Callable[[str], list[int]],
    tmp_path: Path,
) -> None:
    video_folder(good=100)
    config = config.replace(num_shards=1)
    contents = find_sources(config)
    killed: list[int] = []

    def kill_first_worker(number: int) -> None:
        if not killed:
            killed.extend(own_processes("ray::MapWorker(MapBatches(TaskWorker))"))
            os.kill(killed[0], signal.SIGKILL)

    (task,) = plan_shards(config, contents)
    build(config, [task], kill_first_worker)
    assert killed
    alone = config.replace(out=str(tmp_path / "alone"))
    (same,) = plan_shards(alone, contents)
    list(build_shard(same, config.transcode))
    assert finished_parts(config.out, [task.name]) == finished_parts(alone.out, [task.name])


def test_a_failing_storage_stops_the_build(config: BuildConfig, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    config = config.replace(out=str(tmp_path / "file"), num_shards=1)
    tasks = plan_shards(config, find_sources(config))
    with pytest.raises(StoppedError, match=r"^cannot write .*\.parquet") as caught:
        build(config, tasks, print)
    assert "\n" not in str(caught.value)
