"""Features computed by Ray equal those of one process, and errors take one line."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import ray

from ctp.cluster.errors import StoppedError
from ctp.cluster.extract import extract
from ctp.downstream.embed_config import EmbedConfig
from ctp.downstream.extraction import embed_part, open_extraction, read_part
from ctp.downstream.feature_folder import write_part
from ctp.downstream.features import open_embedder

pytestmark = [
    pytest.mark.ray,
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::DeprecationWarning:ray"),
]


@pytest.fixture(scope="module", autouse=True)
def _cluster() -> Iterator[None]:
    ray.init("local", num_cpus=4, object_store_memory=256 * 2**20, include_dashboard=False)
    yield
    ray.shutdown()


def check_the_same(first: EmbedConfig, second: EmbedConfig) -> None:
    names = sorted(file.name for file in Path(first.out).glob("part-*"))
    assert names == sorted(file.name for file in Path(second.out).glob("part-*"))
    assert names
    for name in names:
        ours, theirs = (pq.read_table(Path(each.out, name)) for each in (first, second))
        assert ours.schema.metadata == theirs.schema.metadata  # what was quarantined
        assert ours.drop(["feature"]) == theirs.drop(["feature"])
        features = [np.array(table["feature"].to_pylist()) for table in (ours, theirs)]
        np.testing.assert_allclose(*features, rtol=1e-4, atol=1e-5)


@pytest.fixture
def alone(small_embedding: EmbedConfig, tmp_path: Path) -> EmbedConfig:
    """The same, made in this process."""
    config = small_embedding.replace(out=str(tmp_path / "alone"))
    work = open_extraction(config)
    embedder = open_embedder(work.config, work.encoder)
    for number in work.left:
        write_part(
            work.folder, number, embed_part(embedder, read_part(work.config, work.catalog, number))
        )
    return config


def test_features_computed_on_ray_equal_those_of_one_process(
    small_embedding: EmbedConfig, alone: EmbedConfig
) -> None:
    scaling = {"num_readers": 2, "num_encoders": 2, "cpus_per_encoder": 0.5}
    work = open_extraction(small_embedding.replace(scaling=scaling))
    shown: list[int] = []
    extract(work, shown.append)
    assert shown == [2, 2, 2]
    check_the_same(small_embedding, alone)
    Path(small_embedding.out, "part-00001.parquet").unlink()
    extract(open_extraction(small_embedding), shown.append)
    assert shown == [2, 2, 2, 2]
    check_the_same(small_embedding, alone)


@pytest.mark.skipif(not Path("/proc").exists(), reason="finds processes by /proc")
def test_lost_actors_change_nothing(
    small_embedding: EmbedConfig, alone: EmbedConfig, own_processes: Callable[[str], list[int]]
) -> None:
    over, killed = threading.Event(), set[str]()

    def kill_each_kind_once() -> None:
        while not over.is_set() and len(killed) < 2:
            for name in {"ray::MapWorker(MapBatches(_Reader))", "ray::MapWorker(MapBatches(_Enc"}:
                found = own_processes(name)
                if name not in killed and found:
                    os.kill(found[0], signal.SIGKILL)
                    killed.add(name)
            time.sleep(0.05)

    killer = threading.Thread(target=kill_each_kind_once)
    killer.start()
    try:
        extract(open_extraction(small_embedding), lambda number: None)
    finally:
        over.set()
        killer.join()
    assert len(killed) == 2
    check_the_same(small_embedding, alone)


def test_a_storage_fault_stops_the_job(small_embedding: EmbedConfig) -> None:
    work = open_extraction(small_embedding)
    for name in ("part-00000.parquet", "part-00001.parquet", "part-00002.parquet"):
        Path(small_embedding.out, name).mkdir()  # in the way of what is written
    with pytest.raises(StoppedError, match=r"^cannot write .*part-0000") as caught:
        extract(work, print)
    assert "\n" not in str(caught.value)


def test_a_job_that_does_not_fit_the_cluster_is_refused(small_embedding: EmbedConfig) -> None:
    work = open_extraction(small_embedding.replace(scaling={"num_readers": 9}))
    with pytest.raises(ValueError, match=r"needs 10 CPUs .* the cluster offers 4"):
        extract(work, print)
