"""What the page says about a run, from the time before its start to its end."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from ctp.data.quarantine import QuarantinedVideo, QuarantineLedger
from ctp.lease import hold
from ctp.pretext.config import PretrainConfig
from ctp.training.run_folder import create_or_resume, folder_of
from ctp.watch.run import WatchedRun

AddLines = Callable[..., Path]
Line = Callable[..., dict[str, Any]]


def all_files(folder: Path) -> dict[str, tuple[int, int]]:
    """Return size and time of the last change of everything below a folder."""
    found = (each for each in (folder, *folder.rglob("*")))
    return {str(each): (each.stat().st_size, each.stat().st_mtime_ns) for each in found}


@pytest.fixture
def watched(small_run: PretrainConfig) -> WatchedRun:
    return WatchedRun(folder_of(small_run), "run")


def state(watched: WatchedRun) -> str:
    watched.refresh()
    return watched.view.state


def test_the_state_follows_a_run_from_before_its_start_to_its_deletion(
    watched: WatchedRun, small_run: PretrainConfig, add_lines: AddLines, line: Line
) -> None:
    assert state(watched) == "not started"
    with hold(folder_of(small_run), "pretrain"):
        create_or_resume(small_run)
        assert state(watched) == "running"
        folder = add_lines([line(2, 1.5), line(4, 1.0, evaluation_seconds=2.0)])
        watched.refresh()
    view = watched.view
    assert (view.step, view.total_steps) == (4, 6)
    # 4 clips at 8 clips/s and a quarter of the evaluation, for each of two steps
    assert view.seconds_left == pytest.approx(2 * (4 / 8 + 2 / 4))
    assert view.written_seconds == pytest.approx(time.time(), abs=60)
    assert state(watched) == "stopped"
    assert watched.view.seconds_left is None
    (folder / "encoder.safetensors").write_bytes(b"")
    assert state(watched) == "finished"
    shutil.rmtree(folder)
    assert state(watched) == "deleted"


def test_a_failed_run_says_why(watched: WatchedRun, small_run: PretrainConfig) -> None:
    create_or_resume(small_run)
    with suppress(ValueError), hold(folder_of(small_run), "pretrain"):
        raise ValueError("no memory")
    assert state(watched) == "failed"
    assert watched.view.note == "no memory"


def test_nothing_is_written_to_the_folder(
    watched: WatchedRun, small_run: PretrainConfig, add_lines: AddLines, line: Line
) -> None:
    with hold(folder_of(small_run), "pretrain"):
        create_or_resume(small_run)
    folder = add_lines([line(2, 1.5)])
    before = all_files(folder)
    for _ in range(2):
        assert state(watched) == "stopped"
    assert all_files(folder) == before


def test_the_numbers_have_units_and_what_they_are_compared_with(
    watched: WatchedRun, add_lines: AddLines, line: Line
) -> None:
    scores = {"iou": 0.625, "still_iou": 0.5, "heldout_clips": 6}
    add_lines([line(3, 1.23456, **scores), line(4, 1.0)])
    watched.refresh()
    assert watched.view.numbers == {
        "loss": "1.0000",
        "tracking IoU": "0.625",
        "still box": "0.500",
        "evaluated": "step 3, 6 clips",
        "speed": "8.0 clips/s",
        "waiting for data": "25%",
    }


def test_a_plateau_and_a_collapse_are_warnings(
    watched: WatchedRun, add_lines: AddLines, line: Line
) -> None:
    add_lines([line(3, 1.0, iou=0.5, still_iou=0.5)])
    watched.refresh()
    assert "plateau" in watched.view.warning
    add_lines([line(6, 1.0, iou=0.9, still_iou=0.5)])
    watched.refresh()
    assert watched.view.warning == ""
    add_lines([line(9, 1.0, iou=0.9, still_iou=0.5, effective_rank=1.0)])
    watched.refresh()
    assert "collapsed" in watched.view.warning


def test_quarantined_videos_have_names_and_reasons(
    watched: WatchedRun, add_lines: AddLines, line: Line
) -> None:
    folder = add_lines([line(2, 1.0, quarantined=1)])
    ledger = QuarantineLedger()
    ledger.add([QuarantinedVideo("a/b.mp4", "/v/a/b.mp4", "it is text")])
    (folder / "quarantine.jsonl").write_bytes(ledger.to_jsonl())
    watched.refresh()
    assert watched.view.num_quarantined == 1
    assert watched.view.quarantined == [("a/b.mp4", "it is text")]
