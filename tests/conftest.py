"""Shared fixtures: videos that are really encoded, with the frame number painted into the picture,
and an S3 server in a process of its own."""

from __future__ import annotations

import importlib
import io
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import IO, Any

import av
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from pyarrow import fs

from ctp.build.config import TranscodeConfig
from ctp.build.transcode import encode_frames
from ctp.cli import CommandLine
from ctp.data.shards import ShardRow, write_shard
from ctp.downstream.config import FinetuneConfig
from ctp.downstream.embed_config import EmbedConfig, EmbedDataConfig
from ctp.encoders.config import R3dConfig
from ctp.pretext.config import EvaluationConfig, PretrainConfig, PretrainVideosConfig
from ctp.pretext.ctp.config import CtpConfig, HeadConfig
from ctp.pretext.pretraining import open_pretraining
from ctp.recipes import PRETRAIN
from ctp.storage import Storage
from ctp.training.config import CheckpointConfig, ComputeConfig, RunConfig
from ctp.training.distributed import Worker
from ctp.training.schedule import ScheduleConfig
from ctp.training.trainer import TrainingSpec, train
from ctp.video.config import AugmentConfig, SamplingConfig, ViewsConfig

ROOT = Path(__file__).parents[1]
JOB_SECONDS = 400
"""The longest that a job may take in a test."""
CELLS = 4
"""Blocks along each side of the painted code, a square whose first block is the highest bit."""
MARK = 0b1101 << 12
"""The code's first row, so that a picture that is mirrored or turned shows another number."""

EncodeVideo = Callable[..., bytes]
PaintNumber = Callable[..., NDArray[np.uint8]]
ReadNumbers = Callable[[NDArray[np.uint8]], list[int]]
RunPython = Callable[..., str]
StartJob = Callable[..., AbstractContextManager[subprocess.Popen[str]]]
OpenRun = Callable[[Any], TrainingSpec[Any]]


def pytest_configure() -> None:
    """Give torch one thread, in this process and in those that it starts, and let Ray look often.

    pytest-xdist runs as many processes as there are cores. Threads of torch that share a core wait
    for each other in busy loops. Workers of Ray have one thread, too, and sums are rounded alike.
    """
    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)
    # or the end of each run is noticed up to 2 s late
    os.environ["RAY_TRAIN_HEALTH_CHECK_INTERVAL_S"] = "0.2"


def _paint_number(number: int, *, width: int = 96, height: int = 64) -> NDArray[np.uint8]:
    bits = (MARK + number) >> np.arange(CELLS**2)[::-1] & 1
    blocks = (40 + 170 * bits.reshape(CELLS, CELLS)).astype(np.uint8)
    rows = np.arange(height) * CELLS // height
    columns = np.arange(width) * CELLS // width
    return np.repeat(blocks[rows][:, columns, None], 3, axis=2)


def _read_numbers(frames: NDArray[np.uint8]) -> list[int]:
    grey = frames.astype(np.float64).mean(axis=-1)
    height, width = grey.shape[1:]
    centre = np.arange(CELLS) + 0.5
    rows = (centre * height / CELLS).astype(np.int64)
    columns = (centre * width / CELLS).astype(np.int64)
    bits = grey[:, rows][:, :, columns].reshape(len(frames), -1) > 125
    return [int(code) - MARK for code in bits @ (1 << np.arange(CELLS**2)[::-1])]


def _encode_video(
    num_frames: int = 40,
    *,
    width: int = 96,
    height: int = 64,
    format: str = "mp4",
    codec: str = "libx264",
    pix_fmt: str = "yuv420p",
    options: Mapping[str, str] | None = None,
    format_options: Mapping[str, str] | None = None,
    times: Sequence[int] | None = None,
    rotation: int = 0,
    mirrored: bool = False,
) -> bytes:
    # a file, for a muxer that moves the index to the front reads what it wrote
    with tempfile.NamedTemporaryFile() as file, _usual_priority():
        muxing = dict(format_options or {})
        with av.open(file.name, "w", format=format, options=muxing) as container:
            stream: Any = container.add_stream(codec, rate=25, options=dict(options or {}))
            stream.width, stream.height, stream.pix_fmt = width, height, pix_fmt
            stream.codec_context.time_base = Fraction(1, 25)
            if rotation or mirrored:
                stream.set_display_rotation(rotation, hflip=mirrored)
            for number in range(num_frames):
                picture = _paint_number(number, width=width, height=height)
                frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
                frame.pts = number if times is None else times[number]
                frame.time_base = Fraction(1, 25)
                container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
        return file.read()


