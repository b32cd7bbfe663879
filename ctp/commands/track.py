"""Fine-tune tracking on annotated videos and test it, from shards with boxes to scores."""

from __future__ import annotations

from ctp.cli import CommandLine
from ctp.recipes import TRACK

ABOUT = """Fine-tune tracking on annotated videos, and test it as in the paper.

The videos are shards with boxes: jobs/build_shards.py --layout got10k makes them of GOT-10k. The
run folder STORAGE/NAME gets scores.json, tracks.png, predicted.mp4, curves.png,
tracker.safetensors, and all that a pretraining run has. The same --name resumes a run."""


def main(argv: list[str] | None = None) -> None:
    """Parse the command line and train."""
    command = CommandLine(TRACK, "got10k", ABOUT)
    parsed = command.parse(argv)
    from ctp.cluster.launch import run_command, track  # torch and Ray: --help needs neither

    run_command(command, parsed, track)
