"""The folder of a sweep, and the state of the sweep in it.

    sweep.yaml  runs/TRIAL/  runs/TRIAL/result.json  runs/TRIAL-SCORE/  table.md  table.csv
    plot.png  shards/NAME/  tune/

Each folder in `runs` is a run folder as any other, which jobs/report.py takes, too. The content of
`tune` is Ray Tune's own; it is not needed to resume.
"""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, Literal

import pandas as pd
import yaml

from ctp.config import Config
from ctp.pretext.config import PretrainConfig
from ctp.score import Score
from ctp.storage import Storage
from ctp.sweeps.config import SweepConfig
from ctp.sweeps.options import parse_set
from ctp.sweeps.plan import RUNS, Plan, Trial
from ctp.sweeps.recipes import Setting
from ctp.training.run_folder import (
    METRICS,
    config_values,
    folder_of,
    merge_stored,
    parse_config,
    read_rows,
)

SWEEP = "sweep.yaml"
BASE = "base"
"""The entry of sweep.yaml with the base run and the versions that wrote it."""
RESULT = "result.json"
READ_AT_ONCE = 16

Status = Literal["finished", "stopped", "failed"]


class TrialResult(Config):
    """The result of a trial, written when the trial has ended."""

    status: Status
    """Whether it finished, was stopped early by ASHA, or failed too often."""
    reason: str = ""
    """The reason why it was stopped or failed."""
    warning: str = ""
    """A sentence if the pretraining collapsed or learned nothing."""
    scores: Mapping[str, float] = {}
    """Name of a score, a point, and the name of a number -> value."""
    steps: int = 0
    """Steps of pretraining."""
    seconds: float = 0.0
    """Seconds since its last start."""


@dataclass(frozen=True)
class Sweep:
    """The state of a sweep.

    Attributes:
        plan: what is tried.
        results: name of a trial -> its result, for trials that have ended.
        steps: name of a trial -> steps of pretraining so far, for the other trials.
    """

    plan: Plan
    results: Mapping[str, TrialResult]
    steps: Mapping[str, int]

    @cached_property
    def trials(self) -> pd.DataFrame:
        """Return a row for each trial: trial, row (its setting), seed, status, the varied options,
        all scores, steps, seconds, reason, folder."""
        # dtype object: pandas would turn the integers of a column with gaps into floats
        return pd.DataFrame([self._row(trial) for trial in self.plan.trials], dtype=object)

    def values(self, setting: Setting, key: str) -> pd.Series:
        """Return a number of a setting's finished trials, where they have it."""
        # a score that no trial has yet becomes a column of NaN
        trials = self.trials.reindex(columns=["row", "status", key])
        chosen = (trials["row"] == setting.name) & (trials["status"] == "finished")
        return trials.loc[chosen, key].astype(float).dropna()

    def scores(self, setting: Setting, score: Score) -> list[Mapping[str, float]]:
        """Return all numbers of a setting's finished trials that have a score."""
        ended = [self.results.get(t.name) for t in self.plan.trials if t.setting == setting]
        finished = [each.scores for each in ended if each and each.status == "finished"]
        return [scores for scores in finished if score.key in scores]

    def count(self, measure: Score) -> str:
        """Return what a column of `plan.measures` is the mean of, e.g. "of 307 videos"; "" if it
        is unknown, and "of 300 to 307 videos" if trials could not read the same videos."""
        found = [
            own.counted(scores)
            for setting in self.plan.settings
            for own in [self.plan.score_of(setting, measure)]
            for scores in self.scores(setting, own)
        ]
        numbers = [number for number, _ in found if number]
        if not numbers:
            return ""
        span = " to ".join(map(str, dict.fromkeys((min(numbers), max(numbers)))))
        return f"of {span} {found[0][1]}"

    def with_status(self, status: Status) -> list[str]:
        """Return the names of the trials that ended with a status."""
        return [name for name, result in self.results.items() if result.status == status]

    @property
    def left(self) -> list[str]:
        """Return the names of the trials to run; failed trials are tried again."""
        ended = {n for n, result in self.results.items() if result.status != "failed"}
        return [trial.name for trial in self.plan.trials if trial.name not in ended]

    def status(self, trial: Trial) -> str:
        """Return the status of a trial that has ended, "unfinished", or "to come"."""
        if trial.name in self.results:
            return self.results[trial.name].status
        return "unfinished" if self.steps.get(trial.name) else "to come"

    def _row(self, trial: Trial) -> dict[str, Any]:
        result, steps = self.results.get(trial.name), self.steps.get(trial.name, 0)
        row = {
            "trial": trial.name,
            "row": trial.setting.name,
            "seed": trial.seed,
            "status": self.status(trial),
            **trial.setting.changes,
            # every row has all columns, in the same order
            **{name: None for each in self.results.values() for name in each.scores},
        }
        return {
            **row,
            **(result.scores if result else {}),
            "steps": result.steps if result else steps,
            "seconds": round(result.seconds, 1) if result else None,
            "reason": result.reason if result else "",
            "folder": folder_of(trial.config).uri,
        }


