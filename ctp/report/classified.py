"""Runs of action recognition beside each other: what initial weights are worth (Fig. 4 and 6,
Table 3)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ctp.downstream.config import FinetuneConfig
from ctp.report.compared import (
    WEIGHTS,
    Cells,
    Compared,
    Line,
    Shown,
    counted,
    point_of,
    runs_of,
    section_of,
    table_of,
)
from ctp.report.comparison import at_the_end, labels_png, learning_png
from ctp.report.groups import Group, Mean, Setting, together
from ctp.report.page import SOURCE, Picture, Section
from ctp.report.papers import NOT_OF_THE_PROTOCOL, dataset_of, differences, same_as
from ctp.report.runs import Run
from ctp.report.starts import with_starts

FROZEN, SHARE = "head.frozen_encoder", "data.label_fraction"
MEASURES = {"top1": "top-1 %", "top5": "top-5 %"}
LOSS, TRAINED, TESTED = "training loss at the end", "training top-1 % at the end", "test top-1 %"


@dataclass(frozen=True)
class Panel:
    """Groups of the same setting and protocol, fine-tuned or linear.

    Attributes:
        setting: what to call the setting; nothing if there is one only.
        protocol: "fine-tuned" or "linear".
        groups: one at least, of other initial weights or shares of labels.
    """

    setting: str
    protocol: str
    groups: Sequence[Group]

    @property
    def shares(self) -> list[float]:
        """The shares of labels of the groups."""
        return [group.varied[SHARE] for group in self.groups]

    def of_share(self, share: float) -> list[Group]:
        """The groups with a share of labels."""
        return [group for group in self.groups if group.varied[SHARE] == share]

    def title(self, what: str) -> str:
        """What is shown of it, and which it is."""
        return ", ".join(filter(None, (what, self.protocol, self.setting)))

    def cells(self, group: Group) -> Cells:
        """Which group it is."""
        labels = f"{100 * group.varied[SHARE]:g} %"
        where = {"setting": self.setting.removeprefix("setting "), WEIGHTS: group.start}
        return where | {"protocol": self.protocol, "labels": labels}


def classified(runs: Sequence[Run]) -> list[Section]:
    """What can be said of runs of action recognition beside each other; nothing of too few."""
    own = (run for run in runs if isinstance(run.config, FinetuneConfig))
    compared = Compared(with_starts(own), "top1", (FROZEN, SHARE))
    panels = list(_panels(compared))
    found = (accuracy(compared, panels), labels(compared, panels), learning(compared, panels))
    return [section for section in found if section is not None]


def accuracy(compared: Compared, panels: Sequence[Panel]) -> Section | None:
    """Accuracies by initial weights with as many labels as there are, the paper's beside those of
    the same protocol and data; None of fewer than two runs."""
    if len(compared.scored) < 2:
        return None
    lines = [
        line
        for panel in panels
        for group in panel.of_share(max(panel.shares))
        for line in _accuracy_lines(group, panel.cells(group))
    ]
    return Section(
        title="Accuracy by initial weights",
        facts=compared.facts(),
        tables=[table_of(lines, MEASURES.values())],
        notes=[*compared.notes(), *_seed_note(compared), *_unlike_paper_notes(compared)],
    )


def labels(compared: Compared, panels: Sequence[Panel]) -> Section | None:
    """Accuracy over the share of labels, a line for each kind of initial weights (Fig. 4); None
    where no share is varied."""
    varied = [panel for panel in panels if len(set(panel.shares)) > 1]
    if not varied:
        return None
    return section_of(
        "Accuracy over the share of labels (as Fig. 4)",
        compared,
        [_labels_shown(panel, number) for number, panel in enumerate(varied, start=1)],
        ("labels", "videos trained on", *MEASURES.values()),
        _seed_note(compared),
    )


def learning(compared: Compared, panels: Sequence[Panel]) -> Section | None:
    """How runs from different initial weights learn (Fig. 6), with the most labels that two kinds
    have; None where there is one kind only."""
    alike = [(panel, groups) for panel in panels if (groups := _most_labels(panel))]
    if not alike:
        return None
    return section_of(
        "Training and test curves by initial weights (as Fig. 6)",
        compared,
        [_learning_shown(*each, number) for number, each in enumerate(alike, start=1)],
        (LOSS, TRAINED, TESTED),
        _seed_note(compared),
    )


def _panels(compared: Compared) -> Iterator[Panel]:
    for setting in compared.settings:
        for is_frozen, protocol in ((False, "fine-tuned"), (True, "linear")):
            groups = [group for group in setting.groups if group.varied[FROZEN] is is_frozen]
            if groups:
                yield Panel(compared.number(setting), protocol, groups)


def _most_labels(panel: Panel) -> list[Group]:
    """The groups of the largest share of labels that two of them at least have."""
    several = {share for share in panel.shares if panel.shares.count(share) > 1}
    return panel.of_share(max(several)) if several else []


def _accuracy_lines(group: Group, place: Cells) -> list[Line]:
    """Ours, and below it the paper's, if it has such."""
    config, method = group.runs[0].run.config, group.runs[0].start.method
    assert isinstance(config, FinetuneConfig)
    found = {n: number for m, n in MEASURES.items() if (number := same_as(config, method, m))}
    lines = [(place | _accuracies(group) | runs_of(group), True)]
    if found:
        numbers = {name: f"{number.percent:.1f}" for name, number in found.items()}
        source = next(iter(found.values())).source
        lines.append((place | {WEIGHTS: f"paper, {method}", **numbers, SOURCE: source}, False))
    return lines


