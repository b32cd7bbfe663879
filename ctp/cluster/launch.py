"""Runs from start to end: check, connect, train, print the progress and the result.

The jobs and `import ctp` call these functions.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeVar

import numpy as np
from ray.train import TrainingFailedError

from ctp.cli import CommandLine
from ctp.cluster.connect import check_place, cluster, run_demands
from ctp.cluster.errors import StoppedError, exit_finally
from ctp.cluster.knn import KnnScorer, scorer_demand
from ctp.cluster.mlflow_log import mlflow_log
from ctp.cluster.path_visibility import check_lasting
from ctp.cluster.stream import StreamSpec, object_store_bytes
from ctp.cluster.train import train
from ctp.config import Config
from ctp.data.quarantine import QuarantinedVideo, format_quarantined
from ctp.downstream import classification, tracking
from ctp.downstream.config import FinetuneConfig
from ctp.downstream.track_config import TrackConfig
from ctp.encoders.encoder import Encoder
from ctp.encoders.weights import load_encoder
from ctp.pretext.config import PretrainConfig
from ctp.pretext.pretraining import open_pretraining
from ctp.progress import Progress, bottleneck, duration
from ctp.report.confusion import confusion_png
from ctp.report.curves import curves_png
from ctp.report.track_scenes import draw_tracks
from ctp.storage import Storage, StorageError
from ctp.training import run_folder
from ctp.training.config import RunConfig
from ctp.training.run_folder import (
    Row,
    create_or_resume,
    folder_of,
    input_locations,
    newest_sample,
    with_absolute_paths,
)
from ctp.training.trainer import RunStoppedError, TrainingSpec

C = TypeVar("C", bound=Config)


@dataclass(frozen=True)
class Run:
    """A finished training run.

    Attributes:
        config: its options.
        folder: path or URI of its folder.
        metrics: the rows of its log, one for each step.
    """

    config: RunConfig
    folder: str
    metrics: list[Row]

    @property
    def scores(self) -> dict[str, Any]:
        """Return what the last evaluation found."""
        if self.config.RESULT == run_folder.SCORES:
            place = Storage.from_uri(self.folder).join(run_folder.SCORES)
            scores: dict[str, Any] = json.loads(place.read_bytes())
            return scores
        return dict(next((r for r in reversed(self.metrics) if self.config.score.key in r), {}))

    def load_encoder(self) -> Encoder:
        """Return the trained encoder, in evaluation mode."""
        return load_encoder(self.folder)


def run_command(
    command: CommandLine[C], run: Callable[[C], Any], argv: Sequence[str] | None
) -> None:
    """Parse a command line, name the run, and run it; print errors in one line.

    The exit status is `FINAL_STATUS` if the same command would fail again, 1 if it may succeed.
    """
    recipe, config = command.parse(argv)
    resume = "The same command resumes it"
    if isinstance(config, RunConfig):
        config = named(config, recipe)
        resume = f"The same command with --name {config.name} resumes the run"
    try:
        run(config)
    except KeyboardInterrupt:
        sys.exit(f"stopped. {resume}")
    except ValueError as error:
        exit_finally(error)
    except RunStoppedError as error:
        if error.is_final:
            exit_finally(error)
        sys.exit(f"error: {error}")
    except (StorageError, ConnectionError) as error:
        sys.exit(f"error: {error}")
    except (TrainingFailedError, StoppedError) as error:
        sys.exit(f"error: {error}\n{resume}")


R = TypeVar("R", bound=RunConfig)


def named(config: R, recipe: str) -> R:
    """Return the config with a name: its own, or the recipe's with the time."""
    return config.replace(name=config.name or f"{recipe}-{datetime.now():%Y%m%d-%H%M%S}")


def pretrain(config: PretrainConfig) -> Run:
    """Pretrain an encoder, on this machine or on the cluster that `RAY_ADDRESS` names.

    Raises:
        ValueError: an option, a video or the cluster does not fit.
        RunStoppedError: the run cannot continue.
        StorageError: the storage fails.
    """
    config = with_absolute_paths(config)
    spec = open_pretraining(config)
    train_videos, heldout = map(len, spec.catalogs)
    note = "" if heldout else "no videos are held out for evaluation; see --data.heldout_uri"
    scorer = KnnScorer(config) if config.knn.uri else None
    videos = f"{train_videos} videos to train on, {heldout} held out"
    run = _train_here(spec, videos, note, scorer)
    scores = run.scores
    if scores:
        print(
            f"held-out {config.score.describe(scores)} ({scores['heldout_clips']} clips, "
            f"{scores['heldout_quarantined']} more could not be read)"
        )
    return run


