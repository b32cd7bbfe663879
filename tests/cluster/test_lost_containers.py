"""A video that ends the container that decodes it, as Kubernetes does for lack of memory.

Each container is a node of a Ray cluster with its own folder for temporary files. A lost one is
replaced by a new one, in which nothing is left of it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

import pytest
import ray
from ray.cluster_utils import Cluster

from ctp.cluster import stream as cluster_stream
from ctp.cluster.losses import keep_losses
from ctp.cluster.stream import BlockLayout, StreamSpec, worker_batches, worker_blocks
from ctp.pretext.config import PretrainConfig
from ctp.pretext.pretraining import open_pretraining

pytestmark = [
    pytest.mark.ray,
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::DeprecationWarning:ray"),
]

ROOT = Path(__file__).parents[2]
NUM_VIDEOS, STEPS = 8, 20
# the process of a node that starts the others is their parent
FAULTS = """
import av, os, signal

av_open = av.open

def open_faulty(file, *args, **options):
    data = file.getvalue() if hasattr(file, "getvalue") else b""
    if data.endswith(b"large"):
        with open(os.environ["FAULTS_LOG"], "a") as log:
            log.write("large\\n")
        os.kill(os.getppid(), signal.SIGKILL)
        os.kill(os.getpid(), signal.SIGKILL)
    return av_open(file, *args, **options)

av.open = open_faulty
"""


@pytest.fixture
def videos(tmp_path: Path, encode_video: Callable[..., bytes]) -> Path:
    """A folder of videos, of which 5.mkv ends the container that opens it."""
    folder = tmp_path / "videos"
    folder.mkdir()
    for number in range(NUM_VIDEOS):
        data = encode_video(20, width=64 + 2 * number, height=48, format="matroska")
        if number == 5:
            data += b"\xec\x85large"  # an element that players skip
        (folder / f"{number}.mkv").write_bytes(data)
    return folder


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    """A head that decodes nothing; it notices lost nodes within seconds."""
    (tmp_path / "sitecustomize.py").write_text(FAULTS)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), str(ROOT)]))
    monkeypatch.setenv("FAULTS_LOG", str(tmp_path / "faults.log"))
    system = {"health_check_period_ms": 500, "health_check_failure_threshold": 4}
    cluster = Cluster(
        initialize_head=True,
        head_node_args={
            "num_cpus": 0, "object_store_memory": 256 * 2**20, "_system_config": system,
        },
    )  # fmt: skip
    ray.init(cluster.address)
    yield cluster
    ray.shutdown()
    cluster.shutdown()


def result_with_containers(
    cluster: Cluster, folder: Path, monkeypatch: pytest.MonkeyPatch, future: Future[Any]
) -> Any:
    """Wait for a result; replace a node of the cluster whenever it is lost."""
    number, node = 0, None
    while not future.done():
        if node is None or not node.remaining_processes_alive():
            number += 1
            temporary = folder / f"container{number}"
            temporary.mkdir()
            monkeypatch.setenv("TMPDIR", str(temporary))
            # a CPU for each actor, and one for the tasks that feed them
            node = cluster.add_node(num_cpus=3, object_store_memory=256 * 2**20)
        wait([future], timeout=0.2)
    return future.result()


def test_a_video_that_ends_two_containers_is_not_tried_again(
    small_run: PretrainConfig,
    videos: Path,
    cluster: Cluster,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Both actors of the container have it in their tasks, and die; other videos are not blamed."""
    config = small_run.replace(
        data={"uri": str(videos), "heldout_share": 0.0},
        schedule={"unit": "steps", "length": STEPS, "decay_at": ()},
        scaling={"num_actors": 2},
    )
    stream = open_pretraining(config).stream
    monkeypatch.setattr(cluster_stream, "BLOCK_SAMPLES", 8)  # both actors have blocks to draw
    spec, losses = StreamSpec.from_stream(config, stream), keep_losses()

    def consume() -> list[Any]:
        blocks = worker_blocks(ray.put(stream), spec, BlockLayout.from_spec(spec, 0, 1), losses)
        return list(worker_batches(blocks, stream.drawer, stream.total_batch))

    with ThreadPoolExecutor(1) as pool:
        batches = result_with_containers(cluster, tmp_path, monkeypatch, pool.submit(consume))
    positions = [int(position) for batch in batches for position in batch.positions]
    assert positions == list(range(STEPS * stream.total_batch))
    entries: list[Any] = [entry for batch in batches for entry in batch.quarantined]
    assert {Path(entry.uri).name for entry in entries} == {"5.mkv"}
    assert "lost with its machine or container" in entries[0].reason
    assert entries[0].is_lethal
    assert (tmp_path / "faults.log").read_text().splitlines() == ["large"] * 2
    assert not any(batch.errors for batch in batches)
