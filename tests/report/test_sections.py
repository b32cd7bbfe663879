"""From folders to sections: what is shown of each, in which order, and what is refused."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from ctp.lease import hold
from ctp.report.page import SOURCE, Section
from ctp.report.runs import Run
from ctp.report.sections import retrieval_section, run_section, sections_of
from ctp.storage import Storage
from ctp.training.run_folder import CURVES, KNN, to_jsonl
from ctp.versions import written_by

WriteRun = Callable[..., Storage]


def titles(*places: str) -> list[str]:
    return [section.title for section in sections_of(places)]


def cells(section: Section) -> list[tuple[str, ...]]:
    (table,) = section.tables
    assert table.columns == ["of", "measure", "value", SOURCE]
    return [tuple(row.values()) for row in table.rows]


def test_a_folder_of_runs_means_all_of_them(finetuned: WriteRun, pretrained: WriteRun) -> None:
    first = finetuned("b", 0.5)
    finetuned("a", None)
    pretrained("pre")
    (Path(first.parent.path) / "notes").mkdir()
    assert titles(first.parent.uri) == ["a", "b", "pre"]
    assert titles(first.uri, first.parent.uri) == ["b", "a", "pre"], "each once, in this order"


def test_comparisons_come_first(finetuned: WriteRun) -> None:
    folders = [finetuned(name, 0.5, seed=seed).uri for seed, name in enumerate("ab")]
    assert titles(*folders) == ["Accuracy by initial weights", "a", "b"]


def test_runs_on_s3(finetuned: WriteRun, pretrained: WriteRun, s3_bucket: str) -> None:
    """The config of the initial weights is found there, too."""
    runs = f"{s3_bucket}/runs"
    for seed in (0, 1):
        uri = pretrained(f"pre-{seed}", seed=seed, storage=runs).join("encoder.safetensors").uri
        finetuned(f"ft-{seed}", 0.5 + seed / 10, seed=seed, storage=runs, initial=uri)
    comparison, *singles = sections_of([runs])
    assert [section.title for section in singles] == ["ft-0", "ft-1", "pre-0", "pre-1"]
    (row,) = comparison.tables[0].rows
    assert row["initial weights"] == "pretrained"
    assert row["top-1"] == "55.0% ± 7.1%"
    assert row[SOURCE] == f"{runs}/{{ft-0,ft-1}}/scores.json"


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("a: [", "config.yaml: .*expected"),
        (
            "seed: 1",
            "it does not say what kind of run it is; expected pretrain or finetune or track",
        ),
        ("kind: bake", "it is a run of bake; expected"),
        ("{kind: finetune, protocols: linear}", "protocols .did you mean protocol"),
    ],
)
def test_invalid_configs(tmp_path: Path, config: str, message: str) -> None:
    (tmp_path / "config.yaml").write_text(config)
    with pytest.raises(ValueError, match=f"(?s){message}"):
        sections_of([str(tmp_path)])


def test_folders_without_runs(tmp_path: Path) -> None:
    for place in (tmp_path, tmp_path / "nothing"):
        with pytest.raises(ValueError, match=r"no run .*has no config\.yaml or retrieval\.json"):
            sections_of([str(place)])


def test_a_pretraining_run_shows_its_last_scores(pretrained: WriteRun) -> None:
    folder = pretrained("pre", seed=4)
    folder.join(KNN).write_bytes(
        to_jsonl([{"step": 5, "knn_top1": 0.25, "knn_tested": 12, "knn_chance": 0.1}])
    )
    folder.join(CURVES).write_bytes(b"PNG")
    section = run_section(Run.read(folder))
    shown = (section.title, section.uri, section.state)
    assert shown == ("pre", folder.uri, "finished after 5 steps")
    metrics, knn = (f"{folder.uri}/{name}.jsonl, step 5" for name in ("metrics", "knn"))
    assert cells(section) == [
        ("ours", "tracking IoU", "0.600", metrics),
        ("still box", "tracking IoU", "0.500", metrics),
        ("ours", "accuracy of nearest neighbours of 12 videos", "25.0% ± 12.2%", knn),
        ("chance", "accuracy of nearest neighbours of 12 videos", "10.0%", knn),
    ]
    assert section.facts["seed"] == "4"
    assert section.facts["game"].startswith("K = 3")
    assert [picture.png for picture in section.pictures] == [b"PNG"]
    assert section.differences is not None
    assert any(line == "encoder, width: 4 here, 64 in the paper" for line in section.differences)


def test_a_tracking_run_is_beside_the_still_box(tracked: WriteRun) -> None:
    section = run_section(Run.read(tracked("t", 0.5, frozen_stages=3)))
    values = {row[:2]: row[2] for row in cells(section)}
    assert values["ours", "mIoU of 3 videos"] == "0.500"
    assert values["still box", "mIoU of 3 videos"] == "0.400"
    assert values["ours", "SR.75 of 3 videos"] == "0.500"
    assert section.facts["frozen stages"] == "3"
    assert section.differences is None


def test_the_papers_tables_of_initial_weights_are_beside_fine_tuning(finetuned: WriteRun) -> None:
    folder = finetuned("ft", 0.5, data={"uri": "s3://b/hmdb51/train"})
    rows = cells(run_section(Run.read(folder)))
    assert rows[0] == ("ours", "top-1 of 8 videos", "50.0% ± 16.7%", f"{folder.uri}/scores.json")
    assert {row[3].split(",")[0] for row in rows[1:-1]} == {"Table 3", "Table 4"}
    linear = finetuned("l", 0.5, data={"uri": "s3://b/hmdb51"}, protocol="linear")
    assert {row[0] for row in cells(run_section(Run.read(linear)))} == {"ours"}


def test_a_run_has_a_line_with_what_it_is_compared_with(finetuned: WriteRun) -> None:
    folder = finetuned("ft", 0.5, data={"uri": "s3://b/ucf101/train"}, protocol="finetune")
    with hold(folder, "finetune"):
        pass
    place = folder.join("scores.json")
    place.write_bytes(json.dumps(json.loads(place.read_bytes()) | {"chance1": 0.125}).encode())
    summary = run_section(Run.read(folder)).summary
    assert summary["task"] == "finetune"
    assert summary["score"] == "top-1 50.0% ± 16.7% of 8 videos"
    assert summary["chance or baseline"] == "chance 12.5%"
    assert summary["published"] == "86.2% (CtP, Kinetics-400, Table 3, R3D-18)"
    assert summary["date"] == f"{datetime.now(UTC):%Y-%m-%d}"
    assert summary["machine"] == socket.gethostname()
    assert summary["version"].startswith(written_by()["ctp"])
    assert summary["state"] == "finished"


@pytest.mark.parametrize("data", ["s3://b/ucf101/train", "s3://b/mine"])
def test_retrieval(tmp_path: Path, data: str) -> None:
    sides = {name: {"folder": f"features/{name}", "data": data} for name in ("gallery", "queries")}
    found = {
        "accuracy": {"1": 0.3, "50": 0.9},
        "chance": {"1": 0.01, "50": 0.5},
        "encoder": "runs/pre/encoder.safetensors",
        "views": {"num_clips": 10},
        "features": {"pooling": "both"},
        "architecture": "r3d, width 64",
        "date": "2026-02-01",
        **sides,
    }
    found["accuracy_by_pooling"] = {"max": found["accuracy"], "vcop": {"1": 0.2, "50": 0.8}}
    folder = tmp_path / "retrieval"
    folder.mkdir()
    (folder / "retrieval.json").write_text(json.dumps(found))
    section = retrieval_section(Storage.from_uri(folder))
    source = str(folder / "retrieval.json")
    assert section.title == "retrieval"
    assert section.summary["date"] == "2026-02-01"
    assert [row for row in cells(section) if row[0].startswith("ours")] == [
        ("ours, pooling max", "retrieval at k = 1 (chance 1.0%)", "30.0%", source),
        ("ours, pooling vcop", "retrieval at k = 1 (chance 1.0%)", "20.0%", source),
        ("ours, pooling max", "retrieval at k = 50 (chance 50.0%)", "90.0%", source),
        ("ours, pooling vcop", "retrieval at k = 50 (chance 50.0%)", "80.0%", source),
    ]
    assert section.facts["encoder"] == "runs/pre/encoder.safetensors: r3d, width 64"
    papers = {row[0]: row[2:] for row in cells(section) if not row[0].startswith("ours")}
    known = {
        "paper, CtP, UCF-101": ("23.4%", "Table 5"),
        "paper, CtP, Kinetics-400": ("29.0%", "Table 5"),
    }
    assert papers == (known if "ucf101" in data else {})
