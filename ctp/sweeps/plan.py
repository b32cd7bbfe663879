"""Plan the trials of a sweep from its config."""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from ctp import recipes
from ctp.build.config import BuildConfig
from ctp.config import is_within
from ctp.pretext.config import PretrainConfig
from ctp.score import Score
from ctp.storage import Storage
from ctp.sweeps.config import Scale, SweepConfig
from ctp.sweeps.options import (
    format_value,
    move_below,
    parse_grid,
    parse_row,
    parse_set,
    with_located_paths,
    with_values,
)
from ctp.sweeps.recipes import TABLES, Ablation, Setting
from ctp.sweeps.scores import (
    DEFAULTS,
    TASK,
    EncoderScore,
    TrainedEncoder,
    choose_scores,
    is_score_option,
)
from ctp.text import near_miss
from ctp.training.run_folder import (
    ENCODER,
    Uris,
    folder_of,
    input_locations,
    with_absolute_weights,
)

RUNS, SHARDS = "runs", "shards"
"""The subfolders of the sweep's folder that contain the run folders, and shards for some rows."""
KNN_TOP1 = "knn_top1"
SET_BY_THE_SWEEP = {
    "name": "trials are named by the varied options",
    "storage": "runs are in the sweep's folder; give --storage",
    "seed": "give --seeds NUMBER",
}
"""Options of a run that a sweep sets itself, and what to do instead."""
BASE_ROW = Setting("base", "base run")
"""The row that those of --row are compared with."""
CLIP_SECTIONS = ("task.sampling", "task.augment")
OWN_OPTIONS = Ablation(about="options of your own choice", rows=(Setting(),), paper_data="")
PLAIN = re.compile(r"[\w.+-]{1,60}")
MAX_KEY_CHARS = 40
"""Characters of a value that is shortened to be part of a file name."""


@dataclass(frozen=True)
class Trial:
    """An encoder that is scored, mostly after pretraining.

    Attributes:
        name: name of the run, and first part of the names of the runs that score it.
        setting: the setting that it belongs to.
        seed: seed of all its runs.
        config: config of the pretraining; if the setting is not pretrained, of its encoder alone.
    """

    name: str
    setting: Setting
    seed: int
    config: PretrainConfig

    @property
    def encoder(self) -> TrainedEncoder:
        """Return the encoder that is scored."""
        source = self.setting.initial or folder_of(self.config).join(ENCODER).uri
        config = self.config
        return TrainedEncoder(self.name, source, config.encoder, config.storage, self.seed)


