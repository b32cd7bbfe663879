"""Runs from start to end: check, connect, train, print the progress and the result.

The jobs and `import ctp` call these functions.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from operator import attrgetter
from typing import Any, TypeVar

import numpy as np
from ray.train import TrainingFailedError

from ctp.build import build
from ctp.build.config import BuildConfig
from ctp.cli import CommandLine, exit_by, exit_finally
from ctp.cluster.batch_size import with_chosen_batch
from ctp.cluster.connect import (
    Demand,
    check_place,
    cluster,
    describe_demands,
    find_place,
    run_demands,
)
from ctp.cluster.errors import StoppedError
from ctp.cluster.extract import demands as embed_demands
from ctp.cluster.knn import KnnScorer, scorer_demand
from ctp.cluster.memory import describe_training_memory, stream_store_bytes
from ctp.cluster.path_visibility import check_lasting
from ctp.cluster.service_log import service_log
from ctp.cluster.train import train
from ctp.config import Config
from ctp.data.quarantine import QuarantinedVideo, format_quarantined
from ctp.data.sources import open_catalog
from ctp.downstream import extraction
from ctp.downstream.clip_choice import with_clips_of_encoder
from ctp.downstream.config import DownstreamConfig, FinetuneConfig
from ctp.downstream.embed_config import EmbedConfig
from ctp.downstream.track_config import TrackConfig
from ctp.encoders.encoder import Encoder
from ctp.encoders.weights import load_encoder
from ctp.lease import Lease, LeaseError, hold
from ctp.pretext.config import PretrainConfig
from ctp.pretext.pretraining import open_pretraining
from ctp.progress import Progress, bottleneck, duration, learning_warning
from ctp.storage import Storage, StorageError
from ctp.text import and_unread, wrapped
from ctp.training import run_folder
from ctp.training.branch import branch
from ctp.training.config import RunConfig
from ctp.training.run_folder import (
    Row,
    absolute,
    create_or_resume,
    folder_of,
    input_locations,
    is_finished,
    newest_sample,
    read_scores,
    with_absolute_paths,
    with_absolute_weights,
)
from ctp.training.trainer import RunStoppedError, TrainingSpec

C = TypeVar("C", bound=Config)
R = TypeVar("R")
Draw = Callable[[Mapping[str, Any]], None]
"""Adds pictures of a run's scores to its folder."""


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
    def scores(self) -> Mapping[str, Any]:
        """Return what the last evaluation found."""
        return read_scores(self.config, Storage.from_uri(self.folder), self.metrics)

    def load_encoder(self) -> Encoder:
        """Return the trained encoder, in evaluation mode."""
        return load_encoder(self.folder)


def run_command(command: CommandLine[C], parsed: tuple[str, C], run: Callable[[C], R]) -> R:
    """Name the run of a parsed command line, and run it; print errors in one line.

    The exit status is `FINAL_STATUS` if the same command would fail again, 1 if it may succeed.

    Args:
        command: the command line.
        parsed: what its `parse` returned.
        run: does the work.

    Returns:
        what `run` returns.
    """
    recipe, config = parsed
    print(f"recipe {recipe}: {command.recipe_line(recipe)}")
    config = named(config, recipe)
    resume = "The same command resumes it"
    if isinstance(config, RunConfig):
        resume = f"The same command with --name {config.name} resumes the run"
    try:
        return run(with_stored_defaults(config, command.given, command.source))
    except KeyboardInterrupt:
        sys.exit(f"stopped. {resume}")
    except ValueError as error:
        exit_finally(ValueError("\n  ".join([str(error), *further_problems(config, str(error))])))
    except RunStoppedError as error:
        if error.is_final:
            exit_finally(error)
        sys.exit(f"error: {error}")
    except (StorageError, ConnectionError, LeaseError) as error:
        exit_by(error)
    except (TrainingFailedError, StoppedError) as error:
        sys.exit(f"error: {error}\n{resume}")


