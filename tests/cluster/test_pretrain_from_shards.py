"""From videos to shards on S3, and from there to an encoder, on a network that has a bad day."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

from ctp.cli import CommandLine
from ctp.pretext.pretraining import open_pretraining
from ctp.recipes import PRETRAIN
from ctp.storage import Storage
from ctp.training.run_folder import read_metrics

TIMEOUT_SECONDS = 300
SMALL = {
    "config": Path(__file__).with_name("small.yaml"), "schedule.length": 40,
    "log_every_steps": 5, "data.repeats_per_pass": 2, "data.clips_per_video": "by_duration",
    "data.max_quarantined_share": 0.3,
    "task.curriculum": "none", "optimizer.name": "sgd",
    "scaling.cpus_per_worker": 0.5,
    # rounding does not add up, and the losses tell the clips
    "optimizer.learning_rate": 1e-4,
}  # fmt: skip
SHARDS = {"method": "GET", "path": "parquet"}
BAD_DAY = [
    SHARDS | {"kind": "status", "value": 500, "every": 31},
    SHARDS | {"kind": "refused", "value": "SlowDown", "every": 37},
    SHARDS | {"kind": "cut", "every": 23},
    SHARDS | {"kind": "reset", "every": 41},
    SHARDS | {"kind": "slow", "value": 1, "every": 43},
    {"kind": "status", "value": 503, "path": "runs", "every": 60},
]

pytestmark = [pytest.mark.ray, pytest.mark.slow]


def options(**values: Any) -> list[str]:
    return [f"--{name.replace('__', '.')}={value}" for name, value in values.items()]


def rows_of(folder: Storage) -> list[Any]:
    return read_metrics(folder) if folder.join("metrics.jsonl").exists() else []


def wait_for_step(process: subprocess.Popen[str], folder: Storage, step: int) -> None:
    deadline = time.monotonic() + TIMEOUT_SECONDS
    while not any(row["step"] >= step for row in rows_of(folder)):
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline, "the run does not get on"
        time.sleep(0.2)


def losses(folder: Storage) -> list[tuple[float, float]]:
    return [(row["step"], row["loss"]) for row in read_metrics(folder)]


def test_shards_on_s3_to_an_encoder(
    faulty_s3: Any,
    s3_endpoint: str,
    tmp_path: Path,
    encode_video: Callable[..., bytes],
    kill_session: Callable[[int], None],
    train_alone: Callable[[Any], None],
    monkeypatch: pytest.MonkeyPatch,
    start_job: Callable[..., AbstractContextManager[subprocess.Popen[str]]],
    finish_job: Callable[..., str],
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_endpoint)  # the test itself has a good day
    for number in range(14):
        folder = tmp_path / "videos" / f"class{number % 2}"
        folder.mkdir(parents=True, exist_ok=True)
        data = encode_video(20, width=64 + 2 * number, height=48)
        (folder / f"{number}.mp4").write_bytes(data)
    (tmp_path / "videos" / "text.mp4").write_text("this is text")

    shards = f"{faulty_s3.bucket}/shards"
    argv = options(source=tmp_path / "videos", out=shards, num_shards=2)
    out = finish_job("build_shards.py", argv)
    assert "text.mp4" in out
    manifest = json.loads(Storage.from_uri(shards).join("_manifest.json").read_bytes())
    assert manifest["videos"] == 14

    # the same run on the same shards, alone and with no faults
    settings = {"data.uri": shards, "storage": f"{faulty_s3.bucket}/runs"} | SMALL
    _, config = CommandLine(PRETRAIN, "tiny", "").parse(options(**settings, name="alone"))
    train_alone(open_pretraining(config))

    faulty_s3.fail(*BAD_DAY)
    runs = Storage.from_uri(f"{faulty_s3.bucket}/runs")
    arguments = options(**settings, name="bad-day")
    with start_job("pretrain.py", arguments, AWS_ENDPOINT_URL=faulty_s3.url) as process:
        wait_for_step(process, runs.join("bad-day"), 12)
        kill_session(process.pid)
    arguments += options(**{"scaling.num_workers": 2})  # it continues with more workers
    out = finish_job("pretrain.py", arguments, AWS_ENDPOINT_URL=faulty_s3.url)
    assert "resuming after step" in out
    assert {entry["fault"] for entry in faulty_s3.log()} >= {"status", "refused", "cut", "reset"}
    assert runs.join("bad-day", "encoder.safetensors").exists()
    assert not runs.join("bad-day", "quarantine.jsonl").exists()
    for ours, theirs in zip(losses(runs.join("bad-day")), losses(runs.join("alone")), strict=True):
        assert ours == pytest.approx(theirs, rel=1e-3)
