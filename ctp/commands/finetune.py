"""Fine-tune an encoder for action recognition, and test it."""

from __future__ import annotations

from ctp.cli import CommandLine
from ctp.commands import RUN_OPTIONS
from ctp.commands.next_step import after_training
from ctp.recipes import FINETUNE

ABOUT = """Fine-tune an encoder for action recognition, and test it as in the paper.

The run folder STORAGE/NAME gets scores.json, confusion.png, curves.png, classifier.safetensors,
and all that a pretraining run has. The same --name resumes a run."""

MAIN_OPTIONS = (
    *RUN_OPTIONS,
    "data.test_uri",
    "sampling.num_frames",
    "augment.frame_size_px",
    "initial",
    "encoder",
    "data.test_share",
    "data.label_fraction",
    "protocol",
)
COMMAND = CommandLine(FINETUNE, "ucf101", ABOUT, MAIN_OPTIONS, can_branch=True)


def main(argv: list[str] | None = None) -> None:
    """Parse the command line and fine-tune."""
    parsed = COMMAND.parse(argv)
    from ctp.cluster.launch import finetune, run_command  # torch and Ray: --help needs neither

    after_training(run_command(COMMAND, parsed, finetune).config)
