"""Pretrain an encoder on a pretext task, from videos to encoder.safetensors."""

from __future__ import annotations

from ctp.cli import CommandLine
from ctp.recipes import PRETRAIN

ABOUT = """Pretrain a video encoder on a pretext task.

The run folder STORAGE/NAME gets config, metrics, checkpoints and encoder.safetensors. The same
--name resumes a run."""


def main(argv: list[str] | None = None) -> None:
    """Parse the command line and pretrain."""
    command = CommandLine(PRETRAIN, "tiny", ABOUT)
    parsed = command.parse(argv)
    from ctp.cluster.launch import pretrain, run_command  # torch and Ray: --help needs neither

    run_command(command, parsed, pretrain)
