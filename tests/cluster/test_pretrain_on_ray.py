"""Pretraining on a real local cluster, through the job as its user starts it."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

from ctp.encoders.weights import stored_metadata
from ctp.versions import written_by

JOB = "pretrain.py"
STEPS = 40
TIMEOUT_SECONDS = 300
StartJob = Callable[..., AbstractContextManager[subprocess.Popen[str]]]
FinishJob = Callable[..., str]
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
    return [f"--{key}={value}" for key, value in chosen.items()]


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
def whole(storage: Path, finish_job: FinishJob) -> str:
    """What a run that nothing happened to prints."""
    return finish_job(JOB, command(storage, "whole"))


def test_a_run_by_the_job(storage: Path, whole: str, finish_job: FinishJob) -> None:
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
    assert "is finished" in finish_job(JOB, command(storage, "whole"))  # started again
    assert (storage / "whole" / "encoder.safetensors").read_bytes() == encoder


def test_the_stream_of_ray_data_is_the_stream_of_one_process(
    storage: Path, whole: str, pretrain_alone: Callable[[list[str]], None]
) -> None:
    pretrain_alone(command(storage, "alone", log_every_steps=10))
    assert losses(storage, "alone") == losses(storage, "whole")


def test_a_run_with_faults_equals_an_uninterrupted_one_bit_for_bit(
    storage: Path,
    whole: str,
    held: Callable[[int, str], AbstractContextManager[None]],
    processes_of: Callable[..., list[int]],
    kill_session: Callable[[int], None],
    start_job: StartJob,
    finish_job: FinishJob,
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
        start_job(JOB, command(storage, "stopped", config=rarely), file) as process,
    ):
        wait_for_step(process, storage, "stopped", 7)
        with held(process.pid, TRAIN_WORKER):  # or it would finish before the signal reaches it
            refused = finish_job(JOB, [*command(storage, "stopped"), "--seed=1"], status=1)
            process.terminate()
            wait_until(process, lambda: "saving before the run stops" in stop_output.read_text())
        process.wait(TIMEOUT_SECONDS)
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
    with second_output.open("w") as file, start_job(JOB, argv, file) as process:
        for title in (ACTOR, COORDINATOR):
            kill(title)
        wait_for_step(process, storage, "stopped", first_step + 6)
        kill(TRAIN_WORKER)
        wait_for_step(process, storage, "stopped", first_step + 14)
        kill_session(process.pid)
    assert f"resuming after step {first_step}" in second_output.read_text()
    assert not (storage / "stopped" / "encoder.safetensors").exists()
    out = finish_job(JOB, argv)
    assert "as attempt 3" in out
    assert "could not be used" not in out
    assert f"step {STEPS}/{STEPS}" in out
    assert losses(storage, "stopped") == losses(storage, "whole")


def test_fewer_workers_continue_when_a_node_is_lost(
    storage: Path, whole: str, start_job: StartJob
) -> None:
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
        # Ray may try both workers once more, before it knows that a node is lost
        environment = {"RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "10"}
        with start_job(JOB, argv, RAY_ADDRESS=cluster.address, **environment) as process:
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
