"""A trial of a sweep, in a process of its own: pretraining, then what scores the encoder.

A trial goes on from the folders of its runs. With ASHA it first tells again what it had told
before, finished ones too, so that those to come are compared with all.
"""

from __future__ import annotations

import json
import os
import textwrap
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from functools import cached_property
from typing import Any

import ray
from ray import tune

from ctp.cluster.knn import KnnScorer
from ctp.cluster.train import train
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
from ctp.training.run import Job, RunStoppedError
from ctp.training.run_folder import ENCODER, KNN, Row, read_metrics, read_rows

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
LONGEST_REASON = 300
"""Characters of an error that are told."""


def run_trial(config: Mapping[str, str], plan: Plan) -> None:
    """What Tune runs. An error that another start may mend is raised, for Tune to start it again;
    others are the trial's result."""
    work = _Work(plan, plan.trial(config["trial"]))
    if plan.config.asha is not None:
        work.tell_again()
    if read_result(plan, work.trial.name) is not None:
        return
    began = time.monotonic()
    try:
        work.do()
        result = TrialResult(status="finished")
    except (ValueError, RunStoppedError) as error:
        result = TrialResult(status="failed", reason=line_of(str(error)))
    told = {"scores": work.scores, "steps": steps_of(work.trial), "folders": work.folders}
    result = result.replace(**told, seconds=time.monotonic() - began)
    write_result(plan, work.trial.name, result)


class _Work:
    """The phases of a trial, each of which goes on from where it was broken off.

    Attributes:
        trial: which one.
        scores: what came out so far.
        folders: phase -> folder of its run.
    """

    def __init__(self, plan: Plan, trial: Trial):
        self.trial, self._plan, self._asha = trial, plan, plan.config.asha
        self._folder = run_storage(trial.pretrain)
        self.scores: dict[str, float] = {}
        self.folders = {PRETRAIN: self._folder.uri}
        self._told, self._told_knn = float("-inf"), 0.0

    @cached_property
    def _job(self) -> Pretraining:
        return Pretraining.of(self.trial.pretrain)

    def do(self) -> None:
        """Do all that is left."""
        self.scores |= self._pretrained()
        for score in self._plan.scores:
            if score.config is not None:
                self.scores |= score.numbered(self._scored(score, score.config))

    def tell_again(self) -> None:
        """Tell what the log says of the run, up to its newest checkpoint."""
        clips = newest_clips(self.trial.pretrain)
        for row in read_metrics(self._folder):
            if row["clips"] <= clips and (judged := self._judged(row)):
                _report(judged)

    def _pretrained(self) -> dict[str, float]:
        config = self.trial.pretrain
        if not self._folder.join(config.RESULT).exists():
            open_run(config)
            scorer = KnnScorer(config) if config.knn.uri else None
            with scorer.beside() if scorer else nullcontext():
                train(self._job, self._show_pretraining)
        rows = read_metrics(self._folder)
        return {name: row[name] for row in rows for name in OF_PRETRAINING if name in row}

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
            train(make(), lambda row: self._tell(name, row, {}))
        scores = json.loads(folder.join(config.RESULT).read_bytes())
        return {key: value for key, value in scores.items() if isinstance(value, int | float)}

    def _show_pretraining(self, row: Row) -> None:
        self._tell(PRETRAIN, row, self._judged(row))
        if self._asha is not None and self._asha.metric == KNN_METRIC:
            for each in read_rows(self._folder.join(KNN)):
                if each["step"] > self._told_knn and (judged := self._judged(each)):
                    self._told_knn = each["step"]
                    _report(judged)

    def _tell(self, phase: str, row: Row, judged: Mapping[str, Any]) -> None:
        """Pass on how far the trial is, unless that was done a moment ago."""
        now = time.monotonic()
        is_news = judged or not row or TELLING & row.keys()
        if is_news or now - self._told >= TOLD_SECONDS:
            self._told = now
            shown = {name: row[name] for name in SHOWN if name in row}
            # apart, for ASHA is to see nothing but what is to be judged
            _report({"phase": phase, "shown": shown, **judged})

    def _judged(self, row: Row) -> dict[str, float]:
        """What ASHA compares a trial by, if a log line has it; at the end there is no need."""
        if self._asha is None or self._asha.metric not in row:
            return {}
        step, epoch = int(row["step"]), float(row["clips"]) / len(self._job.train.catalog)
        if step >= self._job.train.total_steps:
            return {}
        return {"step": step, "epoch": epoch, self._asha.metric: float(row[self._asha.metric])}


def _report(told: dict[str, Any]) -> None:
    """Tell Tune; if it has stopped the trial meanwhile, end this process at once, and with it the
    workers that it owns. An orderly end would wait for them to give back what they were sent, and
    they would train on."""
    try:
        tune.report(told)
    except SystemExit:
        os._exit(0)


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
    """What an error says, in a line; of a traceback, its last."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    line = lines[-1] if "Traceback (most recent call last)" in text else " ".join(lines)
    return textwrap.shorten(line, LONGEST_REASON, placeholder=" …")
