"""Build shards of a data set: Parquet files that load fast, from videos as they were published."""

from __future__ import annotations

from ctp.cli import CommandLine
from ctp.recipes import BUILD

ABOUT = """Build Parquet shards of a data set, for training and for any Parquet reader.

Videos are transcoded for fast loading, or kept as they are. OUT gets shards and a _manifest.json
that lists them, their labels, and every video that cannot be used. The same command resumes an
interrupted build."""


def main(argv: list[str] | None = None) -> None:
    """Parse the command line and build."""
    command = CommandLine(BUILD, "training", ABOUT)
    parsed = command.parse(argv)
    from ctp.cluster.build import build_shards  # torch and Ray: --help needs neither
    from ctp.cluster.launch import run_command

    run_command(command, parsed, build_shards)