@dataclass(frozen=True)
class Plan:
    """The trials and scores of a sweep.

    Attributes:
        config: the sweep's config.
        ablation: the rows that are tried.
        base: the run that trials change.
        settings: the rows of the result, in order.
        scores: how encoders are scored after pretraining.
        task_score: the held-out score of the rows' own tasks, if it is asked for.
        builds: the shards to build before the first trial.
    """

    config: SweepConfig
    ablation: Ablation
    base: PretrainConfig
    settings: tuple[Setting, ...]
    scores: tuple[EncoderScore[Any], ...]
    task_score: Score | None
    builds: tuple[BuildConfig, ...]
    _configs: Mapping[str, PretrainConfig] = field(repr=False)

    @classmethod
    def from_config(cls, config: SweepConfig, base: PretrainConfig | None = None) -> Plan:
        """Plan a sweep.

        Args:
            config: the sweep's config; without a name, it is named by what it varies and its scale.
            base: the run that trials change; None: that of the table and scale, with the options
                of `--set`.

        Raises:
            ValueError: nothing is varied, an option or score is unknown, a value does not fit, an
                option or value is given twice, or there are more trials than `max_trials`.
        """
        ablation = _ablation(config)
        name, storage = config.name or _default_name(config), Storage.from_uri(config.storage).uri
        config = config.replace(name=name, storage=storage)
        given = _unique("set", [parse_set(text) for text in config.set])
        grid = _unique("grid", [parse_grid(text) for text in config.grid])
        rows = list(_rows_at(config.scale, ablation))
        own = {text: parse_row(text) for text in config.row}
        _check_options(rows, given, grid, own.values())
        # before any config is built: a mistake in a grid can give millions of them
        _check_number(config, len(rows) + len(own), grid)
        changes = {k: v for k, v in given.items() if not is_score_option(k)}
        base = base or _base(config, ablation, changes)
        if own and not config.table:
            rows = [BASE_ROW]
        settings = tuple(_settings(base, [*rows, *_own_rows(base, own)], grid))
        builds = dict(_builds(config, base, rows))
        configs = {}
        for each in settings:
            run = _located(with_values(base, each.changes, each.name), config)
            if each.small_build in builds:
                run = run.replace(data=run.data.replace(uri=builds[each.small_build].out))
            configs[each.key] = run
        names = config.scores or ablation.scores or DEFAULTS[config.scale]
        options = {name: value for name, value in given.items() if is_score_option(name)}
        scores = choose_scores(config.scale, names, options, ablation.datasets, config.data)
        # all rows are scored on the same clips: those of the scale, or those that --set chose
        if config.scale != "paper" and any(is_within(name, CLIP_SECTIONS) for name in changes):
            scores = tuple(score.with_clips(base.clip_format, options) for score in scores)
        plan = cls(
            config=config,
            ablation=ablation,
            base=base,
            settings=settings,
            scores=scores,
            task_score=_task_score(configs.values()) if TASK in names else None,
            builds=tuple(builds.values()),
            _configs=configs,
        )
        _check_metrics(plan)
        return plan

    @property
    def folder(self) -> Storage:
        """Return the sweep's folder."""
        return Storage.from_uri(self.config.storage).join(self.config.name)

    @property
    def measures(self) -> list[Score]:
        """Return the numbers that settings are compared by; keys are those of a trial's scores."""
        own = [self.task_score] if self.task_score else []
        number = 2 if any("top5" in measure for measure in self.ablation.measures) else 1
        return own + [each for score in self.scores for each in score.measures[:number]]

    @property
    def pretrained(self) -> list[Setting]:
        """Return the settings that are pretrained."""
        return [setting for setting in self.settings if not setting.initial]

    @property
    def has_several_tasks(self) -> bool:
        """Return whether settings have different pretext tasks."""
        return len({config.task.name for config in self._configs.values()}) > 1

    def config_of(self, setting: Setting) -> PretrainConfig:
        """Return the config of a setting's runs, without their names and seeds."""
        return self._configs[setting.key]

    def score_of(self, setting: Setting, measure: Score) -> Score:
        """Return the score of a setting for a column of `measures`."""
        return self.config_of(setting).score if measure is self.task_score else measure

    @property
    def asha_key(self) -> str:
        """Return the entry of log lines that ASHA compares trials by; "" without ASHA."""
        if self.config.asha is None:
            return ""
        return self.base.score.key if self.config.asha.metric == TASK else KNN_TOP1

    @property
    def score_names(self) -> list[str]:
        """Return the names of all scores."""
        return ([TASK] if self.task_score else []) + [score.name for score in self.scores]

    @cached_property
    def trials(self) -> tuple[Trial, ...]:
        """Return all trials: every setting with the first seed, then with the next."""
        storage = self.folder.join(RUNS).uri
        trials = []
        # seeds outside: a sweep that is stopped early has tried every setting
        for seed, setting in itertools.product(range(self.config.seeds), self.settings):
            name = f"{setting.key}-seed{seed}"
            config = self._configs[setting.key].replace(name=name, storage=storage, seed=seed)
            trials.append(Trial(name, setting, seed, config))
        return tuple(trials)

    def trial(self, name: str) -> Trial:
        """Return the trial of a name."""
        return next(trial for trial in self.trials if trial.name == name)

    def locations(self) -> list[Uris]:
        """Return what the runs read."""
        runs = [uri for trial in self.trials for uri in input_locations(trial.config)]
        return runs + [uri for score in self.scores for uri in score.locations()]

    def differences(self, other: Plan) -> list[str]:
        """Return a line for each reason why this plan cannot resume another plan's sweep; more
        seeds, values or scores are none."""
        lines = [
            f"{name} was {format_value(there)}, is {format_value(here)}"
            for name, here, there in (
                ("table", self.config.table, other.config.table),
                ("scale", self.config.scale, other.config.scale),
                ("what --grid varies", _grid_names(self.config), _grid_names(other.config)),
                ("asha", self.config.asha, other.config.asha),
            )
            if here != there
        ]
        lines += map(str, self.base.differences(other.base))
        if not set(other.score_names) <= set(self.score_names):
            lines.append(
                f"scores was {format_value(other.score_names)}, is {format_value(self.score_names)}"
            )
        before = {score.name: score for score in other.scores}
        for score in self.scores:
            if score.name in before:
                lines += score.differences(before[score.name])
        keys = {setting.key for setting in self.settings}
        gone = [setting.name for setting in other.settings if setting.key not in keys]
        # after another difference, this would only repeat it
        if gone and not lines:
            lines.append(f"{', '.join(gone)} was part of the sweep, and is not now")
        if self.config.seeds < other.config.seeds:
            lines.append(f"seeds was {other.config.seeds}, is {self.config.seeds}")
        return lines

    @property
    def grid_names(self) -> list[str]:
        """Return the options that --grid varies."""
        return _grid_names(self.config)