def finetune(config: FinetuneConfig) -> Run:
    """Fine-tune an encoder for action recognition and test it; raises as `pretrain`."""
    config = classification.resolve(with_absolute_paths(config))
    spec = classification.open_finetuning(config)
    train_videos, test_videos = map(len, spec.catalogs)
    num_classes = classification.num_classes(spec)
    videos = f"{train_videos} videos of {num_classes} classes to train on, {test_videos} to test on"
    run = _train_here(spec, videos, f"initial weights: {config.initial}")
    scores, folder = run.scores, folder_of(config)
    counts = np.array(scores["confusion"], np.int64)
    folder.join(run_folder.CONFUSION).write_bytes(confusion_png(counts, scores["classes"]))
    accuracy = ", ".join(
        f"top-{k} {100 * scores[f'top{k}']:.1f}%" for k in (1, 5) if f"top{k}" in scores
    )
    print(
        f"{accuracy} of {scores['tested']} videos; {len(scores['quarantined'])} more could not be "
        "read"
    )
    return run


def track(config: TrackConfig) -> Run:
    """Fine-tune tracking on annotated videos and test it; raises as `pretrain`."""
    config = tracking.resolve(with_absolute_paths(config))
    spec = tracking.open_tracking(config)
    train_videos, test_videos = map(len, spec.catalogs)
    note = f"initial weights: {config.initial}, {config.frozen_stages} stages of the encoder frozen"
    videos = f"{train_videos} videos to train on, {test_videos} to test on"
    run = _train_here(spec, videos, note)
    draw_tracks(spec, folder_of(config), run.scores)
    print(tracking.describe_scores(run.scores))
    return run


def _train_here(
    spec: TrainingSpec[Any], videos: str, note: str = "", scorer: KnnScorer | None = None
) -> Run:
    """Create or resume the run's folder, train, and print the progress.

    Args:
        spec: the run.
        videos: the numbers of videos, for the first line.
        note: further lines to print before the run starts.
        scorer: scores the encoder beside the run.
    """
    started, config = time.monotonic(), spec.config
    demands = run_demands(config.scaling) + ([scorer_demand(scorer.config)] if scorer else [])
    check_place(demands)
    check_lasting(config.storage, "storage")
    is_old = create_or_resume(config)
    folder, total_batch = folder_of(config), config.compute.total_batch
    print(f"run {folder.uri}: {videos}, {spec.stream.total_steps} steps of {total_batch} clips")
    sizes = {config.scaling.fewest_workers, config.scaling.num_workers}
    stream = StreamSpec.from_stream(config, spec.stream)
    waiting = max(object_store_bytes(stream, number) for number in sizes) / 2**20
    print(f"the stream takes at most {waiting:.0f} MiB of the object store")
    if note:
        print(note)
    listed = [entry for catalog in spec.catalogs for entry in catalog.quarantined]
    if listed:  # a missing shard may hold most of the videos
        _print_quarantined("named but cannot be used", listed, run_folder.QUARANTINE)
    if is_old:
        print(f"resuming after step {newest_sample(config) // total_batch}")
    beside = scorer.beside() if scorer else nullcontext()
    paths = [folder.uri, *input_locations(config)]
    with (
        mlflow_log(config) as log,
        cluster(demands, paths),
        Progress(config.score) as progress,
        beside,
    ):

        def show(row: Row) -> None:
            progress.show(row)
            log(row)

        train(spec, show)
    rows = run_folder.read_metrics(folder)
    folder.join(run_folder.CURVES).write_bytes(curves_png(rows, config.score))
    ledger = list(run_folder.read_ledger(config))
    if ledger:
        _print_quarantined("could not be used", ledger, folder.join(run_folder.QUARANTINE).uri)
    print(f"{folder.join(config.RESULT).uri} after {duration(time.monotonic() - started)}")
    print(bottleneck(rows))
    return Run(config, folder.uri, list(rows))


def _print_quarantined(what: str, entries: Sequence[QuarantinedVideo], uri: str) -> None:
    print(f"{len(entries)} file(s) or video(s) {what}; all are listed in {uri}:")
    print(format_quarantined(entries, uri))
