"""Runs of action recognition beside each other: known means, their spreads, and their sources."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from ctp.report.classified import classified
from ctp.report.page import SOURCE, Section
from ctp.report.runs import Run
from ctp.storage import Storage

WriteRun = Callable[..., Storage]
ACCURACY = "Accuracy by initial weights"
LABELS = "Accuracy over the share of labels (as Fig. 4)"
CURVES = "Training and test curves by initial weights (as Fig. 6)"
PAPER: dict[str, Any] = {
    "encoder": {"width": 64, "blocks_per_stage": (2, 2, 2, 2), "last_stage_spatial_stride": 2},
    "data": {"uri": "s3://b/ucf101/train", "test_uri": "s3://b/ucf101/test"},
}


def sections(*folders: Storage) -> dict[str, Section]:
    return {section.title: section for section in classified([*map(Run.read, folders)])}


def rows(section: Section) -> list[dict[str, str]]:
    (table,) = section.tables
    return [dict(zip(table.head, row.cells, strict=True)) for row in table.rows]


def test_means_and_spreads_over_seeds(finetuned: WriteRun, encoder: Callable[..., str]) -> None:
    scratch = [finetuned(f"scratch-{n}", top1, seed=n) for n, top1 in enumerate((0.3, 0.4, 0.5))]
    pretrained = [
        finetuned(f"ft-{n}", top1, seed=0, initial=encoder(f"pre-{n}", seed=n))
        for n, top1 in enumerate((0.7, 0.72))
    ]
    linear = finetuned("linear", 0.25, head={"frozen_encoder": True})
    found = sections(*pretrained, *scratch, linear)
    assert list(found) == [ACCURACY, CURVES]
    first, second, third = rows(found[ACCURACY])
    parent = scratch[0].parent.uri
    assert first == {
        "initial weights": "random",
        "protocol": "fine-tuned",
        "labels": "100 %",
        "top-1 %": "40.0 ± 10.0",
        "top-5 %": "90.0 ± 0.0",
        "runs": "3",
        "seeds": "0, 1, 2",
        "videos tested": "8",
        SOURCE: f"{parent}/{{scratch-0,scratch-1,scratch-2}}/scores.json",
    }
    assert second["initial weights"] == "pretrained"
    assert second["top-1 %"] == "71.0 ± 1.4"
    assert second["seeds"] == "0/0, 0/1"
    assert (third["protocol"], third["top-1 %"], third["runs"]) == ("linear", "25.0", "1")
    facts = found[ACCURACY].facts
    assert facts["pretrained"] == f"{parent}/{{pre-0,pre-1}}/encoder.safetensors"
    assert "what learns" not in facts  # for it is not the same of all


def test_what_is_not_finished_is_said_and_not_averaged(finetuned: WriteRun) -> None:
    done = [finetuned(name, 0.5, seed=seed) for name, seed in (("a", 0), ("again", 0), ("b", 1))]
    broken = finetuned("broken", None, seed=2)
    section = sections(*done, broken)[ACCURACY]
    assert [row["runs"] for row in rows(section)] == ["2"]
    assert (
        f"Not finished, and not in the numbers: {broken.uri} "
        "(not finished: at step 2, or broken off there)."
    ) in section.notes
    (again,) = [note for note in section.notes if "same seeds" in note]
    assert done[1].uri in again
    assert sections(done[0], broken) == {}, "of one run there is nothing to compare"


@pytest.mark.parametrize(
    ("changes", "papers"),
    [({}, "65.0"), ({"schedule": {"length": 90, "decay_at": (60,)}}, None)],
)
def test_the_papers_number_stands_beside_the_same_protocol(
    finetuned: WriteRun, changes: dict[str, Any], papers: str | None
) -> None:
    folders = [finetuned(f"a{seed}", 0.6, seed=seed, **PAPER, **changes) for seed in (0, 1)]
    section = sections(*folders)[ACCURACY]
    (table,) = section.tables
    assert [row.is_ours for row in table.rows] == ([True, False] if papers else [True])
    if papers:
        assert rows(section)[1]["initial weights"] == "paper, none"
        assert rows(section)[1]["top-1 %"] == papers
        assert rows(section)[1][SOURCE] == "Table 3, R3D-18"
    else:
        assert section.notes[-1] == (
            "Not as in the paper: schedule.length: 150 in the paper's recipe, 90 here; "
            "schedule.decay_at: 60, 120 in the paper's recipe, 60 here."
        )


def test_runs_of_other_settings_are_kept_apart(finetuned: WriteRun) -> None:
    shorter = {"length": 9, "decay_at": ()}
    found = sections(
        finetuned("a", 0.5),
        finetuned("b", 0.7, schedule=shorter),
        finetuned("c", 0.8, schedule=shorter, initial="imagenet", encoder={"norm_eps": 1e-5}),
    )
    got = [(row["setting"], row["top-1 %"]) for row in rows(found[ACCURACY])]
    assert got == [("1", "50.0"), ("2", "70.0"), ("2", "80.0")]
    assert found[ACCURACY].notes[:2] == [
        "Setting 1: schedule.length 150, schedule.decay_at 60, 120.",
        "Setting 2: schedule.length 9, schedule.decay_at none.",
    ]
    assert [picture.caption for picture in found[CURVES].pictures] == [
        "Training and test, 100 % of the labels, fine-tuned, setting 2"
    ]


def test_shares_of_labels(finetuned: WriteRun) -> None:
    folders = [
        finetuned(f"{initial}-{share:g}", top1, initial=initial, data={"label_fraction": share})
        for initial, share, top1 in (
            ("random", 1, 0.6),
            ("random", 0.1, 0.2),
            ("kinetics400", 0.1, 0.5),
            ("kinetics400", 0.02, 0.3),
        )
    ]
    found = sections(*folders)
    told = [(row["initial weights"], row["labels"], row["top-1 %"]) for row in rows(found[LABELS])]
    assert told == [
        ("random", "10 %", "20.0"),
        ("random", "100 %", "60.0"),
        ("Kinetics-400, supervised", "2 %", "30.0"),
        ("Kinetics-400, supervised", "10 %", "50.0"),
    ]
    assert rows(found[LABELS])[0]["videos trained on"] == "100"
    assert len(found[LABELS].pictures) == 1
    assert [row["labels"] for row in rows(found[ACCURACY])] == ["100 %"]
    assert {row["labels"] for row in rows(found[CURVES])} == {"10 %"}, "which both have"
    assert list(sections(*folders[::2])) == [ACCURACY, LABELS]


def test_how_runs_learnt(finetuned: WriteRun) -> None:
    found = sections(finetuned("a", 0.5), finetuned("b", 0.75, initial="kinetics400"))
    first, second = rows(found[CURVES])
    assert first["training loss at the end"] == "0.500"
    assert second["training loss at the end"] == "0.250"
    assert first["training top-1 % at the end"] == "90.0"
    assert [row["test top-1 %"] for row in (first, second)] == ["50.0", "75.0"]
    assert "/a/metrics.jsonl; test: " in first[SOURCE]
    assert [picture.name for picture in found[CURVES].pictures] == ["learning-1.png"]


def test_test_videos_that_the_seed_draws_are_told(finetuned: WriteRun) -> None:
    drawn = {"test_uri": (), "test_share": 0.25}
    note = "The seed draws the videos that are tested on, too (data.test_share)."
    for data, is_told in ((drawn, True), ({"test_share": 0.25}, False)):
        folders = [finetuned(f"{is_told}-{n}", 0.5, seed=n, data=data) for n in (0, 1)]
        assert (note in sections(*folders)[ACCURACY].notes) is is_told
