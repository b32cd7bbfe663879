"""The pretraining job: errors before a cluster is started, a clear line each."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from ctp.cli import CommandLine
from ctp.recipes import PRETRAIN
from ctp.training.run_folder import create_or_resume, folder_of, with_absolute_paths

JOB = Path(__file__).parents[2] / "jobs" / "pretrain.py"
Fail = Callable[..., str]


@pytest.fixture(scope="module")
def main(load_job: Callable[[str], Any]) -> Callable[[list[str]], None]:
    return load_job("pretrain").main  # type: ignore[no-any-return]


@pytest.fixture
def fail(
    main: Callable[[list[str]], None],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> Fail:
    """`fail(*argv)`: the error with which the job ends."""
    # the machine's own size must not matter
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)

    def run(*argv: str) -> str:
        with pytest.raises(SystemExit) as exit_:
            main([f"--storage={tmp_path / 'runs'}", "--name=run", *argv])
        assert exit_.value.code not in (0, None)
        return f"{exit_.value.code}\n{capsys.readouterr().err}"

    return run


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--recipe=tinny"], "tinny.*did you mean tiny"),
        (["--task.num_patchs=3"], "did you mean --task.num_patches"),
        (["--task=ctpp"], "ctpp.*ctp"),
        (["--data.uri=/nowhere/at/all"], "/nowhere/at/all"),
        (["--data.uri=corpus:none"], "expected corpus:NUMBER"),
        (["--scaling.num_workers=3"], "total_batch 16 .*num_workers 3"),
        (["--scaling.num_workers=2"], "3 CPUs .*offers 2"),
        (["--scaling.use_gpu=true"], "1 GPUs .*scaling.use_gpu"),
        (["--storage=/proc"], "/proc"),
    ],
)
def test_an_invalid_option_is_an_error(fail: Fail, argv: list[str], message: str) -> None:
    assert re.search(message, fail(*argv))


def test_all_that_is_missing_is_reported_at_once(fail: Fail) -> None:
    message = fail("--recipe=ucf101-r3d18", "--data.uri=no/train", "--data.heldout_uri=no/test")
    for expected in ("no/train", "no/test", "32 CPUs", "8 GPUs", "--scaling.num_workers auto"):
        assert expected in message
    assert re.search("data.heldout_uri: there is no .*no/test", message)
    assert message.count("no/train") == 1


def test_a_folder_without_videos_is_an_error(fail: Fail, tmp_path: Path) -> None:
    (tmp_path / "videos").mkdir()
    (tmp_path / "videos" / "notes.txt").write_text("no video")
    uri = str(tmp_path / "videos")
    assert uri in fail(f"--data.uri={uri}")


def test_a_finished_run_is_not_overwritten(fail: Fail, tmp_path: Path) -> None:
    (tmp_path / "runs" / "run").mkdir(parents=True)
    (tmp_path / "runs" / "run" / "encoder.safetensors").write_bytes(b"all that work")
    assert "'run' is finished" in fail()
    assert (tmp_path / "runs" / "run" / "encoder.safetensors").read_bytes() == b"all that work"


def test_a_finished_run_that_is_started_again_is_no_error(
    main: Callable[[list[str]], None],
    load_job: Callable[[str], Any],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    argv = [f"--storage={tmp_path / 'runs'}", "--name=run", "--data.uri=corpus:16"]
    argv += ["--initial_encoder=ctp-small"]  # it must mean the same weights each time
    _, config = CommandLine(PRETRAIN, "tiny", "").parse(argv)
    config = with_absolute_paths(config.replace(recipe="tiny"))
    create_or_resume(config)
    folder = folder_of(config)
    folder.join("metrics.jsonl").write_bytes(
        b'{"step": 9, "iou": 0.5, "heldout_clips": 4, "heldout_quarantined": 0}\n'
    )
    folder.join("encoder.safetensors").write_bytes(b"all that work")
    before = {file.path for file in folder.list_files()}
    main(argv)
    said = capsys.readouterr().out
    assert f"run {folder.uri} is finished" in said
    assert "0.500" in said
    # the run was stopped after its last step: its picture was missing
    after = {file.path for file in folder.list_files() if not file.path.startswith(".attempts")}
    assert after - before == {"curves.png"}
    complete = folder.list_files()
    main(argv)
    assert folder.list_files() == complete
    next_jobs = re.findall(r"(?:next|or): python jobs/(\w+)\.py (.*)", said)
    assert [job for job, _ in next_jobs] == ["preview", "finetune", "embed"]
    for job, words in next_jobs:
        with pytest.raises(SystemExit) as ended:
            load_job(job).main([*shlex.split(words), "--print-config"])
        assert not ended.value.code
    with pytest.raises(SystemExit, match="seed was 0, is 1"):
        main([*argv, "--seed=1"])


def test_help_names_recipes_and_options_and_says_how_to_resume() -> None:
    shown = subprocess.run(
        [sys.executable, str(JOB), "--help", "all"], capture_output=True, text=True, check=True
    ).stdout
    for expected in ("recipes:", "ucf101-r3d18", "--data.uri", "--task.num_patches", "resumes"):
        assert expected in shown
