"""Runs of tracking beside each other: what freezing stages costs, by initial weights (Fig. 3)."""

from __future__ import annotations

from collections.abc import Sequence

from ctp.downstream.track_config import TrackConfig
from ctp.report.compared import WEIGHTS, Cells, Compared, Shown, point_of, runs_of, section_of
from ctp.report.comparison import frozen_png
from ctp.report.groups import Group, Mean, Setting
from ctp.report.page import Picture, Section
from ctp.report.runs import Run
from ctp.report.single import TRACKING
from ctp.report.starts import with_starts

STAGES = "frozen_stages"
STAGE_COUNT = "frozen stages"
MEASURES = {key: f"{name} %" for key, name in TRACKING.items()} | {"still_iou": "still box mIoU %"}


def tracked(runs: Sequence[Run]) -> list[Section]:
    """mIoU over the number of frozen stages, a line for each kind of initial weights, where runs
    differ in one of the two."""
    own = (run for run in runs if isinstance(run.config, TrackConfig))
    compared = Compared(with_starts(own), "iou", (STAGES,))
    if len({(g.start, g.varied[STAGES]) for each in compared.settings for g in each.groups}) < 2:
        return []
    section = section_of(
        "Tracking over frozen stages, by initial weights (as Fig. 3)",
        compared,
        [_shown(compared, each, at) for at, each in enumerate(compared.settings, start=1)],
        (STAGE_COUNT, *MEASURES.values()),
    )
    return [section]


def _shown(compared: Compared, setting: Setting, number: int) -> Shown:
    name = compared.number(setting)
    lines = [(_cells(name, group), True) for group in setting.groups]
    if len(setting.groups) < 2:
        return Shown(None, lines)
    title = ", ".join(filter(None, ("Tracking over frozen stages", name)))
    runs = [each.run for group in setting.groups for each in group.runs]
    still = Mean.of([run.scores["still_iou"] for run in runs]).value
    png = frozen_png([point_of(group, STAGES, "iou") for group in setting.groups], still, title)
    return Shown(Picture(f"frozen-{number}.png", title, png), lines)


def _cells(setting: str, group: Group) -> Cells:
    return {
        "setting": setting.removeprefix("setting "),
        WEIGHTS: group.start,
        STAGE_COUNT: str(group.varied[STAGES]),
        **{name: group.mean(key).written(1, 100) for key, name in MEASURES.items()},
        **runs_of(group),
    }