def paper_run(ablation: Ablation, setting: Setting) -> PretrainConfig:
    """Return the paper's run of a setting of a plan."""
    return with_values(_paper_base(ablation), setting.paper_changes, "the table")


def _paper_base(ablation: Ablation) -> PretrainConfig:
    """Return the paper's run that the rows of its table change."""
    options = {**ablation.fixed, **ablation.paper_fixed}
    return with_values(recipes.PRETRAIN[ablation.paper_recipe](), options, "the table")


def _rows_at(scale: Scale, ablation: Ablation) -> Iterator[Setting]:
    """Yield the rows of a table at a scale, with all their changes."""
    for row in ablation.rows:
        of_recipe = _differing(_paper_base(ablation), row.paper_recipe) if row.paper_recipe else {}
        of_paper = {**of_recipe, **row.changes, **row.paper_changes}
        if scale in row.scales:
            is_paper = scale == "paper"
            yield replace(
                row,
                name=", ".join(filter(None, (row.name, row.paper_data if is_paper else ""))),
                changes=of_paper if is_paper else {**row.changes, **row.small_changes},
                paper_changes=of_paper,
            )


def _differing(base: PretrainConfig, recipe: str) -> dict[str, Any]:
    """Return the options of a recipe that differ from those of a run, names of classes first."""
    ours, theirs = base.flatten(), recipes.PRETRAIN[recipe]().flatten()
    found = {n: value for n, value in theirs.items() if n not in ours or ours[n] != value}
    # another name decides which options there are
    return {n: found[n] for n in sorted(found, key=lambda name: not name.endswith(".name"))}


def _builds(
    config: SweepConfig, base: PretrainConfig, rows: Sequence[Setting]
) -> Iterator[tuple[str, BuildConfig]]:
    """Yield the build recipes that rows need, and the builds of their shards."""
    needed = dict.fromkeys(row.small_build for row in rows if row.small_build)
    for name in needed if config.scale != "paper" else ():
        source = base.data.uri
        if not isinstance(source, str):
            raise ValueError(
                f"data.uri names {len(source)} sources, and this table builds shards of one. Name "
                "one folder or prefix that contains all videos"
            )
        out = Storage.from_uri(config.storage).join(config.name, SHARDS, name).uri
        yield name, recipes.BUILD[name]().replace(recipe=name, source=source, out=out)


