"""A trial of a sweep, in a process of its own: pretraining, then scoring the encoder.

A trial resumes from the folders of its runs. With ASHA it first reports what it had reported
before, even if it is finished, so that later trials are compared with all earlier ones.

A trial is not killed to stop it early, since its workers and their resources would outlive it: it
asks for a reason to stop at each log line, and then ends its run.
"""

from __future__ import annotations

import math
import re
import textwrap
import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import cached_property
from itertools import dropwhile
from typing import Any

import ray
from ray import tune

from ctp.cluster.knn import KnnScorer
from ctp.cluster.loading import ActorLoader
from ctp.cluster.service_log import service_log
from ctp.cluster.train import Show, train
from ctp.lease import LeaseError, hold
from ctp.pretext.pretraining import open_pretraining
from ctp.progress import learning_warning
from ctp.score import COUNTS
from ctp.sweeps.folder import TrialResult, read_result, steps_of, write_result
from ctp.sweeps.plan import KNN_TOP1, Plan, Trial
from ctp.sweeps.scores import RetrievalConfig, retrieval_scores
from ctp.training.run_folder import (
    KNN,
    Row,
    create_or_resume,
    folder_of,
    newest_sample,
    read_metrics,
    read_rows,
)
from ctp.training.trainer import RunStoppedError, TrainingSpec

PRETRAIN = "pretrain"
REPORT_SECONDS = 2.0
"""Shortest time between reports of log lines without a score."""
MAX_RETRIES = 3
"""Restarts of a task whose node or process is lost."""
COLOUR_CODES = re.compile(r"\x1b\[[\d;]*m")
MAX_REASON_CHARS = 300


def run_trial(config: Mapping[str, str], plan: Plan, stop_signals: Any) -> None:
    """Run a trial, as Tune calls it.

    Errors that a restart may fix are raised, so that Tune restarts the trial; others become its
    result.
    """
    trial = plan.trial(config["trial"])
    runner = TrialRunner(plan, trial, stop_signals)
    runner.report_again()
    if read_result(plan, trial.name) is None:
        started = time.monotonic()
        result = runner.result()
        seconds = time.monotonic() - started
        write_result(plan, trial.name, result.replace(steps=steps_of(trial), seconds=seconds))


