"""A video that ends the process that decodes it is known to the next process."""

from __future__ import annotations

import os
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from ctp.data.journal import delete_journals, journal_folder, working_on

WORKER = str(Path(__file__).with_name("crashing_worker.py"))


@pytest.fixture
def key() -> Iterator[str]:
    key = f"test-{uuid.uuid4().hex}"
    yield key
    delete_journals(key)
    assert not journal_folder(key).exists()


def start_worker(key: str, folder: Path, *names: str, seconds: float = 30) -> subprocess.Popen[str]:
    """Start a process that works on videos."""
    command = [sys.executable, WORKER, key, str(seconds), str(folder), *names]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)


def run_worker(key: str, folder: Path, *names: str, seconds: float = 30) -> tuple[int, list[str]]:
    """Return the exit status and the printed lines of a process that works on videos."""
    with start_worker(key, folder, *names, seconds=seconds) as worker:
        output, _ = worker.communicate(timeout=50)
    return worker.returncode, output.splitlines()


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("crash", "crashed (Segmentation fault)"),
        ("killed", "was killed, perhaps out of memory"),
        ("hang", "took longer than 1 s"),
    ],
)
def test_a_video_that_ends_two_processes_is_not_tried_again(
    key: str, tmp_path: Path, name: str, reason: str
) -> None:
    for _ in range(2):
        status, lines = run_worker(key, tmp_path, "good", name, "never", seconds=1)
        assert status < 0
        assert lines == ["good done"]
    status, lines = run_worker(key, tmp_path, "good", name, "other", seconds=1)
    assert status == 0
    assert lines[0] == "good done"
    assert lines[2] == "other done"
    assert lines[1].startswith(name)
    assert reason in lines[1]


def test_a_video_that_ends_one_process_is_tried_again(key: str, tmp_path: Path) -> None:
    assert run_worker(key, tmp_path, "once")[0] < 0
    assert run_worker(key, tmp_path, "once") == (0, ["once done"])


def test_processes_that_end_between_videos_blame_none(key: str, tmp_path: Path) -> None:
    for _ in range(4):
        assert run_worker(key, tmp_path, "good") == (0, ["good done"])


def test_a_video_that_a_living_process_works_on_is_not_blamed(key: str, tmp_path: Path) -> None:
    with start_worker(key, tmp_path, "good", "hang") as living:
        assert living.stdout is not None
        assert living.stdout.readline() == "good done\n"  # the next video has begun, or will
        for _ in range(2):
            assert run_worker(key, tmp_path, "other") == (0, ["other done"])
        living.kill()
    status, lines = run_worker(key, tmp_path, "hang", seconds=1)
    assert (status < 0, lines) == (True, [])  # tried: one loss so far


def test_jobs_do_not_share_what_they_learn(key: str, tmp_path: Path) -> None:
    for _ in range(2):
        run_worker(f"{key}/a", tmp_path, "crash")
    assert run_worker(f"{key}/a", tmp_path, "crash")[0] == 0
    assert run_worker(f"{key}/b", tmp_path, "crash")[0] < 0


def test_without_a_journal_nothing_is_recorded() -> None:
    with working_on(None, "video", ""):
        pass
