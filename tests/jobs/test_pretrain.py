"""What the job refuses, before a cluster is started: one clear line each."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

JOB = Path(__file__).parents[2] / "jobs" / "pretrain.py"
Refusal = Callable[..., str]


@pytest.fixture(scope="module")
def main(load_job: Callable[[str], Any]) -> Callable[[list[str]], None]:
    return load_job("pretrain").main  # type: ignore[no-any-return]


@pytest.fixture
def refusal(
    main: Callable[[list[str]], None],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> Refusal:
    """`refusal(*argv)`: what the job says when it refuses to start."""

    # what this machine is must not matter
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)

    def refused(*argv: str) -> str:
        with pytest.raises(SystemExit) as exit_:
            main([f"--storage={tmp_path / 'runs'}", "--name=run", *argv])
        assert exit_.value.code not in (0, None)
        return f"{exit_.value.code}\n{capsys.readouterr().err}"

    return refused


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["--recipe=tinny"], "no recipe 'tinny' (did you mean tiny?)"),
        (["--game.num_patchs=3"], "did you mean --game.num_patches?"),
        (["--data.uri=/nowhere/at/all"], "there is no '/nowhere/at/all'"),
        (["--data.uri=corpus:none"], "wanted corpus:NUMBER"),
        (["--scaling.num_workers=3"], "total_batch 16 cannot be shared equally"),
        (["--scaling.num_workers=2"], "the run asks for 3 CPUs (2 worker(s) of 1, 1 actor(s)"),
        (["--scaling.use_gpu=true"], "asks for 1 GPUs (1 worker(s) of 1), and this machine has 0"),
        (["--storage=/proc"], "cannot write"),
    ],
)  # fmt: skip
def test_refusals(refusal: Refusal, argv: list[str], said: str) -> None:
    assert said in refusal(*argv)


def test_an_empty_folder(refusal: Refusal, tmp_path: Path) -> None:
    (tmp_path / "videos").mkdir()
    (tmp_path / "videos" / "notes.txt").write_text("no video")
    assert "no video below" in refusal(f"--data.uri={tmp_path / 'videos'}")


def test_a_finished_run(refusal: Refusal, tmp_path: Path) -> None:
    (tmp_path / "runs" / "run").mkdir(parents=True)
    (tmp_path / "runs" / "run" / "encoder.safetensors").write_bytes(b"all that work")
    assert "run 'run' is finished" in refusal()
    assert (tmp_path / "runs" / "run" / "encoder.safetensors").read_bytes() == b"all that work"


def test_help_is_complete_and_says_how_to_go_on() -> None:
    shown = subprocess.run(
        [sys.executable, str(JOB), "--help"], capture_output=True, text=True, check=True
    ).stdout
    for expected in ("recipes:", "ucf101-r3d18", "--data.uri", "--game.num_patches", "continues"):
        assert expected in shown
