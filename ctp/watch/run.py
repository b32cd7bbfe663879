"""What the page shows of a run, read from its folder again and again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np

from ctp.data.quarantine import QuarantineLedger
from ctp.progress import learning_warning
from ctp.report.run_list import State, read_state
from ctp.score import Score
from ctp.storage import Storage, StorageError
from ctp.text import one_line
from ctp.training.run_folder import CONFIG, KNN, METRICS, QUARANTINE
from ctp.watch.about import About, read_about
from ctp.watch.growing_log import GrowingLog

PACE_INTERVALS = 20
"""Log lines whose mean speed gives the time left."""
MAX_QUARANTINED = 50
"""Quarantined videos whose names the page shows."""


@dataclass(frozen=True)
class RunView:
    """A run as the page shows it. Entries without a value are None or empty.

    Attributes:
        name: its name.
        uri: its folder.
        state: as in `ctp runs`; "not started": there is no such folder yet; "deleted": there was.
        note: a sentence about the state.
        kind: what it does, e.g. "pretrain ctp".
        step, total_steps: steps done, and of the whole run.
        seconds_left: until its end, at the mean speed of the last log lines.
        written_seconds: Unix time of the last log line.
        numbers: label -> text, of the last log line.
        warning: sentence about a plateau or a collapse.
        num_quarantined: number of videos that could not be used.
        quarantined: the name and the reason of the first of them.
    """

    name: str
    uri: str
    state: State | Literal["not started", "deleted"] = "not started"
    note: str = ""
    kind: str = ""
    step: int = 0
    total_steps: int | None = None
    seconds_left: float | None = None
    written_seconds: float | None = None
    numbers: Mapping[str, str] = field(default_factory=dict)
    warning: str = ""
    num_quarantined: int = 0
    quarantined: Sequence[tuple[str, str]] = ()


class WatchedRun:
    """A run folder that is read repeatedly. It need not exist.

    Attributes:
        folder: the folder.
        view: what to show.
        about: what its config says, None as long as there is none.
        log, knn: its log, and the accuracies of nearest neighbours.
    """

    def __init__(self, folder: Storage, name: str):
        self.folder = folder
        self.view = RunView(name, folder.uri)
        self.about: About | None = None
        self.log, self.knn = GrowingLog(folder.join(METRICS)), GrowingLog(folder.join(KNN))
        self._config_version: object = None
        self._quarantine_version: object = None

    def refresh(self) -> None:
        """Read what is new. An error becomes the note, and what was read before stays."""
        try:
            self._refresh()
        except (ValueError, StorageError) as error:
            self.view = replace(self.view, state="unreadable", note=one_line(error))

    def _refresh(self) -> None:
        version = self.folder.join(CONFIG).version()
        if version[0] is None:
            state: Literal["not started", "deleted"] = "deleted" if self.about else "not started"
            note = {
                "not started": "There is no such run yet. It appears here when it starts.",
                "deleted": "The folder of the run was deleted.",
            }[state]
            self.view = replace(self.view, state=state, note=note, seconds_left=None)
            return
        if self.about is None or version != self._config_version:
            self.about = read_about(self.folder)
            self._config_version = version
        self.log.refresh()
        self.knn.refresh()
        state_now, reason = read_state(self.folder, self.about.result)
        self.view = replace(
            self._described(self.about),
            state=state_now,
            note=reason,
            num_quarantined=int(self.log.newest.get("quarantined", 0)),
            quarantined=self._quarantined(),
        )
        if state_now == "running":
            self.view = replace(self.view, seconds_left=self._seconds_left(self.about))

    def _described(self, about: About) -> RunView:
        """Return the view of what the log has."""
        newest, score = self.log.newest, about.score
        step = int(newest.get("step", 0))
        total_steps = _total_steps(about, newest)
        scored = self.log.row(score.key)
        progress = scored.get("step", 0) / total_steps if total_steps else 1.0
        return RunView(
            name=self.view.name,
            uri=self.view.uri,
            kind=about.description,
            step=step,
            total_steps=total_steps,
            written_seconds=self.log.written_seconds,
            numbers=_numbers(newest, scored, score),
            warning=learning_warning(scored, score, progress) if scored else "",
        )

    def _seconds_left(self, about: About) -> float | None:
        """Return the time to the end, with a share for evaluations."""
        newest = self.log.newest
        _, speeds = self.log.series("clips_per_second")
        total_steps = _total_steps(about, newest)
        speeds = speeds[speeds > 0]
        if not len(speeds) or total_steps is None:
            return None
        # the mean of times, not of speeds: slow intervals take longer
        step_seconds = about.total_batch * float(np.mean(1 / speeds[-PACE_INTERVALS:]))
        _, evaluations = self.log.series("evaluation_seconds")
        step_seconds += float(evaluations.sum()) / int(newest["step"])
        return step_seconds * (total_steps - int(newest["step"]))

    def _quarantined(self) -> Sequence[tuple[str, str]]:
        """Return the first quarantined videos, each with the reason."""
        place = self.folder.join(QUARANTINE)
        version = place.version()
        if version == self._quarantine_version:
            return self.view.quarantined
        self._quarantine_version = version
        if version[0] is None:
            return ()
        ledger = QuarantineLedger.from_jsonl(place.read_bytes())
        return [(each.video_id, each.reason) for each in ledger][:MAX_QUARANTINED]


def _total_steps(about: About, newest: Mapping[str, Any]) -> int | None:
    if about.num_steps is not None:
        return about.num_steps
    # an old log lacks it, and the number of videos is nowhere else
    return int(newest["total_steps"]) if "total_steps" in newest else None


def _numbers(
    newest: Mapping[str, Any], scored: Mapping[str, float], score: Score
) -> dict[str, str]:
    """Return the numbers of a log by their labels, with units."""
    found = {}
    if "loss" in newest:
        found["loss"] = f"{newest['loss']:.4f}"
    if scored:
        found[score.label] = score.describe_value(scored)
        if score.baseline_key in scored:
            found[score.baseline_label] = score.format(scored[score.baseline_key])
        number, counted = score.counted(scored)
        clips = f", {number} {counted}" if number else ""
        found["evaluated"] = f"step {int(scored['step']):,}{clips}"
    if "clips_per_second" in newest:
        found["speed"] = f"{newest['clips_per_second']:.1f} clips/s"
        found["waiting for data"] = f"{newest['wait_share']:.0%}"
    return found
