"""Runs that differ by seed alone, to be averaged, and those that may stand beside each other."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

from ctp.encoders.config import RANDOM
from ctp.report.runs import INITIAL, OF_THE_START, differing, said, shaping_fields
from ctp.report.starts import Started


@dataclass(frozen=True)
class Mean:
    """A number of some runs.

    Attributes:
        value: the mean.
        spread: the sample standard deviation; None of one run.
        count: how many runs.
    """

    value: float
    spread: float | None
    count: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Self:
        """The mean of one value at least."""
        spread = statistics.stdev(values) if len(values) > 1 else None
        return cls(statistics.fmean(values), spread, len(values))

    def written(self, digits: int, scale: float = 1) -> str:
        """As it is to be read, with so many digits after the point; a scale of 100 makes percent
        of a share."""
        spread = "" if self.spread is None else f" ± {scale * self.spread:.{digits}f}"
        return f"{scale * self.value:.{digits}f}{spread}"


@dataclass
class Group:
    """Runs that differ by their seeds alone, and perhaps by those of what they started from.

    Attributes:
        start: name of the initial weights.
        varied: what is varied among groups, dotted name of the field -> value.
        runs: one at least, of different seeds.
        repeated: more of the same seeds, which tell nothing new.
    """

    start: str
    varied: Mapping[str, Any]
    runs: list[Started] = field(default_factory=list)
    repeated: list[Started] = field(default_factory=list)

    def add(self, started: Started) -> None:
        """Take a run in."""
        known = any(each.seeds == started.seeds for each in self.runs)
        (self.repeated if known else self.runs).append(started)

    def mean(self, measure: str) -> Mean:
        """Of a score of the runs."""
        return Mean.of([float(each.run.scores[measure]) for each in self.runs])

    @property
    def seeds(self) -> str:
        """Of each run, after a stroke that of its initial weights, if they were made with one."""
        return ", ".join("/".join(map(str, each.seeds)) for each in self.runs)


@dataclass
class Setting:
    """Groups of runs that are alike in all but their initial weights, and what is varied.

    Attributes:
        fields: what they have in common, dotted name -> value.
        groups: one at least.
    """

    fields: Mapping[str, Any]
    groups: list[Group] = field(default_factory=list)


def settings_of(runs: Sequence[Started], varied: Sequence[str]) -> list[Setting]:
    """Sort runs into groups, and these into settings.

    Args:
        runs: of one kind, finished.
        varied: dotted names of the fields that may differ within a setting.

    Returns:
        Settings in the order in which they first come; groups by initial weights, random ones
        first, then by what is varied.
    """
    settings: dict[str, Setting] = {}
    groups: dict[str, Group] = {}
    for started in runs:
        fields = shaping_fields(started.run.config)
        apart = {name: fields[name] for name in varied}
        common = {n: v for n, v in fields.items() if n not in {*varied, *INITIAL, *OF_THE_START}}
        place = json.dumps(common)
        setting = settings.setdefault(place, Setting(common))
        own = json.dumps([place, started.name, apart])
        if own not in groups:
            groups[own] = Group(started.name, apart)
            setting.groups.append(groups[own])
        groups[own].add(started)
    names = sorted(dict.fromkeys(each.name for each in runs), key=_is_not_random)
    for setting in settings.values():
        setting.groups.sort(key=lambda g: (names.index(g.start), *g.varied.values()))
    return list(settings.values())


def _is_not_random(name: str) -> bool:
    return not name.startswith(RANDOM)


def told_apart(settings: Sequence[Setting]) -> list[str]:
    """In what settings differ, a line each; none if there is one only."""
    names = differing([setting.fields for setting in settings])
    return [
        f"Setting {number}: {', '.join(f'{n} {said(setting.fields.get(n))}' for n in names)}."
        for number, setting in enumerate(settings, start=1)
        if names
    ]


def together(uris: Sequence[str]) -> str:
    """Places as one text: those that differ in one part of their path alone as a/{b,c}/d."""
    paths = [uri.split("/") for uri in dict.fromkeys(uris)]
    if len({len(path) for path in paths}) == 1:
        parts = [list(dict.fromkeys(column)) for column in zip(*paths, strict=True)]
        if sum(len(part) > 1 for part in parts) <= 1:
            return "/".join(p[0] if len(p) == 1 else f"{{{','.join(p)}}}" for p in parts)
    return ", ".join(map("/".join, paths))
