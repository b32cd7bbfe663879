"""A trial of a sweep, in a process of its own: pretraining, then what scores the encoder.

A trial goes on from the folders of its runs. With ASHA it first tells again what it had told
before, finished ones too, so that those to come are compared with all.

A trial is not killed to stop it early, for its workers and what they hold would outlive it: the
sweep leaves word at a desk, where the trial asks at each log line, and its run ends in good order.
"""

from __future__ import annotations

import json
import math
import re
import textwrap
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from functools import cached_property
from itertools import dropwhile
from typing import Any

import ray
from ray import tune

from ctp.cluster.knn import KnnScorer
from ctp.cluster.mlflow_log import mlflow_log
from ctp.cluster.train import Show, train
from ctp.downstream.classification import Finetuning
from ctp.downstream.config import FinetuneConfig
from ctp.downstream.initial import settled_encoder
from ctp.downstream.track_config import TrackConfig
from ctp.downstream.tracking import Tracking, settled
from ctp.pretext.pretrain import Pretraining
from ctp.sweeps.folder import TrialResult, read_result, steps_of, write_result
from ctp.sweeps.plan import Plan, Trial
from ctp.sweeps.scores import RetrievalConfig, Score, ScoreConfig, retrieval_scores
from ctp.training.claim import newest_clips, open_run, run_storage
from ctp.training.run_folder import ENCODER, KNN, Row, read_metrics, read_rows
from ctp.training.trainer import Job, RunStoppedError

PRETRAIN = "pretrain"
TOLD_SECONDS = 2.0
"""Log lines that hold no score are passed on so often at most."""
MAX_RETRIES = 3
"""A task whose node or process is lost is started again so often."""
KNN_METRIC = "knn_top1"
OF_PRETRAINING = ("loss", "iou", "still_iou", "heldout_clips", KNN_METRIC)
"""Entries of the run's log lines whose last values are among a trial's scores."""
SHOWN = ("step", "total_steps", "iou", "top1")
"""Entries of log lines that are passed on to be shown."""
TELLING = {"iou", "top1"}
"""Those that are passed on at once."""
COLOURS = re.compile(r"\x1b\[[\d;]*m")
LONGEST_REASON = 300
"""Characters of an error that are told."""


def run_trial(config: Mapping[str, str], plan: Plan, desk: Any) -> None:
    """What Tune runs. An error that another start may mend is raised, for Tune to start it again;
    others are the trial's result."""
    name = config["trial"]
    work = Work(plan, plan.trial(name), desk)
    if plan.config.asha is not None:
        work.tell_again()
    if read_result(plan, name) is not None:
        return
    began = time.monotonic()
    result = outcome(work)
    told = {"steps": steps_of(work.trial), "seconds": time.monotonic() - began}
    scores = {k: v for k, v in (work.logged() | work.scores).items() if math.isfinite(v)}
    write_result(plan, name, result.replace(**told, scores=scores, folders=work.folders))


def outcome(work: Work) -> TrialResult:
    """Do the work, and say how it ended.

    Raises:
        StorageError, RayError, ray.train.TrainingFailedError: another start may mend it.
    """
    try:
        work.do()
    except (ValueError, RunStoppedError) as error:
        if work.reason_to_stop is not None:
            return TrialResult(status="stopped", reason=work.reason_to_stop)
        return TrialResult(status="failed", reason=line_of(str(error)))
    return TrialResult(status="finished")


