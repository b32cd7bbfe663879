"""The tracking job: errors before a cluster is started, and a whole run on Ray."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import pytest
import torch
from PIL import Image

JOB = Path(__file__).parents[2] / "jobs" / "track.py"
Main = Callable[[list[str]], None]


@pytest.fixture
def main(load_job: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch) -> Main:
    # the machine's own size must not matter
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    return load_job("track").main  # type: ignore[no-any-return]


def arguments(annotated: Path, storage: Path) -> list[str]:
    data = [f"--data.uri={annotated / 'train'}", f"--data.test_uri={annotated / 'val'}"]
    return ["--recipe=small", f"--storage={storage}", "--name=run", *data]


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--recipe=got1ok"], "got1ok.*did you mean got10k"),
        (["--frozen_stage=3"], "did you mean --frozen_stages"),
        (["--frozen_stages=6"], "6 frozen stages.*R3d has 5"),
        (["--data.uri=/nowhere/at/all"], "/nowhere/at/all"),
        (["--data.uri=corpus:4"], "4 of 8 videos have no boxes"),
        (["--initial=imagnet"], "imagnet"),
        (["--with_head=true"], "with_head: .*'random'"),
        (["--scaling.use_gpu=true"], "1 GPUs .*scaling.use_gpu"),
    ],
)
def test_an_invalid_option_is_an_error(
    main: Main,
    annotated_videos: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    argv: list[str],
    message: str,
) -> None:
    with pytest.raises(SystemExit) as exit_:
        main([*arguments(annotated_videos, tmp_path / "runs"), *argv])
    assert exit_.value.code not in (0, None)
    assert re.search(message, f"{exit_.value.code}\n{capsys.readouterr().err}")


def test_help_names_recipes_and_options_and_says_how_to_resume(
    main: Main, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as exit_:
        main(["--help"])
    assert exit_.value.code == 0
    shown = capsys.readouterr().out
    for expected in ("recipes:", "got10k", "--frozen_stages", "--data.test_uri", "resumes"):
        assert expected in shown


@pytest.mark.ray
@pytest.mark.slow
def test_a_run_writes_scores_and_pictures(
    annotated_videos: Path, tmp_path: Path, run_python: Callable[..., str]
) -> None:
    storage = tmp_path / "runs"
    short = ["--schedule.length=4", "--sampling.num_frames=4", "--compute.total_batch=4"]
    printed = run_python(str(JOB), *arguments(annotated_videos, storage), *short)
    assert "4 videos to train on, 3 to test on" in printed
    folder = storage / "run"
    scores = json.loads((folder / "scores.json").read_text())
    spread = scores["error_iou"]
    assert f"mIoU {scores['iou']:.3f} ± {spread:.3f} ({scores['still_iou']:.3f})" in printed
    assert scores["tested"] == 3
    with Image.open(folder / "tracks.png") as image:
        assert image.width > 4 * 240
    with av.open(str(folder / "predicted.mp4")) as container:
        number = sum(1 for _ in container.decode(video=0))
        assert number
        assert number % 11 == 0  # of the longest video, repeated
    for name in ("encoder.safetensors", "tracker.safetensors", "curves.png", "config.yaml"):
        assert (folder / name).exists()
