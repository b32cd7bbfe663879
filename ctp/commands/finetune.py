"""Fine-tune an encoder for action recognition and test it, from labelled videos to scores."""

from __future__ import annotations

from ctp.cli import CommandLine
from ctp.recipes import FINETUNE

ABOUT = """Fine-tune an encoder for action recognition, and test it as in the paper.

The run folder STORAGE/NAME gets scores.json, confusion.png, curves.png, classifier.safetensors,
and all that a pretraining run has. The same --name resumes a run."""


def main(argv: list[str] | None = None) -> None:
    """Parse the command line and fine-tune."""
    command = CommandLine(FINETUNE, "ucf101", ABOUT)
    parsed = command.parse(argv)
    from ctp.cluster.launch import finetune, run_command  # torch and Ray: --help needs neither

    run_command(command, parsed, finetune)