class TrialRunner:
    """Runs the phases of a trial, each of which resumes where it stopped.

    Attributes:
        reason_to_stop: why the trial is stopped early, or None.
    """

    def __init__(self, plan: Plan, trial: Trial, stop_signals: Any):
        self._plan, self._trial, self._stop_signals = plan, trial, stop_signals
        self._folder = folder_of(trial.config)
        self._reported, self._reported_knn_step = float("-inf"), 0.0
        self.reason_to_stop: str | None = None

    def result(self) -> TrialResult:
        """Run all phases that are left, and return the result without steps and seconds.

        Raises:
            StorageError, RunStoppedError, RayError, ray.train.TrainingFailedError: a restart may
                mend it.
        """
        scores: dict[str, float] = {}
        try:
            self._pretrain()
            for score in self._plan.scores:
                found = score.compute(self._trial.encoder, self)
                scores |= {f"{score.name}.{name}": float(value) for name, value in found.items()}
            result = TrialResult(status="finished")
        except (ValueError, RunStoppedError, LeaseError) as error:
            if self.reason_to_stop is not None:
                result = TrialResult(status="stopped", reason=self.reason_to_stop)
            elif isinstance(error, RunStoppedError) and not error.is_final:
                raise
            else:
                result = TrialResult(status="failed", reason=error_line(str(error)))
        rows = read_metrics(self._folder)
        scores = {k: v for k, v in (self._logged(rows) | scores).items() if math.isfinite(v)}
        warning = learning_warning(rows[-1], self._trial.config.score) if rows else ""
        return result.replace(scores=scores, warning=warning)

    def report_again(self) -> None:
        """Report to ASHA what the log contains up to the newest checkpoint."""
        if self._plan.asha_key:
            last = newest_sample(self._trial.config)
            for row in read_metrics(self._folder):
                if row["clips"] <= last and (metrics := self._asha_metrics(row)):
                    tune.report(metrics)

    def train(self, phase: str, spec: TrainingSpec[Any]) -> None:
        """Train a run that scores the encoder."""
        self._train(spec, lambda row: self._report(phase, spec, row, {}))

    def retrieve(self, phase: str, encoder: bytes, config: RetrievalConfig) -> Mapping[str, float]:
        """Return `retrieval_scores`, computed by a task."""
        tune.report({"phase": phase, "row": {}})
        task = ray.remote(
            num_cpus=config.scaling.cpus_per_encoder,
            num_gpus=int(config.scaling.use_gpu),
            max_retries=MAX_RETRIES,
            scheduling_strategy="DEFAULT",  # not in the resources that Tune reserves for the trial
        )(_retrieve)
        found: dict[str, float] = ray.get(task.remote(encoder, config))
        return found

    @cached_property
    def _spec(self) -> TrainingSpec[Any]:
        return open_pretraining(self._trial.config)

    def _pretrain(self) -> None:
        config = self._trial.config
        initial = self._trial.setting.initial
        if initial:
            # Tune would print a line for a trial that reports nothing
            tune.report({"phase": f"{initial} weights", "row": {}})
        if initial or self._folder.join(config.RESULT).exists():
            return
        scorer = KnnScorer(config) if config.knn.uri else None
        self._train(self._spec, self._show_pretraining, scorer)

    def _train(self, spec: TrainingSpec[Any], show: Show, scorer: KnnScorer | None = None) -> None:
        with hold(folder_of(spec.config), spec.config.KIND) as lease:
            create_or_resume(spec.config)
            beside = scorer.beside(lease.attempt) if scorer else nullcontext()
            with service_log(spec.config) as log, beside:

                def show_and_log(row: Row) -> str | None:
                    log(row)
                    return lease.lost_reason() or show(row)

                train(replace(spec, attempt=lease.attempt), show_and_log)

    def _show_pretraining(self, row: Row) -> str | None:
        if self._plan.asha_key == KNN_TOP1:  # these scores come later than their log lines
            for each in read_rows(self._folder.join(KNN)):
                if each["step"] > self._reported_knn_step and (found := self._asha_metrics(each)):
                    self._reported_knn_step = each["step"]
                    tune.report(found)
        return self._report(PRETRAIN, self._spec, row, self._asha_metrics(row))

    def _report(
        self, phase: str, spec: TrainingSpec[Any], row: Row, metrics: Mapping[str, float]
    ) -> str | None:
        """Report a log line to the sweep, unless another was reported a moment ago.

        Returns:
            the reason to stop, or None.
        """
        now, score = time.monotonic(), spec.config.score
        if score.key in row or metrics or now - self._reported >= REPORT_SECONDS:
            self._reported = now
            shown = {
                "step": row["step"],
                "total_steps": row["total_steps"],
                "score": score.describe(row),
            }
            # nested, so that ASHA sees nothing but its own metrics
            tune.report({"phase": phase, "row": shown, **metrics})
        if self._plan.asha_key:
            request = self._stop_signals.reason_to_stop.remote(self._trial.name)
            self.reason_to_stop = ray.get(request)
        return self.reason_to_stop

    def _asha_metrics(self, row: Row) -> dict[str, float]:
        """Return what ASHA compares trials by; nothing if the log line has no score, or at the end
        of the run."""
        key = self._plan.asha_key
        if not key or key not in row or int(row["step"]) >= self._spec.stream.total_steps:
            return {}
        epoch = float(row["clips"]) / self._spec.stream.epoch_clips
        return {"step": int(row["step"]), "epoch": epoch, key: float(row[key])}

    def _logged(self, rows: Sequence[Mapping[str, float]]) -> dict[str, float]:
        """Return the last values in the log of pretraining."""
        score = self._trial.config.score
        names = ["loss", score.key, score.error_key, score.baseline_key, *COUNTS, KNN_TOP1]
        return {name: row[name] for row in rows for name in names if name in row}


def error_line(text: str) -> str:
    """Return an error as one line; of a traceback what follows its last frame."""
    lines = COLOUR_CODES.sub("", text).splitlines()
    frames = [number for number, line in enumerate(lines) if line.lstrip().startswith('File "')]
    if frames:
        lines = list(dropwhile(lambda line: line[:1].isspace(), lines[frames[-1] + 1 :]))
    return textwrap.shorten(" ".join(lines), MAX_REASON_CHARS, placeholder=" …")


def _retrieve(encoder: bytes, config: RetrievalConfig) -> dict[str, float]:
    load = ActorLoader.from_config(1, config.data)
    return retrieval_scores(encoder, config, load)
