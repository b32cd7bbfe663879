"""Pretraining by `ray job submit`, on a head and two nodes that want a token, with videos and
results in an object store: nothing of it is on the machine that submits."""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from ctp.storage import Storage
from ctp.training.run_folder import ENCODER, Row, read_metrics

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
STEPS = 120
TIMEOUT_SECONDS = 600
MEMORY_BYTES = 256 * 2**20
TRAIN_WORKER = "ray::RayTrainWorker"

pytestmark = [pytest.mark.ray, pytest.mark.slow]

SMALL = ["--config=tests/cluster/small.yaml", f"--schedule.length={STEPS}", "--name=run"]
AWS = ("AWS_ENDPOINT_URL", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_DEFAULT_REGION")


@dataclass
class RayCluster:
    """Nodes that `ray start` started on this machine, each in a session of its own.

    Attributes:
        folder: for what they leave behind; a short path, since Ray keeps its sockets there.
        token: that they want.
        sessions: number of each node's session.
    """

    folder: Path
    token: str = field(default_factory=lambda: secrets.token_hex(16))
    sessions: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.port, self.dashboard_port, client_port = _free_ports(3)
        ports = f"--port={self.port} --dashboard-port={self.dashboard_port}"
        self._start(
            *("--head", "--num-cpus=0", f"--temp-dir={self.folder}", *ports.split()),
            *(f"--ray-client-server-port={client_port}", "--include-dashboard=true"),
        )

    def add_node(self) -> None:
        """Add one that has room for a whole run."""
        self._start(f"--address=127.0.0.1:{self.port}", "--num-cpus=3")

    def ray(self, *arguments: str, token: str | None = None) -> subprocess.CompletedProcess[str]:
        """What a command of Ray's says, by default with the cluster's token."""
        environment = self.environment(token) | {
            "RAY_ADDRESS": f"http://127.0.0.1:{self.dashboard_port}"
        }
        return subprocess.run(
            [BIN / "ray", *arguments], env=environment, cwd=ROOT, timeout=TIMEOUT_SECONDS,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False,
        )  # fmt: skip

    def environment(self, token: str | None = None) -> dict[str, str]:
        """Of a process that has a token, or none if it is empty."""
        known = {"PATH": f"{BIN}:{os.environ['PATH']}", "HOME": str(self.folder)}
        token = self.token if token is None else token
        return known | {"RAY_AUTH_MODE": "token"} | ({"RAY_AUTH_TOKEN": token} if token else {})

    def status(self, job: str) -> str:
        """Of a submitted job."""
        return str(self._ask("GET", f"jobs/{job}")["status"])

    def log(self, job: str) -> str:
        """What a submitted job has printed."""
        return str(self._ask("GET", f"jobs/{job}/logs")["logs"])

    def stop(self, job: str) -> None:
        """Ask for what `ray job stop` asks for."""
        self._ask("POST", f"jobs/{job}/stop")

    def _ask(self, method: str, path: str) -> Any:
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.dashboard_port}/api/{path}",
            headers={"Authorization": f"Bearer {self.token}"},
            method=method,
        )
        with urllib.request.urlopen(request) as answer:
            return json.load(answer)

    def _start(self, *options: str) -> None:
        name = self.folder / f"node{len(self.sessions)}.log"
        command = [
            *(BIN / "ray", "start", f"--object-store-memory={MEMORY_BYTES}"),
            *("--min-worker-port=0", "--max-worker-port=0", "--dashboard-agent-listen-port=0"),
            *options,
        ]  # fmt: skip
        with name.open("wb") as log:
            starting = subprocess.Popen(
                command, env=self.environment(), stdout=log, stderr=log, start_new_session=True
            )
        self.sessions.append(starting.pid)  # what it starts lives on in its session
        assert starting.wait(TIMEOUT_SECONDS) == 0, name.read_text()


def _free_ports(number: int) -> list[int]:
    probes = [socket.socket() for _ in range(number)]
    for probe in probes:
        probe.bind(("127.0.0.1", 0))
    ports = [probe.getsockname()[1] for probe in probes]
    for probe in probes:
        probe.close()
    return ports


