"""Pretraining on a real local cluster, through the job as its user starts it."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import IO, Any

import pytest

from ctp.cluster.errors import FINAL_STATUS
from ctp.encoders.weights import stored_metadata
from ctp.versions import written_by

ROOT = Path(__file__).parents[2]
JOB = str(ROOT / "jobs" / "pretrain.py")
STEPS = 40
TIMEOUT_SECONDS = 600
TRAIN_WORKER, ACTOR = "RayTrainWorker", "MapWorker"
COORDINATOR = "ray::RunCoordinator"

pytestmark = [pytest.mark.ray, pytest.mark.slow]

SMALL: dict[str, Any] = {
    "config": Path(__file__).with_name("small.yaml"),
    "data.uri": "corpus:24",
    "schedule.length": STEPS,
}


def command(storage: Path, name: str, **options: Any) -> list[str]:
    chosen = SMALL | {"storage": storage, "name": name} | {
        key.replace("__", "."): value for key, value in options.items()
    }  # fmt: skip
    return [sys.executable, JOB, *(f"--{key}={value}" for key, value in chosen.items())]


def start(
    argv: list[str], out: int | IO[str] = subprocess.PIPE, **environment: str
) -> subprocess.Popen[str]:
    # a session of its own, so that a kill takes the whole run and nothing else
    return subprocess.Popen(
        argv, stdout=out, stderr=subprocess.STDOUT, text=True, start_new_session=True,
        env=os.environ | {"PYTHONPATH": str(ROOT), "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2"}
        | environment,
    )  # fmt: skip


def finish(argv: list[str]) -> str:
    with start(argv) as process:
        out, _ = process.communicate(timeout=TIMEOUT_SECONDS)
    assert process.returncode == 0, out
    return out


def steps(storage: Path, name: str) -> list[dict[str, float]]:
    path = storage / name / "metrics.jsonl"
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text().split("\n")[:-1]]


def losses(storage: Path, name: str) -> list[tuple[float, ...]]:
    return [
        (row["step"], row["loss"], row["loss_center"], row["loss_size"])
        for row in steps(storage, name)
    ]


def wait_until(process: subprocess.Popen[str], is_so: Callable[[], bool]) -> None:
    """The process must live until then."""
    deadline = time.monotonic() + TIMEOUT_SECONDS
    while not is_so():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline, "the run does not get on"
        time.sleep(0.05)


def wait_for_step(process: subprocess.Popen[str], storage: Path, name: str, step: int) -> None:
    wait_until(process, lambda: any(row["step"] >= step for row in steps(storage, name)))


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def whole(storage: Path) -> str:
    """What a run that nothing happened to prints."""
    return finish(command(storage, "whole"))


def test_a_run_by_the_job(storage: Path, whole: str) -> None:
    assert [row["step"] for row in steps(storage, "whole")] == list(range(1, STEPS + 1))
    assert f"step {STEPS}/{STEPS}" in whole
    assert "held-out tracking IoU" in whole
    assert "encoder.safetensors after" in whole
    assert "ottleneck" in whole
    names = {path.name for path in (storage / "whole").iterdir()}
    assert {"config.yaml", "metrics.jsonl", "encoder.safetensors", "curves.png"} <= names
    encoder = (storage / "whole" / "encoder.safetensors").read_bytes()
    metadata = stored_metadata(encoder, "encoder")
    assert json.loads(metadata["written_by"]) == written_by()
    assert "is finished" in finish(command(storage, "whole"))  # started again
    assert (storage / "whole" / "encoder.safetensors").read_bytes() == encoder


def test_the_stream_of_ray_data_is_the_stream_of_one_process(
    storage: Path, whole: str, pretrain_alone: Callable[[list[str]], None]
) -> None:
    pretrain_alone(command(storage, "alone", log_every_steps=10)[2:])
    assert losses(storage, "alone") == losses(storage, "whole")


def test_a_run_with_faults_equals_an_uninterrupted_one_bit_for_bit(
    storage: Path,
    whole: str,
    held: Callable[[int, str], AbstractContextManager[None]],
    processes_of: Callable[..., list[int]],
    kill_session: Callable[[int], None],
) -> None:
    """A run is stopped as `ray job stop` and Kubernetes do, and saves only for this reason. While
    it lives, another run of its name is refused.

    The run that resumes it loses an actor, as for lack of memory, then the coordinator, then the
    training worker, and is killed in the end.
    """
    rarely = storage / "rarely.yaml"
    rarely.write_text(SMALL["config"].read_text().replace("every_steps: 5", "every_minutes: 60"))
    stop_output = storage / "stopped.txt"
    with (
        stop_output.open("w") as file,
        start(command(storage, "stopped", config=rarely), file) as process,
    ):
        wait_for_step(process, storage, "stopped", 7)
        with held(process.pid, TRAIN_WORKER):  # or it would finish before the signal reaches it
            with start([*command(storage, "stopped"), "--seed=1"]) as second:
                refused, _ = second.communicate(timeout=TIMEOUT_SECONDS)
            process.terminate()
            wait_until(process, lambda: "saving before the run stops" in stop_output.read_text())
        process.wait(TIMEOUT_SECONDS)
    assert second.returncode == 1, refused
    assert f"in use by attempt 1 (pretrain, process {process.pid} on host" in refused
    out = stop_output.read_text()
    assert process.returncode == 1, out
    saved = re.search(r"saved after step (\d+)", out)
    assert saved, out
    first_step = int(saved[1])
    assert first_step >= 7
    assert "The same command with --name stopped resumes the run" in out

    def kill(title: str) -> None:
        wait_until(process, lambda: bool(processes_of(process.pid, title)))
        os.kill(processes_of(process.pid, title)[0], signal.SIGKILL)

    argv, second_output = command(storage, "stopped"), storage / "hurt.txt"
    with second_output.open("w") as file, start(argv, file) as process:
        for title in (ACTOR, COORDINATOR):
            kill(title)
        wait_for_step(process, storage, "stopped", first_step + 6)
        kill(TRAIN_WORKER)
        wait_for_step(process, storage, "stopped", first_step + 14)
        kill_session(process.pid)
    assert f"resuming after step {first_step}" in second_output.read_text()
    assert not (storage / "stopped" / "encoder.safetensors").exists()
    out = finish(argv)
    assert "as attempt 3" in out
    assert "could not be used" not in out
    assert f"step {STEPS}/{STEPS}" in out
    assert losses(storage, "stopped") == losses(storage, "whole")


def test_fewer_workers_continue_when_a_node_is_lost(storage: Path, whole: str) -> None:
    from ray.cluster_utils import Cluster

    def node(cpus: int) -> dict[str, int]:
        return {"num_cpus": cpus, "object_store_memory": 256 * 2**20}

    argv = command(
        storage, "shrunk", scaling__num_workers=2, scaling__min_workers=1,
        scaling__cpus_per_worker=3,
    )  # fmt: skip
    # the head has room for actors alone, the others for a worker each
    cluster = Cluster(initialize_head=True, head_node_args=node(2))
    try:
        leaving, _ = cluster.add_node(**node(3)), cluster.add_node(**node(3))
        with start(argv, RAY_ADDRESS=cluster.address) as process:
            wait_for_step(process, storage, "shrunk", 8)
            cluster.remove_node(leaving)
            out, _ = process.communicate(timeout=TIMEOUT_SECONDS)
        assert process.returncode == 0, out
    finally:
        cluster.shutdown()
    workers = [row["workers"] for row in steps(storage, "shrunk")]
    assert workers[0] == 2
    assert workers[-1] == 1
    ours, theirs = losses(storage, "shrunk"), losses(storage, "whole")
    # the same clips to the same weights; then rounding grows from step to step
    for step in range(workers.index(1) + 2):
        assert ours[step] == pytest.approx(theirs[step], rel=1e-5)
    assert [loss for _, loss, *_ in ours] == pytest.approx([loss for _, loss, *_ in theirs], 1e-2)


def test_no_sample_is_lost_with_a_node(
    storage: Path, pretrain_alone: Callable[[list[str]], None]
) -> None:
    from ray.cluster_utils import Cluster

    large = {  # clips that take longer to make than a node to leave
        "task__sampling__num_frames": 16, "task__augment__frame_size_px": 112,
        "task__augment__short_sides_px": 112, "schedule__length": 60,
        "evaluation__num_clips": 0, "scaling__num_actors": 2, "scaling__cpus_per_worker": 0.5,
    }  # fmt: skip
    node = {"num_cpus": 4, "object_store_memory": 256 * 2**20}
    cluster = Cluster(initialize_head=True, head_node_args=node)
    try:
        leaving = cluster.add_node(**node)
        with start(command(storage, "left", **large), RAY_ADDRESS=cluster.address) as process:
            wait_for_step(process, storage, "left", 1)
            cluster.remove_node(leaving)
            out, _ = process.communicate(timeout=TIMEOUT_SECONDS)
        assert process.returncode == 0, out
    finally:
        cluster.shutdown()
    pretrain_alone(command(storage, "stayed", **large)[2:])
    assert losses(storage, "left") == losses(storage, "stayed")


def test_a_real_mix_of_videos_with_two_workers(
    storage: Path, tmp_path: Path, encode_video: Callable[..., bytes]
) -> None:
    for i in range(9):
        (tmp_path / f"good{i}.mp4").write_bytes(encode_video(12, width=64 + 2 * i, height=48))
    (tmp_path / "text.mp4").write_text("this is text")
    out = finish(
        command(
            storage, "mixed", data__uri=tmp_path, data__heldout_share=0.3,
            scaling__num_workers=2, scaling__cpus_per_worker=0.5,
        )
    )  # fmt: skip
    assert "1 file(s) or video(s) could not be used" in out
    assert "text.mp4: cannot be opened as a video" in out
    lines = (storage / "mixed" / "quarantine.jsonl").read_text().splitlines()
    assert [json.loads(line)["video_id"] for line in lines] == ["text.mp4"]


def test_a_run_without_usable_videos_ends_with_a_clear_error(storage: Path, tmp_path: Path) -> None:
    for i in range(6):
        (tmp_path / f"text{i}.mp4").write_text("this is text")
    argv = command(storage, "bad", data__uri=tmp_path, data__heldout_share=0, log_every_steps=10)
    with start(argv) as process:
        out, _ = process.communicate(timeout=TIMEOUT_SECONDS)
    assert process.returncode == FINAL_STATUS
    assert "6 videos were tried for a sample and none can be used" in out.splitlines()[-1]
    assert "Traceback" not in out
    assert len((storage / "bad" / "quarantine.jsonl").read_text().splitlines()) == 6