def further_problems(config: Config, known: str) -> list[str]:
    """Return what else would stop a job that was refused, so that all is reported at once.

    Args:
        config: of the job.
        known: the reason of the refusal.
    """
    checks: list[Callable[[], object]] = []
    if isinstance(config, RunConfig):
        checks.append(lambda: check_place(run_demands(config.scaling)))
        checks.append(lambda: with_absolute_weights(config))
        checks += [
            partial(open_catalog, absolute(uri), name)
            for name in config.LOCATIONS
            if (uri := attrgetter(name)(config))
        ]
    elif isinstance(config, EmbedConfig):
        checks += [
            lambda: check_place(embed_demands(config.scaling)),
            lambda: extraction.check_given(config),
        ]
    problems = []
    for check in checks:
        try:
            check()
        except ValueError as error:
            if str(error) not in known:
                problems.append(str(error))
        except (StorageError, ConnectionError):
            pass  # it may pass; the next start reports it
    return problems


def named(config: C, recipe: str) -> C:
    """Return the config with its recipe and, for a run, a name: its own, or recipe and time."""
    if isinstance(config, RunConfig):
        name = config.name or f"{recipe}-{datetime.now():%Y%m%d-%H%M%S}"
        return config.replace(name=name, recipe=recipe)
    return config.replace(recipe=recipe)


def with_stored_defaults(config: C, given: Iterable[str], source: str | None = None) -> C:
    """Return the config with the clips of its encoder, and with the values of the folder that it
    resumes, where the user gave none.

    Args:
        config: of a run, a build of shards or features.
        given: dotted names of the options that the user gave; "recipe" if a recipe was named.
        source: the run to start from, as in `branch`, if the folder has no checkpoint yet.

    Raises:
        ValueError: what is stored cannot be read, or does not fit the given options.
        FolderInUseError: with a source, another process writes the new run.
        StorageError: the storage fails.
    """
    given = list(given)
    kept: Config = config
    # before what is stored: the source may have been lengthened since
    if source and isinstance(kept, RunConfig):
        kept = branch(kept, source, given)
    # before what is stored, which keeps its clips if an older version chose others
    if isinstance(kept, DownstreamConfig | EmbedConfig):
        kept = with_clips_of_encoder(kept, given)
    if isinstance(kept, RunConfig):
        kept = run_folder.with_stored_defaults(kept, given)
    elif isinstance(kept, BuildConfig):
        kept = build.with_stored_defaults(kept, given)
    elif isinstance(kept, EmbedConfig):
        kept = extraction.with_stored_defaults(kept, given)
    assert isinstance(kept, type(config))
    return kept


def _draw_nothing(scores: Mapping[str, Any]) -> None:
    """Draw no pictures besides the curves."""


def pretrain(config: PretrainConfig) -> Run:
    """Pretrain an encoder, on this machine or on the cluster that `RAY_ADDRESS` names.

    Raises:
        ValueError: an option, a video or the cluster does not fit.
        RunStoppedError: the run cannot continue.
        LeaseError: another process writes the run's folder.
        StorageError: the storage fails.
    """
    config = with_chosen_batch(with_absolute_paths(config))
    run = _finished(config) or _pretrain(config)
    scores = run.scores
    if scores:
        unread = int(scores["heldout_quarantined"])
        print(f"held-out {config.score.describe(scores)}{and_unread(unread, 'clips')}")
    return run


def _pretrain(config: PretrainConfig) -> Run:
    spec = open_pretraining(config)
    train_videos, heldout = map(len, spec.catalogs)
    departures = ", ".join(config.task.departures)
    notes = [f"options of the task unlike the published ones: {departures}"] if departures else []
    if not heldout:
        notes.append("no videos are held out for evaluation; see --data.heldout_uri")
    videos = f"{train_videos} videos to train on, {heldout} held out"
    return _train_here(
        spec, videos, "\n".join(notes), KnnScorer(config) if config.knn.uri else None
    )


