"""The tracking job: what it refuses before a cluster is started, and a whole run on Ray."""

from __future__ import annotations

import json
import os
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
    # what this machine is must not matter
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    return load_job("track").main  # type: ignore[no-any-return]


def arguments(annotated: Path, storage: Path) -> list[str]:
    data = [f"--data.uri={annotated / 'train'}", f"--data.test_uri={annotated / 'val'}"]
    return ["--recipe=small", f"--storage={storage}", "--name=run", *data]


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["--recipe=got1ok"], "no recipe 'got1ok' (did you mean got10k?)"),
        (["--frozen_stage=3"], "did you mean --frozen_stages?"),
        (["--frozen_stages=6"], "frozen_stages: Input should be less than or equal to 5"),
        (["--data.uri=/nowhere/at/all"], "there is no '/nowhere/at/all'"),
        (["--data.uri=corpus:4"], "4 of 8 videos have no boxes"),
        (["--initial=imagnet"], "imagnet"),
        (["--with_head=true"], "with_head: no checkpoint of a run belongs to initial 'random'"),
        (["--scaling.use_gpu=true"], "asks for 1 GPUs (1 worker(s) of 1), and this machine has 0"),
    ],
)  # fmt: skip
def test_refusals(
    main: Main,
    annotated_videos: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    argv: list[str],
    said: str,
) -> None:
    with pytest.raises(SystemExit) as exit_:
        main([*arguments(annotated_videos, tmp_path / "runs"), *argv])
    assert exit_.value.code not in (0, None)
    assert said in f"{exit_.value.code}\n{capsys.readouterr().err}"


def test_help_is_complete_and_says_how_to_go_on(
    main: Main, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as exit_:
        main(["--help"])
    assert exit_.value.code == 0
    shown = capsys.readouterr().out
    for expected in ("recipes:", "got10k", "--frozen_stages", "--data.test_uri", "continues"):
        assert expected in shown


@pytest.mark.ray
@pytest.mark.slow
def test_a_run_leaves_scores_and_pictures(
    annotated_videos: Path, tmp_path: Path, run_python: Callable[..., str]
) -> None:
    storage = tmp_path / "runs"
    short = ["--schedule.length=4", "--sampling.num_frames=4", "--compute.total_batch=4"]
    said = run_python(str(JOB), *arguments(annotated_videos, storage), *short)
    assert "4 videos to train on, 3 to test on" in said
    folder = storage / "run"
    scores = json.loads((folder / "scores.json").read_text())
    assert f"mIoU {scores['iou']:.3f} ({scores['still_iou']:.3f})" in said
    assert scores["tested"] == 3
    with Image.open(folder / "tracks.png") as image:
        assert image.width > 4 * 240
    with av.open(str(folder / "predicted.mp4")) as container:
        assert sum(1 for _ in container.decode(video=0)) == 11  # of the longest
    for name in ("encoder.safetensors", "tracker.safetensors", "curves.png", "config.yaml"):
        assert (folder / name).exists()