def _accuracies(group: Group) -> Cells:
    return {
        name: group.mean(measure).written(1, 100)
        for measure, name in MEASURES.items()
        if all(measure in each.run.scores for each in group.runs)
    }


def _labels_shown(panel: Panel, number: int) -> Shown:
    title = panel.title("Accuracy over the share of labels")
    png = labels_png([point_of(group, SHARE, "top1") for group in panel.groups], title)
    lines = [
        panel.cells(group)
        | {"videos trained on": counted(group, "trained_on")}
        | {MEASURES["top1"]: group.mean("top1").written(1, 100)}
        | runs_of(group)
        for group in panel.groups
    ]
    return Shown(Picture(f"labels-{number}.png", title, png), [(cells, True) for cells in lines])


def _learning_shown(panel: Panel, groups: Sequence[Group], number: int) -> Shown:
    share = f"{100 * groups[0].varied[SHARE]:g} % of the labels"
    title = panel.title(f"Training and test, {share}")
    png = learning_png({g.start: [each.run.rows for each in g.runs] for g in groups}, title)
    lines = [(panel.cells(group) | _learnt(group), True) for group in groups]
    return Shown(Picture(f"learning-{number}.png", title, png), lines)


def _learnt(group: Group) -> Cells:
    told = runs_of(group)
    metrics = together([each.run.metrics_uri for each in group.runs])
    return {
        LOSS: _at_the_end(group, "loss", 3, 1),
        TRAINED: _at_the_end(group, "train_top1", 1, 100),
        TESTED: group.mean("top1").written(1, 100),
        **told,
        SOURCE: f"{metrics}; test: {told[SOURCE]}",
    }


def _at_the_end(group: Group, name: str, digits: int, scale: float) -> str:
    values = [at_the_end(each.run.rows, name) for each in group.runs]
    there = [value for value in values if value is not None]
    return Mean.of(there).written(digits, scale) if there else ""


def _seed_note(compared: Compared) -> list[str]:
    if any(map(_draws_what_is_tested, compared.settings)):
        return ["The seed draws the videos that are tested on, too (data.test_share)."]
    return []


def _draws_what_is_tested(setting: Setting) -> bool:
    fields = setting.fields
    said_else = ("data.test_uri", "data.test_list", "data.train_list")
    return bool(fields["data.test_share"]) and not any(fields[name] for name in said_else)


def _unlike_paper_notes(compared: Compared) -> list[str]:
    """Why the paper's numbers on a data set do not stand beside ours on it."""
    notes = []
    for setting in compared.settings:
        config = setting.groups[0].runs[0].run.config
        unlike = differences(config, NOT_OF_THE_PROTOCOL | {FROZEN, SHARE})
        if dataset_of(config.data.uri) and unlike:
            where = ", ".join(filter(None, ("Not as in the paper", compared.number(setting))))
            notes.append(f"{where}: {'; '.join(unlike)}.")
    return notes
