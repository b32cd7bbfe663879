"""Runs of one kind beside each other: what they have in common, and a table of their scores."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from ctp.report.comparison import LinePoint
from ctp.report.groups import Group, Setting, settings_of, together, told_apart
from ctp.report.page import SOURCE, Picture, Row, Section, Table
from ctp.report.single import facts_of
from ctp.report.starts import Started

WEIGHTS = "initial weights"
COUNTS = frozenset({"runs", "videos tested"})
FACTS_TOLD_ELSEWHERE = frozenset({"starts from", "labels used", "frozen stages"})
SPREAD = "± is the sample standard deviation over runs that differ by their seeds alone."
SEEDS = "Seeds: a run's own, and after a stroke that of the run that made its initial weights."

Cells = dict[str, str]
"""Of a row, by the heading of their columns."""
Line = tuple[Cells, bool]
"""A row, and whether it is ours."""


@dataclass(frozen=True)
class Compared:
    """Runs of one kind that are to stand beside each other.

    Attributes:
        runs: all there are.
        measure: the score that they are compared by.
        varied: fields that may differ within a setting.
    """

    runs: Sequence[Started]
    measure: str
    varied: Sequence[str]

    @cached_property
    def scored(self) -> list[Started]:
        """Those that came to a score."""
        return [each for each in self.runs if self.measure in each.run.scores]

    @cached_property
    def settings(self) -> list[Setting]:
        """They, sorted."""
        return settings_of(self.scored, self.varied)

    def number(self, setting: Setting) -> str:
        """What to call a setting: "setting 2"; nothing if it is the only one."""
        at = self.settings.index(setting) + 1
        return f"setting {at}" if len(self.settings) > 1 else ""

    def facts(self) -> dict[str, str]:
        """What all have in common, and where the weights lie that they started from."""
        facts = [facts_of(each.run.config) for each in self.scored]
        common = {
            name: value
            for name, value in facts[0].items()
            if name not in FACTS_TOLD_ELSEWHERE and all(f.get(name) == value for f in facts)
        }
        return common | _places(self.scored)

    def notes(self) -> list[str]:
        """How the settings differ, what ± is, and which runs are not in the numbers."""
        groups = [group for setting in self.settings for group in setting.groups]
        repeated = [each for group in groups for each in group.repeated]
        unfinished = [each for each in self.runs if not each.run.is_finished]
        bare = [e for e in self.runs if e.run.is_finished and self.measure not in e.run.scores]
        return [
            *told_apart(self.settings),
            *([SPREAD] if any(len(group.runs) > 1 for group in groups) else []),
            *([SEEDS] if any("/" in group.seeds for group in groups) else []),
            *_listed("Not finished, and not in the numbers", unfinished),
            *_listed("Finished without a score", bare),
            *_listed("Of the same seeds as another, and not in the numbers", repeated),
        ]


@dataclass(frozen=True)
class Shown:
    """A picture, and the numbers in it; numbers alone where there are too few for a picture."""

    picture: Picture | None
    lines: Sequence[Line]


def section_of(
    title: str,
    compared: Compared,
    shown: Sequence[Shown],
    numbers: Iterable[str],
    notes: Sequence[str] = (),
) -> Section:
    """A section of pictures and their numbers.

    Args:
        title: of the section.
        compared: the runs.
        shown: what there is of them.
        numbers: headings of the columns that are right-aligned, besides `COUNTS`.
        notes: to those of `compared`.
    """
    return Section(
        title=title,
        facts=compared.facts(),
        tables=[table_of([line for each in shown for line in each.lines], numbers)],
        notes=[*compared.notes(), *notes],
        pictures=[each.picture for each in shown if each.picture is not None],
    )


def table_of(lines: Sequence[Line], numbers: Iterable[str]) -> Table:
    """Lines as a table; columns in which nothing stands are left out."""
    names = dict.fromkeys(name for cells, _ in lines for name in cells)
    head = [name for name in names if any(cells.get(name) for cells, _ in lines)]
    rows = [Row([cells.get(name, "") for name in head], is_ours) for cells, is_ours in lines]
    return Table(head, rows, COUNTS | set(numbers))


def runs_of(group: Group) -> Cells:
    """How many runs a mean is of, and where their scores are."""
    return {
        "runs": str(len(group.runs)),
        "seeds": group.seeds,
        "videos tested": counted(group, "tested"),
        SOURCE: together([each.run.scores_uri for each in group.runs]),
    }


def counted(group: Group, name: str) -> str:
    """A count among the scores of the runs."""
    found = sorted({each.run.scores[name] for each in group.runs})
    return str(found[0]) if len(found) == 1 else f"{found[0]} to {found[-1]}"


def point_of(group: Group, varied: str, measure: str) -> LinePoint:
    """A group's place in a picture over the field that is varied."""
    mean = group.mean(measure)
    return LinePoint(group.start, group.varied[varied], mean.value, mean.spread)


def _places(runs: Sequence[Started]) -> dict[str, str]:
    uris: dict[str, list[str]] = {}
    about: Mapping[str, str] = {each.name: each.about for each in runs}
    for each in runs:
        if each.start.uri:
            uris.setdefault(each.name, []).append(each.start.uri)
    return {
        name: together(found) + (f", made with {about[name]}" if about[name] else "")
        for name, found in uris.items()
    }


def _listed(what: str, runs: Sequence[Started]) -> list[str]:
    told = ", ".join(f"{each.run.folder.uri} ({each.run.state})" for each in runs)
    return [f"{what}: {told}."] if runs else []