@contextmanager
def _usual_priority() -> Iterator[None]:
    """Leave this thread with the priority that it has.

    Run by root, libsvtav1 gives the thread that opens it real-time priority. Processes that it
    starts later would inherit that, and one that waits in a loop would stop the whole machine.
    """
    policy, parameters = os.sched_getscheduler(0), os.sched_getparam(0)
    try:
        yield
    finally:
        os.sched_setscheduler(0, policy, parameters)


@pytest.fixture(scope="session")
def encode_video() -> EncodeVideo:
    """`encode_video(num_frames, ...)`: the bytes of a video whose frames show their numbers.

    `times` are presentation times in 1/25 s; `rotation` (degrees counter-clockwise) and `mirrored`
    ask the player to turn the picture.
    """
    return _encode_video


@pytest.fixture(scope="session")
def encode_damaged() -> Callable[..., bytes]:
    """`encode_damaged(60, 23)`: 60 frames in Matroska, each tenth a key frame, frame 23 broken."""

    def encode(num_frames: int, *numbers: int) -> bytes:
        options = {"g": "10", "keyint_min": "10", "sc_threshold": "0", "bf": "0"}
        data = bytearray(_encode_video(num_frames, options=options, format="matroska"))
        with av.open(io.BytesIO(data)) as container:
            packets = [bytes(each) for each in container.demux(video=0) if each.size]
        kept = 5  # the length of a unit and its kind
        for number in numbers:
            size = len(packets[number])
            start = bytes(data).index(packets[number])
            data[start + kept : start + size] = bytes(size - kept)
        return bytes(data)

    return encode


@pytest.fixture(scope="session")
def paint_number() -> PaintNumber:
    """`paint_number(number, width=, height=)`: uint8 [h, w, 3] that shows a number below 4096."""
    return _paint_number


@pytest.fixture(scope="session")
def read_numbers() -> ReadNumbers:
    """`read_numbers(frames)`: the numbers that frames uint8 [T, h, w, 3] show, at any scale."""
    return _read_numbers


@pytest.fixture(scope="session")
def s3_endpoint() -> Iterator[str]:
    """The URL of an S3 server (moto) in a process of its own."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "moto.server", "-p", str(port)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
        try:
            _wait_for(port, server)
            yield f"http://127.0.0.1:{port}"
        finally:
            server.terminate()


def _wait_for(port: int, server: subprocess.Popen[bytes], *, timeout_seconds: float = 60) -> None:
    deadline = time.monotonic() + timeout_seconds
    while server.poll() is None and time.monotonic() < deadline:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            time.sleep(0.1)
    raise RuntimeError("the S3 server for tests did not start")


@pytest.fixture
def s3_bucket(s3_endpoint: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """`s3://NAME`: a new bucket, with the environment set so that it is found."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_endpoint)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    bucket = f"bucket-{uuid.uuid4().hex}"
    server = fs.S3FileSystem(endpoint_override=s3_endpoint, allow_bucket_creation=True)
    server.create_dir(bucket)
    return f"s3://{bucket}"


@dataclass(frozen=True)
class FaultyS3:
    """A bucket behind a proxy that fails on request; see tests/faulty_s3.py for the faults.

    Attributes:
        bucket: `s3://NAME`, found through the environment.
        url: of the proxy.
    """

    bucket: str
    url: str

    def fail(self, *faults: Mapping[str, Any]) -> None:
        """From now on have these faults and no others, and an empty log."""
        urllib.request.urlopen(f"{self.url}/__faults__", json.dumps(faults).encode()).close()

    def log(self) -> list[dict[str, Any]]:
        """The requests since `fail` was last called."""
        with urllib.request.urlopen(f"{self.url}/__log__") as answer:
            log: list[dict[str, Any]] = json.load(answer)
        return log


@pytest.fixture(scope="session")
def faulty_s3_endpoint(s3_endpoint: str) -> Iterator[str]:
    """The URL of a proxy, in a process of its own, before the S3 server."""
    command = [sys.executable, Path(__file__).parent / "faulty_s3.py", s3_endpoint]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as proxy:
        try:
            assert proxy.stdout is not None
            yield proxy.stdout.readline().strip()
        finally:
            proxy.terminate()


