"""Pretrain an encoder by Catch-the-Patch, from videos to encoder.safetensors."""

from __future__ import annotations

from ctp import recipes
from ctp.cli import CommandLine
from ctp.cluster.knn import KnnScorer
from ctp.cluster.launch import run_job, train_here
from ctp.pretext.config import PretrainConfig
from ctp.pretext.pretrain import Pretraining

ABOUT = """Pretrain a video encoder by playing Catch-the-Patch.

The run folder STORAGE/NAME gets config, metrics, checkpoints and encoder.safetensors. The same
--name continues a run where it was broken off."""


def main(argv: list[str] | None = None) -> None:
    """Parse, run, and say how it went."""
    run_job(CommandLine(recipes.PRETRAIN, "tiny", ABOUT), _run, argv)


def _run(config: PretrainConfig) -> None:
    job = Pretraining.of(config)
    heldout = len(job.heldout.catalog)
    notes = []
    if config.schedule == recipes.tiny().schedule:
        notes.append("This is a smoke run: it shows that all works and learns next to nothing.")
    if not heldout:
        notes.append("no videos are held out, so health is not watched; see --data.heldout_uri")
    videos = f"{len(job.train.catalog)} videos to train on, {heldout} held out"
    scorer = KnnScorer(config) if config.knn.uri else None
    rows = train_here(job, videos, "\n".join(notes), scorer)
    tracked = [row for row in rows if "iou" in row]
    if tracked:
        last = tracked[-1]
        print(
            f"held-out tracking IoU {last['iou']:.3f}; a box that stays still has "
            f"{last['still_iou']:.3f} ({last['heldout_clips']} clips, "
            f"{last['heldout_quarantined']} more could not be read)"
        )


if __name__ == "__main__":
    main()