def finetune(config: FinetuneConfig) -> Run:
    """Fine-tune an encoder for action recognition and test it; raises as `pretrain`."""
    from ctp.downstream import classification  # torchvision, which pretraining does not need

    config = classification.resolve(with_absolute_paths(config))

    def draw(scores: Mapping[str, Any]) -> None:
        from ctp.report.confusion import confusion_png  # Matplotlib, see `_draw_pictures`

        picture = confusion_png(np.array(scores["confusion"], np.int64), scores["classes"])
        folder_of(config).join(run_folder.CONFUSION).write_bytes(picture)

    run = _finished(config, draw) or _finetune(config, draw)
    scores = run.scores
    every = config.score, *config.further_scores
    accuracy = ", ".join(filter(None, (score.describe(scores) for score in every)))
    print(f"{accuracy or 'no score'}{and_unread(len(scores['quarantined']))}")
    return run


def _finetune(config: FinetuneConfig, draw: Draw) -> Run:
    from ctp.downstream import classification  # see `finetune`

    spec = classification.open_finetuning(config)
    train_videos, test_videos = map(len, spec.catalogs)
    num_classes = classification.num_classes(spec)
    videos = f"{train_videos} videos of {num_classes} classes to train on, {test_videos} to test on"
    return _train_here(spec, videos, f"initial weights: {config.initial}", draw=draw)


def track(config: TrackConfig) -> Run:
    """Fine-tune tracking on annotated videos and test it; raises as `pretrain`."""
    from ctp.downstream import tracking  # see `finetune`
    from ctp.report.tracks import draw_tracks

    config = tracking.resolve(with_absolute_paths(config))

    def draw(scores: Mapping[str, Any]) -> None:
        draw_tracks(tracking.open_tracking(config), folder_of(config), scores)

    run = _finished(config, draw) or _track(config, draw)
    print(tracking.describe_scores(run.scores))
    return run


def _track(config: TrackConfig, draw: Draw) -> Run:
    from ctp.downstream import tracking  # see `finetune`

    spec = tracking.open_tracking(config)
    train_videos, test_videos = map(len, spec.catalogs)
    note = f"initial weights: {config.initial}, {config.frozen_stages} stages of the encoder frozen"
    videos = f"{train_videos} videos to train on, {test_videos} to test on"
    return _train_here(spec, videos, note, draw=draw)


def _finished(config: RunConfig, draw: Draw = _draw_nothing) -> Run | None:
    """Return the run if its training is finished, otherwise None.

    If the last file is missing, the run was stopped after its last step, and its pictures are drawn
    now.

    Args:
        config: of the run.
        draw: see `_train_here`.
    """
    if not is_finished(config):
        return None
    folder, schedule = folder_of(config), config.schedule
    print(
        f"run {folder.uri} is finished: {folder.join(config.RESULT).uri} exists. A "
        f"--schedule.length of more than {schedule.length} continues it; another --name starts a "
        "new run"
    )
    run = Run(config, folder.uri, list(run_folder.read_metrics(folder)))
    if not folder.join(run_folder.LAST_FILE).exists():
        with hold(folder, config.KIND):
            _draw_pictures(run, draw)
    return run


def _draw_pictures(run: Run, draw: Draw) -> None:
    from ctp.report.curves import curves_png  # Matplotlib, which would delay the start

    draw(run.scores)
    curves = curves_png(run.metrics, run.config.score)
    folder_of(run.config).join(run_folder.LAST_FILE).write_bytes(curves)