def _task_score(configs: Iterable[PretrainConfig]) -> Score:
    """Return the column of the held-out scores of tasks."""
    scores = list(dict.fromkeys(config.score for config in configs))
    if len(scores) == 1:
        return replace(scores[0], label=f"held-out {scores[0].label}")
    return Score("", "held-out score of the row's own task")


def _ablation(config: SweepConfig) -> Ablation:
    if config.table and config.table not in TABLES:
        hint = near_miss(config.table, TABLES)
        raise ValueError(f"there is no table {config.table!r}{hint}; there are {', '.join(TABLES)}")
    if not config.table and not config.grid and not config.row:
        raise ValueError(
            "nothing is varied. Give options to vary, e.g. --grid task.num_patches=1,2,3,4, or "
            "--row task.num_patches=1 for a run beside the base run, or a table of the paper: "
            f"--recipe {', '.join(TABLES)}"
        )
    return TABLES.get(config.table, OWN_OPTIONS)


def _unique(option: str, pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    names = [name for name, _ in pairs]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice:
        raise ValueError(f"--{option} names {twice} twice; give all its values at once")
    return dict(pairs)


def _check_options(
    rows: Sequence[Setting],
    given: Mapping[str, Any],
    grid: Mapping[str, Sequence[Any]],
    own: Iterable[Mapping[str, Any]],
) -> None:
    varied = {name for row in rows for name in row.changes}
    in_rows = {name for row in own for name in row}
    options = {"set": given, "grid": grid, "row": in_rows}
    for option, name in [(option, name) for option, names in options.items() for name in names]:
        problem = SET_BY_THE_SWEEP.get(name)
        if name in varied and option != "row":
            problem = "the table varies this option itself"
            if name == "data.uri":
                problem += "; name the folder that holds all data sets by --data"
        elif option == "grid" and any(name.startswith(f"{section}.") for section in varied):
            problem = "the table varies the section that this option is a part of"
        elif option == "grid" and (name in given or name in in_rows):
            other = "--set" if name in given else "--row"
            problem = f"both --grid and {other} name this option; give one"
        elif option != "set" and is_score_option(name):
            problem = f"only options of pretraining can be varied; give one by --set {name}=VALUE"
        if problem:
            raise ValueError(f"--{option} {name}: {problem}")


def _check_number(config: SweepConfig, num_rows: int, grid: Mapping[str, Sequence[Any]]) -> None:
    numbers = {"rows": num_rows, **{name: len(grid[name]) for name in grid}}
    numbers["seeds"] = config.seeds
    total = math.prod(numbers.values())
    if total > config.max_trials:
        product = " × ".join(f"{number} {name}" for name, number in numbers.items() if number > 1)
        raise ValueError(
            f"{product}: {total} trials are more than --max_trials {config.max_trials}. Vary "
            "less, or raise it"
        )


def _base(config: SweepConfig, ablation: Ablation, given: Mapping[str, Any]) -> PretrainConfig:
    if config.scale == "paper":
        fixed = _paper_base(ablation)
    else:
        fixed = with_values(recipes.PRETRAIN[config.scale](), ablation.fixed, config.table)
    return _located(with_values(fixed, given, "--set"), config)


def _located(run: PretrainConfig, config: SweepConfig) -> PretrainConfig:
    run = with_located_paths(run, run.LOCATIONS, config.data)
    run = run.replace(initial_encoder=move_below(run.initial_encoder, config.data))
    with suppress(ValueError):  # the result of a sweep is read without the weights that it named
        run = with_absolute_weights(run)
    return run


def _settings(
    base: PretrainConfig, rows: Sequence[Setting], grid: Mapping[str, Sequence[Any]]
) -> Iterator[Setting]:
    """Yield every row with every combination of the grid."""
    values = {name: _normalised(base, name, each) for name, each in grid.items()}
    for row, combination in itertools.product(rows, itertools.product(*values.values())):
        yield _changed(row, dict(zip(grid, combination, strict=True)))


def _own_rows(base: PretrainConfig, own: Mapping[str, Mapping[str, Any]]) -> Iterator[Setting]:
    """Yield the rows of --row, given as text -> changes; refuse a run that is there already."""
    known = [base]
    for text, changes in own.items():
        run = with_values(base, changes, f"--row {text!r}")
        if run in known:
            there = "the base run" if run == base else "another row"
            raise ValueError(f"--row {text!r} is {there} once more")
        known.append(run)
        values = run.flatten()
        # a section, such as encoder=r3d, has no single value
        yield _changed(Setting(), {name: values.get(name, v) for name, v in changes.items()})


def _changed(row: Setting, changes: Mapping[str, Any]) -> Setting:
    """Return a row with further changes, which its key and name tell."""
    # the last part of a name is enough where no other option ends with it
    last = [name.rpartition(".")[2] for name in changes]
    short = {n: s if last.count(s) == 1 else n for n, s in zip(changes, last, strict=True)}
    keys = [f"{short[name]}-{_key(value)}" for name, value in changes.items()]
    names = [f"{short[name]} = {format_value(value)}" for name, value in changes.items()]
    return replace(
        row,
        key="-".join(filter(None, (row.key, *keys))),
        name=", ".join(filter(None, (row.name, *names))),
        changes={**row.changes, **changes},
    )


def _normalised(base: PretrainConfig, option: str, values: Sequence[Any]) -> list[Any]:
    """Return the values as a config has them, where 3 and 3.0 are the same."""
    configs = [with_values(base, {option: value}, f"--grid {option}") for value in values]
    # a section, such as encoder=r3d, has no single value
    found = [c.flatten().get(option, v) for c, v in zip(configs, values, strict=True)]
    for value, config in zip(found, configs, strict=True):
        if configs.count(config) > 1:
            raise ValueError(f"--grid {option}: {format_value(value)} is given twice")
    return found


def _key(value: Any) -> str:
    """Return a value as a part of a file name; different values have different names."""
    text = value if isinstance(value, str) else json.dumps(value)
    if PLAIN.fullmatch(text):
        return text
    # different values may have the same text once shortened
    digest = hashlib.blake2b(text.encode(), digest_size=3).hexdigest()
    return f"{re.sub(r'[^0-9A-Za-z.]+', '-', text)[:MAX_KEY_CHARS].strip('-')}-{digest}"


def _default_name(config: SweepConfig) -> str:
    varied = [name.rpartition(".")[2] for name in _grid_names(config)]
    varied += ["rows"] if config.row else []
    return "-".join(filter(None, (config.table, *varied, config.scale)))


def _grid_names(config: SweepConfig) -> list[str]:
    return [parse_grid(text)[0] for text in config.grid]


def _check_metrics(plan: Plan) -> None:
    """Check that the scores of pretraining can be computed."""
    base, asha = plan.base, plan.config.asha
    # the score of the task comes from the evaluation of the run itself
    heldout = (base.data.heldout_uri or base.data.heldout_share) and base.evaluation.num_clips
    if not heldout and (plan.task_score or plan.asha_key == base.score.key):
        raise ValueError(
            f"the score {TASK} needs held-out videos. Name them by --set data.heldout_uri=URI, or "
            "hold out a share by --set data.heldout_share=0.05"
        )
    if plan.asha_key == base.score.key and plan.has_several_tasks:
        raise ValueError(
            "asha.metric task cannot compare different tasks. Use --asha.metric knn_top1"
        )
    if plan.asha_key == KNN_TOP1 and not base.knn.uri:
        raise ValueError("asha.metric knn_top1 needs labelled videos: --set knn.uri=URI")
    schedule = base.schedule
    if asha and schedule.unit == f"{asha.time}s" and asha.grace >= schedule.length:
        raise ValueError(
            f"asha.grace {asha.grace} is not before the end of the trials at {schedule.length} "
            f"{schedule.unit}: none would be stopped early"
        )
