"""A log is read while it grows, and read again if it was written anew."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from ctp.storage import Storage
from ctp.watch.growing_log import GrowingLog


def lines(*steps: int, loss: float = 1.0) -> str:
    return "".join(json.dumps({"step": step, "loss": loss}) + "\n" for step in steps)


def read(log: GrowingLog) -> list[int]:
    log.refresh()
    return log.series("loss")[0].tolist()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "metrics.jsonl"


@pytest.fixture
def log(file: Path) -> GrowingLog:
    return GrowingLog(Storage.from_uri(file))


def test_new_lines_are_added_and_a_line_that_is_cut_off_waits(file: Path, log: GrowingLog) -> None:
    assert read(log) == []
    file.write_text(lines(1, 2) + '{"step": 3, "lo')
    assert read(log) == [1, 2]
    file.write_text(lines(1, 2, 3, 4))
    assert read(log) == [1, 2, 3, 4]
    assert log.newest["step"] == 4


def test_only_new_bytes_are_read(file: Path, log: GrowingLog, monkeypatch) -> None:
    file.write_text(lines(*range(1, 10_000)))
    log.refresh()
    sizes = []
    read_bytes = Storage.read_bytes

    def count(place: Storage, offset: int = 0, size: int | None = None) -> bytes:
        data = read_bytes(place, offset, size)
        sizes.append(len(data))
        return data

    monkeypatch.setattr(Storage, "read_bytes", count)
    with file.open("a") as out:
        out.write(lines(10_000))
    assert read(log)[-1] == 10_000
    assert not log.refresh()
    assert len(sizes) == 1
    assert sizes[0] < 1000


@pytest.mark.parametrize("steps", [(1, 2), (1, 2, 3, 4, 5, 6, 7)])
def test_a_resumed_run_replaces_its_last_lines(
    file: Path, log: GrowingLog, steps: tuple[int, ...]
) -> None:
    file.write_text(lines(1, 2, 3, 4, loss=2.0))
    read(log)
    # also if the new file is longer than the old one
    file.write_text(lines(*steps, loss=0.25))
    assert read(log) == list(steps)
    assert set(log.series("loss")[1]) == {0.25}


def test_a_file_that_is_deleted_has_no_lines(file: Path, log: GrowingLog) -> None:
    file.write_text(lines(1))
    read(log)
    file.unlink()
    assert read(log) == []
    assert log.newest == {}


def test_a_row_has_the_numbers_of_the_last_line_with_an_entry(file: Path, log: GrowingLog) -> None:
    rows = [{"step": 1, "loss": 3}, {"step": 2, "loss": 2, "iou": 0.5}, {"step": 3, "loss": 1}]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    log.refresh()
    assert log.row("iou") == rows[1]
    assert log.row("accuracy") == {}


def test_numbers_that_are_not_finite_are_kept(file: Path, log: GrowingLog) -> None:
    file.write_text(lines(1, loss=math.nan))
    assert read(log) == [1]
    assert np.isnan(log.series("loss")[1]).all()
