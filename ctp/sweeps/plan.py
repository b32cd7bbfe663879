"""From a sweep's config to its trials: all that is known before anything is spent."""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from ctp import recipes
from ctp.config import Config
from ctp.pretext.config import PretrainConfig
from ctp.report.runs import said
from ctp.storage import Storage
from ctp.sweeps.config import SweepConfig
from ctp.sweeps.scores import IOU, Score, is_option, scores_of
from ctp.sweeps.tables import TABLES, Ablation, Row
from ctp.sweeps.values import parse_grid, parse_set, value_of, with_values
from ctp.text import near_miss
from ctp.training.claim import anchored
from ctp.training.config import RunConfig

RUNS = "runs"
"""The folder, in that of a sweep, with the folders of its runs."""
OF_TRIALS = {
    "name": "trials are named by what is varied",
    "storage": "runs lie in the sweep's folder; say --storage",
    "seed": "say --seeds NUMBER",
}
"""Fields of a run that a sweep sets itself, and what to do instead."""
OWN_TABLE = Ablation(about="fields that --grid names", rows=(Row("", "", {}),), paper_data="")
PLAIN = re.compile(r"[\w.+-]{1,60}")
KEPT = 40
"""Characters that are left of a value which cannot be part of a file name as it is."""


@dataclass(frozen=True)
class Cell:
    """A row of the result: trials that differ by their seeds alone.

    Attributes:
        key: its name in files.
        name: its name to be read.
        row: of the ablation.
        changes: dotted field -> value, of row and grid, as JSON has it.
    """

    key: str
    name: str
    row: Row
    changes: Mapping[str, Any]


@dataclass(frozen=True)
class Trial:
    """A run of pretraining, and what scores its encoder.

    Attributes:
        name: of the run, and the beginning of the names of those that score it.
        cell: what it is one of.
        seed: of all its runs.
        pretrain: the run's config.
    """

    name: str
    cell: Cell
    seed: int
    pretrain: PretrainConfig


@dataclass(frozen=True)
class Plan:
    """A sweep.

    Attributes:
        config: what it was asked for.
        ablation: whose rows are tried.
        base: the run that trials change.
        cells: the rows of the result, in order.
        scores: of each trial.
    """

    config: SweepConfig
    ablation: Ablation
    base: PretrainConfig
    cells: tuple[Cell, ...]
    scores: tuple[Score, ...]
    _configs: Mapping[str, PretrainConfig] = field(repr=False)

    @classmethod
    def of(cls, config: SweepConfig) -> Plan:
        """Work out the trials.

        Args:
            config: with a name.

        Raises:
            ValueError: nothing is varied, a field or score is unknown, a value does not fit, a
                field or value is there twice, or there are more trials than `max_trials`.
        """
        ablation = _ablation(config)
        given = _unique("set", [parse_set(text) for text in config.set])
        grid = _unique("grid", [parse_grid(text) for text in config.grid])
        _check_fields(ablation, given, grid)
        _check_number(config, ablation, grid)
        options = {name: value for name, value in given.items() if is_option(name)}
        own = {name: value for name, value in given.items() if not is_option(name)}
        base = _base(config, ablation, own)
        cells = tuple(_cells(base, ablation, grid))
        configs = {cell.key: with_values(base, cell.changes, cell.name) for cell in cells}
        scores = scores_of(config.scale, config.scores, options)
        _check_measures(config, scores, base)
        return cls(config, ablation, base, cells, scores, configs)

    @property
    def folder(self) -> Storage:
        """The sweep's folder."""
        return Storage.of(self.config.storage).join(self.config.name)

    @cached_property
    def trials(self) -> tuple[Trial, ...]:
        """All trials: every row with the first seed, then with the next, so that there is
        something to compare early."""
        return tuple(
            self._trial(cell, seed) for seed in range(self.config.seeds) for cell in self.cells
        )

    def trial(self, name: str) -> Trial:
        """The trial of a name."""
        return next(trial for trial in self.trials if trial.name == name)

    def differences(self, other: Plan) -> list[str]:
        """What makes another plan's trials those of another sweep; more seeds or values are none.

        Returns:
            A line each.
        """
        lines = [
            f"{name} was {_shown(there)}, is {_shown(here)}"
            for name, here, there in (
                ("table", self.config.table, other.config.table),
                ("scale", self.config.scale, other.config.scale),
                ("what --grid varies", self._varied, other._varied),
                ("scores", self._score_names, other._score_names),
                ("asha", self.config.asha, other.config.asha),
            )
            if here != there
        ]
        lines += self.base.mismatch(other.base)
        for ours, theirs in zip(self.scores, other.scores, strict=False):
            if ours.name == theirs.name:
                lines += [f"{ours.name}: {line}" for line in _mismatch(ours.config, theirs.config)]
        keys = {cell.key for cell in self.cells}
        gone = [cell.name for cell in other.cells if cell.key not in keys]
        if gone and not lines:
            lines.append(f"{', '.join(gone)} was asked for before, and is not now")
        if self.config.seeds < other.config.seeds:
            lines.append(f"seeds was {other.config.seeds}, is {self.config.seeds}")
        return lines

    @property
    def _varied(self) -> list[str]:
        return [parse_grid(text)[0] for text in self.config.grid]

    @property
    def _score_names(self) -> list[str]:
        return [score.name for score in self.scores]

    def _trial(self, cell: Cell, seed: int) -> Trial:
        name = f"{cell.key}-seed{seed}"
        storage = self.folder.join(RUNS).uri
        config = self._configs[cell.key].replace(name=name, storage=storage, seed=seed)
        return Trial(name, cell, seed, config)


