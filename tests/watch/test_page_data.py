"""The panels of curves, and what differs between runs."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ctp.pretext.registry import TASKS
from ctp.storage import Storage
from ctp.watch.page_data import PageData, panels
from ctp.watch.run import WatchedRun

AddLines = Callable[..., Path]
Line = Callable[..., dict[str, Any]]


def watch(*folders: Path) -> list[WatchedRun]:
    runs = [WatchedRun(Storage.from_uri(folder), folder.name) for folder in folders]
    for run in runs:
        run.refresh()
    return runs


def test_runs_of_a_task_share_their_panels(add_lines: AddLines, line: Line) -> None:
    scores = {"iou": 0.6, "still_iou": 0.5}
    runs = watch(*(add_lines([line(2, 1.0, **scores)], name) for name in ("a", "b")))
    found = {panel.title: panel for panel in panels(runs)}
    assert [line.run for line in found["Loss"].lines] == [0, 1]
    score = found["Held-out tracking IoU"]
    assert [(line.run, line.label, line.style) for line in score.lines] == [
        (0, "", "solid"), (0, "still box", "dashed"), (1, "", "solid"), (1, "still box", "dashed"),
    ]  # fmt: skip
    assert [line.points[0][:2] for line in score.lines] == 2 * [(2, 0.6), (2, 0.5)]
    assert found["Speed"].unit == "clips/s"


@pytest.mark.parametrize("task", TASKS)
def test_every_task_has_a_panel_of_its_own_score(
    task: str, add_lines: AddLines, line: Line
) -> None:
    score = TASKS[task].score
    entries = {score.key: 0.7, score.baseline_key: 0.5}
    (run,) = watch(add_lines([line(2, 1.0, **entries)], task=TASKS[task].Config()))
    found = {panel.title: panel for panel in panels([run])}
    panel = found[f"Held-out {score.label}"]
    assert panel.unit == ("%" if score.is_percent else "")
    assert panel.lines[0].points == [(2, 0.7, None, None)]


def test_different_options_are_in_words(add_lines: AddLines, small_run, line: Line) -> None:
    task = small_run.task.replace(num_patches=3)
    runs = watch(add_lines([], "a"), add_lines([], "b", seed=4, task=task), Path("missing"))
    assert PageData(runs).refresh()["differences"] == [
        {"option": "seed", "values": ["0", "4", ""]},
        {"option": "number of patches", "values": ["2", "3", ""]},
    ]


def test_a_run_of_another_task_differs_in_what_both_have(add_lines: AddLines, line: Line) -> None:
    runs = watch(add_lines([], "a"), add_lines([], "b", task=TASKS["rotation"].Config()))
    options = {each["option"]: each["values"] for each in PageData(runs).refresh()["differences"]}
    assert options["task"] == ["ctp", "rotation"]
    assert "number of patches" not in options


def test_a_loss_that_is_not_a_number_is_no_fault(add_lines: AddLines, line: Line) -> None:
    runs = watch(add_lines([line(1, 1.0), line(2, math.nan)]))
    found = json.loads(json.dumps(PageData(runs).refresh(), allow_nan=False))
    assert [point[0] for point in found["panels"][0]["lines"][0]["points"]] == [1]


def test_a_long_log_is_read_fast_and_gives_little_data(add_lines: AddLines, line: Line) -> None:
    rows = [line(step, 1 / step, learning_rate=0.1) for step in range(1, 100_001)]
    folder = add_lines(rows)
    data = PageData(watch(folder))
    assert len(json.dumps(data.refresh())) < 100_000
    with (folder / "metrics.jsonl").open("a") as file:
        file.write(json.dumps(line(100_001, 0.5)) + "\n")
    began = time.process_time()
    assert data.refresh()["runs"][0]["step"] == 100_001
    assert time.process_time() - began < 0.5
