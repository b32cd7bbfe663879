"""Runs of tracking beside each other (Fig. 3)."""

from __future__ import annotations

from collections.abc import Callable

from ctp.report.page import Section
from ctp.report.runs import Run
from ctp.report.tracked import tracked as tracked_sections
from ctp.storage import Storage

WriteRun = Callable[..., Storage]


def sections(*folders: Storage) -> list[Section]:
    return tracked_sections([*map(Run.read, folders)])


def rows(section: Section) -> list[dict[str, str]]:
    (table,) = section.tables
    return [dict(zip(table.head, row.cells, strict=True)) for row in table.rows]


def test_overlap_by_frozen_stages_and_initial_weights(
    tracked: WriteRun, encoder: Callable[..., str]
) -> None:
    pretrained = [encoder(f"pre-{seed}", seed=seed) for seed in (0, 1)]
    folders = [
        *(tracked(f"r{stages}", 0.5, frozen_stages=stages) for stages in (5, 0)),
        *(
            tracked(f"p{at}", iou, frozen_stages=5, initial=pretrained[at])
            for at, iou in enumerate((0.6, 0.62))
        ),
    ]
    (section,) = sections(*folders)
    told = [(r["initial weights"], r["frozen stages"], r["mIoU %"]) for r in rows(section)]
    assert told == [
        ("random", "0", "50.0"),
        ("random", "5", "50.0"),
        ("pretrained", "5", "61.0 ± 1.4"),
    ]
    assert {row["still box mIoU %"] for row in rows(section)} == {"40.0", "40.0 ± 0.0"}
    assert [picture.name for picture in section.pictures] == ["frozen-1.png"]


def test_one_point_is_no_picture(tracked: WriteRun) -> None:
    assert sections(tracked("a", 0.5, seed=0), tracked("b", 0.6, seed=1)) == []
    assert sections() == []
    assert sections(tracked("c", 0.5), tracked("broken", None, frozen_stages=1)) == []


def test_other_settings_are_in_the_table_and_in_no_line(tracked: WriteRun) -> None:
    (section,) = sections(
        tracked("a", 0.5),
        tracked("b", 0.6, frozen_stages=1),
        tracked("c", 0.7, frozen_stages=2, schedule={"length": 50, "decay_at": ()}),
    )
    assert [row["setting"] for row in rows(section)] == ["1", "1", "2"]
    assert "Setting 2: schedule.length 50, schedule.decay_at none." in section.notes
    assert [picture.caption for picture in section.pictures] == [
        "Tracking over frozen stages, setting 1"
    ]