class Work:
    """The phases of a trial, each of which goes on from where it was broken off.

    Attributes:
        trial: which one.
        scores: what came out so far, besides what the log of pretraining says.
        folders: phase -> folder of its run.
        reason_to_stop: what the desk says.
    """

    def __init__(self, plan: Plan, trial: Trial, desk: Any):
        self.trial, self._plan, self._asha, self._desk = trial, plan, plan.config.asha, desk
        self._folder = run_storage(trial.pretrain)
        self.scores: dict[str, float] = {}
        self.folders = {PRETRAIN: self._folder.uri}
        self.reason_to_stop: str | None = None
        self._told, self._told_knn = float("-inf"), 0.0

    @cached_property
    def _job(self) -> Pretraining:
        return Pretraining.of(self.trial.pretrain)

    def do(self) -> None:
        """Do all that is left.

        Raises:
            RunStoppedError: a run cannot go on, or is to stop.
            ValueError: something does not fit.
        """
        self._pretrain()
        for score in self._plan.scores:
            if score.config is not None:
                self.scores |= score.numbered(self._scored(score, score.config))

    def tell_again(self) -> None:
        """Tell what the log says of the run, up to its newest checkpoint."""
        clips = newest_clips(self.trial.pretrain)
        for row in read_metrics(self._folder):
            if row["clips"] <= clips and (judged := self._judged(row)):
                tune.report(judged)

    def logged(self) -> dict[str, float]:
        """The last numbers that the log of pretraining has."""
        rows = read_metrics(self._folder)
        return {name: row[name] for row in rows for name in OF_PRETRAINING if name in row}

    def _pretrain(self) -> None:
        config = self.trial.pretrain
        if self._folder.join(config.RESULT).exists():
            return
        open_run(config)
        scorer = KnnScorer(config) if config.knn.uri else None
        with scorer.beside() if scorer else nullcontext():
            _train(self._job, self._show_pretraining)

    def _scored(self, score: Score, config: ScoreConfig) -> dict[str, float]:
        encoder = self._folder.join(ENCODER)
        if isinstance(config, RetrievalConfig):
            self._tell(score.name, {}, {})
            of_trial = config.replace(encoder=encoder.uri, seed=self.trial.seed)
            return _retrieved(encoder.read_bytes(), of_trial)
        own = {
            "name": f"{self.trial.name}-{score.name}",
            "storage": self.trial.pretrain.storage,
            "seed": self.trial.seed,
            "initial": encoder.uri,
        }
        if isinstance(config, FinetuneConfig):
            known = settled_encoder(config.encoder, encoder.uri)
            tuned = config.replace(**own, encoder=known.model_dump())
            return self._trained(score.name, tuned, lambda: Finetuning.of(tuned))
        tracked = settled(config.replace(**own))
        return self._trained(score.name, tracked, lambda: Tracking.of(tracked))

    def _trained(
        self, name: str, config: FinetuneConfig | TrackConfig, make: Callable[[], Job]
    ) -> dict[str, float]:
        """The numbers of a run's test."""
        folder = run_storage(config)
        self.folders[name] = folder.uri
        if not folder.join(config.RESULT).exists():
            open_run(config)
            _train(make(), lambda row: self._tell(name, row, {}))
        scores = json.loads(folder.join(config.RESULT).read_bytes())
        return {key: value for key, value in scores.items() if isinstance(value, int | float)}

    def _show_pretraining(self, row: Row) -> str | None:
        if self._asha is not None and self._asha.metric == KNN_METRIC:
            for each in read_rows(self._folder.join(KNN)):
                if each["step"] > self._told_knn and (judged := self._judged(each)):
                    self._told_knn = each["step"]
                    tune.report(judged)
        return self._tell(PRETRAIN, row, self._judged(row))

    def _tell(self, phase: str, row: Row, judged: Mapping[str, Any]) -> str | None:
        """Pass on how far the trial is, unless that was done a moment ago.

        Returns:
            Why it is to stop, if it is.
        """
        now = time.monotonic()
        is_news = judged or not row or TELLING & row.keys()
        if is_news or now - self._told >= TOLD_SECONDS:
            self._told = now
            shown = {name: row[name] for name in SHOWN if name in row}
            # apart, for ASHA is to see nothing but what is to be judged
            tune.report({"phase": phase, "shown": shown, **judged})
        if self._asha is not None:
            asked = self._desk.reason_to_stop.remote(self.trial.name)
            self.reason_to_stop = ray.get(asked)
        return self.reason_to_stop

    def _judged(self, row: Row) -> dict[str, float]:
        """What ASHA compares a trial by, if a log line has it; at the end there is no need."""
        if self._asha is None or self._asha.metric not in row:
            return {}
        step, epoch = int(row["step"]), float(row["clips"]) / len(self._job.train.catalog)
        if step >= self._job.train.total_steps:
            return {}
        return {"step": step, "epoch": epoch, self._asha.metric: float(row[self._asha.metric])}


def _train(job: Job, show: Show) -> None:
    """`train`, with a run in MLflow if that is asked for."""
    with mlflow_log(job.config) as log:

        def show_and_log(row: Row) -> str | None:
            log(row)
            return show(row)

        train(job, show_and_log)


def _retrieved(encoder: bytes, config: RetrievalConfig) -> dict[str, float]:
    """`retrieval_scores`, by a task."""
    scaling = config.scaling
    task = ray.remote(
        num_cpus=scaling.cpus_per_encoder,
        num_gpus=int(scaling.use_gpu),
        max_retries=MAX_RETRIES,
        scheduling_strategy="DEFAULT",  # not in what Tune has set aside for the trial itself
    )(retrieval_scores)
    found: dict[str, float] = ray.get(task.remote(encoder, config))
    return found


def line_of(text: str) -> str:
    """What an error says, in a line; of a traceback, what comes after its last frame."""
    lines = COLOURS.sub("", text).splitlines()
    frames = [number for number, line in enumerate(lines) if line.lstrip().startswith('File "')]
    if frames:
        lines = list(dropwhile(lambda line: line[:1].isspace(), lines[frames[-1] + 1 :]))
    return textwrap.shorten(" ".join(lines), LONGEST_REASON, placeholder=" …")