def check_sweep(plan: Plan) -> None:
    """Check that the sweep's folder can be created or resumed.

    Raises:
        ValueError: it contains another sweep; names the differences.
        StorageError: it cannot be written.
    """
    folder = plan.folder
    folder.check_writable()
    if folder.join(SWEEP).exists():
        differences = plan.differences(read_plan(folder))
        if differences:
            raise ValueError(
                f"{folder.uri} contains another sweep:\n  "
                + "\n  ".join(differences)
                + "\nGive another --name, or the same options"
            )


def with_stored_base(plan: Plan) -> Plan:
    """Return the plan on the base run with which the sweep in its folder was started.

    So the same command resumes a sweep although a default of ctp has changed, and all its trials
    have the same base. Options of `--set` are kept. Prints each value that is taken from there.

    Raises:
        ValueError: the folder's sweep cannot be read.
        StorageError: it cannot be read.
    """
    place, config = plan.folder.join(SWEEP), plan.config
    if not place.exists():
        return plan
    stored = read_plan(plan.folder)
    if (stored.config.table, stored.config.scale) != (config.table, config.scale):
        return plan  # `check_sweep` says so
    given = dict(map(parse_set, config.set))
    return Plan.from_config(config, merge_stored(plan.base, stored.base, given, place.uri))


def write_config(plan: Plan) -> None:
    """Write the sweep's config into its folder, with the base run that its trials change.

    Raises:
        StorageError: it cannot be written.
    """
    values = {**plan.config.model_dump(mode="json"), BASE: config_values(plan.base)}
    plan.folder.join(SWEEP).write_bytes(yaml.safe_dump(values, sort_keys=False).encode())


def read_plan(folder: Storage) -> Plan:
    """Return the plan of the sweep in a folder, which may have been moved.

    Raises:
        ValueError: the folder contains no sweep, or one whose options are not those of this version
            of ctp; names each.
        StorageError: it cannot be read.
    """
    place = folder.join(SWEEP)
    if not place.exists():
        raise ValueError(f"{folder.uri} contains no sweep: there is no {SWEEP}")
    try:
        values = yaml.safe_load(place.read_bytes())
        stored = values.pop(BASE, None) if isinstance(values, dict) else None
        # folders of older versions have no base
        base = None if stored is None else parse_config(stored, [PretrainConfig])
        config = SweepConfig.from_values(values)
    except (ValueError, yaml.YAMLError) as error:
        raise ValueError(f"{place.uri}: {error}") from error
    name = folder.path.rpartition("/")[2]
    return Plan.from_config(config.replace(storage=folder.parent.uri, name=name), base)


def read_sweep(uri: str) -> Sweep:
    """Return the sweep in a folder, whether it runs or has ended.

    Raises:
        ValueError: the folder contains no sweep.
        StorageError: it cannot be read.
    """
    return state_of(read_plan(Storage.from_uri(uri)))


def state_of(plan: Plan) -> Sweep:
    """Return the state of a sweep."""
    names = [trial.name for trial in plan.trials]
    # on an object store, each of these small files takes the time of a request
    with ThreadPoolExecutor(READ_AT_ONCE) as pool:
        found = dict(zip(names, pool.map(partial(read_result, plan), names), strict=True))
        # the log of a trial that has ended is not needed, and may be long
        left = [trial for trial in plan.trials if found[trial.name] is None]
        steps = dict(zip((t.name for t in left), pool.map(steps_of, left), strict=True))
    return Sweep(plan, {n: r for n, r in found.items() if r is not None}, steps)


def result_place(plan: Plan, name: str) -> Storage:
    """Return where the result of a trial is once it has ended."""
    return plan.folder.join(RUNS, name, RESULT)


def read_result(plan: Plan, name: str) -> TrialResult | None:
    """Return the result of a trial, or None if it has not ended or lacks a score of the plan."""
    place = result_place(plan, name)
    if not place.exists():
        return None
    result = TrialResult.model_validate_json(place.read_bytes())
    there = {number.partition(".")[0] for number in result.scores}
    lacks_some = any(score.name not in there for score in plan.scores)
    return None if lacks_some and result.status == "finished" else result


def write_result(plan: Plan, name: str, result: TrialResult) -> None:
    """Write the result of a trial.

    Raises:
        StorageError: it cannot be written.
    """
    result_place(plan, name).write_bytes(result.model_dump_json(indent=1).encode())


def steps_of(trial: Trial) -> int:
    """Return the number of steps in the log of a trial's pretraining."""
    rows = read_rows(folder_of(trial.config).join(METRICS))
    return int(rows[-1]["step"]) if rows else 0
