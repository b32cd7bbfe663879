"""What the jobs that train have in common: from a command line to a finished run."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from datetime import datetime
from typing import TypeVar

from ray.train import TrainingFailedError

from ctp.cli import CommandLine
from ctp.cluster.connect import check_place, cluster, run_demands
from ctp.cluster.ingest import object_store_bytes
from ctp.cluster.knn import KnnScorer
from ctp.cluster.mlflow_log import mlflow_log
from ctp.cluster.places import check_lasting
from ctp.cluster.train import train
from ctp.data.quarantine import QuarantineLedger, format_quarantined
from ctp.progress import Progress, bottleneck, duration
from ctp.report.curves import curves_png
from ctp.storage import StorageError
from ctp.training import run_folder
from ctp.training.claim import anchored, newest_clips, open_run, read_places, run_storage
from ctp.training.config import RunConfig
from ctp.training.run_folder import Row
from ctp.training.sealed import SealedMaker
from ctp.training.trainer import Job, RunStoppedError

C = TypeVar("C", bound=RunConfig)


def run_job(command: CommandLine[C], run: Callable[[C], None], argv: Sequence[str] | None) -> None:
    """Parse, name the run, and run; whatever stops it is told in a line, and how to go on."""
    recipe, config = command.parse(argv)
    if not config.name:
        config = config.replace(name=f"{recipe}-{datetime.now():%Y%m%d-%H%M%S}")
    try:
        run(anchored(config))
    except KeyboardInterrupt:
        sys.exit(f"stopped; the same command with --name {config.name} goes on from here")
    except (ValueError, StorageError, ConnectionError, RunStoppedError) as error:
        sys.exit(f"error: {error}")
    except TrainingFailedError as error:
        sys.exit(f"error: {error}\nThe same command with --name {config.name} goes on from here")


def train_here(
    job: Job,
    about_videos: str,
    note: str = "",
    scorer: KnnScorer | None = None,
) -> list[Row]:
    """Claim the run's folder, train, and tell how it went.

    Args:
        job: what to train.
        about_videos: how many there are, for what.
        note: what else there is to say before it begins.
        scorer: scores the run's encoder while the run goes on.

    Returns:
        The rows of the run's log.
    """
    started, config = time.monotonic(), job.config
    demands = run_demands(config.scaling) + ([scorer.demand] if scorer else [])
    check_place(demands)
    check_lasting(config.storage, "storage")
    is_old = open_run(config)
    total_batch = config.compute.total_batch
    print(
        f"run {run_storage(config).uri}: {about_videos}, {job.train.total_steps} steps of "
        f"{total_batch} clips"
    )
    scaling = config.scaling
    sizes = {scaling.fewest_workers, scaling.num_workers}
    sealed = SealedMaker.of(job.train)
    waiting = max(object_store_bytes(sealed, number) for number in sizes) / 2**20
    print(f"clips on their way take at most {waiting:.0f} MiB of the object store")
    if note:
        print(note)
    _tell_unlisted(job)
    if is_old:
        print(f"continuing after step {newest_clips(config) // total_batch}")
    beside = scorer.beside() if scorer else nullcontext()
    places = [run_storage(config).uri, *read_places(config)]
    with mlflow_log(config) as log, cluster(demands, places), Progress() as progress, beside:

        def show(row: Row) -> None:
            progress.show(row)
            log(row)

        train(job, show)
    folder = run_storage(config)
    rows = run_folder.read_metrics(folder)
    folder.join(run_folder.CURVES).write_bytes(curves_png(rows))
    _tell_quarantined(config)
    print(f"{folder.join(config.RESULT).uri} after {duration(time.monotonic() - started)}")
    print(bottleneck(rows))
    return list(rows)


def _tell_unlisted(job: Job) -> None:
    """Say beforehand what cannot be used: a shard that is not there may be most of the videos."""
    quarantined = [entry for catalog in job.catalogs for entry in catalog.quarantined]
    if quarantined:
        print(f"{len(quarantined)} file(s) or video(s) that were named cannot be used:")
        print(format_quarantined(quarantined, run_folder.QUARANTINE))


def _tell_quarantined(config: RunConfig) -> None:
    quarantine = run_storage(config).join(run_folder.QUARANTINE)
    if quarantine.exists():
        ledger = list(QuarantineLedger.from_jsonl(quarantine.read_bytes()))
        print(f"{len(ledger)} video(s) could not be used, all listed in {quarantine.uri}:")
        print(format_quarantined(ledger, quarantine.uri))
