"""The folder of a sweep: what it is, what came of its trials, and what is told of them.

    sweep.yaml  runs/TRIAL/  runs/TRIAL/result.json  runs/TRIAL-SCORE/  table.md  table.csv
    plot.png  tune/

Each run below `runs` is a run folder as any other, that jobs/report.py takes, too. What lies in
`tune` is Ray Tune's own, and of no use to go on.
"""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Literal

import yaml
from pydantic import ValidationError

from ctp.cli import describe
from ctp.config import Config
from ctp.storage import Storage
from ctp.sweeps.config import SweepConfig
from ctp.sweeps.plan import RUNS, Cell, Plan, Trial
from ctp.training.claim import run_storage
from ctp.training.run_folder import METRICS, read_rows

SWEEP = "sweep.yaml"
RESULT = "result.json"
TABLE, ROWS, PLOT = "table.md", "table.csv", "plot.png"
READ_AT_ONCE = 16

Status = Literal["finished", "stopped", "failed"]


class TrialResult(Config):
    """What came of a trial; it is written when the trial has ended, at once."""

    status: Status
    """Whether it came to its end, was stopped early by ASHA, or failed for good."""
    reason: str = ""
    """Why it was stopped or failed."""
    scores: Mapping[str, float] = {}
    """Name of the score, a point, and the number -> value."""
    steps: int = 0
    """Of pretraining."""
    seconds: float = 0.0
    """Since it was started last."""
    folders: Mapping[str, str] = {}
    """"pretrain", or a score's name -> folder of the run."""

    @property
    def is_lasting(self) -> bool:
        """Whether the same command does not try again."""
        return self.status != "failed"


@dataclass(frozen=True)
class Sweep:
    """A sweep, as far as it is.

    Attributes:
        plan: what is tried.
        results: trial's name -> what came of it, of those that have ended.
        steps: trial's name -> steps of pretraining, of those that have not.
    """

    plan: Plan
    results: Mapping[str, TrialResult]
    steps: Mapping[str, int]

    def of_cell(self, cell: Cell) -> list[TrialResult]:
        """What came of the trials of a row, as far as they have ended."""
        names = [trial.name for trial in self.plan.trials if trial.cell == cell]
        return [self.results[name] for name in names if name in self.results]

    def values(self, cell: Cell, measure: str) -> list[float]:
        """A number of each finished trial of a row that has it."""
        found = [each for each in self.of_cell(cell) if each.status == "finished"]
        return [each.scores[measure] for each in found if measure in each.scores]

    def ended(self, status: Status) -> list[str]:
        """Names of the trials that ended so."""
        return [name for name, result in self.results.items() if result.status == status]

    @property
    def left(self) -> list[str]:
        """Names of the trials that are to be run, or tried again."""
        return [
            trial.name
            for trial in self.plan.trials
            if trial.name not in self.results or not self.results[trial.name].is_lasting
        ]

    def status(self, trial: Trial) -> str:
        """How far a trial is, in a word."""
        if trial.name in self.results:
            return self.results[trial.name].status
        return "unfinished" if self.steps.get(trial.name) else "to come"


def check_sweep(plan: Plan) -> None:
    """Check before anything is spent that the sweep's folder is to be had.

    Raises:
        ValueError: it is that of another sweep; names what differs.
        StorageError: it cannot be written.
    """
    folder = plan.folder
    folder.check_writable()
    if folder.join(SWEEP).exists():
        differences = plan.differences(Plan.of(read_config(folder)))
        if differences:
            raise ValueError(
                f"{folder.uri} is the folder of another sweep:\n  "
                + "\n  ".join(differences)
                + "\nGive another --name, or the same options"
            )


def claim_sweep(plan: Plan) -> None:
    """Have the sweep's folder say what it is of.

    Raises:
        StorageError: it cannot be written.
    """
    values = plan.config.model_dump(mode="json")
    plan.folder.join(SWEEP).write_bytes(yaml.safe_dump(values, sort_keys=False).encode())


def read_sweep(uri: str) -> Sweep:
    """A sweep by its folder, whether it goes on or has ended.

    Raises:
        ValueError: it is no folder of a sweep.
        StorageError: it cannot be read.
    """
    return state_of(Plan.of(read_config(Storage.of(uri))))


def read_config(folder: Storage) -> SweepConfig:
    """The config of the sweep in a folder, wherever the folder lay when it was written.

    Raises:
        ValueError: it is no folder of a sweep.
        StorageError: it cannot be read.
    """
    place = folder.join(SWEEP)
    if not place.exists():
        raise ValueError(f"{folder.uri} is no folder of a sweep: it has no {SWEEP}")
    try:
        config = SweepConfig.model_validate(yaml.safe_load(place.read_bytes()))
    except yaml.YAMLError as error:
        raise ValueError(f"{place.uri} is not YAML: {error}") from error
    except ValidationError as error:
        raise ValueError(f"{place.uri} does not fit: {describe(error, SweepConfig)}") from error
    return config.replace(storage=folder.parent.uri, name=folder.path.rpartition("/")[2])


def state_of(plan: Plan) -> Sweep:
    """How far the trials of a sweep are."""
    names = [trial.name for trial in plan.trials]
    with ThreadPoolExecutor(READ_AT_ONCE) as pool:
        found = dict(zip(names, pool.map(partial(read_result, plan), names), strict=True))
        results = {name: result for name, result in found.items() if result is not None}
        left = [trial for trial in plan.trials if trial.name not in results]
        steps = pool.map(steps_of, left)
        return Sweep(plan, results, {t.name: n for t, n in zip(left, steps, strict=True)})


def result_place(plan: Plan, name: str) -> Storage:
    """Where the result of a trial lies once it has ended."""
    return plan.folder.join(RUNS, name, RESULT)


def read_result(plan: Plan, name: str) -> TrialResult | None:
    """What came of a trial; None if it has not ended."""
    place = result_place(plan, name)
    return TrialResult.model_validate_json(place.read_bytes()) if place.exists() else None


def write_result(plan: Plan, name: str, result: TrialResult) -> None:
    """Say what came of a trial.

    Raises:
        StorageError: it cannot be written.
    """
    result_place(plan, name).write_bytes(result.model_dump_json(indent=1).encode())


def steps_of(trial: Trial) -> int:
    """Steps of pretraining that a trial's log has."""
    rows = read_rows(run_storage(trial.pretrain).join(METRICS))
    return int(rows[-1]["step"]) if rows else 0
