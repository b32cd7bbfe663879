"""A file that processes share: written once, whole for all, gone with the last."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from ctp.shared_file import SharedFile

HOLD = """
import sys, time
from pathlib import Path
from ctp.shared_file import SharedFile
def write(path):
    path.write_text("from the child")
    if sys.argv[1] == "dies":
        print(path, flush=True)
        time.sleep(600)
file = SharedFile("f", write)
print(file.path, flush=True)
time.sleep(600)
"""


@pytest.fixture(autouse=True)
def temporary_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)


def child(how: str) -> subprocess.Popen[str]:
    """A process that has the file open, or is about to die while it writes it."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, how], stdout=subprocess.PIPE, text=True, env=dict(os.environ)
    )
    assert process.stdout is not None
    process.stdout.readline()
    return process


def kill(process: subprocess.Popen[str]) -> None:
    process.send_signal(signal.SIGKILL)
    process.communicate()


def writing(text: str) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        path.write_text(text)

    return write


def never(path: Path) -> None:
    raise AssertionError("it is there already")


def test_written_once_and_deleted_by_the_last() -> None:
    with SharedFile("f", writing("content")) as first:
        with SharedFile("f", never) as second:
            assert second.path == first.path
        assert first.path.read_text() == "content"
        first.close()
        assert not first.path.exists()
    with SharedFile("f", writing("anew")) as third:
        assert third.path.read_text() == "anew"


def test_a_process_that_dies_lets_go_of_it() -> None:
    process = child("holds")
    with SharedFile("f", never) as file:
        file.close()
        assert file.path.exists()
    kill(process)
    with SharedFile("f", never) as file:
        assert file.path.read_text() == "from the child"
    assert not file.path.exists()


def test_what_a_dead_process_left_half_written_is_written_anew() -> None:
    kill(child("dies"))
    with SharedFile("f", writing("whole")) as file:
        assert file.path.read_text() == "whole"


def test_a_write_that_fails_leaves_nothing_to_trust() -> None:
    def fail(path: Path) -> None:
        path.write_text("half")
        raise OSError("no space left on device")

    with pytest.raises(OSError, match="no space left"):
        SharedFile("f", fail)
    with SharedFile("f", writing("whole")) as file:
        assert file.path.read_text() == "whole"
