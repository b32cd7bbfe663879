"""The embedding job from its command line to its files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from ctp.downstream.embed_config import EmbedConfig
from ctp.encoders.config import R3dConfig
from ctp.encoders.resnet3d import R3d
from ctp.encoders.weights import encoder_bytes


@pytest.fixture(scope="module")
def job(load_job: Callable[[str], Any]) -> Any:
    return load_job("embed")


@pytest.fixture
def options(small_embedding: EmbedConfig, tmp_path: Path) -> list[str]:
    """Options that name videos, a run's folder, and a small size."""
    run = tmp_path / "runs" / "mine"
    run.mkdir(parents=True)
    encoder = R3d(R3dConfig(width=4, blocks_per_stage=(1, 1, 1, 1)))
    (run / "encoder.safetensors").write_bytes(encoder_bytes(encoder, {}))
    views = {"num_clips": 2, "num_frames": 4, "frame_size_px": 32, "short_side_px": 40}
    return [
        *("--encoder", str(run), "--data.uri", str(small_embedding.data.uri)),
        *("--out", small_embedding.out, "--features.pooling", "max"),
        *(word for name, number in views.items() for word in (f"--views.{name}", str(number))),
    ]


def test_help_names_recipes_and_options(job: Any, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        job.main(["--help"])
    printed = capsys.readouterr().out
    for name in ("retrieval", "compact", "small", "--views.num_clips", "--features.pooling"):
        assert name in printed
    assert "--data.max_megapixels" not in printed
    assert "more options: --help all" in printed


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["--encoder", ""], "^error: --encoder"),
        (["--encoder", "runs/none"], "^error: .*runs/none"),
        (["--out", ""], "^error: --out"),
        (["--features.pooling", "both"], r"^error: .*\(1, 1, 1\) .*expected \(2, 3, 3\)"),
        (["--data.uri", "nothing"], "^error: data.uri: .*nothing"),
        (["--scaling.num_readers", "999"], "^error: .*1000 CPUs .*scaling.num_readers"),
    ],
)
def test_an_invalid_option_is_an_error_of_one_line(
    job: Any, options: list[str], changes: list[str], message: str
) -> None:
    with pytest.raises(SystemExit, match=message) as caught:
        job.main([*options, *changes])
    assert "\n" not in str(caught.value)


def test_a_gpu_that_the_machine_lacks_is_an_error(
    job: Any, options: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(SystemExit, match=r"1 GPUs .*scaling\.use_gpu"):
        job.main([*options, "--scaling.use_gpu", "true", "--scaling.cpus_per_reader", "0.1"])
