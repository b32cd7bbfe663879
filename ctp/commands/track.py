"""Fine-tune tracking on annotated videos, and test it."""

from __future__ import annotations

from ctp.cli import CommandLine
from ctp.commands import RUN_OPTIONS
from ctp.commands.next_step import after_training
from ctp.recipes import TRACK

ABOUT = """Fine-tune tracking on annotated videos, and test it as in the paper.

The videos are shards with boxes: jobs/build_shards.py --layout got10k makes them of GOT-10k. The
run folder STORAGE/NAME gets scores.json, tracks.png, predicted.mp4, curves.png,
tracker.safetensors, and all that a pretraining run has. The same --name resumes a run."""

MAIN_OPTIONS = (
    *RUN_OPTIONS,
    "data.test_uri",
    "sampling.num_frames",
    "augment.frame_size_px",
    "initial",
    "encoder",
    "frozen_stages",
    "with_head",
    "test_every_steps",
)
COMMAND = CommandLine(TRACK, "got10k", ABOUT, MAIN_OPTIONS, can_branch=True)


def main(argv: list[str] | None = None) -> None:
    """Parse the command line and train."""
    parsed = COMMAND.parse(argv)
    from ctp.cluster.launch import run_command, track  # torch and Ray: --help needs neither

    after_training(run_command(COMMAND, parsed, track).config)