def _ablation(config: SweepConfig) -> Ablation:
    if not config.table:
        if not config.grid:
            raise ValueError(
                "nothing is varied. Say what, e.g. --grid game.num_patches=1,2,3,4, or take a "
                f"table of the paper: --recipe {', '.join(TABLES)}"
            )
        return OWN_TABLE
    if config.table not in TABLES:
        hint = near_miss(config.table, TABLES)
        raise ValueError(f"there is no table {config.table!r}{hint}; there are {', '.join(TABLES)}")
    return TABLES[config.table]


def _unique(option: str, pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    names = [name for name, _ in pairs]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice:
        raise ValueError(f"--{option} names {twice} twice; give all its values at once")
    return dict(pairs)


def _check_fields(
    ablation: Ablation, given: Mapping[str, Any], grid: Mapping[str, Sequence[Any]]
) -> None:
    varied = {name for row in ablation.rows for name in row.changes}
    for option, names in (("set", given), ("grid", grid)):
        for name in names:
            if name in OF_TRIALS:
                raise ValueError(f"--{option} {name}: {OF_TRIALS[name]}")
            if name in varied:
                raise ValueError(f"--{option} {name}: the table varies this field itself")
    for name in grid:
        if any(name.startswith(f"{section}.") for section in varied):
            raise ValueError(f"--grid {name}: the table varies what it is a part of")
        if name in given:
            raise ValueError(f"both --grid and --set say what {name} is: give one")
        if is_option(name):
            raise ValueError(
                f"--grid {name}: only fields of pretraining can be varied; for one value of a "
                f"scoring run: --set {name}=VALUE"
            )


def _check_number(
    config: SweepConfig, ablation: Ablation, grid: Mapping[str, Sequence[Any]]
) -> None:
    numbers = {"rows": len(ablation.rows), **{name: len(grid[name]) for name in grid}}
    numbers["seeds"] = config.seeds
    total = math.prod(numbers.values())
    if total > config.max_trials:
        product = " × ".join(f"{number} {name}" for name, number in numbers.items() if number > 1)
        raise ValueError(
            f"{product}: {total} trials are more than --max_trials {config.max_trials}. Vary "
            "less, or raise it"
        )


def _base(config: SweepConfig, ablation: Ablation, own: Mapping[str, Any]) -> PretrainConfig:
    recipe = ablation.paper_recipe if config.scale == "paper" else config.scale
    fixed = with_values(recipes.PRETRAIN[recipe](), ablation.fixed, config.table)
    return anchored(with_values(fixed, own, "--set"))


def _cells(
    base: PretrainConfig, ablation: Ablation, grid: Mapping[str, Sequence[Any]]
) -> Iterator[Cell]:
    """Every row with every combination of the grid; values as they come out of validation."""
    fields = {name: _settled(base, name, values) for name, values in grid.items()}
    short = _short_names(list(fields))
    for row in ablation.rows:
        for values in itertools.product(*fields.values()):
            chosen = dict(zip(fields, values, strict=True))
            told = [f"{short[name]} = {_shown(value)}" for name, value in chosen.items()]
            keys = [f"{short[name]}-{_key(value)}" for name, value in chosen.items()]
            yield Cell(
                key="-".join(filter(None, (row.key, *keys))),
                name=", ".join(filter(None, (_row_name(row), *told))),
                row=row,
                changes={**row.changes, **chosen},
            )


def _row_name(row: Row) -> str:
    """Rows of several tables of the paper may have the same name."""
    encoder = row.source.partition(", ")[2]
    return f"{encoder}, {row.name}" if encoder[:1] == "R" else row.name


def _settled(base: PretrainConfig, name: str, values: Sequence[Any]) -> list[Any]:
    """The values of a field as JSON has them: 3 and 3.0 are the same there."""
    settled = [
        value_of(with_values(base, {name: value}, f"--grid {name}"), name) for value in values
    ]
    for value in settled:
        if settled.count(value) > 1:
            raise ValueError(f"--grid {name}: {_shown(value)} is there twice")
    return settled


def _short_names(names: Sequence[str]) -> dict[str, str]:
    """The last parts of dotted names, where they tell them apart."""
    last = [name.rpartition(".")[2] for name in names]
    return {n: short if last.count(short) == 1 else n for n, short in zip(names, last, strict=True)}


def _key(value: Any) -> str:
    """A value as a part of a file name: another value, another text."""
    text = value if isinstance(value, str) else json.dumps(value)
    if PLAIN.fullmatch(text):
        return text
    digest = hashlib.blake2b(text.encode(), digest_size=3).hexdigest()
    return f"{re.sub(r'[^0-9A-Za-z.]+', '-', text)[:KEPT].strip('-')}-{digest}"


def _shown(value: Any) -> str:
    if isinstance(value, Config):
        return ", ".join(f"{name} {said(each)}" for name, each in value)
    return "none" if value is None else said(value)


def _check_measures(config: SweepConfig, scores: Sequence[Score], base: PretrainConfig) -> None:
    """Check that what pretraining is to tell can be known."""
    metric = config.asha.metric if config.asha else None
    heldout = (base.data.heldout_uri or base.data.heldout_share) and base.health.num_clips
    if not heldout and (metric == IOU or any(score.kind == IOU for score in scores)):
        raise ValueError(
            "iou is asked for, and no videos are held out to be tracked. Say which by --set "
            "data.heldout_uri=URI, or how many by --set data.heldout_share=0.05"
        )
    if metric == "knn_top1" and not base.knn.uri:
        raise ValueError(
            "asha.metric knn_top1 needs labelled videos. Say which by --set knn.uri=URI"
        )
    schedule, asha = base.schedule, config.asha
    if asha and schedule.unit == f"{asha.time}s" and asha.grace >= schedule.length:
        raise ValueError(
            f"asha.grace {asha.grace} is not before the end of the trials, at {schedule.length} "
            f"{schedule.unit}: none would be stopped early"
        )


def _mismatch(ours: Config | None, theirs: Config | None) -> list[str]:
    if isinstance(ours, RunConfig) and isinstance(theirs, RunConfig):
        return ours.mismatch(theirs)
    if ours is None or theirs is None:
        return []
    here, there = (each.model_dump(exclude={"scaling"}) for each in (ours, theirs))
    return [f"{n} was {there[n]!r}, is {here[n]!r}" for n in here if here[n] != there[n]]