def _train_here(
    spec: TrainingSpec[Any],
    videos: str,
    note: str = "",
    scorer: KnnScorer | None = None,
    draw: Draw = _draw_nothing,
) -> Run:
    """Create or resume the run's folder, train, and print the progress.

    Args:
        spec: the run.
        videos: the numbers of videos, for the first line.
        note: further lines to print before the run starts.
        scorer: scores the encoder beside the run.
        draw: adds pictures of the scores to the folder of the run, when it is finished.
    """
    others = [scorer_demand(scorer.config)] if scorer else []
    config, folder = _with_chosen_scaling(spec.config, others), folder_of(spec.config)
    spec = replace(spec, config=config)
    demands = run_demands(config.scaling) + others
    check_place(demands)
    check_lasting(config.storage, "storage")
    with hold(folder, config.KIND) as lease:
        spec = replace(spec, attempt=lease.attempt)
        run = _train_held(spec, lease, demands, videos, note, scorer)
        lease.attempt.check()
        _draw_pictures(run, draw)
    return run


def _with_chosen_scaling(config: RunConfig, others: Sequence[Demand]) -> RunConfig:
    """Return the config with numbers of workers and actors in place of "auto", and print them.

    Args:
        config: of the run.
        others: processes of the job besides workers and actors.
    """
    if not config.scaling.is_auto:
        return config
    place = find_place()
    free = place.without(others)
    scaling = config.scaling.choose(free.cpus, free.gpus, config.compute.batch)
    print(
        f"chosen from {place}: scaling.num_workers {scaling.num_workers}, scaling.num_actors "
        f"{scaling.num_actors}"
    )
    return config.replace(scaling=scaling)


def _train_held(
    spec: TrainingSpec[Any],
    lease: Lease,
    demands: Sequence[Demand],
    videos: str,
    note: str,
    scorer: KnnScorer | None,
) -> Run:
    """Train a run whose folder is held."""
    started, config, folder = time.monotonic(), spec.config, folder_of(spec.config)
    is_old = create_or_resume(config)
    total_batch = config.compute.batch
    device = "a GPU" if config.scaling.use_gpu else "CPUs"
    lines = [
        f"run {folder.uri}: {spec.stream.total_steps} steps of {total_batch} clips",
        videos,
        spec.stream.describe_epoch(),
        f"CPUs: {describe_demands(demands)}; a worker trains on {device} in "
        f"{config.compute.precision}",
        describe_training_memory(spec),
        note,
        spec.stream.catalog.describe_long(),
        f"live page: ctp watch {folder.uri}",
    ]
    print("\n".join(wrapped(line) for line in lines if line))
    listed = [entry for catalog in spec.catalogs for entry in catalog.quarantined]
    if listed:  # a missing shard may hold most of the videos
        _print_quarantined("named but cannot be used", listed, run_folder.QUARANTINE)
    first_clip = newest_sample(config)
    if is_old:
        step = first_clip // total_batch
        print(f"resuming after step {step}, as attempt {lease.attempt.number}")
    beside = scorer.beside(lease.attempt) if scorer else nullcontext()
    paths = [folder.uri, *input_locations(config)]
    with (
        service_log(config) as log,
        cluster(demands, paths, sample_bytes=stream_store_bytes(spec)),
        Progress(config.score) as progress,
        beside,
    ):

        def show(row: Row) -> str | None:
            progress.show(row)
            log(row)
            return lease.lost_reason()

        train(spec, show)
    lease.attempt.check()
    rows = run_folder.read_metrics(folder)
    ledger = list(run_folder.read_ledger(config))
    if ledger:
        _print_quarantined("could not be used", ledger, folder.join(run_folder.QUARANTINE).uri)
    print(f"{folder.join(config.RESULT).uri} after {duration(time.monotonic() - started)}")
    print(bottleneck(rows, first_clip))
    if rows and (warning := learning_warning(rows[-1], config.score)):
        print(warning)
    return Run(config, folder.uri, list(rows))


def _print_quarantined(what: str, entries: Sequence[QuarantinedVideo], uri: str) -> None:
    print(f"{len(entries)} file(s) or video(s) {what}; all are listed in {uri}:")
    print(format_quarantined(entries, uri))
