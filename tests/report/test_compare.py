"""Runs beside each other: known means, their spreads, and their sources."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pandas as pd
import pytest

from ctp.report.compare import compare, format_mean, merge_uris
from ctp.report.page import SOURCE, Section
from ctp.report.runs import Run
from ctp.score import Score
from ctp.storage import Storage

WriteRun = Callable[..., Storage]
Encoder = Callable[..., str]
ACCURACY = "Accuracy by initial weights"
LABELS = "Accuracy over the share of labels (as Fig. 4)"
CURVES = "Training and test curves by initial weights (as Fig. 6)"
TRACKING = "Tracking over frozen stages, by initial weights (as Fig. 3)"
PAPER: dict[str, Any] = {
    "encoder": {"width": 64, "blocks_per_stage": (2, 2, 2, 2), "spatial_stride": 16},
    "data": {"uri": "s3://b/ucf101/train", "test_uri": "s3://b/ucf101/test"},
}
SHORT = {"length": 9, "decay_at": ()}


def sections(*folders: Storage) -> dict[str, Section]:
    return {section.title: section for section in compare([*map(Run.read, folders)])}


def cells(section: Section, *names: str) -> list[tuple[str, ...]]:
    (table,) = section.tables
    return [tuple(row[name] for name in names) for row in table.rows]


def test_mean_and_sample_standard_deviation() -> None:
    percent = Score("top1", "top-1", is_percent=True)
    assert format_mean(pd.Series([0.5, 0.6, 0.7]), percent) == "60.0% ± 10.0%"
    assert format_mean(pd.Series([0.5]), Score("iou", "IoU")) == "0.500"


@pytest.mark.parametrize(
    ("uris", "text"),
    [
        (["/r/a/s.json"], "/r/a/s.json"),
        (["/r/a/s.json", "/r/b/s.json", "/r/a/s.json"], "/r/{a,b}/s.json"),
        (["/r/a/s.json", "/q/b/s.json"], "/r/a/s.json, /q/b/s.json"),
        (["/r/s.json", "s3://b/r/s.json"], "/r/s.json, s3://b/r/s.json"),
    ],
)
def test_locations_as_one_text(uris: list[str], text: str) -> None:
    assert merge_uris(uris) == text


def of_8(share: float) -> str:
    """A share of 8 videos, with its error."""
    return f"{share:.1%} ± {(share * (1 - share) / 8 + 1 / 256) ** 0.5 / 1.125:.1%}"


def test_means_and_spreads_over_seeds(finetuned: WriteRun, encoder: Encoder) -> None:
    scratch = [finetuned(f"scratch-{n}", top1, seed=n) for n, top1 in enumerate((0.3, 0.4, 0.5))]
    pretrained = [
        finetuned(f"ft-{n}", top1, seed=0, initial=encoder(f"pre-{n}", seed=n))
        for n, top1 in enumerate((0.7, 0.72))
    ]
    linear = finetuned("linear", 0.25, protocol="linear")
    attentive = finetuned("attentive", 0.35, protocol="attentive")
    found = sections(*pretrained, *scratch, linear, attentive)
    assert list(found) == [ACCURACY, CURVES]
    parent = scratch[0].parent.uri
    assert found[ACCURACY].tables[0].rows[0] == {
        "initial weights": "random",
        "protocol": "fine-tuned",
        "labels": "100%",
        "top-1": "40.0% ± 10.0%",
        "top-5": "90.0% ± 0.0%",
        "runs": "3",
        "seeds": "0, 1, 2",
        "videos tested": "8",
        SOURCE: f"{parent}/{{scratch-0,scratch-1,scratch-2}}/scores.json",
    }
    columns = ("initial weights", "protocol", "top-1", "runs", "seeds")
    assert cells(found[ACCURACY], *columns)[1:] == [
        ("pretrained", "fine-tuned", "71.0% ± 1.4%", "2", "0/0, 0/1"),
        ("random", "linear", of_8(0.25), "1", "0"),
        ("random", "attentive", of_8(0.35), "1", "0"),
    ]
    facts = found[ACCURACY].facts
    assert facts["pretrained"] == f"{parent}/{{pre-0,pre-1}}/encoder.safetensors"
    assert "trained" not in facts, "it is not the same for all"


def test_only_runs_that_differ_by_seed_are_averaged(finetuned: WriteRun) -> None:
    found = sections(
        finetuned("a", 0.5, seed=0),
        finetuned("short", 0.2, seed=1, schedule=SHORT),
        finetuned("b", 0.6, seed=1, log_every_steps=3),  # does not shape the result
        finetuned("few", 0.1, seed=2, data={"label_fraction": 0.1}),
        finetuned("c", 0.7, seed=2, checkpoint={"every_minutes": 3}),
    )
    got = cells(found[LABELS], "labels", "top-1", "seeds")
    assert got == [("10%", of_8(0.1), "2"), ("100%", "60.0% ± 10.0%", "0, 1, 2")]
    assert cells(found[ACCURACY], "setting", "top-1")[1] == ("2", of_8(0.2))


def test_unfinished_and_repeated_runs_are_named_and_not_averaged(finetuned: WriteRun) -> None:
    done = [finetuned(name, 0.5, seed=seed) for name, seed in (("a", 0), ("again", 0), ("b", 1))]
    broken = finetuned("broken", None, seed=2)
    section = sections(*done, broken)[ACCURACY]
    assert cells(section, "runs") == [("2",)]
    (unfinished,) = [note for note in section.notes if note.startswith("Not finished")]
    assert f"{broken.uri} (not finished, at step 2)" in unfinished
    (repeated,) = [note for note in section.notes if "same seeds" in note]
    assert done[1].uri in repeated
    assert sections(done[0], broken) == {}, "one run cannot be compared"


@pytest.mark.parametrize("schedule", [None, {"length": 90, "decay_at": (60,)}])
def test_the_papers_number_is_beside_the_same_protocol(
    finetuned: WriteRun, schedule: dict[str, Any] | None
) -> None:
    changes = PAPER | ({"schedule": schedule} if schedule else {})
    section = sections(*(finetuned(f"a{seed}", 0.6, seed=seed, **changes) for seed in (0, 1)))
    found = cells(section[ACCURACY], "initial weights", "top-1", SOURCE)
    if schedule is None:
        assert found[1:] == [("paper, none", "65.0%", "Table 3, R3D-18")]
    else:
        assert len(found) == 1
        assert section[ACCURACY].notes[-1] == (
            "Not as in the paper: schedule, length: 90 here, 150 in the paper; "
            "schedule, decay at: 60 here, 60, 120 in the paper."
        )


def test_runs_of_other_settings_are_kept_apart(finetuned: WriteRun) -> None:
    found = sections(
        finetuned("a", 0.5),
        finetuned("b", 0.7, schedule=SHORT),
        finetuned("c", 0.8, schedule=SHORT, initial="imagenet", encoder={"norm_eps": 1e-5}),
    )
    got = cells(found[ACCURACY], "setting", "top-1")
    assert got == [("1", of_8(0.5)), ("2", of_8(0.7)), ("2", of_8(0.8))]
    assert found[ACCURACY].notes[:2] == [
        "Setting 1: schedule, length 150, schedule, decay at 60, 120.",
        "Setting 2: schedule, length 9, schedule, decay at none.",
    ]
    assert [picture.caption for picture in found[CURVES].pictures] == [
        "Training and test, 100% of the labels, fine-tuned, setting 2"
    ]


def test_shares_of_labels(finetuned: WriteRun) -> None:
    folders = [
        finetuned(f"{initial}-{share:g}", top1, initial=initial, data={"label_fraction": share})
        for initial, share, top1 in (
            ("kinetics400", 0.1, 0.5),
            ("kinetics400", 0.02, 0.3),
            ("random", 1, 0.6),
            ("random", 0.1, 0.2),
        )
    ]
    found = sections(*folders)
    assert cells(found[LABELS], "initial weights", "labels", "top-1", "videos trained on") == [
        ("random", "10%", of_8(0.2), "100"),
        ("random", "100%", of_8(0.6), "100"),
        ("Kinetics-400, supervised", "2%", of_8(0.3), "100"),
        ("Kinetics-400, supervised", "10%", of_8(0.5), "100"),
    ]
    assert len(found[LABELS].pictures) == 1
    assert cells(found[ACCURACY], "labels") == [("100%",)]
    assert cells(found[CURVES], "labels") == [("10%",)] * 2, "both have it"
    assert list(sections(*folders[2:])) == [ACCURACY, LABELS]


def test_how_runs_learnt(finetuned: WriteRun) -> None:
    found = sections(finetuned("a", 0.5), finetuned("b", 0.75, initial="kinetics400"))[CURVES]
    assert cells(found, "training loss at the end", "training top-1 at the end", "test top-1") == [
        ("0.500", "90.0%", "50.0%"),
        ("0.250", "90.0%", "75.0%"),
    ]
    assert "/a/metrics.jsonl; test: " in cells(found, SOURCE)[0][0]
    assert len(found.pictures) == 1


@pytest.mark.parametrize(
    ("data", "is_noted"),
    [({"test_uri": (), "test_share": 0.25}, True), ({"test_share": 0.25}, False)],
)
def test_test_videos_that_the_seed_draws_are_noted(
    finetuned: WriteRun, data: dict[str, Any], is_noted: bool
) -> None:
    folders = [finetuned(str(seed), 0.5, seed=seed, data=data) for seed in (0, 1)]
    notes = sections(*folders)[ACCURACY].notes
    assert any("data.test_share" in note for note in notes) is is_noted


def test_overlap_by_frozen_stages_and_initial_weights(tracked: WriteRun, encoder: Encoder) -> None:
    pretrained = [encoder(f"pre-{seed}", seed=seed) for seed in (0, 1)]
    section = sections(
        *(tracked(f"r{stages}", 0.5, frozen_stages=stages) for stages in (5, 0)),
        *(
            tracked(f"p{at}", iou, frozen_stages=5, initial=pretrained[at])
            for at, iou in enumerate((0.6, 0.62))
        ),
    )[TRACKING]
    assert cells(section, "initial weights", "frozen stages", "mIoU", "AO") == [
        ("random", "0", "0.500", "0.500"),
        ("random", "5", "0.500", "0.500"),
        ("pretrained", "5", "0.610 ± 0.014", "0.610 ± 0.014"),
    ]
    assert set(cells(section, "still box")) == {("0.400",), ("0.400 ± 0.000",)}
    assert len(section.pictures) == 1


def test_one_point_is_no_comparison(tracked: WriteRun) -> None:
    assert sections(tracked("a", 0.5, seed=0), tracked("b", 0.6, seed=1)) == {}
    assert sections() == {}
    assert sections(tracked("c", 0.5), tracked("broken", None, frozen_stages=1)) == {}


def test_a_setting_without_a_curve_is_not_in_the_table(tracked: WriteRun) -> None:
    section = sections(
        tracked("a", 0.5),
        tracked("b", 0.6, frozen_stages=1),
        tracked("c", 0.7, frozen_stages=2, schedule=SHORT),
    )[TRACKING]
    assert cells(section, "frozen stages") == [("0",), ("1",)]
    assert not any("Setting" in note for note in section.notes)
    captions = [picture.caption for picture in section.pictures]
    assert captions == ["Tracking over frozen stages"]
