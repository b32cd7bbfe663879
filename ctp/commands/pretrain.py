"""Pretrain an encoder on a pretext task."""

from __future__ import annotations

from ctp.cli import CommandLine
from ctp.commands import RUN_OPTIONS
from ctp.commands.next_step import after_pretraining
from ctp.recipes import PRETRAIN

ABOUT = """Pretrain a video encoder on a pretext task.

The run folder STORAGE/NAME gets config, metrics, checkpoints and encoder.safetensors. The same
--name resumes a run."""

MAIN_OPTIONS = (
    *RUN_OPTIONS,
    "data.heldout_uri",
    "data.heldout_share",
    "task",
    "encoder",
    "initial_encoder",
    "evaluation.every_steps",
    "knn.uri",
)
COMMAND = CommandLine(PRETRAIN, "tiny", ABOUT, MAIN_OPTIONS, can_branch=True)


def main(argv: list[str] | None = None) -> None:
    """Parse the command line and pretrain."""
    parsed = COMMAND.parse(argv)
    from ctp.cluster.launch import pretrain, run_command  # torch and Ray: --help needs neither

    after_pretraining(run_command(COMMAND, parsed, pretrain).config)
