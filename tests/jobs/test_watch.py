"""The job that serves the live page, from its command line to its end."""

from __future__ import annotations

import json
import re
import signal
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ctp.pretext.config import PretrainConfig
from ctp.training.run_folder import create_or_resume


@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGTERM])
def test_it_serves_the_named_runs_until_it_is_stopped(
    small_run: PretrainConfig, start_job: Callable[..., Any], ending: int
) -> None:
    create_or_resume(small_run)
    names = ["run", "later", f"--storage={small_run.storage}"]
    with start_job("watch.py", [*names, "--port", "0", "--predictions", "false"]) as process:
        waiting, serving = process.stdout.readline(), process.stdout.readline()
        assert "waiting for the run later" in waiting
        (url,) = re.findall(r"http://127\.0\.0\.1:\d+/", serving)
        with urllib.request.urlopen(f"{url}data.json") as answer:
            runs = json.load(answer)["runs"]
        assert [(run["name"], run["state"]) for run in runs] == [
            ("run", "stopped"),
            ("later", "not started"),
        ]
        process.send_signal(ending)
        assert process.wait(timeout=60) == 0


def test_without_a_name_the_error_lists_the_runs(
    small_run: PretrainConfig, load_job: Callable[[str], Any]
) -> None:
    create_or_resume(small_run)
    with pytest.raises(SystemExit, match="runs there: run"):
        load_job("watch").main(["--storage", small_run.storage])


def test_runs_of_the_same_name_are_told_apart(
    small_run: PretrainConfig, tmp_path: Path, start_job: Callable[..., Any]
) -> None:
    folders = []
    for part in ("a", "b"):
        config = small_run.replace(storage=str(tmp_path / part))
        create_or_resume(config)
        folders.append(str(tmp_path / part / "run"))
    options = [*folders, "--port=0", "--predictions=false"]
    with start_job("watch.py", options) as process:
        assert f"shows {folders[0]}, {folders[1]}; " in process.stdout.readline()
