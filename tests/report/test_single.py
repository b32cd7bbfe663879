"""What the page tells of one folder."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from ctp.report.page import SOURCE, Section
from ctp.report.runs import Run
from ctp.report.single import retrieval_section, run_section
from ctp.storage import Storage
from ctp.training.run_folder import CURVES, KNN, to_jsonl

WriteRun = Callable[..., Storage]


def cells(section: Section) -> list[tuple[str, ...]]:
    (table,) = section.tables
    assert table.head == ("", "measure", "%", SOURCE)
    return [tuple(row.cells) for row in table.rows]


def test_a_pretraining_run_tells_its_last_looks(pretrained: WriteRun) -> None:
    folder = pretrained("pre", seed=4)
    folder.join(KNN).write_bytes(to_jsonl([{"step": 5, "knn_top1": 0.25}]))
    folder.join(CURVES).write_bytes(b"PNG")
    section = run_section(Run.read(folder))
    assert (section.title, section.uri, section.state) == (
        "pre",
        folder.uri,
        "finished after 5 steps",
    )
    assert [(row[1], row[2], row[3]) for row in cells(section)] == [
        ("mean IoU of tracked held-out patches", "60.0", f"{folder.uri}/metrics.jsonl, step 5"),
        ("mean IoU of boxes that stay still", "50.0", f"{folder.uri}/metrics.jsonl, step 5"),
        (
            "labelled videos whose nearest neighbours have their class",
            "25.0",
            f"{folder.uri}/knn.jsonl, step 5",
        ),
    ]
    assert section.facts["seed"] == "4"
    assert [picture.name for picture in section.pictures] == [CURVES]
    assert section.differences is not None
    assert any(line.startswith("encoder.width: 64 in") for line in section.differences)


def test_a_tracking_run_stands_beside_the_still_box(tracked: WriteRun) -> None:
    section = run_section(Run.read(tracked("t", 0.5, frozen_stages=3)))
    values = {row[1]: row[2] for row in cells(section)}
    assert values["mIoU"] == "50.0"
    assert values["mIoU, box that stays still"] == "40.0"
    assert section.facts["frozen stages"] == "3"
    assert section.differences is None


def test_of_the_papers_tables_those_of_initial_weights(finetuned: WriteRun) -> None:
    folder = finetuned("ft", 0.5, data={"uri": "s3://b/hmdb51/train"})
    rows = cells(run_section(Run.read(folder)))
    assert rows[0] == (
        "ours", "top-1 of 8 videos, 0 more quarantined", "50.0", f"{folder.uri}/scores.json",
    )  # fmt: skip
    assert {row[3].split(",")[0] for row in rows[1:-1]} == {"Table 3", "Table 4"}
    linear = finetuned("l", 0.5, data={"uri": "s3://b/hmdb51"}, head={"frozen_encoder": True})
    assert {row[0] for row in cells(run_section(Run.read(linear)))} == {"ours"}


@pytest.mark.parametrize("data", ["s3://b/ucf101/train", "s3://b/mine"])
def test_retrieval(tmp_path: Path, data: str) -> None:
    sides = {name: {"folder": f"features/{name}", "data": data} for name in ("gallery", "queries")}
    found = {
        "accuracy": {"1": 0.3, "50": 0.9},
        "chance": {"1": 0.01, "50": 0.5},
        "encoder": "runs/pre/encoder.safetensors",
        "views": {"num_clips": 10},
        "features": {"pooling": "cells"},
        **sides,
    }
    (tmp_path / "retrieval.json").write_text(json.dumps(found))
    section = retrieval_section(Storage.of(tmp_path))
    ours = [row for row in cells(section) if row[0] == "ours"]
    source = str(tmp_path / "retrieval.json")
    assert ours == [
        ("ours", "retrieval at k = 1 (chance 1.0)", "30.0", source),
        ("ours", "retrieval at k = 50 (chance 50.0)", "90.0", source),
    ]
    papers = {row[0]: row[2:] for row in cells(section) if row[0] != "ours"}
    known = {
        "paper, CtP, UCF-101": ("23.4", "Table 5"),
        "paper, CtP, Kinetics-400": ("29.0", "Table 5"),
    }
    assert papers == (known if "ucf101" in data else {})