def wait_until(is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + TIMEOUT_SECONDS
    while not is_so():
        assert time.monotonic() < deadline, "it does not come to that"
        time.sleep(0.2)


@pytest.fixture(scope="module")
def cluster(kill_session: Callable[[int], None]) -> Iterator[RayCluster]:
    """A head that computes nothing, and two nodes."""
    with tempfile.TemporaryDirectory(prefix="ray") as folder:
        started = RayCluster(Path(folder))
        try:
            started.add_node()
            started.add_node()
            yield started
        finally:
            for session in started.sessions:
                kill_session(session)


@pytest.fixture
def videos(s3_bucket: str, encode_video: Callable[..., bytes]) -> str:
    """Videos in an object store."""
    for number in range(12):
        video = encode_video(20 + number, width=64 + 2 * number, height=48)
        Storage.from_uri(s3_bucket).join("videos", f"{number}.mp4").write_bytes(video)
    return f"{s3_bucket}/videos"


def submit(*options: str, **environment: str) -> list[str]:
    """`ray job submit` of a pretraining."""
    known = {name: os.environ[name] for name in AWS if name in os.environ} | environment
    return [
        *("job", "submit", "--working-dir", ".", "--runtime-env-json"),
        json.dumps({"env_vars": known}),
        *options,
        *("--", "python", "jobs/pretrain.py", *SMALL),
    ]


def losses(rows: list[Row]) -> list[tuple[float, ...]]:
    names = ("step", "loss", "loss_center", "loss_size")
    return [tuple(row[name] for name in names) for row in rows]


def test_a_node_is_killed_and_the_job_stopped_and_submitted_again(
    cluster: RayCluster,
    videos: str,
    pretrain_alone: Callable[[list[str]], None],
    processes_of: Callable[..., list[int]],
    held: Callable[[int, str], AbstractContextManager[None]],
    kill_session: Callable[[int], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    storage = videos.replace("videos", "runs")
    run, places = (
        Storage.from_uri(storage).join("run"),
        [f"--storage={storage}", f"--data.uri={videos}"],
    )
    grace = {"RAY_JOB_STOP_WAIT_TIME_S": "120", "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2"}

    def is_at(step: int) -> bool:
        assert cluster.status("first") in ("PENDING", "RUNNING"), cluster.log("first")
        return any(row["step"] >= step for row in read_metrics(run))

    def session_that_trains() -> int:
        return next(each for each in cluster.sessions if processes_of(each, TRAIN_WORKER))

    said = cluster.ray(*submit("--no-wait", "--submission-id=first", **grace), *places)
    assert said.returncode == 0, said.stdout
    wait_until(lambda: is_at(8))
    lost = session_that_trains()
    cluster.sessions.remove(lost)  # its number may be another's soon
    kill_session(lost)
    before = len(read_metrics(run))
    wait_until(lambda: is_at(before + 4))
    with held(session_that_trains(), TRAIN_WORKER):  # or it would be done before it hears of it
        cluster.stop("first")
        wait_until(lambda: "saving before the run stops" in cluster.log("first"))
    wait_until(lambda: cluster.status("first") == "STOPPED")
    log = cluster.log("first")
    saved = re.search(r"saved after step (\d+)", log)
    assert saved, log
    assert "The same command with --name run resumes the run" in log
    assert not run.join(ENCODER).exists()

    again = cluster.ray(*submit("--submission-id=second", **grace), *places)
    assert again.returncode == 0, again.stdout
    continued = re.search(r"resuming after step (\d+)", again.stdout)
    assert continued, again.stdout
    assert int(continued[1]) >= int(saved[1])  # a step or two may have come after
    assert run.join(ENCODER).exists()

    monkeypatch.chdir(ROOT)
    pretrain_alone([*SMALL, f"--data.uri={videos}", f"--storage={storage}/alone"])
    expected = losses(read_metrics(Storage.from_uri(storage).join("alone", "run")))
    assert losses(read_metrics(run)) == expected
    assert len(expected) == STEPS
    check_log(log)
    check_log(cluster.log("second"))


def check_log(log: str) -> None:
    """A log is to be read in the dashboard, which is no terminal."""
    _, entrypoint, own = log.partition("Running entrypoint")
    assert entrypoint
    assert not [line for line in own.splitlines() if "\x1b" in line and "(raylet)" not in line]
    assert "\r" not in log
    assert "Traceback" not in log
    steps = re.findall(r"^step (\d+)/120 ", log, re.MULTILINE)
    assert steps, log


def test_results_in_the_working_directory_are_refused(cluster: RayCluster, videos: str) -> None:
    said = cluster.ray(*submit(), f"--data.uri={videos}")
    assert said.returncode == 1
    assert "lies in the job's working directory, a copy that Ray deletes" in said.stdout
    assert "Traceback" not in said.stdout


def test_a_path_that_a_node_does_not_see_is_reported(cluster: RayCluster) -> None:
    join = "cluster(paths=['/bin', ('/not/here', 's3://b'), 'corpus:9', ''])"
    script = f"from ctp.cluster.connect import cluster; {join}.__enter__()"
    said = cluster.ray("job", "submit", "--working-dir", ".", "--", "python", "-c", script)
    assert "ValueError: /not/here does not exist on" in said.stdout
    assert said.returncode == 1


@pytest.mark.parametrize("token", ["", "0" * 32], ids=["none", "another"])
def test_a_missing_token_is_reported(cluster: RayCluster, token: str, tmp_path: Path) -> None:
    said = cluster.ray(*submit(), token=token)
    assert said.returncode != 0
    assert "token" in said.stdout.lower()
    command = [sys.executable, "jobs/pretrain.py", f"--storage={tmp_path}", "--name=run"]
    address = {"RAY_ADDRESS": f"127.0.0.1:{cluster.port}"}
    joined = subprocess.run(
        command, env=cluster.environment(token) | address, cwd=ROOT, capture_output=True, text=True,
        timeout=TIMEOUT_SECONDS, check=False,
    )  # fmt: skip
    last = joined.stderr.splitlines()[-1]
    assert joined.returncode == 1
    assert last.startswith("error: the cluster at 127.0.0.1:")
    assert "set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN" in last
    assert "Traceback" not in joined.stderr


def test_results_and_videos_beside_the_code_are_not_uploaded(
    cluster: RayCluster, tmp_path: Path
) -> None:
    shutil.copy(ROOT / ".gitignore", tmp_path)
    (tmp_path / "runs").mkdir()
    large = tmp_path / "runs" / "large"
    large.write_bytes(secrets.token_bytes(110 * 2**20))  # more than Ray takes
    for name in ("sweeps", "data"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "large").hardlink_to(large)
    submit = "job", "submit", "--working-dir", str(tmp_path), "--", "ls", "-A"
    said = cluster.ray(*submit)
    assert said.returncode == 0, said.stdout
    assert ".gitignore" in said.stdout.splitlines()
    assert "runs" not in said.stdout.splitlines()
    (tmp_path / "data").rename(tmp_path / "videos")
    said = cluster.ray(*submit)
    assert said.returncode == 1
    assert "413: Maximum request body size 104857600 exceeded" in said.stdout  # as README says
