"""The embedding job from its command line to its files."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from ctp.downstream.embed_config import EmbedConfig
from ctp.encoders.config import EncoderConfig
from ctp.encoders.resnet3d import ResNet3d
from ctp.encoders.weights import encoder_bytes


@pytest.fixture(scope="module")
def job(load_job: Callable[[str], Any]) -> Any:
    return load_job("embed")


@pytest.fixture
def options(small_embedding: EmbedConfig, tmp_path: Path) -> list[str]:
    """Options that name videos, a run's folder, and a small size."""
    run = tmp_path / "runs" / "mine"
    run.mkdir(parents=True)
    encoder = ResNet3d(EncoderConfig(width=4, blocks_per_stage=(1, 1, 1, 1)))
    (run / "encoder.safetensors").write_bytes(encoder_bytes(encoder, {}))
    views = {"num_clips": 2, "num_frames": 4, "frame_size_px": 32, "short_side_px": 40}
    return [
        *("--encoder", str(run), "--data.uri", str(small_embedding.data.uri)),
        *("--out", small_embedding.out),
        *(word for name, number in views.items() for word in (f"--views.{name}", str(number))),
    ]


def test_help_names_recipes_and_options(job: Any, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        job.main(["--help"])
    said = capsys.readouterr().out
    for name in ("retrieval", "compact", "small", "--views.num_clips", "--features.pooling"):
        assert name in said


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (["--encoder", ""], "error: --encoder is missing"),
        (["--encoder", "runs/none"], "error: no encoder at .*runs/none"),
        (["--out", ""], "error: --out is missing"),
        (["--data.uri", "nothing"], "error: data.uri: "),
        (["--scaling.num_readers", "999"], r"asks for 1000 CPUs \(999 reader\(s\) of 1, 1 encoder"),
    ],
)
def test_what_does_not_work_is_said_in_a_line(
    job: Any, options: list[str], changes: list[str], said: str
) -> None:
    with pytest.raises(SystemExit, match=said) as caught:
        job.main([*options, *changes])
    assert "\n" not in str(caught.value)


def test_a_gpu_that_is_not_there(
    job: Any, options: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(SystemExit, match=r"1 GPUs \(1 encoder\(s\) of 1\), and this machine"):
        job.main([*options, "--scaling.use_gpu", "true", "--scaling.cpus_per_reader", "0.1"])


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning:ray")
def test_from_videos_to_features(
    job: Any, options: list[str], small_embedding: EmbedConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    job.main(options)
    told = capsys.readouterr().out
    assert "6 videos, 2 clips of each, encoder " in told
    assert "6/6 videos" in told
    assert "5 videos, 10 features, 1 quarantined\n  a/bad.mp4: cannot be opened as a video" in told
    manifest = json.loads(Path(small_embedding.out, "manifest.json").read_bytes())
    assert manifest["counts"] == {"videos": 5, "clips": 10, "quarantined": 1}
    job.main(options)  # all is done: no cluster, the same told
    assert "1 of them are done" in capsys.readouterr().out
