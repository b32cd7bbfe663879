"""What the page says about a run, from the time before its start to its end."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import yaml

from ctp.data.quarantine import QuarantinedVideo, QuarantineLedger
from ctp.downstream.config import FinetuneConfig
from ctp.lease import hold
from ctp.pretext.config import PretrainConfig
from ctp.pretext.registry import TASKS
from ctp.training.run_folder import config_values, create_or_resume, folder_of
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
    (folder / "curves.png").write_bytes(b"")
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


def test_a_run_of_any_task_is_read_without_torch(
    small_run: PretrainConfig, add_lines: AddLines, line: Line, run_python: Callable[..., str]
) -> None:
    folders = [
        add_lines([line(2, 1.0)], name, task=TASKS[name].Config()) for name in ("ctp", "rotation")
    ]
    script = (
        "import sys, ctp.watch.server, ctp.watch.run as run, ctp.storage as storage\n"
        "for folder in sys.argv[1:]:\n"
        "    watched = run.WatchedRun(storage.Storage.from_uri(folder), 'run')\n"
        "    watched.refresh()\n"
        "    print(watched.view.kind)\n"
        "print({'torch', 'ray', 'matplotlib'}.intersection(sys.modules))"
    )
    printed = run_python("-c", script, *map(str, folders)).splitlines()
    assert printed == ["pretrain ctp", "pretrain rotation", "set()"]


def test_a_run_that_an_older_version_wrote_has_its_score(
    watched: WatchedRun, add_lines: AddLines, line: Line
) -> None:
    folder = add_lines([line(2, 1.0, iou=0.75)])
    values = yaml.safe_load((folder / "config.yaml").read_text())
    del values["score"]
    (folder / "config.yaml").write_text(yaml.safe_dump(values))
    watched.refresh()
    assert watched.view.numbers["tracking IoU"] == "0.750"


def test_other_kinds_of_runs_have_their_own_scores(finetuning: FinetuneConfig, line: Line) -> None:
    folder = folder_of(finetuning)
    folder.join("config.yaml").write_bytes(yaml.safe_dump(config_values(finetuning)).encode())
    row = line(2, 1.0, top1=0.5, chance1=0.1, tested=8)
    folder.join("metrics.jsonl").write_bytes(json.dumps(row).encode() + b"\n")
    watched = WatchedRun(folder, "ft")
    watched.refresh()
    assert watched.view.kind == "finetune"
    assert watched.view.numbers["top-1"] == "50.0% ± 16.7%"
    assert watched.view.numbers["chance"] == "10.0%"


def test_a_run_in_an_object_store_is_followed(
    small_run: PretrainConfig, s3_bucket: str, line: Line
) -> None:
    config = small_run.replace(storage=f"{s3_bucket}/runs")
    folder = folder_of(config)
    watched = WatchedRun(folder, "run")
    assert state(watched) == "not started"
    rows = b""
    with hold(folder, "pretrain"):
        create_or_resume(config)
        for step in (2, 4):  # the log is written as a whole, each time
            rows += json.dumps(line(step, 1.0)).encode() + b"\n"
            folder.join("metrics.jsonl").write_bytes(rows)
            assert state(watched) == "running"
            assert watched.view.step == step
    assert state(watched) == "stopped"
    folder.delete_folder()
    assert state(watched) == "deleted"


def test_a_storage_that_does_not_answer_is_reported_and_what_was_read_stays(
    small_run: PretrainConfig, faulty_s3: Any, line: Line
) -> None:
    folder = folder_of(small_run.replace(storage=f"{faulty_s3.bucket}/runs"))
    folder.join("config.yaml").write_bytes(yaml.safe_dump(config_values(small_run)).encode())
    folder.join("metrics.jsonl").write_bytes(json.dumps(line(2, 1.0)).encode() + b"\n")
    watched = WatchedRun(folder, "run")
    assert state(watched) == "stopped"
    faulty_s3.fail({"kind": "refused", "value": "AccessDenied"})
    assert state(watched) == "unreadable"
    assert watched.view.step == 2
    assert "cannot look up" in watched.view.note