@pytest.fixture
def faulty_s3(s3_bucket: str, faulty_s3_endpoint: str, monkeypatch: pytest.MonkeyPatch) -> FaultyS3:
    """A new bucket behind the proxy, without faults so far."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", faulty_s3_endpoint)
    faulty = FaultyS3(s3_bucket, faulty_s3_endpoint)
    faulty.fail()
    return faulty


@pytest.fixture
def free_port() -> int:
    """A TCP port of this machine that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="session")
def run_python() -> RunPython:
    """`run_python(*arguments, stdin="")`: what a Python process prints; it finds what this one
    finds. Its failure is an error that shows what it said."""

    def run(*arguments: str, stdin: str = "") -> str:
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
        command = [sys.executable, *arguments]
        # in files: a process that it leaves behind would keep pipes open, and be waited for
        with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as error:
            done = subprocess.run(
                command, input=stdin, stdout=out, stderr=error, text=True, env=environment,
                timeout=300, check=False,
            )  # fmt: skip
            for file in (out, error):
                file.seek(0)
            printed, said = out.read(), error.read()
        assert done.returncode == 0, f"{printed}\n{said}"
        return printed

    return run


@pytest.fixture(scope="session")
def losses_address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Where a process serves a `LossRecord`; see tests/data/served_record.py."""
    address = str(tmp_path_factory.mktemp("losses") / "socket")
    script = str(Path(__file__).parent / "data" / "served_record.py")
    with subprocess.Popen([sys.executable, script, address], stdout=subprocess.PIPE) as server:
        assert server.stdout is not None
        assert server.stdout.readline() == b"ready\n"
        yield address
        server.terminate()


@pytest.fixture(scope="session")
def own_processes() -> Callable[[str], list[int]]:
    """`own_processes(name)`: processes of a name, as /proc tells it, that this one started, or one
    that it started."""

    def find(name: str) -> list[int]:
        parents, found = {}, []
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                status = (folder / "stat").read_text().rpartition(")")[2].split()
                command = (folder / "cmdline").read_bytes()
            except OSError:
                continue  # it has ended meanwhile
            parents[int(folder.name)] = int(status[1])
            if command.startswith(name.encode()):
                found.append(int(folder.name))
        return [pid for pid in found if os.getpid() in _ancestors(pid, parents)]

    return find


def _ancestors(pid: int, parents: dict[int, int]) -> list[int]:
    above = parents.get(pid)
    return [] if above is None else [above, *_ancestors(above, parents)]


def _small_run(folder: Path) -> PretrainConfig:
    return PretrainConfig(
        name="run",
        storage=str(folder / "runs"),
        data=PretrainVideosConfig(uri="corpus:20", heldout_share=0.25),
        task=CtpConfig(
            sampling=SamplingConfig(num_frames=4, interval_frames=(1, 2)),
            augment=AugmentConfig(frame_size_px=32, short_sides_px=(32, 40)),
            num_patches=2,
            box_size_px=(8, 16),
            curriculum=(0.3, 0.7),
            head=HeadConfig(hidden_channels=8),
        ),
        encoder=R3dConfig(width=4, blocks_per_stage=(1, 1, 1, 1)),
        schedule=ScheduleConfig(unit="steps", length=6, decay_at=(4,)),
        compute=ComputeConfig(total_batch=4),
        evaluation=EvaluationConfig(num_clips=6, every_steps=3),
        checkpoint=CheckpointConfig(every_steps=2),
        log_every_steps=3,
    )


@pytest.fixture(scope="session")
def make_small_run() -> Callable[[Path], PretrainConfig]:
    """`make_small_run(folder)`: six steps of four clips over 15 videos of the corpus, two epochs in
    all; run folders are in `folder`."""
    return _small_run


@pytest.fixture
def small_run(tmp_path: Path) -> PretrainConfig:
    """What `make_small_run` makes, in the folder of the test."""
    return _small_run(tmp_path)


@pytest.fixture
def finetuning(tmp_path: Path) -> FinetuneConfig:
    """Six steps of four clips over 16 videos of the corpus."""
    return FinetuneConfig.model_validate(
        {
            "name": "ft",
            "storage": str(tmp_path / "runs"),
            "data": {"uri": "corpus:24", "test_share": 0.35},
            "encoder": R3dConfig(width=4, blocks_per_stage=(1, 1, 1, 1), spatial_stride=16),
            "sampling": {"num_frames": 4, "interval_frames": (1, 1)},
            "augment": {"frame_size_px": 32, "short_sides_px": (32, 36, 40)},
            "clips_per_test_video": 2,
            "schedule": {"unit": "steps", "length": 6, "decay_at": ()},
            "compute": {"total_batch": 4},
            "checkpoint": {"every_steps": 2},
            "test_every_epochs": 1,
            "log_every_steps": 2,
        }
    )


@pytest.fixture
def train_as_two(free_port: int) -> Callable[..., None]:
    """`train_as_two(open_pretraining, config)`: the run by two workers, each a process.

    With `late_seconds=`, each batch of the second worker comes late by that.
    """

    def train_both(open_run: OpenRun, config: RunConfig, *, late_seconds: float = 0.0) -> None:
        script = str(Path(__file__).with_name("worker_of_two.py"))
        names = [f"{each.__module__}:{each.__qualname__}" for each in (open_run, type(config))]
        workers = []
        for rank in range(2):
            late = str(rank * late_seconds)
            argv = [sys.executable, script, str(rank), str(free_port), late, *names]
            workers.append(subprocess.Popen(argv, stdin=subprocess.PIPE, text=True))
        for worker in workers:
            assert worker.stdin is not None
            with worker.stdin:
                worker.stdin.write(config.model_dump_json())
        assert [worker.wait(timeout=120) for worker in workers] == [0, 0]

    return train_both


@pytest.fixture(scope="session")
def train_alone() -> Callable[..., None]:
    """`train_alone(spec)`: a run in this process, without Ray; undisturbed, unless `open_stream` is
    given."""

    def alone(spec: TrainingSpec[Any], open_stream: Any = None) -> None:
        whole = open_stream or (lambda stream, first: stream.batches(first, 0, 1))
        train(spec, Worker(), whole)

    return alone


@pytest.fixture(scope="session")
def pretrain_alone(train_alone: Callable[[TrainingSpec[Any]], None]) -> Callable[[list[str]], None]:
    """`pretrain_alone(["--name=mine", …])`: what jobs/pretrain.py does, by `train_alone`."""

    def pretrain(argv: list[str]) -> None:
        _, config = CommandLine(PRETRAIN, "tiny", "").parse(argv)
        train_alone(open_pretraining(config))

    return pretrain


@pytest.fixture(scope="session")
def load_job() -> Callable[[str], Any]:
    """`load_job("preview")`: the module that jobs/preview.py starts."""
    return lambda name: importlib.import_module(f"ctp.commands.{name}")


@pytest.fixture
def video_folder(tmp_path: Path) -> Callable[..., Path]:
    """`video_folder(good=6, bad=1)`: good0.mp4, … that decode and bad0.mp4, … that are text."""

    def make(*, good: int = 0, bad: int = 0) -> Path:
        folder = tmp_path / "videos"
        folder.mkdir(exist_ok=True)
        for i in range(good):
            (folder / f"good{i}.mp4").write_bytes(_encode_video(12, width=64 + 2 * i, height=48))
        for i in range(bad):
            (folder / f"bad{i}.mp4").write_text("this is text")
        return folder

    return make


@pytest.fixture
def small_embedding(tmp_path: Path) -> EmbedConfig:
    """Features of three videos of class a, two of class b, and one of a that is text: three clips
    of each, three parts of two videos."""
    folder = tmp_path / "videos"
    for number, name in enumerate(("a/0", "a/1", "a/2", "b/3", "b/4")):
        file = folder / f"{name}.mp4"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(_encode_video(10 + number, width=64 + 8 * number))
    (folder / "a" / "bad.mp4").write_text("this is text")
    return EmbedConfig(
        encoder="random",
        architecture=R3dConfig(width=4, blocks_per_stage=(1, 1, 1, 1)),
        out=str(tmp_path / "features"),
        data=EmbedDataConfig(uri=str(folder)),
        views=ViewsConfig(
            num_clips=3, num_frames=4, interval_frames=2, frame_size_px=32, short_side_px=40
        ),
        videos_per_part=2,
    )


def _moving_rectangle(
    name: str,
    num_frames: int = 20,
    *,
    start: tuple[int, int, int, int] = (10, 12, 30, 26),
    step: tuple[int, int] = (1, 0),
    width: int = 64,
    height: int = 48,
) -> ShardRow:
    moved = np.arange(num_frames)[:, None] * np.array([*step, *step])
    boxes = np.array(start) + moved
    pictures = np.full((num_frames, height, width, 3), 30, np.uint8)
    inside = np.clip(boxes, 0, [width, height] * 2)
    for picture, (x1, y1, x2, y2) in zip(pictures, inside.tolist(), strict=True):
        picture[y1:y2, x1:x2] = 220
    coding = TranscodeConfig(short_side_px=height, quantizer=2)
    data = encode_frames(pictures, num_frames, Fraction(10), coding)
    return ShardRow(name, data, num_frames, 10.0, width, height, boxes=boxes.astype(np.float32))


@pytest.fixture(scope="session")
def moving_rectangle() -> Callable[..., ShardRow]:
    """`moving_rectangle(name, num_frames, start=, step=)`: a real video in which a bright rectangle
    moves by `step` px a frame over a dark ground, with its boxes; it may leave the picture."""
    return _moving_rectangle


@pytest.fixture
def annotated_videos(tmp_path: Path) -> Path:
    """A folder of shards: four videos of a moving rectangle in train, three in val."""
    steps = ((1, 0), (-1, 1), (0, -1), (1, 1))
    for split, number in (("train", 4), ("val", 3)):
        rows = [
            _moving_rectangle(f"{split}{i}", 9 + i, start=(20, 16, 36, 30 + i), step=steps[i])
            for i in range(number)
        ]
        write_shard(Storage.from_uri(tmp_path / "tracked" / split).join("a.parquet"), rows)
    return tmp_path / "tracked"


def _processes_of(session: int, title: str = "") -> list[int]:
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            state, _, _, own_session, *_ = (folder / "stat").read_text().rpartition(")")[2].split()
            is_of_it = int(own_session) == session and state != "Z"
            if is_of_it and title in (folder / "cmdline").read_bytes().decode():
                found.append(int(folder.name))
    return found


def _send(signal_number: int, processes: list[int]) -> None:
    for process in processes:
        with suppress(ProcessLookupError):
            os.kill(process, signal_number)


def _kill_session(session: int) -> None:
    while left := _processes_of(session):
        _send(signal.SIGKILL, left)


@pytest.fixture(scope="session")
def processes_of() -> Callable[..., list[int]]:
    """`processes_of(session, title="")`: the processes with `title` in their command line."""
    return _processes_of


@pytest.fixture(scope="session")
def kill_session() -> Callable[[int], None]:
    """`kill_session(process.pid)`: kill a process and all that it started, and wait for their end.

    To kill its process group is not enough: Ray's workers have groups of their own, and continue
    for some steps.
    """

    return _kill_session


@contextmanager
def _start_job(
    job: str, argv: Sequence[str], out: int | IO[str] = subprocess.PIPE, **environment: str
) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "jobs" / job), *argv],
        stdout=out, stderr=subprocess.STDOUT, text=True, start_new_session=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)} | environment,
    )  # fmt: skip
    try:
        yield process
    finally:  # a test that fails or takes too long must not wait for it
        _kill_session(process.pid)
        process.wait()
        if process.stdout is not None:
            process.stdout.close()


@pytest.fixture(scope="session")
def start_job() -> StartJob:
    """`with start_job("pretrain.py", argv, out=PIPE, NAME=value) as process`: a job of ours, in a
    session of its own, with more variables of the environment. What is left of it is killed."""
    return _start_job


@pytest.fixture(scope="session")
def finish_job() -> Callable[..., str]:
    """`finish_job("pretrain.py", argv, status=0, NAME=value)`: what a job prints, which ends with
    this status."""

    def finish(job: str, argv: Sequence[str], *, status: int = 0, **environment: str) -> str:
        with _start_job(job, argv, **environment) as process:
            out, _ = process.communicate(timeout=JOB_SECONDS)
        assert process.returncode == status, out
        return out

    return finish


@pytest.fixture(scope="session")
def held() -> Callable[[int, str], AbstractContextManager[None]]:
    """`with held(session, title)`: stop these processes, and let them continue afterwards."""

    @contextmanager
    def hold(session: int, title: str) -> Iterator[None]:
        processes = _processes_of(session, title)
        assert processes, title
        _send(signal.SIGSTOP, processes)
        try:
            yield
        finally:
            _send(signal.SIGCONT, processes)

    return hold
