"""Compute features of videos."""

from __future__ import annotations

from ctp.cli import CommandLine
from ctp.commands.next_step import from_here, print_next
from ctp.recipes import EMBED

ABOUT = """Compute features of videos with an encoder, a vector for each clip.

OUT gets Parquet files (id, clip, feature, label), a _manifest.json that describes them, and a
_quarantine.jsonl of the videos that cannot be used. The same command resumes an interrupted one.

  ctp embed --encoder runs/my-run --data.uri data/ucf101/train --out features/train
  ctp embed --encoder kinetics400 --data.uri s3://bucket/videos --out s3://bucket/features \\
           --scaling.use_gpu true --scaling.num_readers 12"""
MAIN_OPTIONS = (
    "encoder",
    "out",
    "data.uri",
    "views.num_clips",
    "views.num_frames",
    "views.frame_size_px",
    "features.pooling",
    "scaling.num_readers",
    "scaling.use_gpu",
)
COMMAND = CommandLine(EMBED, "retrieval", ABOUT, MAIN_OPTIONS)


def main(argv: list[str] | None = None) -> None:
    """Parse the command line and compute the features."""
    parsed = COMMAND.parse(argv)
    from ctp.cluster.extract import embed  # torch and Ray: --help needs neither
    from ctp.cluster.launch import run_command

    out = run_command(COMMAND, parsed, embed)
    print_next(("retrieve", "--gallery", from_here(out), "--queries", "FEATURES_OF_OTHER_VIDEOS"))
