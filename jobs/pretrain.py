"""Pretrain an encoder by Catch-the-Patch, from videos to encoder.safetensors."""

from __future__ import annotations

import sys
import time
from datetime import datetime

from ray.train import TrainingFailedError

from ctp import recipes
from ctp.analysis.curves import curves_png
from ctp.cli import CommandLine
from ctp.cluster.connect import check_machine, cluster
from ctp.cluster.ingest import object_store_bytes
from ctp.cluster.train import train
from ctp.pretext.config import PretrainConfig
from ctp.pretext.pretrain import Pretraining
from ctp.progress import Progress, bottleneck, duration
from ctp.storage import StorageError
from ctp.training import run_folder
from ctp.training.claim import anchored, newest_clips, open_run, run_storage
from ctp.training.run import RunStoppedError
from ctp.video.quarantine import Ledger

ABOUT = """Pretrain a video encoder by playing Catch-the-Patch.

The run folder STORAGE/NAME gets config, metrics, checkpoints and encoder.safetensors. The same
--name continues a run where it was broken off."""
SHOWN_QUARANTINED = 10


def main(argv: list[str] | None = None) -> None:
    """Parse, run, and say how it went."""
    recipe, config = CommandLine(recipes.PRETRAIN, "tiny", ABOUT).parse(argv)
    if not config.name:
        config = config.replace(name=f"{recipe}-{datetime.now():%Y%m%d-%H%M%S}")
    try:
        _run(anchored(config))
    except KeyboardInterrupt:
        sys.exit(f"stopped; the same command with --name {config.name} goes on from here")
    except (ValueError, StorageError, ConnectionError, RunStoppedError) as error:
        sys.exit(f"error: {error}")
    except TrainingFailedError as error:
        sys.exit(f"error: {error}\nThe same command with --name {config.name} goes on from here")


def _run(config: PretrainConfig) -> None:
    started = time.monotonic()
    job = Pretraining.of(config)
    check_machine(config.scaling)
    is_old = open_run(config)
    print(
        f"run {run_storage(config).uri}: {len(job.train.catalog)} videos to train on, "
        f"{len(job.heldout.catalog)} held out, {job.train.total_steps} steps of "
        f"{config.compute.total_batch} clips"
    )
    waiting = object_store_bytes(job.train) / 2**20
    print(f"clips on their way take at most {waiting:.0f} MiB of the object store")
    if config.schedule == recipes.tiny().schedule:
        print("This is a smoke run: it shows that all works and learns next to nothing.")
    if not len(job.heldout.catalog):
        print("no videos are held out, so health is not watched; see --data.heldout_uri")
    if is_old:
        done = newest_clips(config) // config.compute.total_batch
        print(f"continuing after step {done}")
    with cluster(config.scaling), Progress() as progress:
        train(job, progress.show)
    _report(config, time.monotonic() - started)


def _report(config: PretrainConfig, seconds: float) -> None:
    """Draw the curves and say what came out."""
    folder = run_storage(config)
    rows = run_folder.read_metrics(folder)
    folder.join("curves.png").write_bytes(curves_png(rows))
    tracked = [row for row in rows if "iou" in row]
    if tracked:
        last = tracked[-1]
        print(
            f"held-out tracking IoU {last['iou']:.3f}; a box that stays still has "
            f"{last['still_iou']:.3f} ({last['heldout_clips']} clips, "
            f"{last['heldout_unreadable']} more could not be read)"
        )
    quarantine = folder.join(run_folder.QUARANTINE)
    if quarantine.exists():
        ledger = list(Ledger.from_jsonl(quarantine.read_bytes()))
        print(f"{len(ledger)} video(s) could not be used, all listed in {quarantine.uri}:")
        for entry in ledger[:SHOWN_QUARANTINED]:
            print(f"  {entry.video_id}: {entry.reason}")
    print(f"{folder.join(run_folder.ENCODER).uri} after {duration(seconds)}")
    print(bottleneck(rows))


if __name__ == "__main__":
    main()
